"""Every refusal of the contract: its type, and a message that names argument, expected and given."""

from __future__ import annotations

import functools

import numpy as np
import pytest

import fastrnn

T, B, I, H = 6, 5, 4, 3
FLOAT = np.float32


def zeros(*shape, dtype=FLOAT):
    return np.zeros(shape, dtype)


X = zeros(T, B, I)


@functools.cache
def layer_of(name):
    if name == "lstm":
        return fastrnn.LSTM(I, H, 2, bidirectional=True)
    return fastrnn.RNN(I, H, batch_first=True) if name == "batch_first" else fastrnn.GRU(I, H)


def says(error, *words):
    """The message holds every word."""
    message = str(error.value)
    missing = [word for word in words if str(word) not in message]
    assert not missing, f"{missing} not in: {message}"


SHAPES = [
    # layer, arguments, what the message must name
    ("gru", {"x": zeros(4)}, ["x", I, "(4,)"]),
    ("gru", {"x": zeros(2, 3, 4, 4)}, ["x", I, "(2, 3, 4, 4)"]),
    ("gru", {"x": zeros(T, B, 7)}, ["x", I, "(6, 5, 7)"]),
    ("gru", {"x": zeros(T, 7)}, ["x", I, "(6, 7)"]),
    ("gru", {"state": zeros(1, 4, H)}, ["state", "(1, 5, 3)", "(1, 4, 3)"]),
    ("gru", {"state": zeros(B, H)}, ["state", "(1, 5, 3)", "(5, 3)"]),
    ("gru", {"state": zeros(2, B, H)}, ["state", "(1, 5, 3)", "(2, 5, 3)"]),
    ("gru", {"x": zeros(T, I), "state": zeros(1, 1, H)}, ["state", "(1, 3)", "(1, 1, 3)"]),
    ("lstm", {"state": (zeros(4, B, H), zeros(4, B, 9))}, ["state", "(4, 5, 3)", "(4, 5, 9)"]),
    ("gru", {"lengths": [1, 2, 3]}, ["lengths", "(5,)", "(3,)"]),
    ("gru", {"lengths": np.ones((B, 1), int)}, ["lengths", "(5,)", "(5, 1)"]),
    ("gru", {"lengths": [1, 2, 3, 4, 7]}, ["lengths", 6, 7]),
    ("gru", {"lengths": [1, 2, 3, 4, -1]}, ["lengths", -1]),
    ("gru", {"x": zeros(T, I), "lengths": [3]}, ["lengths"]),
    ("gru", {"resets": zeros(T, 4, dtype=bool)}, ["resets", "(6, 5)", "(6, 4)"]),
    ("gru", {"resets": zeros(T, B, 1, dtype=bool)}, ["resets", "(6, 5)", "(6, 5, 1)"]),
    ("batch_first", {"x": zeros(B, T, 7)}, ["x", I, "(5, 6, 7)"]),
    ("batch_first", {"x": zeros(B, T, I), "state": zeros(1, T, H)}, ["state", "(1, 5, 3)", "(1, 6, 3)"]),
]

TYPES = [
    ("gru", {"x": X.astype(np.float64)}, ["x", "float32", "float64", "astype", "dtype="]),
    ("gru", {"x": X.astype(np.float16)}, ["x", "float32", "float16"]),
    ("gru", {"x": X.astype(">f4")}, ["x", "float32", ">f4"]),
    ("gru", {"x": X.tolist()}, ["x", "list"]),
    ("gru", {"x": X.astype(int)}, ["x", "float32", "int64"]),
    ("gru", {"x": X.astype(bool)}, ["x", "float32", "bool"]),
    ("gru", {"x": X.astype(object)}, ["x", "float32", "object"]),
    ("gru", {"x": X.astype(complex)}, ["x", "float32", "complex128"]),
    ("gru", {"x": None}, ["x", "NoneType"]),
    ("gru", {"state": zeros(1, B, H, dtype=np.float64)}, ["state", "float32", "float64"]),
    ("gru", {"state": zeros(1, B, H).tolist()}, ["state", "list"]),
    ("lstm", {"state": (zeros(4, B, H), zeros(4, B, H, dtype=np.float64))}, ["state", "float32", "float64"]),
    ("gru", {"lengths": [1.0, 2, 3, 4, 5]}, ["lengths", "float64"]),
    ("gru", {"lengths": ["1"] * B}, ["lengths"]),
    ("gru", {"resets": zeros(T, B, dtype=int)}, ["resets", "bool", "int64"]),
    ("gru", {"resets": zeros(T, B)}, ["resets", "bool", "float32"]),
]

STRUCTURES = [
    ("lstm", {"state": zeros(4, B, H)}, ["state"]),
    ("lstm", {"state": (zeros(4, B, H),)}, ["state", "(h, c)"]),
    ("lstm", {"state": (zeros(4, B, H),) * 3}, ["state", "(h, c)"]),
    ("lstm", {"state": (zeros(4, B, H), None)}, ["state"]),
    ("gru", {"state": (zeros(1, B, H), zeros(1, B, H))}, ["state"]),
]


@pytest.mark.parametrize("call", ["inference", "forward"])
@pytest.mark.parametrize(
    "name, arguments, words, error",
    [(*row, ValueError) for row in SHAPES]
    + [(*row, TypeError) for row in TYPES]
    + [(*row, (TypeError, ValueError)) for row in STRUCTURES],
)
def test_bad_inputs(call, name, arguments, words, error):
    layer = layer_of(name)
    arguments = {"x": X} | arguments
    with pytest.raises(error) as caught:
        (layer if call == "inference" else layer.forward)(**arguments)
    says(caught, *words)


BACKWARD = [
    ({"dy": zeros(T, B, H)}, ValueError, ["dy", "(6, 5, 6)", "(6, 5, 3)"]),
    ({"dy": zeros(T, 2 * H)}, ValueError, ["dy", "(6, 5, 6)", "(6, 6)"]),
    ({"dy": zeros(T, B, 2 * H, dtype=np.float64)}, TypeError, ["dy", "float32", "float64"]),
    ({"dy": zeros(T, B, 2 * H).tolist()}, TypeError, ["dy", "list"]),
    ({"dstate": (zeros(4, B, H), zeros(4, 1, H))}, ValueError, ["dstate", "(4, 5, 3)", "(4, 1, 3)"]),
    (
        {"dstate": (zeros(4, B, H), zeros(4, B, H, dtype=np.float64))},
        TypeError,
        ["dstate", "float32", "float64"],
    ),
    ({"dstate": zeros(4, B, H)}, (TypeError, ValueError), ["dstate"]),
    ({"dstate": (zeros(4, B, H),)}, (TypeError, ValueError), ["dstate", "(h, c)"]),
    ({}, ValueError, ["dy", "dstate"]),
]


@pytest.mark.parametrize("arguments, error, words", BACKWARD)
def test_bad_gradients_leave_the_tape_alone(arguments, error, words):
    layer = layer_of("lstm")
    _, _, tape = layer.forward(np.ones_like(X))
    dy = np.ones((T, B, 2 * H), FLOAT)
    want = layer.backward(tape, dy, keep_tape=True)
    with pytest.raises(error) as caught:
        layer.backward(tape, **arguments)
    says(caught, *words)
    np.testing.assert_array_equal(layer.backward(tape, dy).flat, want.flat)


@pytest.mark.parametrize("tape", [None, "tape", np.zeros(3)])
def test_something_else_than_a_tape(tape):
    with pytest.raises(TypeError, match="tape"):
        layer_of("gru").backward(tape, zeros(T, B, H))


OPTIONS = [
    ("GRU", {"input_size": 0}, ValueError, ["input_size", 0]),
    ("GRU", {"hidden_size": -1}, ValueError, ["hidden_size", -1]),
    ("GRU", {"num_layers": 0}, ValueError, ["num_layers", 0]),
    ("GRU", {"hidden_size": 2.5}, TypeError, ["hidden_size", 2.5]),
    ("GRU", {"input_size": "4"}, TypeError, ["input_size", "'4'"]),
    ("GRU", {"dropout": 1.0}, ValueError, ["dropout", 1.0]),
    ("GRU", {"dropout": -0.1}, ValueError, ["dropout", -0.1]),
    ("GRU", {"dropout": float("nan")}, ValueError, ["dropout", "nan"]),
    ("GRU", {"dtype": "int32"}, (TypeError, ValueError), ["dtype", "float32", "float64", "int32"]),
    ("GRU", {"dtype": "float16"}, (TypeError, ValueError), ["dtype", "float32", "float64", "float16"]),
    ("GRU", {"device": "tpu"}, ValueError, ["device", "cpu", "cuda", "tpu"]),
    ("RNN", {"nonlinearity": "gelu"}, ValueError, ["nonlinearity", "tanh", "relu", "sigmoid", "gelu"]),
]


@pytest.mark.parametrize("kind, options, error, words", OPTIONS)
def test_bad_options(kind, options, error, words):
    with pytest.raises(error) as caught:
        getattr(fastrnn, kind)(**({"input_size": 4, "hidden_size": 3} | options))
    says(caught, *words)


@pytest.mark.parametrize(
    "kind, option",
    [("RNN", {"peephole": True}), ("LSTM", {"reset_after": True}), ("GRU", {"nonlinearity": "tanh"})],
)
def test_options_of_another_cell(kind, option):
    with pytest.raises(TypeError, match=next(iter(option))):
        getattr(fastrnn, kind)(4, 3, **option)


@pytest.mark.parametrize("n, error", [(0, ValueError), (-1, ValueError), (1.5, TypeError), ("2", TypeError)])
def test_bad_thread_counts(n, error):
    before = fastrnn.get_num_threads()
    with pytest.raises(error):
        fastrnn.set_num_threads(n)
    assert fastrnn.get_num_threads() == before


def test_thread_counts_above_the_cores_are_legal():
    before = fastrnn.get_num_threads()
    assert before >= 1
    try:
        for n in (1, 2, 64):
            fastrnn.set_num_threads(n)
            assert fastrnn.get_num_threads() == n
    finally:
        fastrnn.set_num_threads(before)


STREAM = [
    ({"batch_size": 0}, {}, ValueError, ["batch_size"]),
    ({"batch_size": 2.0}, {}, TypeError, ["batch_size"]),
    ({"state": zeros(1, 4, H)}, {}, ValueError, ["state", "(1, 5, 3)", "(1, 4, 3)"]),
    ({}, {"x_t": zeros(4, I)}, ValueError, ["x_t", "(5, 4)", "(4, 4)"]),
    ({}, {"x_t": zeros(B, 9)}, ValueError, ["x_t", "(5, 4)", "(5, 9)"]),
    ({}, {"x_t": zeros(I)}, ValueError, ["x_t", "(5, 4)", "(4,)"]),
    ({}, {"x_t": zeros(B, I, dtype=np.float64)}, TypeError, ["x_t", "float32", "float64"]),
    ({}, {"x_t": zeros(B, I).tolist()}, TypeError, ["x_t", "list"]),
    ({}, {"x_t": zeros(B, I), "out": zeros(B, 9)}, ValueError, ["out", "(5, 3)", "(5, 9)"]),
    (
        {},
        {"x_t": zeros(B, I), "out": zeros(B, H, dtype=np.float64)},
        TypeError,
        ["out", "float32", "float64"],
    ),
]


@pytest.mark.parametrize("options, call, error, words", STREAM)
def test_bad_streams(options, call, error, words):
    with pytest.raises(error) as caught:
        layer_of("gru").stream(**({"batch_size": B} | options))(**call)
    says(caught, *words)


def test_no_stream_in_two_directions():
    with pytest.raises(ValueError, match="bidirectional"):
        layer_of("lstm").stream()


def test_stream_state_of_another_shape():
    stream = layer_of("gru").stream(batch_size=2)
    with pytest.raises(ValueError, match="state") as caught:
        stream.state = zeros(1, 5, H)
    says(caught, "(1, 2, 3)", "(1, 5, 3)")


def test_a_read_only_out_is_refused():
    out = zeros(B, H)
    out.flags.writeable = False
    with pytest.raises(ValueError, match="out"):
        layer_of("gru").stream(batch_size=B)(zeros(B, I), out=out)
