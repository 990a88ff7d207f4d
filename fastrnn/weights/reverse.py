"""A layer that walks only back in time, which ONNX has and our layers have not."""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from fastrnn import checks
from fastrnn.checks import State
from fastrnn.recurrent import RecurrentLayer, recurrent_layer
from fastrnn.tape import Gradients, Tape

__all__ = ["Reverse", "ReverseTape", "turned"]


class ReverseTape(NamedTuple):
    """What ``Reverse.backward`` needs."""

    tape: Tape
    lengths: NDArray[np.int64] | None
    shape: tuple[int, ...]  # of y


class Reverse:
    """The reverse direction alone: y[t] is what the layer makes of x[t], having walked from a row's last valid step.

        reverse = Reverse(layer)                   # a layer of one direction; its parameters are those of this one
        y, state = reverse(x, lengths=lengths)     # y (T, B, H), the state that after t = 0

    Arguments, results and errors are the layer's.
    """

    def __init__(self, layer: RecurrentLayer) -> None:
        """Raises TypeError unless layer is one of ours, ValueError if it is bidirectional."""
        if recurrent_layer(layer).bidirectional:
            raise ValueError("layer must be of one direction, got bidirectional=True")
        self.layer = layer

    def __call__(
        self, x: NDArray[Any], state: State | None = None, *, lengths: Any = None, resets: Any = None, **options: Any
    ) -> tuple[NDArray[Any], State]:
        """See ``RecurrentLayer.__call__``."""
        x, valid, resets = self._turned_arguments(x, lengths, resets)
        y, state = self.layer(x, state, lengths=lengths, resets=resets, **options)
        return (y if options.get("return_sequences") is False else self._turned(y, valid)), state

    def forward(
        self, x: NDArray[Any], state: State | None = None, *, lengths: Any = None, resets: Any = None, **options: Any
    ) -> tuple[NDArray[Any], State, ReverseTape]:
        """See ``RecurrentLayer.forward``. Of a ragged batch the tape keeps a turned copy of x."""
        x, valid, resets = self._turned_arguments(x, lengths, resets)
        y, state, tape = self.layer.forward(x, state, lengths=lengths, resets=resets, **options)
        return self._turned(y, valid), state, ReverseTape(tape, valid, y.shape)

    def backward(
        self, tape: ReverseTape, dy: NDArray[Any] | None = None, dstate: Any = None, **options: Any
    ) -> Gradients:
        """See ``RecurrentLayer.backward``; out= is not taken."""
        if options.get("out") is not None:
            raise ValueError("out must be None: the layer's gradients are in the order in which it walks")
        if not isinstance(tape, ReverseTape):
            raise TypeError(f"tape must be a ReverseTape from forward(), got {type(tape).__name__}")
        if dy is not None:
            dy = self._turned(checks.shaped("dy", dy, self.layer.kind, tape.shape, "that of y"), tape.lengths)
        grads = self.layer.backward(tape.tape, dy, dstate, **options)
        if grads.x is not None:
            grads.x = self._turned(grads.x, tape.lengths)
        return grads

    def _turned_arguments(self, x: Any, lengths: Any, resets: Any) -> tuple[Any, NDArray[np.int64] | None, Any]:
        layer = self.layer
        major, unbatched = checks.sequence(x, layer.kind, layer.input_size, layer.batch_first)
        T, B, _ = major.shape
        valid = checks.lengths(lengths, T, B, unbatched)
        if valid is not None and (valid == T).all():
            valid = None
        checked = checks.resets(resets, T, B, unbatched, layer.kind.place)
        if checked is not None:
            checked = turned(checked, valid, False, layer.kind.place.arrays)
            checked = checked[:, 0] if unbatched else checked
        return self._turned(x, valid), valid, checked

    def _turned(self, values: NDArray[Any], valid: NDArray[np.int64] | None) -> NDArray[Any]:
        return turned(values, valid, self.layer.batch_first and values.ndim == 3, self.layer.kind.place.arrays)

    def __repr__(self) -> str:
        return f"Reverse({self.layer!r})"


def turned(values: NDArray[Any], valid: NDArray[np.int64] | None, batch_first: bool, arrays: Any = np) -> NDArray[Any]:
    """The valid steps of every row in the opposite order, the rest where it is; its own inverse.

    arrays : the module that values are of, numpy or cupy.
    """
    if valid is None:
        return values[:, ::-1] if batch_first else values[::-1]
    B, T = len(valid), values.shape[batch_first]
    rows, steps = np.arange(B)[:, None], np.arange(T)
    source = np.where(steps < valid[:, None], valid[:, None] - 1 - steps, steps)  # (B, T)
    index = (rows, source) if batch_first else (source.T, rows.T)
    return cast(NDArray[Any], values[tuple([arrays.asarray(part) for part in index])])
