"""ONNX Runtime: nodes' weights in a layer, a layer as a model, and our operators for the reference evaluator."""

from __future__ import annotations

import numpy as np
import onnxruntime

from fastrnn.weights import Reverse, from_onnx, to_onnx
from tests.cases import LAYERS
from tests.checks import as_public, as_tuple, make_layer
from tests.weights.agreement import OPTIONS, Agreement, largest, problem_of
from tests.weights.onnx_node import NodeCase

# ONNX's operator and attributes of our cells.
NODES = {
    "rnn_tanh": ("RNN", {"activations": ["Tanh"]}, {}),
    "rnn_relu": ("RNN", {"activations": ["Relu"]}, {}),
    "rnn_sigmoid": ("RNN", {"activations": ["Sigmoid"]}, {}),
    "lstm": ("LSTM", {}, {}),
    "lstm_peephole": ("LSTM", {}, {"peephole": True}),
    "lstm_coupled": ("LSTM", {"input_forget": 1}, {}),
    "lstm_peephole_coupled": ("LSTM", {"input_forget": 1}, {"peephole": True}),
    "gru_reset_before": ("GRU", {"linear_before_reset": 0}, {}),
    "gru_reset_after": ("GRU", {"linear_before_reset": 1}, {}),
}

# What a node's case of each option is.
NODE_OPTIONS = {
    "forward": {},
    "reverse": {"direction": "reverse"},
    "bidirectional": {"direction": "bidirectional"},
    "ragged": {"ragged": True},
    "ragged, reverse": {"ragged": True, "direction": "reverse"},
    "ragged, bidirectional": {"ragged": True, "direction": "bidirectional"},
    "no bias": {"bias": False},
    "no initial state": {"initial": False},
    "layout 1": {"layout": 1, "direction": "bidirectional", "ragged": True},
    "last states only": {"outputs": ("Y_h",)},
    "clip": {"attributes": {"clip": 0.3}, "large": 6.0},
    "other activations": {"attributes": {"activations": ["HardSigmoid", "Softsign", "Relu"]}, "large": 3.0},
}


STEEP = ("clip", "other activations")


def node_case(cell, option, **more):
    kind, attributes, options = NODES[cell]
    given = {**options, **NODE_OPTIONS[option], **more}
    attributes = {**attributes, **given.pop("attributes", {})}
    case = NodeCase(kind, T=12, B=5, I=6, H=19, attributes=attributes, **given)
    names = attributes.get("activations")
    if names:
        each = {"RNN": 1, "GRU": 2, "LSTM": 3}[kind]
        case.attributes["activations"] = names[:each] * (2 if case.direction == "bidirectional" else 1)
    return case


def session_outputs(model, feeds):
    """What ONNX Runtime makes of a model."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, feeds)


def layer_of_node_outputs(case):
    """What a layer that is read from a node's model makes of its inputs, by the names of ONNX's outputs."""
    layer = from_onnx(case.model(opset=14))
    feeds = case.swapped(case.feeds)
    state = [feeds[name] for name in ("initial_h", "initial_c") if name in feeds]
    state = [s.swapaxes(0, 1) if case.layout else s for s in state]
    y, final = layer(feeds["X"], as_public(state) if state else None, lengths=feeds.get("sequence_lens"))
    y = y.reshape(*y.shape[:2], -1, case.H)
    found = {"Y": y if case.layout else y.swapaxes(1, 2)}
    for name, part in zip(("Y_h", "Y_c"), as_tuple(final), strict=False):
        found[name] = part.swapaxes(0, 1) if case.layout else part
    return [found[name] for name in case.outputs]


def import_difference(cell, option):
    case = node_case(cell, option)
    return largest(layer_of_node_outputs(case), list(case.by_onnxruntime().values()))


def export_difference(cell, option):
    reverse = "reverse" in option
    problem = problem_of(cell, option.replace(", reverse", "").replace("reverse", "forward"))
    layer = make_layer(problem)
    source = Reverse(layer) if reverse else layer
    model = to_onnx(source, state=True, lengths=problem.lengths is not None)
    names = [f"l{k}" for k in range(layer.num_layers)]
    again = from_onnx(model, *names, batch_first=layer.batch_first)
    assert ((again.layer if reverse else again).flat_params == layer.flat_params).all() and repr(again) == repr(source)
    x = np.ascontiguousarray(problem.x.swapaxes(0, 1)) if layer.batch_first else problem.x
    feeds = {"x": x, **dict(zip(("h0", "c0"), problem.state, strict=False))}
    if problem.lengths is not None:
        feeds["lengths"] = problem.lengths.astype(np.int32)
    y, final = source(x, as_public(problem.state), lengths=problem.lengths)
    return largest([y, *as_tuple(final)], session_outputs(model, feeds))


def operator_difference(cell, option):
    case = node_case(cell, option)
    return largest(list(case.by_us().values()), list(case.by_onnxruntime().values()))


def agreements():
    found = []

    def add(library, options, difference):
        for cell in LAYERS:
            for option in options:
                run = lambda cell=cell, option=option: difference(cell, option)  # noqa: E731
                found.append(Agreement(library, cell, option, run, steep=option in STEEP))

    representable = [option for option in NODE_OPTIONS if option not in STEEP]
    add("ONNX Runtime: from_onnx", representable, import_difference)
    add("ONNX Runtime: to_onnx", [*OPTIONS, "reverse", "ragged, reverse"], export_difference)
    add("ONNX Runtime: fastrnn.onnx", NODE_OPTIONS, operator_difference)
    return found
