"""Which rows of a batch are alive at each step, and where in the caller's arrays they lie.

Kernels walk *steps* s = 0, 1, ... in a direction's own order, over *rows* sorted by length, longest first, so the
rows alive at a step are always the first ``active[s]``. All valid (step, row) pairs, step after step, are the
*packed rows*: what the tape stores, and what the products over all steps see. A ragged batch so costs its valid
steps, not T*B.

Row r is the caller's batch entry ``order[r]``. At step s it reads time t = start[r] + s, or start[r] - s in the
reverse direction: the forward direction starts at t = 0, the reverse direction at the row's last valid step, and a
*segment*, which is a schedule of some of the steps, wherever a row then stands.
"""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["Schedule"]


class Schedule:
    """Order, lengths and packed offsets of one direction's walk over a (T, B) batch.

    Attributes (all int64, C-contiguous, read-only)
    ----------
    order : (B,)        batch entry of row r; a stable sort, longest first
    start : (B,)        time at which row r begins
    lengths : (B,)      valid steps of row r, in row order (descending)
    active : (S + 1,)   rows alive at step s; S is the longest length, active[S] = 0
    offset : (S + 1,)   packed rows before step s; offset[S] is their total

    ``clears``: whether y and dx are zeroed past the rows' lengths. A segment leaves alone what is not in it.
    """

    def __init__(self, T: int, B: int, lengths: np.ndarray | None = None, reverse: bool = False) -> None:
        self.T, self.B, self.reverse, self.clears = T, B, reverse, True
        self.ragged = lengths is not None and bool(np.any(np.asarray(lengths) != T))
        if lengths is not None and self.ragged:
            by_batch = np.asarray(lengths, dtype=np.int64)
            self.order = np.argsort(-by_batch, kind="stable").astype(np.int64)
            self.lengths = by_batch[self.order]
        else:
            self.order = np.arange(B, dtype=np.int64)
            self.lengths = np.full(B, T, dtype=np.int64)
        self.start = self.lengths - 1 if reverse else np.zeros(B, dtype=np.int64)
        self.steps = int(self.lengths[0]) if B else 0
        finished = np.bincount(self.lengths, minlength=self.steps + 1)[: self.steps + 1]
        self.active = (B - np.cumsum(finished)).astype(np.int64)
        self.offset = np.concatenate(([0], np.cumsum(self.active[:-1]))).astype(np.int64)
        self.total = int(self.offset[-1])
        self._seal()

    def _seal(self) -> None:
        self.notes: dict[Any, Any] = {}  # what a backend found out about this schedule, such as where its arrays lie
        self._cut: tuple[int, tuple[Schedule, ...]] | None = None  # the latest ``segments``
        for array in (self.order, self.start, self.lengths, self.active, self.offset):
            array.flags.writeable = False

    def __getstate__(self) -> dict[str, object]:
        # A copy's arrays lie elsewhere.
        return {**self.__dict__, "notes": {}, "_cut": None}

    def reversed(self) -> Schedule:
        """The same batch walked from each row's last valid step to its first."""
        start = np.zeros_like(self.start) if self.reverse else self.lengths - 1
        return self._with(reverse=not self.reverse, start=start)

    def segment(self, begin: int, end: int) -> Schedule:
        """The steps [begin, end) alone, 0 <= begin < end <= S, for the rows alive at the first of them.

        It works on the same whole arrays: x, y, resets, and states (B, H) of which it reads and writes its own rows.
        """
        B = int(self.active[begin])
        offset = self.offset[begin : end + 1] - self.offset[begin]
        return self._with(
            B=B,
            clears=False,
            order=self.order[:B],
            start=self.start[:B] + (-begin if self.reverse else begin),
            lengths=np.minimum(self.lengths[:B] - begin, end - begin),
            steps=end - begin,
            active=np.append(self.active[begin:end], 0),
            offset=offset,
            total=int(offset[-1]),
        )

    def segments(self, every: int) -> tuple[Schedule, ...]:
        """The whole in pieces of ``every`` steps, of which the last may be shorter; kept, as all layers walk them."""
        cut = self._cut  # another thread may replace it
        if cut is None or cut[0] != every:
            pieces = [self.segment(s, min(s + every, self.steps)) for s in range(0, self.steps, every)]
            cut = self._cut = every, tuple(pieces)
        return cut[1]

    def packed_rows(self) -> tuple[np.ndarray, np.ndarray]:
        """Time and batch entry of every packed row, (total,) each."""
        steps = np.repeat(np.arange(self.steps), self.active[:-1])
        rows = np.arange(self.total) - self.offset[steps]
        return self.start[rows] + (-steps if self.reverse else steps), self.order[rows]

    def _with(self, **changes: object) -> Schedule:
        other = object.__new__(Schedule)
        other.__dict__.update(self.__dict__, **changes)
        other._seal()
        return other
