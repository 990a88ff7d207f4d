"""ONNX models from layers."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastrnn import checks
from fastrnn.recurrent import RecurrentLayer, recurrent_layer
from fastrnn.weights.arrays import host_params
from fastrnn.weights.onnx_nodes import tensors_of
from fastrnn.weights.reverse import Reverse

if TYPE_CHECKING:
    import onnx

__all__ = ["to_onnx"]

_OPSET, _IR_VERSION = 17, 8  # of 2022: what any runtime reads


def to_onnx(
    layer: RecurrentLayer | Reverse,
    path: str | os.PathLike[str] | None = None,
    *,
    state: bool = False,
    lengths: bool = False,
) -> onnx.ModelProto:
    """An ONNX model that computes what a layer does, with its weights; written to a path if one is given.

    Inputs: ``x`` (T, B, I), or (B, T, I) with batch_first; with ``lengths=True`` also ``lengths`` (B,) int32; with
    ``state=True`` also ``h0`` (L*D, B, H), and ``c0`` of an LSTM. Outputs: ``y`` (T, B, D*H), ``hn`` and ``cn``. Every
    layer of a stack is a node, called "l0", "l1", ...

    bfloat16 layers become float32 models. ONNX Runtime, unlike ours, returns 0 for the state of a row of length 0.
    """
    state, lengths = checks.flag("state", state), checks.flag("lengths", lengths)
    name = None if path is None else checks.path(path)
    import onnx

    model = _Model(layer).proto(state, lengths)
    if name is not None:
        onnx.save(model, name)
    return model


class _Model:
    """A model in the making: nodes and initializers."""

    def __init__(self, source: RecurrentLayer | Reverse) -> None:
        self.reverse = isinstance(source, Reverse)
        self.layer: RecurrentLayer = source.layer if isinstance(source, Reverse) else source
        self.kind = recurrent_layer(self.layer)._kind
        self.states = "hc"[: len(self.layer.cell.states)]
        self.params = host_params(self.layer)
        self.nodes: list[Any] = []
        self.tensors: list[Any] = []

    def add(self, operator: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any) -> None:
        from onnx import helper

        self.nodes.append(helper.make_node(operator, inputs, outputs, name=outputs[0], **attributes))

    def constant(self, name: str, array: NDArray[Any]) -> str:
        from onnx import numpy_helper

        self.tensors.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def proto(self, state: bool, lengths: bool) -> onnx.ModelProto:
        from onnx import helper

        layer = self.layer
        x = "x"
        if layer.batch_first:
            self.add("Transpose", [x], ["x_time_major"], perm=[1, 0, 2])
            x = "x_time_major"
        for k in range(layer.num_layers):
            x = self._recurrent(k, x, state, lengths)
        if layer.batch_first:
            self.add("Transpose", [x], ["y"], perm=[1, 0, 2])
        else:
            self.add("Identity", [x], ["y"])
        for s in self.states:
            self.add("Concat", [f"{s}n_l{k}" for k in range(layer.num_layers)], [f"{s}n"], axis=0)
        inputs, outputs = self._signature(state, lengths)
        graph = helper.make_graph(self.nodes, repr(layer), inputs, outputs, self.tensors)
        opsets = [helper.make_opsetid("", _OPSET)]
        return helper.make_model(graph, producer_name="fastrnn", opset_imports=opsets, ir_version=_IR_VERSION)

    def _recurrent(self, k: int, x: str, state: bool, lengths: bool) -> str:
        """Layer k on x (T, B, ·); returns the name of its y (T, B, D*H)."""
        layer, D = self.layer, self.layer.num_directions
        coupled = getattr(layer, "coupled", False)
        suffixes = [f"_l{k}", f"_l{k}_reverse"][:D]
        ours = [{n.removesuffix(s): a for n, a in self.params.items() if n.endswith(s)} for s in suffixes]
        tensors = {n: self.constant(f"{n}_l{k}", a) for n, a in tensors_of(self.kind, coupled, ours).items()}
        inputs = [x, tensors["W"], tensors["R"], tensors.get("B", ""), "lengths" * lengths]
        for s in self.states:
            if state:
                bounds = [self.constant(f"{s}_{b}_l{k}", np.array([(k + i) * D])) for i, b in enumerate(("from", "to"))]
                self.add("Slice", [f"{s}0", *bounds], [f"{s}0_l{k}"])
            inputs.append(f"{s}0_l{k}" * state)
        inputs += [tensors[name] for name in ("P",) if name in tensors]
        direction = "reverse" if self.reverse else "forward" if D == 1 else "bidirectional"
        attributes = {"hidden_size": layer.hidden_size, "direction": direction} | self._cell_attributes(D)
        self.add(self.kind, inputs, [f"Y_l{k}", *(f"{s}n_l{k}" for s in self.states)], **attributes)
        self.nodes[-1].name = f"l{k}"
        shape = self.constant(f"shape_l{k}", np.array([0, 0, D * layer.hidden_size]))
        self.add("Transpose", [f"Y_l{k}"], [f"Y_rows_l{k}"], perm=[0, 2, 1, 3])
        self.add("Reshape", [f"Y_rows_l{k}", shape], [f"y_l{k}"])
        return f"y_l{k}"

    def _cell_attributes(self, D: int) -> dict[str, Any]:
        layer: Any = self.layer
        if self.kind == "RNN":
            return {"activations": [layer.nonlinearity.capitalize()] * D}
        if self.kind == "GRU":
            return {"linear_before_reset": int(layer.reset_after)}
        return {"input_forget": int(layer.coupled)}

    def _signature(self, state: bool, lengths: bool) -> tuple[list[Any], list[Any]]:
        from onnx import TensorProto, helper

        layer, info = self.layer, helper.make_tensor_value_info
        names = {"float32": TensorProto.FLOAT, "float64": TensorProto.DOUBLE, "float16": TensorProto.FLOAT16}
        kind = names.get(layer.dtype.name, TensorProto.FLOAT)
        order: list[Any] = ["B", "T"] if layer.batch_first else ["T", "B"]
        D, H = layer.num_directions, layer.hidden_size
        inputs = [info("x", kind, [*order, layer.input_size])]
        inputs += [info("lengths", TensorProto.INT32, ["B"])] * lengths
        rows: list[Any] = [layer.num_layers * D, "B", H]
        inputs += [info(f"{s}0", kind, rows) for s in self.states if state]
        outputs = [info("y", kind, [*order, D * H]), *(info(f"{s}n", kind, rows) for s in self.states)]
        return inputs, outputs
