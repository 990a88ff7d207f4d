"""Layers from the recurrent nodes of ONNX models."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from fastrnn import checks
from fastrnn.recurrent import RecurrentLayer
from fastrnn.weights.arrays import CLASSES, combined, precision_of
from fastrnn.weights.onnx_nodes import KINDS, Directions, Node
from fastrnn.weights.reverse import Reverse

if TYPE_CHECKING:
    import onnx

__all__ = ["from_onnx"]

_MOST_BYTES = (1 << 31) - 1  # of a message of protobuf
_INPUTS = {"W": 1, "R": 2, "B": 3}  # where they stand among a node's inputs
_P = 7


def from_onnx(source: Any, *nodes: Any, **options: Any) -> RecurrentLayer | Reverse:
    """A layer with the weights of a recurrent node of an ONNX model; with several nodes, a stack of them.

    Parameters
    ----------
    source : path, bytes, onnx.ModelProto or onnx.GraphProto
        Weights must be stored in it: initializers, constants, or files of external data beside the path.
    nodes : str or onnx.NodeProto
        By the node's name or by that of one of its outputs. None is needed where the graph has one recurrent node.
    options : of the layer's class
        batch_first is the node's layout, dtype float64 if the weights are, else float32, unless given.

    Returns a layer; for nodes of direction="reverse", ``Reverse`` of one. An LSTM with input_forget is read as ONNX
    Runtime computes it, f = 1 - i.

    Raises ValueError for what a layer can't represent, naming it: clip, activations other than the operator's own (an
    RNN's may be Tanh, Relu or Sigmoid), weights that the graph computes; for no or several recurrent nodes where none
    is named; and for a file that is broken.
    """
    graph, folder = _graph(source)
    chosen = [_find(graph, node) for node in nodes] or [_only(graph)]
    stored = _stored(graph)
    read = [_read(node, stored, folder) for node in chosen]
    kinds = {(node.kind, node.direction, node.batch_first, *_cell(node, arrays)) for node, arrays in read}
    if len(kinds) > 1:
        raise ValueError("the nodes of a stack must be of one operator, with the same options and directions")
    layer = _layer([node for node, _ in read], [arrays for _, arrays in read], options)
    return Reverse(layer) if read[0][0].direction == "reverse" else layer


def _cell(node: Node, directions: Directions) -> tuple[tuple[str, Any], ...]:
    options = node.cell_options(False)
    return tuple(options.items())


def _layer(nodes: Sequence[Node], found: Sequence[Directions], options: Mapping[str, Any]) -> RecurrentLayer:
    kind, first = nodes[0].kind, found[0][0]
    every = [arrays for directions in found for arrays in directions]
    bias, peephole = (any(name in arrays for arrays in every) for name in ("bias_ih", "weight_peephole"))
    told = nodes[0].cell_options(peephole) | {
        "batch_first": nodes[0].batch_first,
        "dtype": precision_of(first["weight_hh"].dtype),
        "bias": bias,
        "bidirectional": len(found[0]) == 2,
    }
    chosen = combined(kind, told, options, fixed=("bias", "bidirectional"))
    layer = CLASSES[kind](first["weight_ih"].shape[1], first["weight_hh"].shape[1], len(found), **chosen)
    # In a stack some nodes may have no bias or peepholes where others have.
    params: dict[str, NDArray[Any]] = {e.name: np.zeros(e.shape, np.float32) for e in layer.layout if len(e.shape) == 1}
    for k, directions in enumerate(found):
        for arrays, suffix in zip(directions, (f"_l{k}", f"_l{k}_reverse"), strict=False):
            params |= {name + suffix: array for name, array in arrays.items()}
    layer.load_params(params)
    return layer


def _graph(source: Any) -> tuple[onnx.GraphProto, str | None]:
    """The graph, and the folder in which external data may lie."""
    import onnx
    from google.protobuf.message import DecodeError

    if isinstance(source, onnx.ModelProto):
        return source.graph, None
    if isinstance(source, onnx.GraphProto):
        return source, None
    folder, what = None, "the bytes"
    if isinstance(source, (str, os.PathLike)):
        what = checks.path(source)
        if os.path.getsize(what) > _MOST_BYTES:
            raise ValueError(f"{what}: no ONNX file has more than {_MOST_BYTES} bytes")
        folder = os.path.dirname(os.path.abspath(what))
        source = Path(what).read_bytes()
    if not isinstance(source, bytes):
        raise TypeError(f"source must be a path, bytes or an ONNX model or graph, got {type(source).__name__}")
    try:
        model = onnx.ModelProto.FromString(source)
    except DecodeError as error:
        raise ValueError(f"{what}: no readable ONNX model: {error}") from None
    return model.graph, folder


def _recurrent(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    return [node for node in graph.node if node.op_type in KINDS and node.domain in ("", "ai.onnx")]


def _label(node: onnx.NodeProto) -> str:
    return node.name or next((name for name in node.output if name), "")


def _listed(graph: onnx.GraphProto) -> str:
    found = [f"{_label(node)!r} ({node.op_type})" for node in _recurrent(graph)]
    return f"its recurrent nodes are {', '.join(found)}" if found else "it has no recurrent nodes"


def _only(graph: onnx.GraphProto) -> onnx.NodeProto:
    found = _recurrent(graph)
    if len(found) != 1:
        raise ValueError(f"name a node of the model: {_listed(graph)}")
    return found[0]


def _find(graph: onnx.GraphProto, node: Any) -> onnx.NodeProto:
    if not isinstance(node, str):
        if getattr(node, "op_type", None) not in KINDS:
            raise TypeError(f"a node must be a name or a NodeProto of RNN, LSTM or GRU, got {type(node).__name__}")
        return cast("onnx.NodeProto", node)
    found = [known for known in _recurrent(graph) if node and (node == known.name or node in known.output)]
    if len(found) != 1:
        raise ValueError(f"the model has {len(found) or 'no'} recurrent nodes {node!r}: {_listed(graph)}")
    return found[0]


def _stored(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto]:
    """Tensors of the graph by name: initializers, and the outputs of Constant nodes and of Identity of them."""
    found = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.output:
            for attribute in node.attribute:
                if attribute.name == "value":
                    found[node.output[0]] = attribute.t
        elif node.op_type == "Identity" and node.output and node.input[:1] and node.input[0] in found:
            found[node.output[0]] = found[node.input[0]]
    return found


def _read(node: onnx.NodeProto, stored: Mapping[str, Any], folder: str | None) -> tuple[Node, Directions]:
    """A node's attributes and its arrays as ours, if a layer can have them."""
    from onnx import helper

    label = f"{node.op_type} {_label(node)!r}"
    try:
        attributes = {attribute.name: _plain(helper.get_attribute_value(attribute)) for attribute in node.attribute}
        known = Node.read(node.op_type, attributes)
        if known.lacking:
            raise ValueError(f"{known.lacking} can't be represented by a layer (fastrnn.onnx computes it)")
        tensors = {name: _tensor(node, k, name, stored, folder) for name, k in _INPUTS.items()}
        P = _tensor(node, _P, "P", stored, folder) if node.op_type == "LSTM" else None
        if tensors["W"] is None or tensors["R"] is None:
            raise ValueError("it has no W or R")
        return known, known.converted(tensors["W"], tensors["R"], tensors["B"], P, attributes.get("hidden_size"))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{label}: {error}") from None


def _plain(value: Any) -> Any:
    """An attribute's value with text for bytes."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return [_plain(part) for part in value] if isinstance(value, list) else value


def _tensor(
    node: onnx.NodeProto, index: int, what: str, stored: Mapping[str, Any], folder: str | None
) -> NDArray[Any] | None:
    """The array that stands at an input, or None where there is none."""
    from onnx import numpy_helper
    from onnx.external_data_helper import uses_external_data

    name = node.input[index] if index < len(node.input) else ""
    if not name:
        return None
    if name not in stored:
        raise ValueError(f"{what} ({name!r}) is not stored in the model but computed: fold the model's constants first")
    tensor = stored[name]
    try:
        if min(tensor.dims, default=0) < 0:
            raise ValueError(f"its shape is {list(tensor.dims)}")
        if uses_external_data(tensor):
            tensor = _bounded(tensor, folder)
        array: NDArray[Any] = numpy_helper.to_array(tensor, folder or "")
    except Exception as error:  # whatever a broken tensor makes of protobuf, NumPy and onnx
        raise ValueError(f"{what} ({name!r}) can't be read: {error}") from None
    if array.dtype.kind != "f" and array.dtype.name != "bfloat16":
        raise ValueError(f"{what} ({name!r}) must be of floats, got {array.dtype}")
    return array


def _bounded(tensor: onnx.TensorProto, folder: str | None) -> onnx.TensorProto:
    """A tensor of external data whose length is what its shape takes, and not more than the file has."""
    from onnx import TensorProto, helper
    from onnx.external_data_helper import ExternalDataInfo

    if folder is None:
        raise ValueError("it lies in a file of external data: give the model's path")
    info = ExternalDataInfo(tensor)
    offset = info.offset or 0
    need = math.prod(tensor.dims) * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    have = os.path.getsize(os.path.join(folder, info.location)) - offset
    if offset < 0 or need > have or info.length not in (None, need):
        raise ValueError(f"its shape {list(tensor.dims)} takes {need} bytes, the external data have {have}")
    found = TensorProto()
    found.CopyFrom(tensor)
    if info.length is None:  # else all of the file would be read
        found.external_data.add(key="length", value=str(need))
    return found
