"""Keras' SimpleRNN, LSTM, GRU and Bidirectional, and what their get_weights() returns.

A layer's arrays are kernel (I, G*H), recurrent kernel (H, G*H) and bias; gates i f c o and z r h. The GRU of
reset_after=True has two biases, (2, 3*H), everything else one, (G*H,). CuDNNLSTM and CuDNNGRU of earlier versions have
two biases in one array (2*G*H,), and each gate's kernels are transposed in memory: (H, I) under the shape (I, H).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastrnn import checks
from fastrnn.recurrent import RecurrentLayer, recurrent_layer
from fastrnn.weights.arrays import CLASSES, combined, host_params, precision_of
from fastrnn.weights.gates import reordered

__all__ = ["from_keras", "to_keras", "to_keras_weights"]

# Keras' classes and ours; Keras' order of gates, and ours.
_KINDS = {"SimpleRNN": "RNN", "LSTM": "LSTM", "CuDNNLSTM": "LSTM", "GRU": "GRU", "CuDNNGRU": "GRU"}
_GATES = {"RNN": "h", "LSTM": "ifgo", "GRU": "zrn"}
_OUR_GATES = {"RNN": "h", "LSTM": "ifgo", "GRU": "rzn"}
_BY_NUMBER_OF_GATES = {len(gates): kind for kind, gates in _GATES.items()}

_KERAS_NAMES = ("kernel", "recurrent kernel", "bias")

# A layer's arrays by direction, under our names without "_l{k}".
_Directions = list[dict[str, NDArray[Any]]]


def from_keras(*sources: Any, **options: Any) -> RecurrentLayer:
    """A layer with the weights of Keras'; with several sources, a stack of them.

    Parameters
    ----------
    sources : SimpleRNN, LSTM, GRU or Bidirectional of Keras, built; or what get_weights() of one returns
        Of the same class, units and options where there are several.
    options : of the layer's class
        batch_first is True, as in Keras, unless given. dtype: float64 if the weights are, else float32. What arrays do
        not tell has to be given: an RNN's nonlinearity unless it is tanh, reset_after of a GRU without biases.

    Keras' dropout acts on other arrays than ours, and only in training: it is not carried over. Raises ValueError for
    what a layer here can't represent, naming it: other activations, go_backwards, another merge_mode than "concat".
    """
    if not sources:
        raise TypeError("from_keras() takes one or more layers of Keras, or lists of weights, got none")
    parts = [_of_arrays(s, options) if isinstance(s, (list, tuple)) else _of_layer(s) for s in sources]
    kind, told, directions = parts[0]
    for other, also, too in parts[1:]:
        if (other, also, len(too)) != (kind, told, len(directions)):
            raise ValueError("the layers of a stack must be of one class, with the same options and directions")
    return _stack(kind, told, [directions for _, _, directions in parts], options)


def _stack(kind: str, told: dict[str, Any], found: list[_Directions], options: Mapping[str, Any]) -> RecurrentLayer:
    first = found[0][0]
    bias = any("bias_ih" in arrays for directions in found for arrays in directions)
    structure = {
        "batch_first": True,
        "dtype": precision_of(first["weight_hh"].dtype),
        "bias": bias,
        "bidirectional": len(found[0]) == 2,
    }
    chosen = combined(kind, structure | told, options, fixed=("bias", "bidirectional"))
    layer = CLASSES[kind](first["weight_ih"].shape[1], first["weight_hh"].shape[1], len(found), **chosen)
    params: dict[str, NDArray[Any]] = {}
    for k, directions in enumerate(found):
        for arrays, suffix in zip(directions, (f"_l{k}", f"_l{k}_reverse"), strict=False):
            none = np.zeros(len(arrays["weight_hh"]), arrays["weight_hh"].dtype)
            if bias:
                arrays = {"bias_ih": none, "bias_hh": none} | arrays
            params |= {name + suffix: array for name, array in arrays.items()}
    layer.load_params(params)
    return layer


def _of_layer(source: Any, backward: bool = False) -> tuple[str, dict[str, Any], _Directions]:
    """The class, the options that select the cell, and the arrays of a layer of Keras, or of half a Bidirectional."""
    names = [cls.__name__ for cls in type(source).__mro__ if "keras" in cls.__module__]
    if "Bidirectional" in names:
        if source.merge_mode != "concat":
            raise ValueError(f"merge_mode={source.merge_mode!r} of {source.name} can't be represented, only 'concat'")
        kind, told, forward = _of_layer(source.forward_layer)
        other, also, reverse = _of_layer(source.backward_layer, backward=True)
        if (kind, told) != (other, also):
            raise ValueError(f"the two directions of {source.name} must be of one class with the same options")
        return kind, told, forward + reverse
    name = next((name for name in names if name in _KINDS), None)
    if name is None:
        raise TypeError(
            "a source must be a SimpleRNN, LSTM, GRU or Bidirectional of Keras or what its get_weights() returns, "
            f"got {type(source).__name__}"
        )
    if source.go_backwards != backward:
        raise ValueError(f"go_backwards={source.go_backwards} of {source.name} can't be represented")
    told = _cell_options(source, _KINDS[name])
    if not source.built:
        raise ValueError(f"{source.name} has no weights yet: build it, or call it once")
    return _of_arrays(source.get_weights(), told)


def _cell_options(source: Any, kind: str) -> dict[str, Any]:
    """The options that select the cell of a layer of Keras; its activations must be the cell's."""
    activation, gate = (_activation(source, name) for name in ("activation", "recurrent_activation"))
    if kind == "RNN":
        if activation not in ("tanh", "relu", "sigmoid"):
            raise ValueError(f"activation={activation!r} of {source.name} can't be represented: tanh, relu or sigmoid")
        return {"nonlinearity": activation}
    for name, found, only in (("activation", activation, "tanh"), ("recurrent_activation", gate, "sigmoid")):
        if found not in (None, only):
            raise ValueError(f"{name}={found!r} of {source.name} can't be represented, only {only!r}")
    return {"reset_after": bool(getattr(source, "reset_after", True))} if kind == "GRU" else {}


def _activation(source: Any, name: str) -> str | None:
    """An activation by name; None where the class has no choice (CuDNNLSTM)."""
    function = getattr(source, name, None)
    return None if function is None else str(getattr(function, "__name__", function))


def _of_arrays(source: Sequence[Any], options: Mapping[str, Any]) -> tuple[str, dict[str, Any], _Directions]:
    """The same of the arrays alone; of two directions the forward one's come first."""
    try:
        arrays = [np.asarray(array) for array in source]
    except ValueError:  # ragged lists
        raise ValueError("a source must hold arrays, got nested lists of different lengths") from None
    if len(arrays) not in (2, 3, 4, 6):
        raise ValueError(f"a layer of Keras has 2 or 3 arrays, Bidirectional 4 or 6, got {len(arrays)}")
    each = [arrays] if len(arrays) < 4 else [arrays[: len(arrays) // 2], arrays[len(arrays) // 2 :]]
    kernel, recurrent = each[0][:2]
    if kernel.ndim != 2:
        raise ValueError(f"a kernel must have shape (I, G*H), got {kernel.shape}")
    H = len(recurrent) if recurrent.ndim == 2 else 0
    kind = _BY_NUMBER_OF_GATES.get(recurrent.shape[1] // H) if H else None
    if kind is None:
        raise ValueError(f"a recurrent kernel (H, G*H) must have 1, 3 or 4 gates, got shape {recurrent.shape}")
    told = {name: options[name] for name in ("nonlinearity",) if kind == "RNN" and name in options}
    if kind == "GRU":
        told["reset_after"] = _reset_after(each[0], options)
    rows = len(_GATES[kind]) * H
    shapes = [(len(kernel), rows), (H, rows)]
    biases = {(rows,), (2 * rows,)} | ({(2, rows)} if kind == "GRU" else set())
    for found in each:
        if [array.shape for array in found[:2]] != shapes or (len(found) == 3 and found[2].shape not in biases):
            shapes_found = ", ".join(f"{name} {a.shape}" for name, a in zip(_KERAS_NAMES, found, strict=False))
            raise ValueError(f"the arrays of {kind} do not fit together: {shapes_found}")
    return kind, told, [_converted(kind, *found) for found in each]


def _reset_after(arrays: Sequence[NDArray[Any]], options: Mapping[str, Any]) -> bool:
    """Which form of GRU has such arrays: that of two biases, or of one; without biases the options say it."""
    if len(arrays) == 3:
        return bool(arrays[2].size == 2 * arrays[1].shape[1])
    if "reset_after" not in options:
        raise ValueError("a GRU without biases may be of either form: give reset_after=True (Keras' default) or False")
    return checks.flag("reset_after", options["reset_after"])


def _converted(
    kind: str, kernel: NDArray[Any], recurrent: NDArray[Any], bias: NDArray[Any] | None = None
) -> dict[str, NDArray[Any]]:
    """One direction's arrays as ours."""
    H = len(recurrent)
    in_memory = bias is not None and bias.shape == (2 * recurrent.shape[1],)  # CuDNNLSTM and CuDNNGRU

    def rows(weights: NDArray[Any]) -> NDArray[Any]:
        if in_memory:
            gates = np.split(weights, weights.shape[1] // H, axis=1)
            weights = np.concatenate([np.reshape(gate, (H, -1)) for gate in gates]).T
        return reordered(weights.T, _GATES[kind], _OUR_GATES[kind])

    found = {"weight_ih": rows(kernel), "weight_hh": rows(recurrent)}
    if bias is not None:
        halves = bias.reshape(-1, recurrent.shape[1])
        for name, half in zip(("bias_ih", "bias_hh"), halves, strict=False):
            found[name] = reordered(half, _GATES[kind], _OUR_GATES[kind])
    return found


def to_keras_weights(layer: RecurrentLayer) -> list[list[NDArray[Any]]]:
    """For each layer of a stack, what ``set_weights`` of Keras' SimpleRNN, LSTM, GRU or Bidirectional of it takes.

    Keras is not imported. Raises ValueError for what Keras lacks: peepholes and coupled gates.
    """
    kind = recurrent_layer(layer)._kind
    for option in ("peephole", "coupled"):
        if getattr(layer, option, False):
            raise ValueError(f"Keras has no {kind} with {option}=True")
    params = host_params(layer)
    return [
        [
            array
            for suffix in (f"_l{k}", f"_l{k}_reverse")[: layer.num_directions]
            for array in _as_keras(kind, layer, {name: params.get(name + suffix) for name in _PARAMETERS})
        ]
        for k in range(layer.num_layers)
    ]


_PARAMETERS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


def _as_keras(kind: str, layer: RecurrentLayer, params: Mapping[str, Any]) -> list[NDArray[Any]]:
    """One direction's kernel, recurrent kernel and bias."""
    order = {name: reordered(p, _OUR_GATES[kind], _GATES[kind]) for name, p in params.items() if p is not None}
    found = [order["weight_ih"].T, order["weight_hh"].T]
    if layer.bias:
        biases = np.stack([order["bias_ih"], order["bias_hh"]])
        found.append(biases if getattr(layer, "reset_after", False) else biases.sum(axis=0))
    return [np.ascontiguousarray(array) for array in found]


def to_keras(layer: RecurrentLayer) -> list[Any]:
    """Keras' layers with a layer's weights, built: one for each layer of a stack, to be called in turn.

    They return sequences. Raises ValueError for what Keras lacks: peepholes and coupled gates.
    """
    weights = to_keras_weights(layer)
    import keras

    kind = type(layer).__name__
    options: dict[str, Any] = {"use_bias": layer.bias, "return_sequences": True, "dtype": layer.dtype.name}
    if kind == "RNN":
        options["activation"] = layer.nonlinearity  # type: ignore[attr-defined]
    elif kind == "GRU":
        options["reset_after"] = layer.reset_after  # type: ignore[attr-defined]
    make = getattr(keras.layers, "SimpleRNN" if kind == "RNN" else kind)
    found = []
    for k, arrays in enumerate(weights):
        made = make(layer.hidden_size, **options)
        if layer.bidirectional:
            made = keras.layers.Bidirectional(made, dtype=layer.dtype.name)
        made.build((None, None, layer.input_size if k == 0 else layer.num_directions * layer.hidden_size))
        made.set_weights(arrays)
        found.append(made)
    return found
