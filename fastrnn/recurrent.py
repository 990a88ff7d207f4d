"""What RNN, LSTM and GRU share: options, parameters, calls."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ClassVar, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from fastrnn import checks, network
from fastrnn.backend import load
from fastrnn.cell_table import CELLS, Cell, cell_for
from fastrnn.checks import State
from fastrnn.parameters import FlatParameters, Layout, initial_values
from fastrnn.parametric import Parametric
from fastrnn.places import HOST, Kind, Place, place_of
from fastrnn.stream import Stream
from fastrnn.tape import Gradients, Tape

__all__ = ["RecurrentLayer", "recurrent_layer"]

Result = TypeVar("Result")

# What parameters, tapes and streams were made for.
_FIXED = frozenset(
    ("input_size", "hidden_size", "num_layers", "num_directions", "bias", "batch_first", "bidirectional")
    + ("dropout", "dtype", "device", "kind", "cell", "layout", "nonlinearity", "peephole", "coupled", "reset_after")
)


class KeptPacks:
    """What a frozen layer keeps: packed weights by "with what backward needs".

    A new one for every freeze, so that a thread that packs while another thaws, writes and freezes again can't leave
    old weights behind. ``bf16``: the weights of inference are packed as bfloat16.
    """

    __slots__ = ("bf16", "packs")

    def __init__(self, bf16: bool) -> None:
        self.bf16 = bf16
        self.packs: dict[bool, tuple[Any, ...]] = {}

    def __reduce__(self) -> tuple[Any, ...]:  # packed weights refer to this process's memory
        return KeptPacks, (self.bf16,)


def _at(place: Place, function: Callable[..., Result], *arguments: Any) -> Result:
    """``function(*arguments)``, whose new arrays are of this place."""
    if place is HOST:  # where they are anyway: to enter and to leave takes 0.3 us, and a small call 5
        return function(*arguments)
    with place.current():
        return function(*arguments)


class RecurrentLayer(Parametric):
    """The common part of the layers; use ``fastrnn.RNN``, ``fastrnn.LSTM`` or ``fastrnn.GRU``.

    Letters: T steps, B rows of a batch, I = input_size, H = hidden_size, L = num_layers, D = 2 if bidirectional
    else 1. Sequences are (T, B, ·); (B, T, ·) with batch_first; (T, ·) for one unbatched sequence. A state is h,
    or (h, c) for LSTM, each (L*D, B, H), layer-major then direction, and (L*D, H) unbatched.

    A layer may be used from several threads at once. Copies and pickles own their parameters.
    """

    _kind: ClassVar[str]  # the cell table's name of the layer class
    _defaults: ClassVar[dict[str, Any]] = {  # options in the order in which repr shows them
        "bias": True,
        "batch_first": False,
        "dropout": 0.0,
        "bidirectional": False,
        "dtype": np.dtype("float32"),
        "device": "cpu",
    }
    _cell_defaults: ClassVar[dict[str, Any]]  # the options that choose the cell

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int,
        cell_options: dict[str, Any],
        *,
        bias: bool,
        batch_first: bool,
        bidirectional: bool,
        dropout: float,
        dtype: Any,
        device: str,
        seed: int | None,
    ) -> None:
        self.input_size = checks.integer("input_size", input_size, 1, checks.MOST_SIZE)
        self.hidden_size = checks.integer("hidden_size", hidden_size, 1, checks.MOST_SIZE)
        self.num_layers = checks.integer("num_layers", num_layers, 1, checks.MOST_LAYERS)
        self.bias = checks.flag("bias", bias)
        self.batch_first = checks.flag("batch_first", batch_first)
        self.bidirectional = checks.flag("bidirectional", bidirectional)
        self.dropout = checks.dropout(dropout)
        self.device = checks.device(device)
        place = place_of(self.device)
        self.dtype = checks.dtype(dtype, place)
        self.kind = Kind.of(place, self.dtype)
        seed = checks.seed(seed)
        self.__dict__.update(cell_options)
        self.cell: Cell = cell_for(self._kind, **cell_options)
        self.num_directions = 1 + self.bidirectional
        self.layout = Layout.of(
            self.cell, self.input_size, self.hidden_size, self.num_layers, self.num_directions, self.bias
        )
        flat = initial_values(self.layout, self.hidden_size, self.dtype, seed)
        self._parameters = FlatParameters(self.layout, place.from_host(flat))
        self._precision = "exact"
        self._kept_packs: KeptPacks | None = None  # None: unfrozen

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _FIXED and name in self.__dict__:
            raise AttributeError(f"{name} is fixed when the layer is made: make another layer")
        super().__setattr__(name, value)

    # Calls

    def __call__(
        self,
        x: NDArray[Any],
        state: State | None = None,
        *,
        lengths: Any = None,
        resets: NDArray[np.bool_] | None = None,
        return_sequences: bool = True,
    ) -> tuple[NDArray[Any], State]:
        """Run the layer and keep nothing for backward.

        Parameters
        ----------
        x : array (T, B, I), in the layer's dtype
            (B, T, I) with batch_first; (T, I) for one unbatched sequence.
        state : h, or (h, c) for LSTM, each (L*D, B, H); default zeros
            (L*D, H) for an unbatched x.
        lengths : (B,) integers, array or list, 0 <= length <= T; default T
            Valid steps of each row, in any order. The reverse direction starts at a row's last valid step.
        resets : (T, B) booleans, with batch_first too; (T,) for an unbatched x
            Where True, the row's state is zeroed before step t, in the order in which its direction walks.
        return_sequences : bool
            False: y is each direction's h after its last step, and nothing of size T*B*H is kept.

        Returns
        -------
        y : (T, B, D*H), (B, T, D*H) with batch_first, (T, D*H) unbatched; 0 past a row's length
            (B, D*H), or (D*H,) unbatched, with return_sequences=False.
        state : as ``state``
            After each row's last valid step. A row of length 0 returns its initial state.

        Raises TypeError for anything but arrays of the layer's dtype, ValueError for a shape or a value that does
        not fit. Nothing is written to the arguments.
        """
        return _at(self.kind.place, network.infer, self, x, state, lengths, resets, return_sequences)

    def forward(
        self,
        x: NDArray[Any],
        state: State | None = None,
        *,
        lengths: Any = None,
        resets: NDArray[np.bool_] | None = None,
        seed: int | None = None,
        recompute: int = 0,
    ) -> tuple[NDArray[Any], State, Tape]:
        """Run the layer for training: as calling it, with dropout between layers, and with a tape for ``backward``.

        The tape refers to x without a copy: neither x nor the parameters may change before ``backward``. y and the
        state are the caller's and share no memory with the tape.

        Parameters
        ----------
        seed : int, optional
            The dropout masks are a pure function of it; default a fresh one, kept in ``tape.seed``.
        recompute : int
            0 keeps every step. K > 0 keeps only the state every K steps, and ``backward`` computes the steps between
            two of them again: beside x, y and dx it takes the memory of T/K + K steps instead of T, least near
            K = sqrt(T), for about a third more time. Each layer of a stack still keeps all (T, B, D*H) that the layer
            below put out. Results are bitwise those of recompute=0, but for the gradients of parameters, which are
            summed in another order; on a GPU, all but for rounding.

        Raises as calling the layer does; TypeError or ValueError unless recompute is an integer of at least 0.
        """
        return _at(self.kind.place, network.train, self, x, state, lengths, resets, seed, recompute)

    def backward(
        self,
        tape: Tape,
        dy: NDArray[Any] | None = None,
        dstate: Any = None,
        *,
        input_grad: bool = True,
        keep_tape: bool = False,
        out: Gradients | None = None,
    ) -> Gradients:
        """Back through time: the gradients of x, of the initial state, and of every parameter.

        Parameters
        ----------
        tape : Tape
            Of this layer's ``forward``. It is consumed (its memory is reused) unless keep_tape.
        dy : array shaped as y, optional
            Gradient of the loss with respect to y; what lies past a row's length is ignored.
        dstate : shaped as the state, optional
            Gradient with respect to the final state; entries of (h, c) may be None.
        input_grad : bool
            False saves the work for ``grads.x``, which is then None.
        out : Gradients, optional
            Of an earlier backward of the same shapes: x, state and params are added into it, and it is returned.

        Raises RuntimeError for a consumed tape; ValueError for another layer's tape, for dy and dstate both None,
        and for shapes that do not fit; TypeError for other dtypes.
        """
        return _at(self.kind.place, network.backward, self, tape, dy, dstate, input_grad, keep_tape, out)

    def stream(self, batch_size: int = 1, state: State | None = None, *, weights: str | None = None) -> Stream:
        """A step-by-step run on a snapshot of the parameters, packed once. See ``fastrnn.Stream``.

        weights : "bfloat16" to store them so, as in ``freeze``; default as the layer is frozen.

        Raises ValueError for a bidirectional layer: its reverse direction needs the whole sequence.
        """
        with self.kind.place.current():
            return Stream(self, batch_size, state, weights)

    # Parameters

    @property
    def frozen(self) -> bool:
        """Whether the parameters are read-only and their packed form is kept between calls."""
        return self._kept_packs is not None

    def freeze(self, *, weights: str | None = None) -> Self:
        """Make the parameters read-only and keep their packed form between calls: the fast way to infer.

        Returns the layer. Kernels read weights in an order of their own, so an unfrozen layer, whose parameters
        may change at any time, packs them in every call.

        Parameters
        ----------
        weights : "bfloat16", optional
            For inference with a float32 layer: weights (not biases, peepholes, states or sums) are rounded to
            bfloat16, a relative error of up to 2**-9 each. One long sequence (B = 1) is bound by reading the weights
            and gains most, from H = 256 on. ``forward`` and ``backward`` still compute with the parameters as they
            are.

        Raises ValueError for other weights, or a layer of another dtype.
        """
        bf16 = checks.weights_storage(weights, self.kind)
        if self._kept_packs is None or self._kept_packs.bf16 != bf16:
            self._set_writeable(False)
            self._kept_packs = KeptPacks(bf16)
        return self

    def unfreeze(self) -> Self:
        """Make the parameters writeable again. Returns the layer."""
        self._kept_packs = None
        self._set_writeable(True)
        return self

    def _set_writeable(self, writeable: bool) -> None:
        for array in self._parameters.arrays():
            self.kind.place.set_writeable(array, writeable)

    @property
    def precision(self) -> str:
        """How products of a float32 layer on a GPU are taken: "exact" (float32, the default), "tf32" (operands rounded
        to 10 bits of mantissa) or "3xtf32" (three such products for one: nearly float32's).

        Setting it raises ValueError for other values, and on the CPU for any but "exact".
        """
        return self._precision

    @precision.setter
    def precision(self, value: str) -> None:
        value = checks.precision(value, self.kind.place)
        if value != self._precision:
            self._precision = value
            if self._kept_packs is not None:
                self._kept_packs = KeptPacks(self._kept_packs.bf16)

    def packed_weights(self, backward: bool, weights: str | None = None) -> tuple[Any, ...]:
        """The backend's form of all weights, per layer * D + direction; kept if the layer is frozen.

        weights : how they are stored for inference, as in ``freeze``; None as the layer was frozen.
        """
        kept = self._kept_packs
        if backward is not True and backward is not False:
            backward = checks.flag("backward", backward)
        if weights is None:
            asked = kept is not None and kept.bf16
        else:
            asked = checks.weights_storage(weights, self.kind)
        bf16 = asked and not backward
        if kept is None or asked != kept.bf16:
            return self._pack(backward, bf16, once=True)
        # A pack with what backward needs serves forward too, in the same precision.
        packed = kept.packs.get(backward) if kept.bf16 else kept.packs.get(True) or kept.packs.get(backward)
        if packed is None:
            packed = kept.packs[backward] = self._pack(backward, bf16, once=False)
        return packed

    def _pack(self, backward: bool, bf16: bool, once: bool) -> tuple[Any, ...]:
        pack: Any = load(self.device).pack
        cell = self.cell
        if self._precision != "exact":
            pack = functools.partial(pack, precision=self._precision)
        return tuple([pack(cell, *weights, backward, bf16, once) for weights in self._parameters.weights])

    def to(self, device: str) -> Self:
        """Move the layer to "cpu" or "cuda" (the current GPU), in place, and return it.

        Views of the old parameters, ``params`` among them, and tapes are dead. Raises ``fastrnn.GPUUnavailable`` where
        no GPU can be used, and ValueError for what the device lacks: the layer's dtype, its precision, or weights
        frozen as bfloat16. Then nothing has changed.
        """
        place, old = place_of(checks.device(device)), self.kind.place
        if place == old:
            return self
        checks.dtype(self.dtype, place)
        checks.precision(self._precision, place)
        kept = self._kept_packs
        weights = "bfloat16" if kept is not None and kept.bf16 else None
        kind = Kind.of(place, self.dtype)
        checks.weights_storage(weights, kind)
        flat = place.from_host(old.to_host(self.flat_params))
        self.__dict__.update(device=place.device, kind=kind, _parameters=FlatParameters(self.layout, flat))
        self._kept_packs = None
        return self if kept is None else self.freeze(weights=weights)

    # Copies

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__, cell=self.cell.name)  # the row of the table, not a copy of it
        state["_parameters"] = self.kind.place.to_host(self.flat_params)
        del state["kind"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        kept = state["_kept_packs"]
        kind = Kind.of(place_of(state["device"]), state["dtype"])
        self.__dict__.update(state, cell=CELLS[state["cell"]], kind=kind, _kept_packs=None)
        # An unpickled array may not own its memory, and could then not be thawed.
        self._parameters = FlatParameters(self.layout, kind.place.from_host(np.array(state["_parameters"])))
        if kept is not None:
            self.freeze(weights="bfloat16" if kept.bf16 else None)

    def __repr__(self) -> str:
        parts = [str(self.input_size), str(self.hidden_size)]
        if self.num_layers != 1:
            parts.append(f"num_layers={self.num_layers}")
        for name, default in (self._defaults | self._cell_defaults).items():
            value = getattr(self, name)
            if value != default:
                parts.append(f"{name}={(value.name if name == 'dtype' else value)!r}")
        return f"{type(self).__name__}({', '.join(parts)})"


def recurrent_layer(value: Any, name: str = "layer") -> RecurrentLayer:
    """One of the layers, or a TypeError that names the argument."""
    if not isinstance(value, RecurrentLayer):
        raise TypeError(f"{name} must be an RNN, LSTM or GRU of fastrnn, got {type(value).__name__}")
    return value
