"""What a training forward leaves for backward, and what backward returns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray

from fastrnn.checks import State
from fastrnn.parameters import FlatParameters, Layout, ParameterDict
from fastrnn.places import Place
from fastrnn.sequences import Schedule

if TYPE_CHECKING:
    from fastrnn.parametric import Parametric

__all__ = ["Gradients", "LayerRecord", "Record", "Tape", "tape_of"]


class LayerRecord(NamedTuple):
    """One layer's part of a tape."""

    x: NDArray[Any]  # (T, B, in): the caller's x without a copy, or the output of the layer below, dropout applied
    saved: tuple[Any, ...]  # what the backend, or ``Recomputing`` around it, kept, per direction


class Record(NamedTuple):
    """Everything that backward needs; only ``saved`` is ever written to."""

    layers: tuple[LayerRecord, ...]
    packed: tuple[Any, ...]  # the forward's packed weights, per layer * directions + direction
    schedules: tuple[Schedule, ...]  # per direction
    resets: NDArray[np.bool_] | None
    unbatched: bool
    batch_first: bool
    dropout: float
    recompute: int
    place: Place


class Tape:
    """The memory of one ``forward``, for the same layer's ``backward``.

    It refers to x and not to a copy of it: neither x nor the parameters may change before ``backward``. ``backward``
    consumes it unless ``keep_tape=True``: its memory becomes that of intermediate gradients.

    Attributes
    ----------
    seed : int or None
        The seed of the dropout masks: the one given to ``forward``, or one drawn there. None without dropout.
    consumed : bool
    """

    __slots__ = ("_box", "_layer", "seed")

    def __init__(self, layer: Parametric, record: Any, seed: int | None) -> None:
        self._layer = layer
        self._box = [record]  # emptied by one list operation, so of two threads only one can consume a tape
        self.seed = seed

    @property
    def consumed(self) -> bool:
        """Whether a ``backward`` has used this tape up."""
        return not self._box

    def peek(self, layer: Parametric) -> Any:
        """The record, left in place; raises if this is not the layer's tape, or it is used up."""
        if self._layer is not layer:
            raise ValueError("tape must come from this layer's forward(), got another layer's tape")
        try:
            return self._box[0]
        except IndexError:
            self._refuse_consumed()

    def take(self) -> Any:
        """The record, taken out; raises if another thread was faster."""
        try:
            return self._box.pop()
        except IndexError:
            self._refuse_consumed()

    @staticmethod
    def _refuse_consumed() -> NoReturn:
        raise RuntimeError("this tape is consumed: pass keep_tape=True to the first backward, or run forward again")

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Tape can't be pickled or copied: it belongs to the forward call that made it")

    def __repr__(self) -> str:
        return f"<Tape of {self._layer!r}{', consumed' * self.consumed}>"


def tape_of(value: Any) -> Tape:
    """A tape, or a TypeError."""
    if not isinstance(value, Tape):
        raise TypeError(f"tape must be a Tape from forward(), got {type(value).__name__}")
    return value


class Gradients:
    """What ``backward`` returns, in the layer's dtype.

    Attributes
    ----------
    x : array shaped as the x given to ``forward``, or None with ``input_grad=False``; 0 past a row's length
    state : h, or (h, c) for LSTM, each (num_layers * D, B, H): the gradient of the initial state
    params : dict name -> array, views of ``flat``
    flat : array (N,), in the order of the layer's ``flat_params``
    """

    __slots__ = ("_parameters", "state", "x")

    def __init__(self, layout: Layout, flat: NDArray[Any], x: NDArray[Any] | None, state: State) -> None:
        self._parameters = FlatParameters(layout, flat)
        self.x = x
        self.state = state

    @property
    def flat(self) -> NDArray[Any]:
        """All parameters' gradients, one after the other. ``flat *= a`` works in place."""
        return self._parameters.flat

    @flat.setter
    def flat(self, value: NDArray[Any]) -> None:
        if value is not self._parameters.flat:
            raise AttributeError("flat can't be replaced: write into it, as in grads.flat[...] = value")

    @property
    def params(self) -> ParameterDict:
        """Gradients by parameter name."""
        return self._parameters.views

    @property
    def parameters(self) -> FlatParameters:
        """The gradients with their layout, as kernels fill them."""
        return self._parameters

    def __reduce__(self) -> tuple[Any, ...]:
        return Gradients, (self._parameters.layout, self.flat, self.x, self.state)

    def __repr__(self) -> str:
        return f"<Gradients of {len(self.params)} parameters, {self.flat.size} numbers, {self.flat.dtype}>"
