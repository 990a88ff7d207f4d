"""Attention, the encoder-decoder and searches on the stand-in: CuPy in, CuPy out, and the host's numbers."""

from __future__ import annotations

import copy

import numpy as np
import pytest

import fastrnn
from fastrnn import nn
from tests.cuda import emulator, stand_in
from tests.cuda.stand_in import watch
from tests.cuda.whole_layers import few_multiprocessors

pytestmark = pytest.mark.skipif(bool(emulator.available()), reason=emulator.available() or "-")

V, W, E, H, B = 6, 7, 4, 16, 3
SOURCE_LENGTHS, TARGET_LENGTHS = np.array([4, 1, 3]), np.array([2, 3, 1])


@pytest.fixture
def cupy():
    with few_multiprocessors(), stand_in.installed(devices=2) as module:
        yield module


def made(attention, dropout=0.0):
    encoder, decoder = fastrnn.GRU(E, H // 2, bidirectional=True, seed=0), fastrnn.LSTM(E, H, seed=1)
    return nn.Seq2Seq(encoder, decoder, V, W, bos=0, eos=1, attention=attention, dropout=dropout, seed=2)


def sides():
    rng = np.random.default_rng(0)
    source, target = rng.integers(0, V, (4, B)), rng.integers(2, W, (3, B))
    target[TARGET_LENGTHS - 1, np.arange(B)] = 1
    return source, target


def step(model, source, target, **options):
    logits, tape = model.forward(source, target, SOURCE_LENGTHS, TARGET_LENGTHS, **options)
    _, dlogits = nn.softmax_cross_entropy(logits, target, lengths=TARGET_LENGTHS)
    return logits, model.backward(tape, dlogits)


@pytest.mark.parametrize("attention", [None, "dot", "general", "additive"])
def test_training_is_that_of_the_host(cupy, attention):
    here = made(attention, dropout=0.2)
    there = copy.deepcopy(here).to("cuda")
    source, target = sides()
    options = {"seed": 3, "sampling": 0.3}
    (want, expected), (got, grads) = step(here, source, target, **options), step(there, source, target, **options)
    assert type(got) is cupy.ndarray
    np.testing.assert_allclose(got.get(), want, rtol=1e-4, atol=1e-6)
    for name, array in expected.params.items():
        assert type(grads.params[name]) is cupy.ndarray
        np.testing.assert_allclose(grads.params[name].get(), array, rtol=1e-3, atol=1e-6, err_msg=name)
    moved = step(there, cupy.asarray(source), cupy.asarray(target), **options)[0]
    assert np.array_equal(moved.get(), got.get())


@pytest.mark.parametrize("attention", [None, "general"])
def test_searches_find_what_the_host_does(cupy, attention):
    here = made(attention)
    for array in here.params.values():
        array *= 3
    there = copy.deepcopy(here).to("cuda")
    source, _ = sides()
    for search in (nn.greedy_search, nn.beam_search):
        want = search(here, source, SOURCE_LENGTHS, max_length=6)
        got = search(there, source, SOURCE_LENGTHS, max_length=6)
        assert got.sequences() == want.sequences() and type(got.tokens) is np.ndarray
        np.testing.assert_allclose(got.scores, want.scores, rtol=1e-4)


def test_nothing_waits_with_symbols_of_the_host(cupy):
    model = made("general").to("cuda")
    source, target = sides()
    step(model, source, target)
    with watch() as calls:
        step(model, source, target)
    assert not [call for call in calls if call.kind == "to host"]


def test_bad_symbols_are_named_there_too(cupy):
    model = made(None).to("cuda")
    source, target = sides()
    source[3, 0] = V
    for given in (source, cupy.asarray(source)):
        with pytest.raises(ValueError, match=r"source must lie in 0..5 \(source_size - 1\), got source\[3, 0\] = 6"):
            model(given, target, SOURCE_LENGTHS, TARGET_LENGTHS)
    with pytest.raises(TypeError, match="memory is a NumPy array"):
        nn.Attention(H, H, device="cuda")(cupy.zeros((2, B, H), np.float32), np.zeros((4, B, H), np.float32))
