"""Weights stored as bfloat16 for inference: exactly what a layer with rounded weights computes."""

import copy
import pickle

import numpy as np
import pytest

import fastrnn
from tests.cases import LAYERS, Case


def rounded(array):
    """The nearest bfloat16, ties to even, as float32; NaN stays NaN."""
    bits = array.view(np.uint32).astype(np.uint64)
    nearest = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16 << 16).astype(np.uint32).view(np.float32)
    return np.where(np.isnan(array), np.float32(np.nan), nearest)


def pair(cell, I, H, **options):
    """A layer with weights stored as bfloat16, and one whose weights were rounded beforehand."""
    kind, cell_options = LAYERS[cell]
    stored = getattr(fastrnn, kind)(I, H, seed=3, **cell_options, **options)
    plain = copy.deepcopy(stored)
    plain.load_params(
        {name: rounded(p) if "weight" in name and "peephole" not in name else p for name, p in stored.params.items()}
    )
    return stored.freeze(weights="bfloat16"), plain.freeze()


def assert_same(got, want):
    for a, b in zip(np.atleast_1d(got), np.atleast_1d(want), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("cell", LAYERS)
@pytest.mark.parametrize(("T", "B", "I", "H"), [(7, 1, 5, 40), (5, 3, 20, 17), (4, 37, 30, 80), (3, 16, 9, 260)])
def test_it_is_inference_with_rounded_weights(cell, T, B, I, H):
    stored, plain = pair(cell, I, H, num_layers=2)
    x = np.random.default_rng(0).standard_normal((T, B, I)).astype(np.float32)
    (y, state), (want, want_state) = stored(x), plain(x)
    np.testing.assert_array_equal(y, want)
    assert_same(state, want_state)
    stream = stored.stream(B)
    np.testing.assert_array_equal(np.stack([stream(step, out=np.empty((B, H), np.float32)) for step in x]), want)


def test_the_error_is_that_of_rounding():
    stored, _ = pair("lstm", 64, 128)
    exact = copy.deepcopy(stored).unfreeze()
    x = np.random.default_rng(0).standard_normal((100, 2, 64)).astype(np.float32)
    error = np.abs(stored(x)[0] - exact(x)[0]).max()
    assert 1e-5 < error < 1e-2


def test_special_weights_stay_what_they_are():
    layer = fastrnn.RNN(1, 1, bias=False, nonlinearity="relu")
    x = np.ones((1, 1, 1), np.float32)
    for weight in (np.inf, np.nan, np.float32(3.4e38), 1e-40, np.float32(1 + 2**-8), np.float32(1 + 3 * 2**-8)):
        layer.unfreeze().params["weight_ih_l0"][...] = weight
        want = rounded(np.full(1, weight, np.float32))
        np.testing.assert_array_equal(layer.freeze(weights="bfloat16")(x)[0].ravel(), want)
    bits = np.array([0x7F800001], np.uint32)  # a NaN whose payload would round away
    layer.unfreeze().params["weight_ih_l0"][...] = bits.view(np.float32)
    assert np.isnan(layer.freeze(weights="bfloat16")(x)[0]).all()


def test_training_a_frozen_layer_computes_with_the_parameters_themselves():
    stored, _ = pair("lstm", 6, 20)
    exact = copy.deepcopy(stored).unfreeze()
    x = np.random.default_rng(0).standard_normal((5, 2, 6)).astype(np.float32)
    stored(x)
    (y, _, tape), (want, _, want_tape) = stored.forward(x), exact.forward(x)
    np.testing.assert_array_equal(y, want)
    np.testing.assert_array_equal(stored.backward(tape, y).flat, exact.backward(want_tape, y).flat)
    stored.freeze()  # back to the layer's own dtype
    np.testing.assert_array_equal(stored(x)[0], want)


def test_copies_and_streams_keep_or_choose_the_storage():
    stored, plain = pair("gru_reset_before", 6, 20)
    x = np.random.default_rng(0).standard_normal((5, 2, 6)).astype(np.float32)
    want = plain(x)[0]
    for other in (copy.deepcopy(stored), pickle.loads(pickle.dumps(stored))):
        assert other.frozen
        np.testing.assert_array_equal(other(x)[0], want)
    exact = copy.deepcopy(stored).unfreeze()
    for weights, expected in (("bfloat16", want), (None, exact(x)[0]), ("float32", exact(x)[0])):
        stream = exact.stream(2, weights=weights)
        np.testing.assert_array_equal(np.stack([stream(step).copy() for step in x]), expected)
    stream = stored.stream(2, weights="float32")
    np.testing.assert_array_equal(np.stack([stream(step).copy() for step in x]), exact(x)[0])


def test_threads_and_batch_change_no_bit():
    stored, plain = pair("lstm", 64, 256)
    x = Case("lstm", T=6, B=40, I=64, H=256, dtype="float32").problem().x
    want = plain(x)[0]
    before = fastrnn.get_num_threads()
    try:
        for threads in (1, 2, 3):
            fastrnn.set_num_threads(threads)
            np.testing.assert_array_equal(stored(x)[0], want)
            np.testing.assert_array_equal(stored(x[:, 7:8])[0], want[:, 7:8])
    finally:
        fastrnn.set_num_threads(before)


@pytest.mark.parametrize("call", ["freeze", "stream"])
def test_other_storages_are_refused(call):
    layer = fastrnn.LSTM(3, 4)
    with pytest.raises(ValueError, match="weights must be None, 'float32' or 'bfloat16', got 'float16'"):
        getattr(layer, call)(weights="float16")
    assert not layer.frozen
    with pytest.raises(ValueError, match="needs a float32 layer"):
        getattr(fastrnn.LSTM(3, 4, dtype="float64"), call)(weights="bfloat16")
