"""Which entries of a padded batch count for a loss, and how their losses become one number."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from fastrnn import checks
from fastrnn.places import HOST, Place, is_cupy

__all__ = ["REDUCTIONS", "Entries"]

REDUCTIONS = ("mean", "sum", "batchmean", "none")

_LAYOUTS = {False: "(T, B)", True: "(B, T)"}


class Entries:
    """The entries of arrays (…, width) that count: all, or those of a mask and of lengths.

    On the host those that do not count are left out of the work. On a GPU that would wait for it, so all are computed,
    and the others then cleared.
    """

    def __init__(self, shape: tuple[int, ...], place: Place, mask: Any, lengths: Any, batch_first: Any) -> None:
        self.shape, self.place = shape, place
        self.batch_first = checks.flag("batch_first", batch_first)
        self.valid: Any = None  # (…), at the place
        self.known: NDArray[np.bool_] | None = None  # the same on the host, unless a mask came from a GPU
        if lengths is not None:
            self._only(self._before(lengths))
        if mask is not None:
            self._only(self._checked(mask))
        self._rows: NDArray[np.int64] | None = None

    def _before(self, lengths: Any) -> NDArray[np.bool_]:
        """The steps before each row's length."""
        if len(self.shape) != 2:
            letters = _LAYOUTS[self.batch_first]
            raise ValueError(f"lengths need entries of shape {letters}, got {self.shape}: use mask")
        T, B = reversed(self.shape) if self.batch_first else self.shape
        ends = checks.lengths(lengths, T, B, False)
        assert ends is not None
        before = np.arange(T)[:, None] < ends
        return before.T if self.batch_first else before

    def _checked(self, mask: Any) -> Any:
        host = not is_cupy(mask)
        found = (HOST if host else self.place).own("mask", mask)
        if found.dtype != np.bool_:
            raise TypeError(f"mask must have dtype bool, got {found.dtype}: use mask.astype(bool)")
        if found.shape != self.shape:
            raise ValueError(f"mask must have shape {self.shape}, one for each entry, got {found.shape}")
        return found

    def _only(self, counting: Any) -> None:
        """Leave out what does not count, told by an array of the host or of the place."""
        host = not is_cupy(counting)
        first = self.valid is None
        if not host:
            self.known = None
        elif first or self.known is not None:
            self.known = counting if self.known is None else self.known & counting
        there = self.place.from_host(counting) if host else counting
        self.valid = there if first else self.valid & there

    def leave_out(self, values: Any, ignored: int) -> None:
        """Entries with this value do not count; values (…) of the host or of the place."""
        self._only(values != ignored)

    def pick(self, values: Any) -> Any:
        """Rows (n, …) of an array (…, …), a view or a copy."""
        flat = values.reshape(-1, *values.shape[len(self.shape) :])
        if self.valid is None or self.place is not HOST:
            return flat
        if self._rows is None:
            self._rows = np.flatnonzero(self.valid)
        return flat[self._rows]

    def spread(self, rows: Any) -> Any:
        """The inverse of ``pick``: (…, …), 0 where nothing counts."""
        tail = rows.shape[1:]
        if self.valid is None:
            return rows.reshape(*self.shape, *tail)
        if self.place is HOST:
            full = np.zeros((self.valid.size, *tail), rows.dtype)
            full[self._rows] = rows
            return full.reshape(*self.shape, *tail)
        rows = rows.reshape(*self.shape, *tail)
        dropped = ~self.valid
        self.place.arrays.copyto(rows, 0, where=dropped.reshape(*self.shape, *(1,) * len(tail)))
        return rows

    def reduce(self, losses: Any, gradient: Any, reduction: Any, width: int) -> tuple[Any, Any]:
        """Losses (n,) and their gradients (n, width), or None, as the caller gets them.

        width: how many losses were added up for each entry, for the mean.
        """
        reduction = checks.choice("reduction", reduction, REDUCTIONS)
        gradient = None if gradient is None else self.spread(gradient)
        losses = self.spread(losses)
        if reduction == "none":
            return losses, gradient
        total = losses.sum(dtype=np.float64)
        parts = self._parts(reduction, width)
        if parts is not None:
            total = total / parts
            if gradient is not None:
                gradient /= parts if isinstance(parts, int) else parts.astype(gradient.dtype)
        return (float(total) if self.place is HOST else total), gradient

    def _parts(self, reduction: str, width: int) -> Any:
        """What the sum is divided by; of a mask on a GPU a number that only the GPU knows."""
        if reduction == "sum":
            return None
        if reduction == "batchmean":
            if len(self.shape) > 2:
                raise ValueError(f"'batchmean' needs entries of shape (N,), (T, B) or (B, T), got {self.shape}")
            return max(1, self.shape[0 if self.batch_first or len(self.shape) < 2 else 1] if self.shape else 1)
        if self.valid is None:
            return max(1, int(np.prod(self.shape)) * width)
        if self.known is not None:
            return max(1, int(self.known.sum()) * width)
        return cast(Any, self.place.arrays.maximum(self.valid.sum(), 1)) * width
