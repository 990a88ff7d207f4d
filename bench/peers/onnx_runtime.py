"""ONNX Runtime: inference with the operators RNN, LSTM and GRU, which know every cell of ours."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime

from bench.cases import Case
from bench.checks import Outputs
from bench.peers.base import PUBLISHED_CELLS, Peer, Program, UnsupportedError
from bench.peers.onnx_model import operator, serialized

__all__ = ["OnnxRuntime"]


class OnnxRuntime(Peer):
    """One node, weights as initializers (so packed once, when the session is made); CPU execution provider."""

    name = "onnxruntime"
    cells = PUBLISHED_CELLS
    modes = ("forward", "step")

    def versions(self) -> dict[str, str]:
        return {"onnxruntime": onnxruntime.__version__, "onnx": onnx.__version__}

    def settings(self) -> dict[str, Any]:
        return {
            "intra_op_num_threads": self.threads,
            "inter_op_num_threads": 1,
            "provider": "CPUExecutionProvider",
            "graph_optimization_level": "all (default)",
        }

    def program(self, case: Case, variant: str) -> Program:
        problem = case.problem()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            session = onnxruntime.InferenceSession(
                serialized(case, problem.params), options, providers=["CPUExecutionProvider"]
            )
        except onnxruntime.capi.onnxruntime_pybind11_state.NotImplemented as error:
            raise UnsupportedError(f"no {case.cell} in {case.dtype}") from error
        names = [f"{s}0" for s in "hc"[: len(problem.state)]]

        def forward() -> Any:
            y, *final = session.run(None, {"x": problem.x, **dict(zip(names, problem.state, strict=True))})
            return y[:, 0], final

        def step() -> Any:
            rows, state = [], list(problem.state)
            for t in range(case.T):
                y, *state = session.run(None, {"x": problem.x[t : t + 1], **dict(zip(names, state, strict=True))})
                rows.append(y[:, 0])
            return np.concatenate(rows), state

        def outputs(ran: Any) -> Outputs:
            y, final = ran
            return {"y": y} | {f"state{k}": s for k, s in enumerate(final)}

        return Program(step if case.mode == "step" else forward, outputs, how=f"operator {operator(case)}")
