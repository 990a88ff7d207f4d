"""Nodes of ONNX: layers from them and to them, and the operators of the reference evaluator."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from fastrnn import weights
from fastrnn.onnx import GRU, LSTM, OPERATORS, RNN
from tests.cases import LAYERS
from tests.hostile.targets.common import B, H, I, Setting, T, fresh, numbers, target
from tests.hostile.targets.files import within_a_folder

_GATES = {"RNN": 1, "LSTM": 4, "GRU": 3}


def _node(s: Setting):
    kind = LAYERS[s.cell][0]
    attributes = {"hidden_size": H, "direction": "bidirectional" if s.bidirectional else "forward"}
    if s.unbatched:  # a loop in NumPy, where no layer does the same
        attributes["clip"] = 0.5
    if s.batch_first:
        attributes["layout"] = 1
    outputs = ["Y", "Y_h", "Y_c"][: 3 if kind == "LSTM" else 2]
    names = ["X", "W", "R", "B", "sequence_lens", "initial_h", *(["initial_c", "P"] if kind == "LSTM" else [])]
    return kind, helper.make_node(kind, names, outputs, **attributes)


def _arrays(s: Setting):
    kind, D, G = LAYERS[s.cell][0], 1 + s.bidirectional, _GATES[LAYERS[s.cell][0]]
    given = {"W": numbers(D, G * H, I, dtype=s.dtype), "R": numbers(D, G * H, H, dtype=s.dtype)}
    given["B"] = numbers(D, 2 * G * H, dtype=s.dtype)
    if kind == "LSTM":
        given["P"] = numbers(D, 3 * H, dtype=s.dtype)
    return given


# Weights and states of another precision than X are brought to X's, as are X's 16 bits; bytes are turned.
@target(
    "X=floats W=floats R=floats B=floats sequence_lens=integers initial_h=floats initial_c=floats P=floats",
    exact=False,
    accepted={"floats": "other_float other_byte_order"},
)
def onnx_operators(s):
    _, node = _node(s)
    D = 1 + s.bidirectional
    states = (B, D, H) if s.batch_first else (D, B, H)
    given = _arrays(s) | {"X": numbers(*((B, T) if s.batch_first else (T, B)), I, dtype=s.dtype)}
    given |= {"sequence_lens": np.array([2, 0, T], np.int32), "initial_h": numbers(*states, dtype=s.dtype)}
    if node.op_type == "LSTM":
        given["initial_c"] = numbers(*states, dtype=s.dtype, seed=1)

    def run(**arrays):
        evaluator = ReferenceEvaluator(node, new_ops=OPERATORS)
        try:
            return evaluator.run(None, arrays)
        except TypeError as error:  # in whose place the evaluator raises one that names nothing
            raise error.__cause__ or error from None

    assert OPERATORS == [RNN, LSTM, GRU]
    return given, run


def _model(s: Setting, arrays):
    _, node = _node(s._replace(unbatched=False))
    for at in (4, 5, 6):
        node.input[at : at + 1] = [""] if at < len(node.input) else []
    tensors = [numpy_helper.from_array(np.ascontiguousarray(array), name) for name, array in arrays.items()]
    return helper.make_model(helper.make_graph([node], "g", [], [], tensors))


@target(
    "source=option node=option dtype=option bias=option bidirectional=option batch_first=option", also="bytes nodes"
)
def from_onnx(s):
    def run(source, node, **options):
        model = _model(s, _arrays(s)) if source is None else source
        return weights.from_onnx(model, *(() if node is None else (node,)), **options).flat_params

    given = {"source": None, "node": None, "dtype": s.dtype, "bias": True, "bidirectional": s.bidirectional}

    def call(**arguments):
        try:
            return run(**arguments)
        except FileNotFoundError:
            return ()

    return given | {"batch_first": s.batch_first}, call


@target("layer=option path=paths state=option lengths=option")
def to_onnx(s):
    def run(layer, path, state, lengths):
        model = weights.to_onnx(layer, path, state=state, lengths=lengths)
        onnx.checker.check_model(model)
        return weights.from_onnx(model).flat_params

    layer = fresh(s, bidirectional=s.bidirectional)
    return {"layer": layer, "path": "m.onnx", "state": False, "lengths": True}, within_a_folder(run)
