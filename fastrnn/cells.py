"""Single steps of one layer in one direction, for loops that users own: the state comes in and goes out.

Two forms, for NumPy and for CuPy arrays, with PyTorch's layout of weights::

    step = fastrnn.cells.LSTMCell(w_ih, w_hh, b_ih, b_hh)       # a snapshot of the weights, packed once
    h, c = step(x_t, (h, c))                                    # out=(h, c): in place, nothing allocated

    h, c = fastrnn.cells.lstm_cell(x_t, (h, c), w_ih, w_hh, b_ih, b_hh)      # weights that change from call to call

``RNNCell``, ``LSTMCell`` and ``GRUCell`` run the layers' kernels and give bitwise what the layers give;
``from_layer`` makes them of a layer's parameters. ``rnn_cell``, ``lstm_cell`` and ``gru_cell`` take the weights as
they are, in plain products and elementwise operations: several times slower. Where the loop need not hold the state,
``layer.stream()`` does, for a whole stack at once.
"""

from __future__ import annotations

import functools
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from fastrnn import checks
from fastrnn.backend import load
from fastrnn.cell_table import Cell, cell_for
from fastrnn.parameters import Weights
from fastrnn.places import HOST, Kind, is_cupy, place_of
from fastrnn.plain_cells import plain_step
from fastrnn.recurrent import RecurrentLayer, recurrent_layer
from fastrnn.sequences import Schedule

__all__ = ["GRUCell", "LSTMCell", "RNNCell", "from_layer", "gru_cell", "lstm_cell", "rnn_cell"]

Array = NDArray[Any]


class _Step:
    """One step on weights packed once. ``input_size`` and ``hidden_size`` are I and H. Any thread may call it."""

    _layer: ClassVar[str]  # the cell table's name of the layer class

    def _make(self, weights: tuple[Any, ...], **options: Any) -> None:
        cell = cell_for(self._layer, **options)
        kind, checked = _checked_weights(cell, weights)
        with kind.place.current():
            self._set(cell, kind, load(kind.place.device).pack(cell, *checked), checked)

    def _set(self, cell: Cell, kind: Kind, packed: Any, weights: Weights) -> None:
        self.input_size, self.hidden_size = weights[0].shape[1], weights[1].shape[1]
        # A GPU's packed weights refer to the arrays that they were made of.
        self._packed = packed if kind.place is HOST else packed.copy()
        self._cell, self._kind = cell, kind
        backend: Any = load(kind.place.device)
        self._forward = backend.forward
        self._quick: Any = backend.single_step(cell, packed) if kind.place is HOST else None

    def __call__(self, x: Array, state: Any = None, out: Any = None) -> Any:
        """Take one step.

        Parameters
        ----------
        x : (B, I) or (I,), in the weights' dtype
        state : h, or (h, c) for the LSTM, each (B, H) or (H,); default zeros
        out : as ``state``, optional
            Where the new state is written; may be ``state`` itself. Default new arrays.

        Returns the new state. Raises TypeError or ValueError, before any work, for arguments that do not fit.
        """
        if self._quick is not None and state is not None and type(x) is np.ndarray:
            new = self._quickly(x, state, out)
            if new is not None:
                return new
        cell, kind = self._cell, self._kind
        rows, before, after = _arguments(cell, kind, self.input_size, self.hidden_size, x, state, out)
        direction = self._packed, before, _one_step(rows.shape[1]), None, after
        with kind.place.current():
            self._forward(cell, rows, None, (direction,), False)
        return _result(after, kind, x.ndim == 1, out)

    def _quickly(self, x: Array, state: Any, out: Any) -> Any:
        """The new state, or None if an argument is not just as kernels take it."""
        if out is None and type(state) is np.ndarray:
            out = np.empty_like(state)
        return out if self._quick(x, state, None, out, None) else None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._cell.name}, {self.input_size} -> {self.hidden_size}, {self._kind.dtype}>"


@functools.lru_cache(maxsize=64)
def _one_step(B: int) -> Schedule:
    return Schedule(1, B)


class RNNCell(_Step):
    """A step of ``fastrnn.RNN``: h = φ(x Wihᵀ + bih + h₋ Whhᵀ + bhh).

        h = step(x, h, out=None)

    w_ih (H, I), w_hh (H, H), b_ih and b_hh (H,) or None, all of one dtype: copied, and packed once.
    nonlinearity: "tanh", "relu" or "sigmoid". Raises TypeError or ValueError for what does not fit.
    """

    _layer = "RNN"

    def __init__(
        self, w_ih: Array, w_hh: Array, b_ih: Array | None = None, b_hh: Array | None = None, *,
        nonlinearity: str = "tanh",
    ) -> None:  # fmt: skip
        self._make((w_ih, w_hh, b_ih, b_hh, None), nonlinearity=nonlinearity)


class LSTMCell(_Step):
    """A step of ``fastrnn.LSTM``, whose docstring has the equations.

        h, c = step(x, (h, c), out=None)

    w_ih (4*H, I), w_hh (4*H, H), b_ih and b_hh (4*H,) or None, gates i f g o; with coupled 3*H rows, f g o; peephole
    (3*H,), i f o, with coupled (2*H,), f o. All of one dtype: copied, and packed once. Raises TypeError or ValueError
    for what does not fit.
    """

    _layer = "LSTM"

    def __init__(
        self, w_ih: Array, w_hh: Array, b_ih: Array | None = None, b_hh: Array | None = None, *,
        peephole: Array | None = None, coupled: bool = False,
    ) -> None:  # fmt: skip
        options = {"peephole": peephole is not None, "coupled": checks.flag("coupled", coupled)}
        self._make((w_ih, w_hh, b_ih, b_hh, peephole), **options)

    def _quickly(self, x: Array, state: Any, out: Any) -> Any:
        if type(state) is not tuple or len(state) != 2:
            return None
        h, c = state
        if out is None:
            if type(h) is not np.ndarray or type(c) is not np.ndarray:
                return None
            out = np.empty_like(h), np.empty_like(c)
        elif type(out) is not tuple or len(out) != 2:
            return None
        return out if self._quick(x, h, c, out[0], out[1]) else None


class GRUCell(_Step):
    """A step of ``fastrnn.GRU``, whose docstring has the equations.

        h = step(x, h, out=None)

    w_ih (3*H, I), w_hh (3*H, H), b_ih and b_hh (3*H,) or None, gates r z n, all of one dtype: copied, and packed once.
    reset_after=True is PyTorch's GRU. Raises TypeError or ValueError for what does not fit.
    """

    _layer = "GRU"

    def __init__(
        self, w_ih: Array, w_hh: Array, b_ih: Array | None = None, b_hh: Array | None = None, *,
        reset_after: bool = False,
    ) -> None:  # fmt: skip
        self._make((w_ih, w_hh, b_ih, b_hh, None), reset_after=checks.flag("reset_after", reset_after))


_CLASSES: dict[str, type[Any]] = {step._layer: step for step in (RNNCell, LSTMCell, GRUCell)}


def from_layer(layer: RecurrentLayer, index: int = 0, *, reverse: bool = False) -> Any:
    """The RNNCell, LSTMCell or GRUCell of one layer of a stack: a snapshot, as bfloat16 where the layer is frozen so.

    index : which layer, 0 <= index < num_layers
    reverse : of a bidirectional layer, the direction that walks back

    Raises TypeError or ValueError for what the layer does not have.
    """
    recurrent_layer(layer)
    part = checks.integer("index", index, 0, layer.num_layers - 1) * layer.num_directions
    if checks.flag("reverse", reverse):
        if not layer.bidirectional:
            raise ValueError("reverse must be False for a layer of one direction, got True")
        part += 1
    step = object.__new__(_CLASSES[layer._kind])
    with layer.kind.place.current():
        step._set(layer.cell, layer.kind, layer.packed_weights(False)[part], layer._parameters.weights[part])
    return step


# Weights as they are


def rnn_cell(
    x: Array, h: Array, w_ih: Array, w_hh: Array, b_ih: Array | None = None, b_hh: Array | None = None, *,
    nonlinearity: str = "tanh", out: Array | None = None,
) -> Array:  # fmt: skip
    """What ``RNNCell(w_ih, w_hh, ...)(x, h, out)`` gives, by plain products, for weights that change.

    out may be h, and must not overlap x. With ``out`` no array is made but at a thread's first step of a size.
    """
    found: Array = _plain(cell_for("RNN", nonlinearity=nonlinearity), x, h, (w_ih, w_hh, b_ih, b_hh, None), out)
    return found


def lstm_cell(
    x: Array, state: tuple[Array, Array], w_ih: Array, w_hh: Array, b_ih: Array | None = None,
    b_hh: Array | None = None, *, peephole: Array | None = None, coupled: bool = False,
    out: tuple[Array, Array] | None = None,
) -> tuple[Array, Array]:  # fmt: skip
    """What ``LSTMCell(w_ih, w_hh, ...)(x, (h, c), out)`` gives, by plain products, for weights that change.

    out may be the state, and must not overlap x. With ``out`` no array is made but at a thread's first step of a
    size.
    """
    cell = cell_for("LSTM", peephole=peephole is not None, coupled=checks.flag("coupled", coupled))
    found: tuple[Array, Array] = _plain(cell, x, state, (w_ih, w_hh, b_ih, b_hh, peephole), out)
    return found


def gru_cell(
    x: Array, h: Array, w_ih: Array, w_hh: Array, b_ih: Array | None = None, b_hh: Array | None = None, *,
    reset_after: bool = False, out: Array | None = None,
) -> Array:  # fmt: skip
    """What ``GRUCell(w_ih, w_hh, ...)(x, h, out)`` gives, by plain products, for weights that change.

    out may be h, and must not overlap x. With ``out`` no array is made but at a thread's first step of a size.
    """
    cell = cell_for("GRU", reset_after=checks.flag("reset_after", reset_after))
    found: Array = _plain(cell, x, h, (w_ih, w_hh, b_ih, b_hh, None), out)
    return found


def _plain(cell: Cell, x: Any, state: Any, weights: tuple[Any, ...], out: Any) -> Any:
    kind, checked = _checked_weights(cell, weights)
    rows, before, after = _arguments(cell, kind, checked[0].shape[1], checked[1].shape[1], x, state, out)
    with kind.place.current():
        if before is None:
            before = tuple([kind.place.arrays.zeros_like(part) for part in after])
        plain_step(cell, kind, rows[0], before, checked, after)
    return _result(after, kind, x.ndim == 1, out)


# Arguments

States = tuple[Any, ...]


def _checked_weights(cell: Cell, weights: tuple[Any, ...]) -> tuple[Kind, Weights]:
    """What arrays they are, and the five of them; the biases exist both or neither."""
    w_ih, w_hh, b_ih, b_hh, peephole = weights
    place = place_of("cuda") if is_cupy(w_hh) else HOST
    w_hh = place.own("w_hh", w_hh)
    kind = Kind.of(place, checks.dtype(w_hh.dtype, place, "the dtype of w_hh"))
    G = len(cell.gates)
    if w_hh.ndim != 2 or not w_hh.size or w_hh.shape[0] != G * w_hh.shape[1]:
        raise ValueError(f"w_hh must have shape (G*H, H), {G} gates in {cell.name}, got {w_hh.shape}")
    rows, H = w_hh.shape
    w_ih = checks.array("w_ih", w_ih, kind)
    if w_ih.ndim != 2 or not w_ih.size or w_ih.shape[0] != rows:
        raise ValueError(f"w_ih must have shape (G*H, I) = ({rows}, I), got {w_ih.shape}")
    if b_ih is not None or b_hh is not None:
        zeros = None if b_ih is not None and b_hh is not None else place.arrays.zeros(rows, kind.dtype)
        b_ih = zeros if b_ih is None else checks.shaped("b_ih", b_ih, kind, (rows,), "(G*H,)")
        b_hh = zeros if b_hh is None else checks.shaped("b_hh", b_hh, kind, (rows,), "(G*H,)")
    if peephole is not None:
        peephole = checks.shaped("peephole", peephole, kind, (len(cell.peepholes) * H,), "(P*H,)")
    ready = [a if a is None or _whole(a, kind) else a.copy() for a in (w_ih, w_hh, b_ih, b_hh, peephole)]
    return kind, tuple(ready)  # type: ignore[return-value]


def _whole(array: Array, kind: Kind) -> bool:
    """Whether kernels can read an array as a state or as weights: C-contiguous and aligned."""
    return array.flags.c_contiguous and kind.place.kernel_ready(array)


def _arguments(
    cell: Cell, kind: Kind, I: int, H: int, x: Any, state: Any, out: Any
) -> tuple[Array, States | None, States]:
    """x (1, B, I), the states (B, H) or None for zeros, and where the new ones go: ``out`` or new arrays."""
    x = checks.array("x", x, kind)
    shape: tuple[int, ...]
    if x.ndim == 2 and x.shape[1] == I:
        B = len(x)
        shape, letters = (B, H), "(B, H)"
    elif x.ndim == 1 and x.shape[0] == I:
        B, x = 1, x[None]
        shape, letters = (H,), "(H,)"
    else:
        raise ValueError(f"x must have shape (B, I) or (I,), I = {I}, got {x.shape}")
    before: States | None = None if state is None else checks.states("state", state, kind, cell.states, shape, letters)
    if out is None:
        after = tuple([kind.place.arrays.empty((B, H), kind.dtype) for _ in cell.states])
    else:
        after = _outputs(cell, kind, out, shape, letters)
    if len(shape) == 1:
        before = None if before is None else tuple([part[None] for part in before])
    return checks.kernel_ready(x, kind)[None], before, after


def _outputs(cell: Cell, kind: Kind, out: Any, shape: tuple[int, ...], letters: str) -> States:
    """``out`` as (B, H) arrays that kernels can write to; new ones in place of those that they can't."""
    parts = (out,) if len(cell.states) == 1 else checks.entries("out", out, cell.states)
    after: list[Any] = []
    for name, part in zip(cell.states, parts, strict=True):
        label = "out" if len(parts) == 1 else f"out[{len(after)}] ({name})"
        part = checks.output(label, part, kind, shape, letters)
        rows = part if part.ndim == 2 else part[None]
        after.append(rows if _whole(part, kind) else kind.place.arrays.empty(rows.shape, kind.dtype))
    return tuple(after)


def _result(after: States, kind: Kind, unbatched: bool, out: Any) -> Any:
    """The new state in the caller's form."""
    if out is None:
        parts = tuple([part[0] for part in after]) if unbatched else after
        return parts[0] if len(parts) == 1 else parts
    for part, target in zip(after, out if len(after) > 1 else (out,), strict=True):
        if not _whole(target, kind):
            target[...] = part[0] if unbatched else part
    return out
