"""ONNX's operators RNN, LSTM and GRU: their attributes read and their weights brought into our order, and back.

ONNX orders an LSTM's gates i o f c with peepholes i o f, and a GRU's z r h. The specification does not say which gate
an LSTM with ``input_forget`` keeps. ONNX Runtime keeps i, with f = 1 - i, and so is it read here: since 1 - σ(z) =
σ(-z), our f of a coupled LSTM is that i with the sign of its weights turned.

https://onnx.ai/onnx/operators/onnx__LSTM.html. Nothing here imports onnx.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastrnn.weights.gates import blocks, reordered

__all__ = ["KINDS", "Activation", "Directions", "Node", "tensors_of"]

KINDS = ("RNN", "LSTM", "GRU")

# A node's arrays by direction, under our names without "_l{k}".
Directions = list[dict[str, NDArray[Any]]]

# ONNX's order of our gates and of our peepholes, and our own order.
_GATES = {"RNN": "h", "LSTM": "iofg", "GRU": "zrn"}
_OUR_GATES = {"RNN": "h", "LSTM": "ifgo", "GRU": "rzn"}
_PEEPHOLES, _OUR_PEEPHOLES = "iof", "ifo"
_COUPLED_GATES, _COUPLED_PEEPHOLES = "fgo", "fo"

# A default that the specification does not state.
_REQUIRED = math.nan

# Activations by lower-case name (runtimes do not mind the case), with the defaults of alpha and beta.
_ACTIVATIONS: dict[str, tuple[float | None, float | None]] = {
    "affine": (_REQUIRED, _REQUIRED),
    "elu": (1.0, None),
    "hardsigmoid": (0.2, 0.5),
    "leakyrelu": (0.01, None),
    "relu": (None, None),
    "scaledtanh": (_REQUIRED, _REQUIRED),
    "sigmoid": (None, None),
    "softplus": (None, None),
    "softsign": (None, None),
    "tanh": (None, None),
    "thresholdedrelu": (1.0, None),
}
_DEFAULTS = {"RNN": ("tanh",), "LSTM": ("sigmoid", "tanh", "tanh"), "GRU": ("sigmoid", "tanh")}
_NONLINEARITIES = ("tanh", "relu", "sigmoid")


@dataclass(frozen=True)
class Activation:
    """One of ONNX's activations, its name in lower case."""

    name: str
    alpha: float | None = None
    beta: float | None = None


@dataclass(frozen=True)
class Node:
    """What the attributes of a node say; activations by direction: f; f, g of a GRU; f, g, h of an LSTM."""

    kind: str
    direction: str
    activations: tuple[tuple[Activation, ...], ...]
    clip: float | None
    input_forget: bool
    linear_before_reset: bool
    batch_first: bool

    @classmethod
    def read(cls, kind: str, attributes: Mapping[str, Any]) -> Node:
        """From attributes as NumPy programs see them; None stands for the default. Raises ValueError."""
        direction = attributes.get("direction") or "forward"
        if direction not in ("forward", "reverse", "bidirectional"):
            raise ValueError(f"direction must be forward, reverse or bidirectional, got {direction!r}")
        layout = attributes.get("layout") or 0
        if layout not in (0, 1):
            raise ValueError(f"layout must be 0 or 1, got {layout!r}")
        clip = attributes.get("clip")
        return cls(
            kind=kind,
            direction=direction,
            activations=_activations(kind, 1 + (direction == "bidirectional"), attributes),
            clip=None if clip is None else float(clip),
            input_forget=bool(attributes.get("input_forget")),
            linear_before_reset=bool(attributes.get("linear_before_reset")),
            batch_first=layout == 1,
        )

    @property
    def lacking(self) -> str | None:
        """What no layer of ours can represent, or None."""
        if self.clip is not None:
            return f"clip={self.clip:g}"
        for found in self.activations:
            usual = found[0].name in _NONLINEARITIES if self.kind == "RNN" else found == _usual(self.kind)
            if not usual or found != self.activations[0]:
                names = [activation.name for direction in self.activations for activation in direction]
                return f"activations={names}"
        return None

    def cell_options(self, peephole: bool) -> dict[str, Any]:
        """The options that select our cell, for a node that lacks nothing."""
        if self.kind == "RNN":
            return {"nonlinearity": self.activations[0][0].name}
        if self.kind == "GRU":
            return {"reset_after": self.linear_before_reset}
        return {"peephole": peephole, "coupled": self.input_forget}

    def converted(
        self, W: NDArray[Any], R: NDArray[Any], B: NDArray[Any] | None, P: NDArray[Any] | None, hidden_size: Any = None
    ) -> Directions:
        """W (D, G*H, I), R (D, G*H, H), B (D, 2*G*H) and P (D, 3*H) as ours. Raises ValueError for other shapes."""
        _check_shapes(self, W, R, B, P, hidden_size)
        coupled = self.input_forget
        found = []
        for d in range(len(W)):
            arrays = {"weight_ih": W[d], "weight_hh": R[d]}
            if B is not None:
                arrays["bias_ih"], arrays["bias_hh"] = np.split(B[d], 2)
            arrays = {name: _ours(array, self.kind, coupled) for name, array in arrays.items()}
            if P is not None:
                arrays["weight_peephole"] = _our_peepholes(P[d], coupled)
            found.append(arrays)
        return found


def _usual(kind: str) -> tuple[Activation, ...]:
    return tuple(Activation(name) for name in _DEFAULTS[kind])


def _activations(kind: str, directions: int, attributes: Mapping[str, Any]) -> tuple[tuple[Activation, ...], ...]:
    """The attribute activations by direction; alpha and beta go, in order, to those that take them."""
    each = len(_DEFAULTS[kind])
    names = [str(name).lower() for name in attributes.get("activations") or _DEFAULTS[kind] * directions]
    if len(names) < each * directions:
        raise ValueError(f"activations must have {each * directions} names for {kind}, got {names}")
    alphas, betas = (iter(attributes.get(f"activation_{name}") or ()) for name in ("alpha", "beta"))
    found = []
    for name in names[: each * directions]:
        if name not in _ACTIVATIONS:
            raise ValueError(f"activations: {name!r} is none of {', '.join(_ACTIVATIONS)}")
        alpha, beta = (
            None if default is None else float(next(given, default))
            for default, given in zip(_ACTIVATIONS[name], (alphas, betas), strict=True)
        )
        if math.isnan(alpha or 0) or math.isnan(beta or 0):
            raise ValueError(f"activations: {name!r} needs activation_alpha and activation_beta")
        found.append(Activation(name, alpha, beta))
    return tuple(tuple(found[d * each : (d + 1) * each]) for d in range(directions))


def _check_shapes(node: Node, W: Any, R: Any, B: Any, P: Any, hidden_size: Any) -> None:
    """Every array against R (D, G*H, H)."""
    D, G = 1 + (node.direction == "bidirectional"), len(_GATES[node.kind])
    H = R.shape[-1] if R.ndim == 3 else 0
    if hidden_size is not None and hidden_size != H:
        raise ValueError(f"R must have shape (D, G*H, H) with hidden_size H = {hidden_size}, got {R.shape}")
    I = W.shape[-1] if W.ndim == 3 else 0
    if not H or not I:
        raise ValueError(f"W and R of {node.kind} must be (D, G*H, I) and (D, G*H, H), got {W.shape} and {R.shape}")
    expected = {"R": (D, G * H, H), "W": (D, G * H, I), "B": (D, 2 * G * H), "P": (D, 3 * H)}
    for name, array in (("R", R), ("W", W), ("B", B), ("P", P)):
        if array is not None and array.shape != expected[name]:
            raise ValueError(f"{name} of {node.kind} ({node.direction}) has shape {array.shape}, not {expected[name]}")


def _ours(array: NDArray[Any], kind: str, coupled: bool) -> NDArray[Any]:
    if not (kind == "LSTM" and coupled):
        return reordered(array, _GATES[kind], _OUR_GATES[kind])
    found = blocks(array, _GATES[kind])
    return np.concatenate([-found["i"], found["g"], found["o"]])


def _our_peepholes(array: NDArray[Any], coupled: bool) -> NDArray[Any]:
    if not coupled:
        return reordered(array, _PEEPHOLES, _OUR_PEEPHOLES)
    found = blocks(array, _PEEPHOLES)
    return np.concatenate([-found["i"], found["o"]])


def tensors_of(kind: str, coupled: bool, directions: Sequence[Mapping[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    """W, R, and B and P where they are, of our arrays by direction."""
    found = {}
    for name, ours in (("W", "weight_ih"), ("R", "weight_hh")):
        found[name] = np.stack([_theirs(arrays[ours], kind, coupled) for arrays in directions])
    if "bias_ih" in directions[0]:
        halves = [[_theirs(arrays[name], kind, coupled) for name in ("bias_ih", "bias_hh")] for arrays in directions]
        found["B"] = np.stack([np.concatenate(half) for half in halves])
    if "weight_peephole" in directions[0]:
        found["P"] = np.stack([_their_peepholes(arrays["weight_peephole"], coupled) for arrays in directions])
    return found


def _theirs(array: NDArray[Any], kind: str, coupled: bool) -> NDArray[Any]:
    if not coupled:
        return reordered(array, _OUR_GATES[kind], _GATES[kind])
    found = blocks(array, _COUPLED_GATES)
    return np.concatenate([-found["f"], found["o"], np.zeros_like(found["f"]), found["g"]])


def _their_peepholes(array: NDArray[Any], coupled: bool) -> NDArray[Any]:
    if not coupled:
        return reordered(array, _OUR_PEEPHOLES, _PEEPHOLES)
    found = blocks(array, _COUPLED_PEEPHOLES)
    return np.concatenate([-found["f"], found["o"], np.zeros_like(found["f"])])
