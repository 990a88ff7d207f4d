"""An outside oracle: ONNX Runtime's RNN, LSTM and GRU, written by others from the same equations, in float32.

ONNX orders an LSTM's gates i o f c and its peepholes i o f, and a GRU's gates z r h. The specification does not
say which gate an ``input_forget`` LSTM keeps: ONNX Runtime (1.31) keeps i, with f = 1 - i, where ours keeps f. Since
1 - σ(z) = σ(-z), the oracle's i is our f with the sign turned.

The final states of a row of length 0 come out as 0 there, instead of the initial ones, and a NaN may turn into a
number: of neither does the specification say anything, and neither is compared.
"""

from __future__ import annotations

import functools

import numpy as np
import pytest

from tests.cases import Case
from tests.checks import as_public, as_tuple, make_layer, relative_error
from tests.reference import CELLS

onnx = pytest.importorskip("onnx", reason="the oracle's models are built with onnx")
onnxruntime = pytest.importorskip("onnxruntime", reason="the oracle is ONNX Runtime")

TOLERANCE = 1e-6

# The operator, its order of our gates and peepholes, and its attributes.
OPERATORS = {
    "rnn_tanh": ("RNN", "h", "", {"activations": ["Tanh"]}),
    "rnn_relu": ("RNN", "h", "", {"activations": ["Relu"]}),
    "rnn_sigmoid": ("RNN", "h", "", {"activations": ["Sigmoid"]}),
    "lstm": ("LSTM", "iofg", "", {}),
    "lstm_peephole": ("LSTM", "iofg", "iof", {}),
    "lstm_coupled": ("LSTM", "iofg", "", {"input_forget": 1}),
    "lstm_peephole_coupled": ("LSTM", "iofg", "iof", {"input_forget": 1}),
    "gru_reset_before": ("GRU", "zrn", "", {"linear_before_reset": 0}),
    "gru_reset_after": ("GRU", "zrn", "", {"linear_before_reset": 1}),
}


@functools.cache
def session(cell, direction, hidden_size):
    """An ONNX Runtime session whose inputs are everything, so that one session serves every problem."""
    operator, _, _, attributes = OPERATORS[cell]
    attributes = dict(attributes)
    if "activations" in attributes:
        attributes["activations"] = attributes["activations"] * (2 if direction == "bidirectional" else 1)
    inputs = ["X", "W", "R", "B", "sequence_lens", "initial_h"]
    outputs = ["Y", "Y_h"]
    if operator == "LSTM":
        inputs += ["initial_c", "P"]
        outputs += ["Y_c"]
    node = onnx.helper.make_node(operator, inputs, outputs, hidden_size=hidden_size, direction=direction, **attributes)
    kinds = dict.fromkeys(inputs, onnx.TensorProto.FLOAT) | {"sequence_lens": onnx.TensorProto.INT32}
    graph = onnx.helper.make_graph(
        [node],
        "oracle",
        [onnx.helper.make_tensor_value_info(name, kinds[name], None) for name in inputs],
        [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in outputs],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 14)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def reordered(array, names, order, H):
    """Blocks of H rows in ONNX's order; 0 for a missing peephole and for the f that a coupled LSTM ignores."""
    blocks = dict(zip(names, np.split(array, len(names)), strict=True)) if names else {}
    if "f" in blocks and "i" not in blocks:
        blocks["i"] = -blocks.pop("f")
    missing = np.zeros((H, *array.shape[1:]), array.dtype)
    return np.concatenate([blocks.get(name, missing) for name in order])


def onnx_outputs(problem, direction):
    """y (T, B, D*H) and the final states (D, B, H) of ONNX Runtime."""
    case, cell = problem.case, CELLS[problem.case.cell]
    _, gates, _, _ = OPERATORS[case.cell]
    suffixes = {"forward": ["l0"], "reverse": ["l0_reverse"], "bidirectional": ["l0", "l0_reverse"]}[direction]
    p = problem.params

    def gate_rows(name):
        return np.stack([reordered(p[f"{name}_{suffix}"], cell.gates, gates, case.H) for suffix in suffixes])

    feed = {"X": problem.x, "W": gate_rows("weight_ih"), "R": gate_rows("weight_hh")}
    feed["B"] = np.concatenate([gate_rows("bias_ih"), gate_rows("bias_hh")], axis=1)
    lengths = np.full(case.B, case.T) if problem.lengths is None else problem.lengths
    feed["sequence_lens"] = lengths.astype(np.int32)
    which = slice(0, 1) if direction == "forward" else slice(1, 2) if direction == "reverse" else slice(0, 2)
    feed["initial_h"] = problem.state[0][which]
    if cell.states == 2:
        feed["initial_c"] = problem.state[1][which]
        nothing = np.zeros(0, np.float32)
        peepholes = [p.get(f"weight_peephole_{suffix}", nothing) for suffix in suffixes]
        feed["P"] = np.stack([reordered(array, cell.peepholes, "iof", case.H) for array in peepholes])
    y, *states = session(case.cell, direction, case.H).run(None, feed)
    T, D, B, H = y.shape
    return y.transpose(0, 2, 1, 3).reshape(T, B, D * H), tuple(states)


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("cell", OPERATORS)
def test_outputs_and_states(cell, direction, ragged):
    for shape in ({"T": 7, "B": 5, "I": 4, "H": 17}, {"T": 60, "B": 6, "I": 40, "H": 100}):
        case = Case(cell, dtype="float32", bidirectional=True, ragged=ragged, **shape)
        problem = case.problem()
        y, state = make_layer(problem)(problem.x, as_public(problem.state), lengths=problem.lengths)
        state = as_tuple(state)
        if direction != "bidirectional":
            half = 0 if direction == "forward" else 1
            y = y[:, :, half * case.H : (half + 1) * case.H]
            state = tuple(s[half : half + 1] for s in state)
        want_y, want_state = onnx_outputs(problem, direction)
        assert relative_error(y, want_y) <= TOLERANCE
        rows = slice(None) if problem.lengths is None else problem.lengths > 0
        assert len(state) == len(want_state)
        for got, want in zip(state, want_state, strict=True):
            assert relative_error(got[:, rows], want[:, rows]) <= TOLERANCE


def test_every_cell_is_compared():
    assert set(OPERATORS) == set(CELLS)
