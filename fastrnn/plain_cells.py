"""One step of every cell in the array library's own products and elementwise operations, on weights as they are.

For weights that change from call to call: kernels read them in an order of their own, and bringing them there takes
longer than such a step. The library is NumPy or CuPy; ``place.arrays``. Scratch memory is a thread's own and kept for
its next step, so that nothing is allocated.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray

from fastrnn.cell_table import Cell
from fastrnn.parameters import Weights
from fastrnn.places import Kind

__all__ = ["plain_step"]

Array = NDArray[Any]
States = tuple[Array, ...]

_own = threading.local()


def _scratch(kind: Kind, B: int, rows: int, H: int) -> tuple[Array, Array, Array]:
    """Memory for the two products (B * rows,) each, and for a state (B, H)."""
    key = kind, B, rows, H
    if getattr(_own, "key", None) != key:
        _own.arrays = [kind.place.arrays.empty(size, kind.dtype) for size in (B * rows, B * rows, B * H)]
        _own.key = key
    zx, zh, t = _own.arrays
    return zx, zh, t.reshape(B, H)


def plain_step(cell: Cell, kind: Kind, x: Array, states: States, weights: Weights, out: States) -> None:
    """One step from x (B, I) and states (B, H) into ``out``, which may be the states' own arrays but not x's."""
    family = cell.name.partition("_")[0]
    B, H = states[0].shape
    _FAMILIES[family](cell, kind.place.arrays, x, states, weights, out, _scratch(kind, B, len(cell.gates) * H, H))


def _product(arrays: Any, x: Array, w: Array, b: Array | None, memory: Array) -> Array:
    """x Wᵀ + b (B, rows of w), in the first part of the memory."""
    z: Array = memory[: len(x) * len(w)].reshape(len(x), len(w))
    arrays.matmul(x, w.T, out=z)
    if b is not None:
        z += b
    return z


def _sigmoid(arrays: Any, z: Array) -> Array:
    """σ(z) = (1 + tanh(z / 2)) / 2 in place: no overflow at either end."""
    z *= 0.5
    arrays.tanh(z, out=z)
    z *= 0.5
    z += 0.5
    return z


def _rnn(cell: Cell, arrays: Any, x: Array, states: States, weights: Weights, out: States, scratch: Any) -> None:
    w_ih, w_hh, b_ih, b_hh, _ = weights
    z = _product(arrays, x, w_ih, b_ih, scratch[0])
    z += _product(arrays, states[0], w_hh, b_hh, scratch[1])
    if cell.name == "rnn_sigmoid":
        out[0][...] = _sigmoid(arrays, z)
    elif cell.name == "rnn_relu":
        arrays.maximum(z, 0, out=out[0])
    else:
        arrays.tanh(z, out=out[0])


def _lstm(cell: Cell, arrays: Any, x: Array, states: States, weights: Weights, out: States, scratch: Any) -> None:
    w_ih, w_hh, b_ih, b_hh, peephole = weights
    (h, c), (h_out, c_out), t = states, out, scratch[2]
    H = h.shape[1]
    z = _product(arrays, x, w_ih, b_ih, scratch[0])
    z += _product(arrays, h, w_hh, b_hh, scratch[1])
    gates = {name: z[:, k * H : (k + 1) * H] for k, name in enumerate(cell.gates)}

    def gate(name: str, seen: Array) -> Array:
        if name in cell.peepholes:
            k = cell.peepholes.index(name)
            gates[name] += arrays.multiply(peephole[k * H : (k + 1) * H], seen, out=t)
        return _sigmoid(arrays, gates[name])

    f, g = gate("f", c), arrays.tanh(gates["g"], out=gates["g"])
    i = gate("i", c) if "i" in gates else None
    if i is None:  # f c + (1 - f) g = g + f (c - g)
        arrays.subtract(c, g, out=t)
        t *= f
    else:
        g *= i
        arrays.multiply(f, c, out=t)
    arrays.add(g, t, out=c_out)
    o = gate("o", c_out)
    arrays.tanh(c_out, out=h_out)
    h_out *= o


def _gru(cell: Cell, arrays: Any, x: Array, states: States, weights: Weights, out: States, scratch: Any) -> None:
    w_ih, w_hh, b_ih, b_hh, _ = weights
    (h,), (h_out,), t = states, out, scratch[2]
    H = h.shape[1]
    rz = 2 * H
    zx = _product(arrays, x, w_ih, b_ih, scratch[0])
    gates, n = zx[:, :rz], zx[:, rz:]
    if cell.name == "gru_reset_after":
        zh = _product(arrays, h, w_hh, b_hh, scratch[1])
        gates += zh[:, :rz]
        _sigmoid(arrays, gates)
        zn = zh[:, rz:]
        zn *= gates[:, :H]
    else:
        b_rz, b_n = (None, None) if b_hh is None else (b_hh[:rz], b_hh[rz:])
        gates += _product(arrays, h, w_hh[:rz], b_rz, scratch[1])
        _sigmoid(arrays, gates)
        arrays.multiply(gates[:, :H], h, out=t)
        zn = _product(arrays, t, w_hh[rz:], b_n, scratch[1])
    n += zn
    arrays.tanh(n, out=n)
    arrays.subtract(h, n, out=t)
    t *= gates[:, H:]
    arrays.add(n, t, out=h_out)  # (1 - z) n + z h


_FAMILIES: dict[str, Callable[..., None]] = {"rnn": _rnn, "lstm": _lstm, "gru": _gru}
