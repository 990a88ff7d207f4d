"""A model of one recurrent node, run by ONNX Runtime and by the reference evaluator with our operators."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from fastrnn.onnx import OPERATORS

GATES = {"RNN": 1, "LSTM": 4, "GRU": 3}
OUTPUTS = {"RNN": ("Y", "Y_h"), "LSTM": ("Y", "Y_h", "Y_c"), "GRU": ("Y", "Y_h")}
_KINDS = {"float16": TensorProto.FLOAT16, "float32": TensorProto.FLOAT, "float64": TensorProto.DOUBLE}


@dataclass
class NodeCase:
    """A node with weights as initializers, and what it runs on; ``outputs``: which of Y, Y_h, Y_c are wanted."""

    kind: str
    T: int = 7
    B: int = 5
    I: int = 4
    H: int = 17
    direction: str = "forward"
    bias: bool = True
    peephole: bool = False
    ragged: bool = False
    initial: bool = True
    layout: int = 0
    dtype: str = "float32"
    outputs: tuple[str, ...] = ()
    attributes: dict[str, Any] = field(default_factory=dict)
    large: float = 1.0  # scale of the weights: clip and the bends of activations must be reached
    seed: int = 0

    def __post_init__(self):
        rng = np.random.default_rng([self.seed, GATES[self.kind], self.T, self.B, self.I, self.H])
        D, G, H = 1 + (self.direction == "bidirectional"), GATES[self.kind], self.H
        bound = self.large / np.sqrt(H)

        def uniform(*shape):
            return rng.uniform(-bound, bound, shape).astype(self.dtype)

        self.weights = {"W": uniform(D, G * H, self.I), "R": uniform(D, G * H, H)}
        if self.bias:
            self.weights["B"] = uniform(D, 2 * G * H)
        if self.peephole:
            self.weights["P"] = uniform(D, 3 * H)
        self.feeds = {"X": rng.standard_normal((self.T, self.B, self.I)).astype(self.dtype)}
        if self.ragged:
            lengths = rng.integers(1, self.T + 1, self.B).astype(np.int32)
            lengths[-1] = self.T
            self.feeds["sequence_lens"] = lengths
        if self.initial:
            for name in ("initial_h", "initial_c")[: 1 + (self.kind == "LSTM")]:
                self.feeds[name] = rng.standard_normal((D, self.B, H)).astype(self.dtype)
        self.outputs = self.outputs or OUTPUTS[self.kind]

    def model(self, weights_as_inputs=False, opset=17, layout=None):
        layout = self.layout if layout is None else layout
        order = ["X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P"]
        given = self.weights | self.feeds
        inputs = [name if name in given else "" for name in order[: 8 if self.kind == "LSTM" else 6]]
        while not inputs[-1]:
            inputs.pop()
        attributes = {"hidden_size": self.H, "direction": self.direction} | self.attributes
        if layout:
            attributes["layout"] = layout
        names = [name if name in self.outputs else "" for name in OUTPUTS[self.kind]]
        while not names[-1]:
            names.pop()
        node = helper.make_node(self.kind, inputs, names, name="the_node", **attributes)
        fed = self.feeds | (self.weights if weights_as_inputs else {})
        info = helper.make_tensor_value_info
        kinds = {name: TensorProto.INT32 if name == "sequence_lens" else _KINDS[self.dtype] for name in fed}
        graph = helper.make_graph(
            [node],
            "one node",
            [info(name, kinds[name], None) for name in fed],
            [info(name, _KINDS[self.dtype], None) for name in self.outputs],
            [] if weights_as_inputs else [numpy_helper.from_array(a, name) for name, a in self.weights.items()],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)

    def swapped(self, arrays):
        """Between layout 0 and layout 1."""
        if not self.layout:
            return dict(arrays)
        order = {"Y": (2, 0, 1, 3)}
        return {
            name: a if name == "sequence_lens" else np.ascontiguousarray(a.transpose(order.get(name, (1, 0, 2))))
            for name, a in arrays.items()
        }

    def by_us(self, operators=OPERATORS, **options):
        """The outputs by name."""
        evaluator = ReferenceEvaluator(self.model(**options), new_ops=operators)
        return dict(zip(self.outputs, evaluator.run(None, self.swapped(self.feeds)), strict=True))

    def by_onnxruntime(self):
        """The same of ONNX Runtime, which knows only layout 0."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        model = self.model(layout=0).SerializeToString()
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        return self.swapped(dict(zip(self.outputs, session.run(None, self.feeds), strict=True)))

    def difference(self):
        """Largest difference between the two, relative to the largest entry of each output."""
        ours, theirs = self.by_us(), self.by_onnxruntime()
        worst = 0.0
        for name, want in theirs.items():
            assert ours[name].shape == want.shape and ours[name].dtype == want.dtype, name
            worst = max(worst, float(np.abs(ours[name] - want).max() / max(np.abs(want).max(), 1e-30)))
        return worst


def checked(case: NodeCase):
    """The case, its model known to be valid."""
    onnx.checker.check_model(case.model())
    return case
