"""A plain loop in NumPy for what no layer computes: clip, and activations other than the operator's own.

Written from the specification; where that is silent, after ONNX Runtime: clip bounds what enters the activations of
gates, but not the cell state that h is made of; and input_forget is f = 1 - i.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastrnn.weights.gates import blocks
from fastrnn.weights.onnx_nodes import Activation, Node
from fastrnn.weights.reverse import turned

__all__ = ["walk"]

Array = NDArray[Any]
# Of x W' + Wb, R', Rb, the peepholes and the states that enter a step: those that leave it.
Step = Callable[..., tuple[Array, ...]]


def _sigmoid(x: Array) -> Array:
    return 0.5 + 0.5 * np.tanh(0.5 * x)  # never overflows


_FUNCTIONS: dict[str, Callable[[Array, Any, Any], Array]] = {
    "affine": lambda x, alpha, beta: alpha * x + beta,
    "elu": lambda x, alpha, beta: np.where(x < 0, alpha * np.expm1(np.minimum(x, 0)), x),
    "hardsigmoid": lambda x, alpha, beta: np.clip(alpha * x + beta, 0, 1),
    "leakyrelu": lambda x, alpha, beta: np.where(x < 0, alpha * x, x),
    "relu": lambda x, alpha, beta: np.maximum(x, 0),
    "scaledtanh": lambda x, alpha, beta: alpha * np.tanh(beta * x),
    "sigmoid": lambda x, alpha, beta: _sigmoid(x),
    "softplus": lambda x, alpha, beta: np.logaddexp(0, x),
    "softsign": lambda x, alpha, beta: x / (1 + np.abs(x)),
    "tanh": lambda x, alpha, beta: np.tanh(x),
    "thresholdedrelu": lambda x, alpha, beta: np.where(x > alpha, x, 0),
}


def walk(
    node: Node,
    d: int,
    X: Array,
    W: Array,
    R: Array,
    B: Array | None,
    P: Array | None,
    state: tuple[Array, ...],
    lengths: NDArray[np.int64] | None,
) -> tuple[Array, tuple[Array, ...]]:
    """One direction: X (T, B, I), the arrays of direction d, states (B, H); returns Y (T, B, H) and the last states."""
    T, rows, _ = X.shape
    H = R.shape[-1]
    backward = node.direction == "reverse" or d == 1
    if backward:
        X = turned(X, lengths, False)
    Wb, Rb = (np.zeros(len(W), X.dtype),) * 2 if B is None else np.split(B, 2)
    P = np.zeros(3 * H, X.dtype) if P is None else P
    functions = [_function(activation, node.clip) for activation in node.activations[d]]
    if node.kind == "LSTM":
        functions[2] = _function(node.activations[d][2], None)
    step = _STEPS[node.kind](node, functions)
    Y = np.zeros((T, rows, H), X.dtype)
    zx = X @ W.T + Wb
    for t in range(T):
        leaving = step(zx[t], R, Rb, P, *state)
        if lengths is None:
            state = leaving
            Y[t] = leaving[0]
        else:
            alive = (t < lengths)[:, None]
            state = tuple(np.where(alive, new, old) for new, old in zip(leaving, state, strict=True))
            Y[t] = np.where(alive, leaving[0], 0)
    return (turned(Y, lengths, False) if backward else Y), state


def _function(activation: Activation, clip: float | None) -> Callable[[Array], Array]:
    function, alpha, beta = _FUNCTIONS[activation.name], activation.alpha, activation.beta
    if clip is None:
        return lambda x: function(x, alpha, beta).astype(x.dtype, copy=False)
    return lambda x: function(np.clip(x, -clip, clip), alpha, beta).astype(x.dtype, copy=False)


def _rnn(node: Node, functions: list[Callable[[Array], Array]]) -> Step:
    (f,) = functions

    def step(zx: Array, R: Array, Rb: Array, P: Array, h: Array) -> tuple[Array]:
        return (f(zx + h @ R.T + Rb),)

    return step


def _lstm(node: Node, functions: list[Callable[[Array], Array]]) -> Step:
    f, g, h_of = functions

    def step(zx: Array, R: Array, Rb: Array, P: Array, h: Array, c: Array) -> tuple[Array, Array]:
        z = blocks((zx + h @ R.T + Rb).T, "iofc")
        z = {name: part.T for name, part in z.items()}
        p = blocks(P, "iof")
        i = f(z["i"] + p["i"] * c)
        forget = 1 - i if node.input_forget else f(z["f"] + p["f"] * c)
        c = forget * c + i * g(z["c"])
        return f(z["o"] + p["o"] * c) * h_of(c), c

    return step


def _gru(node: Node, functions: list[Callable[[Array], Array]]) -> Step:
    f, g = functions

    def step(zx: Array, R: Array, Rb: Array, P: Array, h: Array) -> tuple[Array]:
        H = h.shape[1]
        zr = f(zx[:, : 2 * H] + h @ R[: 2 * H].T + Rb[: 2 * H])
        z, r = zr[:, :H], zr[:, H:]
        Rn, Rbn = R[2 * H :].T, Rb[2 * H :]
        zn = r * (h @ Rn + Rbn) if node.linear_before_reset else (r * h) @ Rn + Rbn
        n = g(zx[:, 2 * H :] + zn)
        return ((1 - z) * n + z * h,)

    return step


_STEPS: dict[str, Callable[[Node, list[Callable[[Array], Array]]], Step]] = {"RNN": _rnn, "LSTM": _lstm, "GRU": _gru}
