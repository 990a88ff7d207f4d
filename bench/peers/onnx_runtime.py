"""ONNX Runtime: inference with the operators RNN, LSTM and GRU, which know every cell of ours."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from bench.cases import Case
from bench.checks import Outputs
from bench.peers.base import Peer, Program, UnsupportedError

__all__ = ["OnnxRuntime"]

_OPSET = 17
_IR_VERSION = 8
_ACTIVATION = {"rnn_tanh": "Tanh", "rnn_relu": "Relu", "rnn_sigmoid": "Sigmoid"}


def _blocks(array: np.ndarray, names: str) -> dict[str, np.ndarray]:
    return dict(zip(names, np.split(array, len(names)), strict=True))


def _operands(cell: str, params: dict[str, np.ndarray]) -> tuple[str, dict[str, Any], dict[str, np.ndarray]]:
    """The operator, its attributes and its weights W, R, B and P, rows in ONNX's order of gates.

    ONNX: LSTM i o f c with peepholes i o f; GRU z r h. Coupled (input_forget) means f = 1 - i there and
    i = 1 - f here: since 1 - sigmoid(a) = sigmoid(-a), its i gets the negated weights of our f.
    """
    coupled = "coupled" in cell
    attributes: dict[str, Any] = {}
    if cell.startswith("rnn"):
        operator, ours, theirs = "RNN", "h", "h"
        attributes["activations"] = [_ACTIVATION[cell]]
    elif cell.startswith("gru"):
        operator, ours, theirs = "GRU", "rzn", "zrn"
        attributes["linear_before_reset"] = int(cell == "gru_reset_after")
    else:
        operator, ours, theirs = "LSTM", "fgo" if coupled else "ifgo", "iofg"
        attributes["input_forget"] = int(coupled)

    def reorder(array: np.ndarray, ours: str, theirs: str) -> np.ndarray:
        blocks = _blocks(array, ours)
        if coupled:
            blocks["i"] = -blocks["f"]
        return np.concatenate([blocks[name] for name in theirs])[None]

    weights = {
        "W": reorder(params["weight_ih_l0"], ours, theirs),
        "R": reorder(params["weight_hh_l0"], ours, theirs),
        "B": np.concatenate([reorder(params[f"bias_{side}_l0"], ours, theirs) for side in ("ih", "hh")], axis=1),
    }
    if "peephole" in cell:
        weights["P"] = reorder(params["weight_peephole_l0"], "fo" if coupled else "ifo", "iof")
    return operator, attributes, weights


def _model(case: Case, params: dict[str, np.ndarray]) -> bytes:
    operator, attributes, weights = _operands(case.cell, params)
    kind = TensorProto.FLOAT if case.dtype == "float32" else TensorProto.DOUBLE
    states = ["h", "c"] if operator == "LSTM" else ["h"]
    inputs = ["x", "W", "R", "B", "", *(f"{s}0" for s in states)] + ["P"] * ("P" in weights)
    node = helper.make_node(operator, inputs, ["Y", *(f"{s}n" for s in states)], hidden_size=case.H, **attributes)
    steps = 1 if case.mode == "step" else case.T
    graph = helper.make_graph(
        [node],
        case.cell,
        [
            helper.make_tensor_value_info("x", kind, [steps, case.B, case.I]),
            *(helper.make_tensor_value_info(f"{s}0", kind, [1, case.B, case.H]) for s in states),
        ],
        [
            helper.make_tensor_value_info("Y", kind, [steps, 1, case.B, case.H]),
            *(helper.make_tensor_value_info(f"{s}n", kind, [1, case.B, case.H]) for s in states),
        ],
        [numpy_helper.from_array(np.ascontiguousarray(w), name) for name, w in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)])
    model.ir_version = _IR_VERSION
    return model.SerializeToString()


class OnnxRuntime(Peer):
    """One node, weights as initializers (so packed once, when the session is made); CPU execution provider."""

    name = "onnxruntime"
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
                _model(case, problem.params), options, providers=["CPUExecutionProvider"]
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

        return Program(step if case.mode == "step" else forward, outputs, how=f"operator {_operator(case)}")


def _operator(case: Case) -> str:
    return case.cell.split("_")[0].upper()
