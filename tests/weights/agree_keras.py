"""Keras' layers: their weights in a layer, a layer's weights in them. Needs Keras 3 and a backend of it."""

from __future__ import annotations

import os
from importlib.util import find_spec

import numpy as np

_BACKENDS = {"jax": "jax", "torch": "torch", "tensorflow": "tensorflow"}
os.environ.setdefault("KERAS_BACKEND", next((b for module, b in _BACKENDS.items() if find_spec(module)), "numpy"))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras  # noqa: E402

from fastrnn.weights import from_keras, to_keras  # noqa: E402
from tests.checks import make_layer  # noqa: E402
from tests.weights import keras_equations  # noqa: E402
from tests.weights.agreement import OPTIONS, Agreement, largest, layer_outputs, problem_of  # noqa: E402

CLASSES = {
    "rnn_tanh": ("SimpleRNN", {"activation": "tanh"}),
    "rnn_relu": ("SimpleRNN", {"activation": "relu"}),
    "rnn_sigmoid": ("SimpleRNN", {"activation": "sigmoid"}),
    "lstm": ("LSTM", {}),
    "gru_reset_before": ("GRU", {"reset_after": False}),
    "gru_reset_after": ("GRU", {"reset_after": True}),
}


def layers_of(cell, case):
    """Keras' layers of a stack, with random weights."""
    name, options = CLASSES[cell]
    found = []
    for k in range(case.num_layers):
        layer = getattr(keras.layers, name)(case.H, return_sequences=True, use_bias=case.bias, **options)
        layer = keras.layers.Bidirectional(layer) if case.bidirectional else layer
        layer.build((None, None, case.I if k == 0 else case.directions * case.H))
        found.append(layer)
    weights = keras_equations.random_weights(cell, case.I, case.H, case.num_layers, case.bidirectional, case.bias)
    for layer, arrays in zip(found, weights, strict=True):
        layer.set_weights(arrays)
    return found


def keras_outputs(layers, problem):
    """y, time-major, 0 past a row's length (Keras repeats the last output there)."""
    y = np.ascontiguousarray(problem.x.swapaxes(0, 1))
    mask = None if problem.lengths is None else ~problem.padding.T
    for layer in layers:
        y = np.asarray(layer(y, mask=mask))
    y = y.swapaxes(0, 1).copy()
    y[problem.padding] = 0
    return [y]


def difference(cell, option):
    problem = problem_of(cell, option)
    layers = layers_of(cell, problem.case)
    imported, exported = from_keras(*layers), make_layer(problem)
    told = {"nonlinearity": cell.removeprefix("rnn_")} if cell.startswith("rnn") else {}
    told |= {"reset_after": cell == "gru_reset_after"} if cell.startswith("gru") else {}
    of_arrays = from_keras(*(layer.get_weights() for layer in layers), **told)
    assert imported.batch_first and (imported.flat_params == of_arrays.flat_params).all()
    equations = keras_equations.outputs(cell, problem.x, [a.get_weights() for a in layers], problem.lengths)
    want = keras_outputs(layers, problem)
    return max(
        largest(layer_outputs(imported, problem, state=False)[:1], want),
        largest(layer_outputs(exported, problem, state=False)[:1], keras_outputs(to_keras(exported), problem)),
        largest([equations.astype(np.float32)], want),
    )


def agreements():
    found = []
    for cell in CLASSES:
        for option in OPTIONS:
            if option != "batch first":  # as Keras always is
                run = lambda cell=cell, option=option: difference(cell, option)  # noqa: E731
                found.append(Agreement("Keras", cell, option, run))
    return found
