"""NumPy: the naive reference that the tests use, timed in the case's own precision."""

from __future__ import annotations

from typing import Any

import numpy as np

from bench.cases import Case
from bench.checks import Outputs
from bench.peers.base import Peer, Program

__all__ = ["NumpyReference"]


class NumpyReference(Peer):
    """A Python loop over time around NumPy's products; what a NumPy user has without fastrnn."""

    name = "numpy"

    def versions(self) -> dict[str, str]:
        return {"numpy": np.__version__}

    def settings(self) -> dict[str, Any]:
        blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
        return {"threads": self.threads, "blas": f"{blas.get('name')} {blas.get('version')}"}

    def program(self, case: Case, variant: str) -> Program:
        problem = case.problem()
        network = problem.network(np.dtype(case.dtype))
        zeros = tuple(np.zeros_like(s) for s in problem.state)

        def forward() -> Any:
            y, final, tape = network.forward(problem.x, problem.state)
            return y, final, tape

        def training() -> Any:
            y, final, tape = forward()
            return y, final, network.backward(tape, problem.dy, zeros)

        def step() -> Any:
            state, rows = problem.state, []
            for t in range(case.T):
                y, state, _ = network.forward(problem.x[t : t + 1], state)
                rows.append(y[0])
            return np.stack(rows), state, None

        def outputs(ran: Any) -> Outputs:
            y, final, grads = ran
            arrays = {"y": y} | {f"state{k}": s for k, s in enumerate(final)}
            if case.mode == "training":
                dx, dstate, dparams = grads
                arrays |= {"dx": dx} | {f"dstate{k}": s for k, s in enumerate(dstate)}
                arrays |= {f"d{name}": gradient for name, gradient in dparams.items()}
            return arrays

        run = {"forward": forward, "training": training, "step": step}[case.mode]
        return Program(run, outputs, how="loop over time", native=False)
