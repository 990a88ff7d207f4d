"""Step by step: a layer on input that arrives as it happens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from fastrnn import checks
from fastrnn.backend import load
from fastrnn.checks import State
from fastrnn.places import HOST

if TYPE_CHECKING:
    from fastrnn.recurrent import RecurrentLayer

__all__ = ["Stream"]


class Stream:
    """A step-by-step run of a layer on a snapshot of its parameters; made by ``layer.stream()``.

        y_t = stream(x_t, out=None)

    x_t is (B, I) in the layer's dtype, or (I,) where batch_size is 1; y_t is (B, H) or (H,). Without ``out`` the
    next call overwrites y_t; with it, the result is written there, and it is returned.

    What the stream computes is what the layer would on the whole sequence. It follows the layer's parameters as
    they were when it was made. A stream is one run: use one per thread.
    """

    def __init__(
        self, layer: RecurrentLayer, batch_size: int = 1, state: State | None = None, weights: str | None = None
    ) -> None:
        """Raises ValueError for a bidirectional layer, TypeError or ValueError for arguments that do not fit."""
        from fastrnn.recurrent import recurrent_layer  # which imports this module

        recurrent_layer(layer)
        self._batch_size = B = checks.integer("batch_size", batch_size, 1, checks.MOST_SIZE)
        if layer.bidirectional:
            raise ValueError("stream() needs a layer of one direction, got bidirectional=True")
        self._kind, self._states = layer.kind, layer.cell.states
        self._num_layers, H = layer.num_layers, layer.hidden_size
        self._shapes = ((B, layer.input_size), (layer.input_size,), (self._num_layers, B, H))
        initial = None if state is None else self._checked(state)
        make = load(layer.device).stepper
        packed = layer.packed_weights(backward=False, weights=weights)
        self._arrays = layer.kind.place.arrays
        outputs = [self._arrays.zeros((B, H), layer.dtype) for _ in packed]
        self._steppers = tuple(make(layer.cell, p, B) for p in packed)
        self._chain = tuple(zip([s.step for s in self._steppers], outputs, strict=True))
        self._y: NDArray[Any] = outputs[-1]
        self._y_row: NDArray[Any] = self._y[0]
        # Unbatched, a row of each output; and whether steps look at their arguments.
        self._row_chain = tuple([(step, self._y_row if h is self._y else h[0]) for step, h in self._chain])
        self._quick = layer.kind.place is HOST
        if initial is not None:
            self._assign(initial)

    def __call__(self, x_t: NDArray[Any], out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Take one step. Raises TypeError or ValueError, before any work, for arguments that do not fit."""
        if self._quick and (out is None or self._num_layers == 1):
            quick: NDArray[Any] | None = self._quickly(x_t, out)
            if quick is not None:
                return quick
        x = checks.array("x_t", x_t, self._kind)
        batch, row, _ = self._shapes
        y = self._y
        if x.shape != batch:
            if x.shape != row or len(y) != 1:
                single = f", or (I,) = {row}" if len(y) == 1 else ""
                raise ValueError(f"x_t must have shape (B, I) = {batch}{single}, got {x.shape}")
            y = self._y_row
            x = x[None]
        if out is not None:
            letters = "(B, H)" if y is self._y else "(H,)"
            out = checks.output("out", out, self._kind, y.shape, letters)
        # The last output fed back counts too: a step must not write over what it reads.
        if not (x.flags.c_contiguous and self._kind.place.kernel_ready(x)) or x is self._y or x.base is self._y:
            x = x.copy()
        for step, h in self._chain:
            if not step(x, h) and not step(x.copy(), h):
                raise RuntimeError("a stream's kernel refuses an array that was checked: please report this")
            x = h
        if out is None:
            return y
        out[...] = y
        return out

    def _quickly(self, x: Any, out: Any) -> Any:
        """A step on arrays that kernels take as they are, which they see for themselves; None for others."""
        chain = self._row_chain if getattr(x, "ndim", 0) == 1 else self._chain
        step, h = chain[0]
        if out is not None:
            h = out
        if not step(x, h):
            return None
        for step, y in chain[1:]:
            if not step(h, y):
                raise RuntimeError("a stream's kernel refuses what it gave: please report this")
            h = y
        return h

    @property
    def state(self) -> State:
        """A copy of the state: h, or (h, c), each (num_layers, B, H). Assigning sets it."""
        states = zip(*[stepper.state for stepper in self._steppers], strict=True)
        parts = tuple([self._arrays.stack(parts) for parts in states])
        return parts[0] if len(parts) == 1 else parts

    @state.setter
    def state(self, value: State) -> None:
        if value is None:
            raise TypeError("state must be an array or a tuple of arrays, got None: use stream.reset()")
        self._assign(self._checked(value))

    def reset(self, rows: Any = None) -> None:
        """Zero the state, of all rows or of these: an integer, integers, or a (B,) mask of booleans."""
        chosen = slice(None) if rows is None else checks.index_rows(rows, self._batch_size)
        for stepper in self._steppers:
            stepper.reset(chosen)

    def _checked(self, value: State) -> Any:
        """A state as (L, B, H) arrays; (L, H) counts as one where the batch size is 1, as for unbatched x."""
        shape, what = self._shapes[2], "(num_layers, B, H)"
        if self._batch_size == 1 and _all_unbatched(value):
            parts = checks.states("state", value, self._kind, self._states, shape[::2], "(num_layers, H)")
            return tuple(part[:, None] for part in parts if part is not None)
        return checks.states("state", value, self._kind, self._states, shape, what)

    def _assign(self, parts: tuple[NDArray[Any], ...]) -> None:
        for k, stepper in enumerate(self._steppers):
            stepper.state = tuple(part[k] for part in parts)

    def __repr__(self) -> str:
        return f"<Stream of {self._num_layers} layers, batch_size={self._batch_size}>"


def _all_unbatched(value: Any) -> bool:
    parts = value if isinstance(value, (tuple, list)) else (value,)
    return all(getattr(part, "ndim", None) == 2 for part in parts)
