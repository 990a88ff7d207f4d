"""fastrnn itself, through its public layers and nothing else."""

from __future__ import annotations

from typing import Any, ClassVar

import llvmlite
import numba
import numpy as np

import fastrnn
from bench.cases import Case
from bench.checks import Outputs
from bench.devices import WallTimer, cupy_timer
from bench.peers.base import Memory, Peer, Program, UnsupportedError
from bench.peers.cupy_arrays import PoolMemory, to_host
from tests.cases import LAYERS

__all__ = ["FastrnnLayers", "make_layer"]


def make_layer(case: Case, params: dict[str, np.ndarray]) -> Any:
    """The layer of a case with its parameters loaded. Raises UnsupportedError where its device can't be used."""
    kind, options = LAYERS[case.cell]
    try:
        layer = getattr(fastrnn, kind)(case.I, case.H, dtype=case.dtype, device=case.device, **options)
    except fastrnn.GPUUnavailable as error:
        raise UnsupportedError(str(error)) from error
    layer.load_params(params)
    return layer


def _array_module(device: str) -> Any:
    if device == "cpu":
        return np
    import cupy

    return cupy


def _as_public(states: tuple[np.ndarray, ...]) -> Any:
    return states[0] if len(states) == 1 else states


def _as_tuple(state: Any) -> tuple[np.ndarray, ...]:
    return state if isinstance(state, tuple) else (state,)


class FastrnnLayers(Peer):
    """``frozen`` keeps the packed weights between calls, ``unfrozen`` packs them in every call.

    On a GPU float32 is computed three ways: exact, and as variants of their own in TF32 and 3xTF32.
    """

    name = "fastrnn"
    devices = ("cpu", "cuda")
    variants: ClassVar = {"forward": ("frozen", "unfrozen")}

    def __init__(self, threads: int, device: str = "cpu") -> None:
        super().__init__(threads, device)
        fastrnn.set_num_threads(threads)

    def memory(self) -> Memory:
        return super().memory() if self.device == "cpu" else PoolMemory()

    def versions(self) -> dict[str, str]:
        return {
            "fastrnn": fastrnn.__version__,
            "numba": numba.__version__,
            "llvmlite": llvmlite.__version__,
            "numpy": np.__version__,
        }

    def settings(self) -> dict[str, Any]:
        return {"threads": fastrnn.get_num_threads()}

    def variants_of(self, case: Case) -> tuple[str, ...]:
        found = super().variants_of(case)
        if (case.device, case.dtype) != ("cuda", "float32") or case.mode == "step":
            return found
        return found + tuple(f"{found[0]} {precision}".strip() for precision in ("tf32", "3xtf32"))

    def program(self, case: Case, variant: str) -> Program:
        problem = case.problem()
        layer = make_layer(case, problem.params)
        precision = next((word for word in variant.split() if word.endswith("tf32")), "exact")
        layer.precision = precision
        if variant.startswith("frozen"):
            layer.freeze()
        xp = _array_module(case.device)
        x, dy = xp.asarray(problem.x), xp.asarray(problem.dy)
        state = _as_public(tuple(xp.asarray(s) for s in problem.state))

        def forward() -> Any:
            y, final = layer(x, state)
            return y, final, None

        def training() -> Any:
            y, final, tape = layer.forward(x, state)
            return y, final, layer.backward(tape, dy)

        stream = layer.stream(case.B, state) if case.mode == "step" else None

        def step() -> Any:
            assert stream is not None
            stream.state = state
            y = xp.empty((case.T, case.B, case.H), x.dtype)
            for t in range(case.T):
                stream(x[t], out=y[t])
            return y, stream.state, None

        def outputs(ran: Any) -> Outputs:
            y, final, grads = ran
            arrays = {"y": y} | {f"state{k}": s for k, s in enumerate(_as_tuple(final))}
            if grads is not None:
                arrays |= {"dx": grads.x} | {f"dstate{k}": s for k, s in enumerate(_as_tuple(grads.state))}
                arrays |= {f"d{name}": gradient for name, gradient in grads.params.items()}
            return {name: to_host(array) for name, array in arrays.items()}

        run = {"forward": forward, "training": training, "step": step}[case.mode]
        timer = WallTimer() if case.device == "cpu" else cupy_timer()
        reduced = None if precision == "exact" else precision
        return Program(run, outputs, how=variant or type(layer).__name__, timer=timer, precision=reduced)
