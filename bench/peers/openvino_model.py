"""OpenVINO: inference of the same ONNX model as ONNX Runtime, in float32 and not in its default bfloat16."""

from __future__ import annotations

from typing import Any

import numpy as np
import openvino

from bench.cases import Case
from bench.checks import Outputs
from bench.peers.base import PUBLISHED_CELLS, Peer, Program, UnsupportedError
from bench.peers.onnx_model import operator, serialized

__all__ = ["OpenVino"]


class OpenVino(Peer):
    """The CPU plugin with one stream, tuned for latency."""

    name = "openvino"
    cells = tuple(cell for cell in PUBLISHED_CELLS if "peephole" not in cell)  # it reads them and leaves them out
    modes = ("forward", "step")

    def __init__(self, threads: int, device: str = "cpu") -> None:
        super().__init__(threads, device)
        self._core = openvino.Core()

    def versions(self) -> dict[str, str]:
        return {"openvino": openvino.__version__.split("-")[0]}

    def settings(self) -> dict[str, Any]:
        return {
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": self.threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
        }

    def program(self, case: Case, variant: str) -> Program:
        if case.dtype != "float32":
            raise UnsupportedError(f"no {case.dtype} arithmetic on the CPU")
        problem = case.problem()
        model = self._core.read_model(serialized(case, problem.params))
        request = self._core.compile_model(model, "CPU", self.settings()).create_infer_request()
        names = [f"{s}0" for s in "hc"[: len(problem.state)]]

        def infer(x: np.ndarray, state: list[np.ndarray], share: bool) -> tuple[np.ndarray, list[np.ndarray]]:
            feeds = {"x": x, **dict(zip(names, state, strict=True))}
            results = request.infer(feeds, share_inputs=True, share_outputs=share)
            y, *final = (results[i] for i in range(1 + len(names)))
            return y[:, 0], final

        def forward() -> Any:
            return infer(problem.x, list(problem.state), share=True)

        def step() -> Any:
            rows, state = [], list(problem.state)
            for t in range(case.T):
                # not shared: the new state must not be written over while it is read
                y, state = infer(problem.x[t : t + 1], state, share=False)
                rows.append(y)
            return np.concatenate(rows), state

        def outputs(ran: Any) -> Outputs:
            y, final = ran
            return {"y": y} | {f"state{k}": s for k, s in enumerate(final)}

        return Program(step if case.mode == "step" else forward, outputs, how=f"operator {operator(case)}")
