"""How gradients flow back through time: do they vanish, explode, or carry?

Backpropagation through time is a sum over the steps k of which each term holds a product of state Jacobians:

    ∂L_T/∂W = Σ_k  ∂L_T/∂s_T  (Π_{t=k+1..T} ∂s_t/∂s_{t-1})  ∂s_k/∂W

``gradient_flow`` gives the norms of ∂L/∂s_k and of the terms, for a loss of one's own; ``jacobian_flow`` those of the
product, for any loss. Both take one step at a time through the layer's own backward, so for any cell, and T = 1000
takes tenths of a second; whole Jacobians are computed only if asked for.

Hochreiter, "Untersuchungen zu dynamischen neuronalen Netzen", 1991; Bengio, Simard and Frasconi, "Learning long-term
dependencies with gradient descent is difficult", 1994; Pascanu, Mikolov and Bengio, 2013.
"""

from __future__ import annotations

import copy
import math
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from fastrnn import checks
from fastrnn.recurrent import RecurrentLayer, recurrent_layer
from fastrnn.tape import Gradients

__all__ = ["GradientFlow", "JacobianFlow", "gradient_flow", "jacobian_flow"]


class GradientFlow(NamedTuple):
    """Norms over units, float64 on the host; index k of T+1 is the state after k steps, 0 the initial one."""

    states: dict[str, NDArray[np.float64]]  # "h", and "c" of LSTM: (T+1, L, B), ‖∂L/∂h_k‖ of each layer and row
    terms: NDArray[np.float64]  # (T,): the norm over all parameters of step k's term in the sum


class JacobianFlow(NamedTuple):
    """Of J_k = ∂s_T/∂s_k, S x S, s all of a row's states: S = L * H, or twice that for LSTM; float64 on the host.

    Of J_0 at index 0, to J_T, which is the identity.
    """

    log10_norms: NDArray[np.float64]
    """(T+1, probes): log10 ‖vᵀ J_k‖ of unit vectors v; with ``full`` (T+1,): log10 of the spectral norm of J_k."""
    matrices: NDArray[np.float64] | None
    """(T+1, S, S) with ``full``; what is below 1e-308 of it is 0."""

    @property
    def decades_per_step(self) -> float:
        """By how many powers of ten the norm changes with each step further back, on average over the probes."""
        norms = self.log10_norms.reshape(len(self.log10_norms), -1)
        return float((norms[0] - norms[-1]).mean() / max(1, len(norms) - 1))


def gradient_flow(
    layer: RecurrentLayer, x: Any, dy: Any = None, dstate: Any = None, *, state: Any = None, lengths: Any = None
) -> GradientFlow:
    """The norm of ∂L/∂s_k for every step k, and of each step's term in the sum for the parameters.

    Parameters
    ----------
    layer : RNN, LSTM or GRU in one direction, of any number of layers; dropout is left out
    x : (T, B, I), or as the layer takes it
    dy, dstate : the gradient of the loss, as ``layer.backward`` takes it
        With a dy that is 0 but at one step t, the terms are those of the sum for L_t.
    state, lengths : as the layer takes them

    Raises ValueError for a bidirectional layer, and what the layer raises.
    """
    with recurrent_layer(layer).kind.place.current():
        steps = _Steps(layer, x, state, lengths)
        outputs = steps.outputs(dy)
        parts = steps.given(dstate)
        names, T = layer.cell.states, len(steps.tapes)
        found = {name: np.zeros((T + 1, layer.num_layers, steps.B)) for name in names}
        terms = np.zeros(T)
        for k in reversed(range(T)):
            dy_k = None if outputs is None else outputs[k]
            steps.note(found, k + 1, parts, dy_k)
            grads = steps.back(k, dy_k, parts)
            terms[k] = float(_norms(steps.to_host(grads.flat)))
            parts = _as_tuple(grads.state)
        steps.note(found, 0, parts, None)
        return GradientFlow(found, terms)


def jacobian_flow(
    layer: RecurrentLayer, x: Any, *, state: Any = None, probes: int = 8, full: bool = False, seed: int | None = 0
) -> JacobianFlow:
    """The norms of the products of state Jacobians ∂s_T/∂s_k along one sequence, for every k.

    Parameters
    ----------
    layer : RNN, LSTM or GRU in one direction, of any number of layers; dropout is left out
    x : (T, I), one sequence
    state : as the layer takes it for that, optional
    probes : int >= 1
        How many random unit vectors v are sent back. Mean square ‖vᵀ J‖ is ‖J‖²_F / S.
    full : bool
        All S unit vectors instead: J itself, and its spectral norm.
    seed : of the probes

    Norms are kept as logarithms, and vectors are scaled to 1 at each step: nothing underflows or overflows on the way.

    Raises ValueError for a bidirectional layer and for a batch; what the layer raises.
    """
    x = checks.array("x", x, recurrent_layer(layer).kind)
    if x.ndim != 2:
        raise ValueError(f"x must be one sequence (T, I), got shape {x.shape}")
    S = len(layer.cell.states) * layer.num_layers * layer.hidden_size
    whole = checks.flag("full", full)
    vectors = np.eye(S) if whole else _unit_vectors(checks.integer("probes", probes, 1), S, seed)
    with layer.kind.place.current():
        steps = _Steps(layer, x, state, None, copies=len(vectors))
        T = len(steps.tapes)
        logs, matrices = np.zeros((T + 1, len(vectors))), np.zeros((T + 1, S, S)) if whole else None
        spectral = np.zeros(T + 1)
        for k in reversed(range(T + 1)):
            if k < T:
                vectors = steps.joined(steps.back(k, None, steps.split(vectors)))
                norms = _norms(vectors)
                vectors /= np.where(norms > 0, norms, 1)[:, None]
                with np.errstate(divide="ignore"):  # where nothing comes through, log 0 is -inf
                    logs[k] = logs[k + 1] + np.log10(norms)
            if matrices is not None:
                matrices[k], spectral[k] = _product(vectors, logs[k])
    return JacobianFlow(spectral if whole else logs, matrices)


def _unit_vectors(count: int, S: int, seed: int | None) -> NDArray[np.float64]:
    vectors = np.random.default_rng(checks.seed(seed)).standard_normal((count, S))
    vectors /= _norms(vectors)[:, None]
    return vectors


def _product(vectors: NDArray[np.float64], logs: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """The rows ``vectors * 10**logs``, and log10 of their spectral norm, which may be outside of float64's range."""
    largest = float(logs.max())
    if not math.isfinite(largest):
        return np.zeros_like(vectors) if largest < 0 else vectors * largest, largest
    with np.errstate(over="ignore", under="ignore"):
        within = vectors * 10.0 ** (logs - largest)[:, None]
        return within * 10.0**largest, largest + float(np.log10(np.linalg.norm(within, 2)))


def _norms(values: NDArray[Any]) -> NDArray[np.float64]:
    """Over the last axis, in float64: float32's squares overflow long before its numbers do."""
    return cast(NDArray[np.float64], np.linalg.norm(values.astype(np.float64), axis=-1))


def _as_tuple(state: Any) -> tuple[Any, ...]:
    return state if isinstance(state, tuple) else (state,)


class _Steps:
    """A sequence run forward a step at a time, with a tape for each: T calls of the layer, all with packed weights."""

    def __init__(self, layer: RecurrentLayer, x: Any, state: Any, lengths: Any, copies: int = 1) -> None:
        if layer.bidirectional:
            raise ValueError("gradient flow needs a layer in one direction, got a bidirectional one")
        self.kind, self.names, self.L, self.H = layer.kind, layer.cell.states, layer.num_layers, layer.hidden_size
        self.layer = copy.deepcopy(layer)
        self.layer.__dict__["dropout"] = 0.0
        self.layer.freeze()
        x, self.unbatched = checks.sequence(x, layer.kind, layer.input_size, layer.batch_first)
        if copies > 1:
            x = self.arrays.concatenate([x] * copies, axis=1)
        self.T, self.B, _ = x.shape
        self.alive: NDArray[np.bool_] | None = None  # (T, B)
        if lengths is not None:
            ends = checks.lengths(lengths, self.T, self.B, self.unbatched)
            assert ends is not None
            self.alive = np.arange(self.T)[:, None] < ends
        initial = self.given(state, "state", copies)
        self.tapes = []
        for t in range(self.T):
            inside = None if self.alive is None else self.alive[t].astype(np.int64)
            _, after, tape = self.layer.forward(self._in_order(x[t]), _public(initial), lengths=inside)
            initial = _as_tuple(after)
            self.tapes.append(tape)

    @property
    def arrays(self) -> Any:
        return self.kind.place.arrays

    def to_host(self, array: Any) -> NDArray[Any]:
        return self.kind.place.to_host(array)

    def _in_order(self, step: Any) -> Any:
        """(B, ·) as a sequence of one step."""
        return step[:, None] if self.layer.batch_first else step[None]

    def given(self, value: Any, name: str = "dstate", copies: int = 1) -> tuple[Any, ...]:
        """A state in the caller's form as (L, B, H) arrays, zeros for None."""
        rows = self.B // copies
        shape = (self.L, self.H) if self.unbatched else (self.L, rows, self.H)
        letters = "(num_layers, H)" if self.unbatched else "(num_layers, B, H)"
        parts: tuple[Any, ...] = (None,) * len(self.names)
        if value is not None:
            parts = checks.states(name, value, self.kind, self.names, shape, letters, holes=True)
        found = []
        for part in parts:
            if part is None:
                part = self.arrays.zeros(shape, self.kind.dtype)
            part = part.reshape(self.L, rows, self.H)
            found.append(self.arrays.concatenate([part] * copies, axis=1) if copies > 1 else part)
        return tuple(found)

    def outputs(self, dy: Any) -> Any:
        """dy as (T, B, H), 0 past a row's length; None for None."""
        if dy is None:
            return None
        dy = checks.array("dy", dy, self.kind)
        if not self.unbatched and self.layer.batch_first and dy.ndim == 3:
            dy = dy.transpose(1, 0, 2)
        shape = (self.T, self.H) if self.unbatched else (self.T, self.B, self.H)
        dy = checks.shaped("dy", dy, self.kind, shape, "that of y").reshape(self.T, self.B, self.H)
        if self.alive is None:
            return dy
        return self.arrays.where(self.kind.place.from_host(self.alive)[:, :, None], dy, self.kind.dtype.type(0))

    def back(self, k: int, dy: Any, parts: tuple[Any, ...]) -> Gradients:
        """Through step k: dy (B, H) or None, and the gradient of the state after it."""
        dy = None if dy is None else self._in_order(dy)
        return self.layer.backward(self.tapes[k], dy, _public(parts), input_grad=False)

    def note(self, found: dict[str, NDArray[np.float64]], k: int, parts: tuple[Any, ...], dy: Any) -> None:
        """Write down the norms of the gradient of the state after k steps; h of the last layer is the output too."""
        for name, part in zip(self.names, parts, strict=True):
            host = self.to_host(part).astype(np.float64)
            if name == "h" and dy is not None:
                host[-1] += self.to_host(dy)
            found[name][k] = _norms(host)

    def split(self, vectors: NDArray[np.float64]) -> tuple[Any, ...]:
        """(n, S) as states (L, n, H)."""
        parts = vectors.reshape(len(vectors), len(self.names), self.L, self.H).transpose(1, 2, 0, 3)
        return tuple([self.kind.place.from_host(np.ascontiguousarray(part, self.kind.dtype)) for part in parts])

    def joined(self, grads: Gradients) -> NDArray[np.float64]:
        """The inverse of ``split``, of the gradients of a state."""
        parts = np.stack([self.to_host(part).astype(np.float64) for part in _as_tuple(grads.state)])
        return parts.transpose(2, 0, 1, 3).reshape(parts.shape[2], -1)


def _public(parts: tuple[Any, ...]) -> Any:
    """A state as the layer takes it."""
    return parts[0] if len(parts) == 1 else parts
