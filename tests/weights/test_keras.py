"""Weights from and to Keras: equal outputs against its equations, and against Keras itself where it is installed."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest

import fastrnn
from fastrnn.weights import from_keras, to_keras_weights
from tests.checks import make_layer
from tests.weights import keras_equations
from tests.weights.agreement import OPTIONS, TOLERANCE, largest, layer_outputs, problem_of

if find_spec("keras") is None:
    agreements, keras = [], None
else:
    from tests.weights import agree_keras

    agreements, keras = agree_keras.agreements(), agree_keras.keras

needs_keras = pytest.mark.skipif(keras is None, reason="the oracle is Keras")


@needs_keras
@pytest.mark.parametrize("agreement", agreements, ids=str)
def test_outputs_agree(agreement):
    assert agreement.difference() <= agreement.tolerance


def told(cell):
    """What arrays without biases, and an RNN's, do not tell."""
    if cell.startswith("rnn"):
        return {"nonlinearity": cell.removeprefix("rnn_")}
    return {"reset_after": cell == "gru_reset_after"} if cell.startswith("gru") else {}


@pytest.mark.parametrize("option", [option for option in OPTIONS if option != "batch first"])
@pytest.mark.parametrize("cell", keras_equations.CELLS)
def test_arrays_mean_what_the_equations_say(cell, option):
    problem = problem_of(cell, option, "float64")
    case = problem.case
    weights = keras_equations.random_weights(cell, case.I, case.H, case.num_layers, case.bidirectional, case.bias)
    imported, exported = from_keras(*weights, **told(cell)), make_layer(problem)
    assert imported.batch_first and imported.bias == case.bias and imported.dtype == np.float64
    for layer, arrays in ((imported, weights), (exported, to_keras_weights(exported))):
        want = keras_equations.outputs(cell, problem.x, arrays, problem.lengths)
        assert largest(layer_outputs(layer, problem, state=False)[:1], [want]) <= TOLERANCE["float64"]
    for got, want in zip(to_keras_weights(imported), weights, strict=True):
        assert [a.shape for a in got] == [a.shape for a in want]


def as_cudnn(weights):
    """As CuDNNLSTM and CuDNNGRU keep them: see ``_convert_rnn_weights`` of Keras 2, which is stated here again."""
    kernel, recurrent, bias = weights
    gates = kernel.shape[1] // len(recurrent)
    kernel = np.hstack([k.T.reshape(k.shape) for k in np.hsplit(kernel, gates)])
    recurrent = np.hstack([k.T for k in np.hsplit(recurrent, gates)])
    return [kernel, recurrent, np.tile(0.5 * bias, 2) if bias.ndim == 1 else bias.reshape(-1)]


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("cell", ["lstm", "gru_reset_after"])
def test_the_layout_of_cudnn(cell, bidirectional):
    problem = problem_of(cell, "forward", "float64")
    (weights,) = keras_equations.random_weights(cell, 6, 19, bidirectional=bidirectional)
    halves = [weights[:3], weights[3:]][: 1 + bidirectional]
    layer = from_keras([array for half in halves for array in as_cudnn(half)])
    want = keras_equations.outputs(cell, problem.x, [weights])
    assert largest(layer_outputs(layer, problem, state=False)[:1], [want]) <= TOLERANCE["float64"]


def shapes(*sizes):
    return [np.zeros(size, np.float32) for size in sizes]


@pytest.mark.parametrize(
    "sources, message",
    [
        ([shapes((3, 12))], "2 or 3 arrays"),
        ([shapes((3, 12), (6, 12))], "1, 3 or 4 gates"),
        ([shapes((3, 12), (0, 12))], "1, 3 or 4 gates"),
        ([shapes((3, 12), (12,))], "1, 3 or 4 gates"),
        ([shapes((3, 12), (4, 12))], "give reset_after=True"),
        ([shapes((3, 16), (4, 16), (15,))], "do not fit together"),
        ([shapes((3, 16), (4, 16), (2, 16))], "do not fit together"),
        ([shapes((3, 15), (4, 16), (16,))], "do not fit together"),
        ([shapes((3, 16), (4, 16), (16,)), shapes((5, 16), (4, 16), (16,))], r"weight_ih_l1 must have shape \(16, 4\)"),
        ([shapes((3, 16), (4, 16), (16,)), shapes((4, 12), (4, 12), (12,))], "of one class"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(sources, message):
    with pytest.raises(ValueError, match=message):
        from_keras(*sources)


def test_other_arguments_are_refused():
    with pytest.raises(TypeError, match="got none"):
        from_keras()
    with pytest.raises(TypeError, match="got LSTM"):
        from_keras(fastrnn.LSTM(2, 3))
    with pytest.raises(ValueError, match="reset_after is False for these weights"):
        from_keras(shapes((3, 12), (4, 12), (12,)), reset_after=True)
    for option in ("peephole", "coupled"):
        with pytest.raises(ValueError, match=f"Keras has no LSTM with {option}=True"):
            to_keras_weights(fastrnn.LSTM(2, 3, **{option: True}))


@needs_keras
@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: keras.layers.LSTM(3, activation="relu"), "activation='relu'"),
        (lambda: keras.layers.LSTM(3, activation=lambda x: x), "activation='<lambda>'"),
        (lambda: keras.layers.GRU(3, recurrent_activation="hard_sigmoid"), "recurrent_activation='hard_sigmoid'"),
        (lambda: keras.layers.SimpleRNN(3, activation="elu"), "activation='elu'"),
        (lambda: keras.layers.GRU(3, go_backwards=True), "go_backwards=True"),
        (lambda: keras.layers.Bidirectional(keras.layers.LSTM(3), merge_mode="sum"), "merge_mode='sum'"),
        (
            lambda: keras.layers.Bidirectional(
                keras.layers.GRU(3), backward_layer=keras.layers.GRU(3, reset_after=False, go_backwards=True)
            ),
            "the two directions",
        ),
        (lambda: keras.layers.LSTM(3), "no weights yet"),
    ],
)
def test_what_can_not_be_represented_is_named(make, message):
    layer = make()
    if "no weights" not in message:
        layer.build((None, None, 2))
    with pytest.raises(ValueError, match=message):
        from_keras(layer)


@needs_keras
def test_other_layers_are_refused():
    with pytest.raises(TypeError, match="got Dense"):
        from_keras(keras.layers.Dense(3))
