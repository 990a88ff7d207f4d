"""The operators as classes of onnx.reference."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray
from onnx.reference.op_run import OpRun

from fastrnn.onnx.plain import walk
from fastrnn.places import HOST
from fastrnn.weights.arrays import CLASSES
from fastrnn.weights.onnx_nodes import Node
from fastrnn.weights.reverse import Reverse

__all__ = ["GRU", "LSTM", "OPERATORS", "RNN"]

Array = NDArray[Any]
# X (T, B, I) or (B, T, I), lengths or None, states (D, B, H), whether Y is wanted: y in X's layout (·, ·, D*H) or None,
# and the last states (D, B, H).
Runner = Callable[[Array, Any, tuple[Array, ...], bool], tuple[Array | None, tuple[Array, ...]]]


class _Weights(NamedTuple):
    """W, R, B and P as a run got them, and copies of those that might have changed since."""

    arrays: tuple[Array | None, ...]
    copies: tuple[Array | None, ...]

    @classmethod
    def of(cls, arrays: tuple[Array | None, ...]) -> _Weights:
        return cls(arrays, tuple([None if a is None or _immutable(a) else a.copy() for a in arrays]))

    def are(self, arrays: tuple[Array | None, ...]) -> bool:
        """Whether these arrays hold the same bits. Reading all weights takes a tenth of the time to pack them."""
        for kept, copy, new in zip(self.arrays, self.copies, arrays, strict=True):
            if new is kept and copy is None:  # the same initializer, or none as before
                continue
            known = kept if copy is None else copy
            if new is None or known is None or new.dtype != known.dtype or new.shape != known.shape:
                return False
            bits = f"u{new.itemsize}"
            if not np.array_equal(new.view(bits), known.view(bits)):
                return False
        return True


def _immutable(array: Any) -> bool:
    """Whether nobody can write to an array: all that it is a view of is read-only, and in the end lies in bytes."""
    while isinstance(array, np.ndarray):
        if array.flags.writeable:
            return False
        array = array.base
    return isinstance(array, bytes)


class _Prepared(NamedTuple):
    """A node whose weights are packed."""

    attributes: dict[str, Any]
    dtype: np.dtype[Any]
    weights: _Weights
    node: Node
    run: Runner


class _Recurrent(OpRun):
    """What the three share. A run with other weights than the last one's packs them anew."""

    op_domain = ""
    kind: str
    states: int = 1

    def __init__(self, onnx_node: Any, run_params: dict[str, Any]) -> None:
        super().__init__(onnx_node, run_params)
        self._prepared: _Prepared | None = None
        names = [*onnx_node.output, "", "", ""]
        self._wanted = [bool(name) for name in names[: 1 + self.states]]
        self._outputs = len(onnx_node.output)

    def _check_and_fix_outputs(self, res: tuple[Any, ...]) -> tuple[Any, ...]:
        return res  # None for an output that has no name: what has no name is None to later nodes

    def _computed(
        self,
        X: Array,
        weights: tuple[Array | None, ...],
        sequence_lens: Array | None,
        initial: tuple[Array | None, ...],
        attributes: dict[str, Any],
    ) -> tuple[Array | None, ...]:
        prepared = self._prepared
        X = _floats("X", X)
        weights = tuple([None if a is None else _floats(name, a) for name, a in zip("WRBP", weights, strict=True)])
        given = X.dtype
        dtype = np.dtype("float64" if given == np.float64 else "float32")
        if (
            prepared is None
            or prepared.dtype != dtype
            or prepared.attributes != attributes
            or not prepared.weights.are(weights)
        ):
            prepared = self._prepared = _prepare(self.kind, dtype, weights, attributes)
        node = prepared.node
        I = weights[0].shape[-1]  # type: ignore[union-attr]
        if X.ndim != 3 or X.shape[2] != I:
            letters = "(B, T, I)" if node.batch_first else "(T, B, I)"
            raise ValueError(f"X must have shape {letters} with I = {I}, as W has it, got {X.shape}")
        T, B = (X.shape[1], X.shape[0]) if node.batch_first else X.shape[:2]
        D, H = weights[1].shape[0], weights[1].shape[-1]  # type: ignore[union-attr]
        lengths = _lengths(sequence_lens, T, B)
        state = _initial(initial, (D, B, H), node.batch_first, dtype)
        y, last = prepared.run(X.astype(dtype, copy=False), lengths, state, self._wanted[0])
        if y is not None:
            y = y.reshape(*y.shape[:2], D, H)
            y = y if node.batch_first else y.transpose(0, 2, 1, 3)
        if node.batch_first:
            last = tuple([part.transpose(1, 0, 2) for part in last])
        found = [value if wanted else None for value, wanted in zip((y, *last), self._wanted, strict=True)]
        return tuple([None if value is None else value.astype(given, copy=False) for value in found[: self._outputs]])


def _floats(name: str, value: Any) -> Array:
    """An array of floats of any precision."""
    if type(value) is np.ndarray and value.dtype.kind == "f":
        return cast(Array, value)
    found: Array = HOST.own(name, value)
    if found.dtype.kind != "f" and found.dtype.name != "bfloat16":
        raise TypeError(f"{name} must be of floats, got dtype {found.dtype}")
    return found


def _lengths(sequence_lens: Array | None, T: int, B: int) -> Array | None:
    """None where every row is full: the usual case, and the quickest."""
    if sequence_lens is None:
        return None
    sequence_lens = HOST.own("sequence_lens", sequence_lens)
    if sequence_lens.dtype.kind not in "iu":
        raise TypeError(f"sequence_lens must be integers, got dtype {sequence_lens.dtype}")
    if sequence_lens.shape != (B,) or (sequence_lens < 0).any() or (sequence_lens > T).any():
        raise ValueError(f"sequence_lens must be {B} integers of 0 to {T}, got {sequence_lens}")
    return None if (sequence_lens == T).all() else sequence_lens.astype(np.int64)


def _initial(
    given: tuple[Array | None, ...], shape: tuple[int, int, int], batch_first: bool, dtype: np.dtype[Any]
) -> tuple[Array, ...]:
    found = []
    for name, part in zip(("initial_h", "initial_c"), given, strict=False):
        if part is None:
            part = np.zeros(shape, dtype)
        else:
            part = _floats(name, part)
            if batch_first and part.ndim == 3:
                part = part.transpose(1, 0, 2)
        if part.shape != shape:
            raise ValueError(f"{name} must have shape (D, B, H) = {shape}, got {part.shape}")
        found.append(part.astype(dtype, copy=False))
    return tuple(found)


def _prepare(
    kind: str, dtype: np.dtype[Any], weights: tuple[Array | None, ...], attributes: dict[str, Any]
) -> _Prepared:
    node = Node.read(kind, attributes)
    W, R, B, P = [None if array is None else array.astype(dtype, copy=False) for array in weights]
    if W is None or R is None:
        raise TypeError(f"{kind} needs W and R, got None")
    converted = node.converted(W, R, B, P, attributes.get("hidden_size"))
    run = _plain_runner(node, W, R, B, P) if node.lacking else _layer_runner(node, converted, dtype)
    return _Prepared(attributes, dtype, _Weights.of(weights), node, run)


def _layer_runner(node: Node, converted: list[dict[str, Array]], dtype: np.dtype[Any]) -> Runner:
    """By a frozen layer."""
    first = converted[0]
    options = node.cell_options("weight_peephole" in first)
    options |= {"bias": "bias_ih" in first, "bidirectional": len(converted) == 2, "batch_first": node.batch_first}
    layer = CLASSES[node.kind](first["weight_ih"].shape[1], first["weight_hh"].shape[1], 1, dtype=dtype, **options)
    suffixes = ("_l0", "_l0_reverse")
    layer.load_params({n + s: a for arrays, s in zip(converted, suffixes, strict=False) for n, a in arrays.items()})
    layer.freeze()
    call = Reverse(layer) if node.direction == "reverse" else layer

    def run(X: Array, lengths: Any, state: tuple[Array, ...], want_y: bool) -> tuple[Array | None, tuple[Array, ...]]:
        initial = state[0] if len(state) == 1 else state
        y, last = call(X, initial, lengths=lengths, return_sequences=want_y)
        return (y if want_y else None), (last if isinstance(last, tuple) else (last,))

    return run


def _plain_runner(node: Node, W: Array, R: Array, B: Array | None, P: Array | None) -> Runner:
    """By a loop in NumPy."""
    W, R, B, P = [None if array is None else array.copy() for array in (W, R, B, P)]  # type: ignore[assignment]

    def run(X: Array, lengths: Any, state: tuple[Array, ...], want_y: bool) -> tuple[Array | None, tuple[Array, ...]]:
        X = X.transpose(1, 0, 2) if node.batch_first else X
        ys, lasts = [], []
        for d in range(len(W)):
            B_d, P_d = (None if array is None else array[d] for array in (B, P))
            y, last = walk(node, d, X, W[d], R[d], B_d, P_d, tuple([part[d] for part in state]), lengths)
            ys.append(y)
            lasts.append(last)
        y = np.concatenate(ys, axis=2)
        y = y.transpose(1, 0, 2) if node.batch_first else y
        return y, tuple([np.stack(parts) for parts in zip(*lasts, strict=True)])

    return run


class RNN(_Recurrent):
    """https://onnx.ai/onnx/operators/onnx__RNN.html"""

    kind = "RNN"

    def _run(
        self,
        X: Array,
        W: Array,
        R: Array,
        B: Array | None = None,
        sequence_lens: Array | None = None,
        initial_h: Array | None = None,
        **attributes: Any,
    ) -> tuple[Array | None, ...]:
        return self._computed(X, (W, R, B, None), sequence_lens, (initial_h,), attributes)


class GRU(RNN):
    """https://onnx.ai/onnx/operators/onnx__GRU.html"""

    kind = "GRU"


class LSTM(_Recurrent):
    """https://onnx.ai/onnx/operators/onnx__LSTM.html"""

    kind = "LSTM"
    states = 2

    def _run(
        self,
        X: Array,
        W: Array,
        R: Array,
        B: Array | None = None,
        sequence_lens: Array | None = None,
        initial_h: Array | None = None,
        initial_c: Array | None = None,
        P: Array | None = None,
        **attributes: Any,
    ) -> tuple[Array | None, ...]:
        return self._computed(X, (W, R, B, P), sequence_lens, (initial_h, initial_c), attributes)


OPERATORS = [RNN, LSTM, GRU]
