"""fastrnn itself, through its public layers and nothing else."""

from __future__ import annotations

from typing import Any, ClassVar

import llvmlite
import numba
import numpy as np

import fastrnn
from bench.cases import Case
from bench.checks import Outputs
from bench.peers.base import Peer, Program
from tests.cases import LAYERS

__all__ = ["FastrnnLayers", "make_layer"]


def make_layer(case: Case, params: dict[str, np.ndarray]) -> Any:
    """The layer of a case with its parameters loaded."""
    kind, options = LAYERS[case.cell]
    layer = getattr(fastrnn, kind)(case.I, case.H, dtype=case.dtype, **options)
    layer.load_params(params)
    return layer


def _as_public(states: tuple[np.ndarray, ...]) -> Any:
    return states[0] if len(states) == 1 else states


def _as_tuple(state: Any) -> tuple[np.ndarray, ...]:
    return state if isinstance(state, tuple) else (state,)


class FastrnnLayers(Peer):
    """``frozen`` keeps the packed weights between calls, ``unfrozen`` packs them in every call."""

    name = "fastrnn"
    variants: ClassVar = {"forward": ("frozen", "unfrozen")}

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        fastrnn.set_num_threads(threads)

    def versions(self) -> dict[str, str]:
        return {
            "fastrnn": fastrnn.__version__,
            "numba": numba.__version__,
            "llvmlite": llvmlite.__version__,
            "numpy": np.__version__,
        }

    def settings(self) -> dict[str, Any]:
        return {"threads": fastrnn.get_num_threads()}

    def program(self, case: Case, variant: str) -> Program:
        problem = case.problem()
        layer = make_layer(case, problem.params)
        if variant == "frozen":
            layer.freeze()
        state = _as_public(problem.state)

        def forward() -> Any:
            y, final = layer(problem.x, state)
            return y, final, None

        def training() -> Any:
            y, final, tape = layer.forward(problem.x, state)
            return y, final, layer.backward(tape, problem.dy)

        stream = layer.stream(case.B, state) if case.mode == "step" else None

        def step() -> Any:
            assert stream is not None
            stream.state = state
            y = np.empty((case.T, case.B, case.H), case.dtype)
            for t in range(case.T):
                stream(problem.x[t], out=y[t])
            return y, stream.state, None

        def outputs(ran: Any) -> Outputs:
            y, final, grads = ran
            arrays = {"y": y} | {f"state{k}": s for k, s in enumerate(_as_tuple(final))}
            if grads is not None:
                arrays |= {"dx": grads.x} | {f"dstate{k}": s for k, s in enumerate(_as_tuple(grads.state))}
                arrays |= {f"d{name}": gradient for name, gradient in grads.params.items()}
            return arrays

        run = {"forward": forward, "training": training, "step": step}[case.mode]
        return Program(run, outputs, how=variant or type(layer).__name__)
