"""A case as an ONNX model of one node: what ONNX Runtime and OpenVINO read."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from bench.cases import Case

__all__ = ["operator", "serialized"]

_OPSET = 17
_IR_VERSION = 8
_ACTIVATION = {"rnn_tanh": "Tanh", "rnn_relu": "Relu", "rnn_sigmoid": "Sigmoid"}


def _blocks(array: np.ndarray, names: str) -> dict[str, np.ndarray]:
    return dict(zip(names, np.split(array, len(names)), strict=True))


def _operands(cell: str, params: dict[str, np.ndarray]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The attributes and the weights W, R, B and P, rows in ONNX's order of gates.

    ONNX: LSTM i o f c with peepholes i o f; GRU z r h. Coupled (input_forget) means f = 1 - i there and
    i = 1 - f here: since 1 - sigmoid(a) = sigmoid(-a), its i gets the negated weights of our f.
    """
    coupled = "coupled" in cell
    attributes: dict[str, Any] = {}
    if cell.startswith("rnn"):
        ours, theirs = "h", "h"
        attributes["activations"] = [_ACTIVATION[cell]]
    elif cell.startswith("gru"):
        ours, theirs = "rzn", "zrn"
        attributes["linear_before_reset"] = int(cell == "gru_reset_after")
    else:
        ours, theirs = "fgo" if coupled else "ifgo", "iofg"
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
    return attributes, weights


def serialized(case: Case, params: dict[str, np.ndarray]) -> bytes:
    attributes, weights = _operands(case.cell, params)
    kind = TensorProto.FLOAT if case.dtype == "float32" else TensorProto.DOUBLE
    states = ["h", "c"] if operator(case) == "LSTM" else ["h"]
    inputs = ["x", "W", "R", "B", "", *(f"{s}0" for s in states)] + ["P"] * ("P" in weights)
    node = helper.make_node(operator(case), inputs, ["Y", *(f"{s}n" for s in states)], hidden_size=case.H, **attributes)
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


def operator(case: Case) -> str:
    """The ONNX operator that computes a case."""
    return case.cell.split("_")[0].upper()
