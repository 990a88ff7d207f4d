"""CuPy: a loop over time in its operations; what a CuPy user has without fastrnn."""

from __future__ import annotations

from typing import Any

import numpy as np

from bench.cases import Case
from bench.checks import Outputs
from bench.devices import Timer, cupy_timer
from bench.peers.array_loop import Loop
from bench.peers.base import PUBLISHED_CELLS, Memory, Peer, Program, UnsupportedError
from bench.peers.cupy_arrays import PoolMemory, to_host

__all__ = ["CupyLoop"]


class CupyLoop(Peer):
    """One launch per operation. Products of float32 are in float32: CuPy takes TF32 only if CUPY_TF32 is set."""

    name = "cupy"
    cells = PUBLISHED_CELLS
    devices = ("cuda",)

    def __init__(self, threads: int, device: str = "cuda") -> None:
        super().__init__(threads, device)
        self.xp = self._array_module()

    def _array_module(self) -> Any:
        import cupy

        return cupy

    def _timer(self) -> Timer:
        return cupy_timer()

    def memory(self) -> Memory:
        return PoolMemory()

    def versions(self) -> dict[str, str]:
        runtime = self.xp.cuda.runtime.runtimeGetVersion()
        return {"cupy": self.xp.__version__, "cuda": f"{runtime // 1000}.{runtime % 1000 // 10}"}

    def settings(self) -> dict[str, Any]:
        return {"tf32": False, "timing": "events"}

    def _must_multiply(self, matrix: np.ndarray) -> None:
        """Raises UnsupportedError where the library has no product of this dtype."""
        try:
            array = self.xp.asarray(matrix)
            array @ array.T
        except (TypeError, ValueError, NotImplementedError) as error:
            raise UnsupportedError(f"no product of {matrix.dtype}: {error}") from error

    def program(self, case: Case, variant: str) -> Program:
        problem = case.problem()
        self._must_multiply(problem.x[0])
        loop = Loop(self.xp, case.cell, {name: self.xp.asarray(p) for name, p in problem.params.items()})
        x, dy = self.xp.asarray(problem.x), self.xp.asarray(problem.dy)
        state = tuple(self.xp.asarray(s[0]) for s in problem.state)

        def forward() -> Any:
            y, final, _ = loop.forward(x, state, keep=False)
            return y, final, {}

        def training() -> Any:
            y, final, tape = loop.forward(x, state)
            return y, final, loop.backward(x, tape, dy)

        def step() -> Any:
            rows, carried = [], state
            for t in range(case.T):
                y, carried, _ = loop.forward(x[t : t + 1], carried, keep=False)
                rows.append(y)
            return self.xp.concatenate(rows), carried, {}

        run = {"forward": forward, "training": training, "step": step}[case.mode]
        return Program(run, _outputs, how="loop over time", native=False, timer=self._timer())


def _outputs(ran: Any) -> Outputs:
    y, final, grads = ran
    arrays = {"y": y} | {f"state{k}": s for k, s in enumerate(final)} | grads
    return {name: to_host(a[None] if "state" in name else a) for name, a in arrays.items()}
