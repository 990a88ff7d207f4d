"""Arrays of more than 2^31 elements, wherever a kernel could lose an index: what lies beyond must be right.

Only with ``-m long``, and where there is memory: 9 to 17 GB. Inputs are zeros but at their end, and zeros that nobody
has written take no memory.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import fastrnn
from tests.checks import as_tuple

LIMIT = 1 << 31


def needs(gigabytes):
    """Skip without so much memory; where the system does not tell, too."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        pytest.skip("the system does not tell how much memory is free")
    kilobytes = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    if kilobytes < gigabytes << 20:
        pytest.skip(f"needs {gigabytes} GB of memory, {kilobytes >> 20} are free")


def numbers(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


CELLS = {
    "rnn": lambda *sizes: fastrnn.RNN(*sizes, bias=False, seed=0),
    "gru": lambda *sizes: fastrnn.GRU(*sizes, bias=False, seed=0),
    "lstm": lambda *sizes: fastrnn.LSTM(*sizes, bias=False, seed=0),
}


def wide_input(batch_first):
    """x (T, B, I), zeros but for the last three steps, and those."""
    T, B, I = 2100, 17, 1 << 16
    x = np.zeros((B, T, I) if batch_first else (T, B, I), np.float32)
    assert x.size > LIMIT
    end = numbers(3, B, I) * np.float32(0.01)
    (x.swapaxes(0, 1) if batch_first else x)[-3:] = end
    return x, end


@pytest.mark.long
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("cell", CELLS)
def test_a_huge_input(cell, batch_first):
    """Without biases a state stays 0 until the input begins."""
    needs(3)
    x, end = wide_input(batch_first)
    layer = CELLS[cell](x.shape[-1], 3)
    want, want_state = layer(end)
    if batch_first:
        there = type(layer)(x.shape[-1], 3, bias=False, batch_first=True)
        there.load_params(layer.params)
        y, state = there(x)
        y = y.swapaxes(0, 1)
    else:
        y, state = layer(x)
    assert not y[:-3].any()
    np.testing.assert_array_equal(y[-3:], want)
    np.testing.assert_array_equal(as_tuple(state), as_tuple(want_state))


@pytest.mark.long
@pytest.mark.parametrize("cell", ["rnn", "gru"])
def test_gradients_of_a_huge_input(cell):
    """A gradient that comes in at the end: of x there as of the end alone; the parameters' from where x is not 0."""
    needs(13)
    x, end = wide_input(False)
    layer = CELLS[cell](x.shape[-1], 3)
    _, _, tape = layer.forward(end)
    dy = numbers(*end.shape[:2], 3)
    want = layer.backward(tape, dy)
    _, _, tape = layer.forward(x)
    whole = np.zeros((*x.shape[:2], 3), np.float32)
    whole[-3:] = dy
    got = layer.backward(tape, whole)
    assert got.x.size > LIMIT
    np.testing.assert_array_equal(got.x[-3:], want.x)
    for name, gradient in want.params.items():
        np.testing.assert_allclose(got.params[name], gradient, rtol=1e-5, atol=1e-6 * np.abs(gradient).max())


@pytest.mark.long
@pytest.mark.parametrize("batch_first", [False, True])
def test_a_huge_output(batch_first):
    """After a reset near its end, y is that of the steps after the reset."""
    needs(11)
    T, B, H = 1 << 17, 65, 256
    layer = fastrnn.RNN(1, H, batch_first=batch_first, seed=0)
    x = numbers(B, T, 1) if batch_first else numbers(T, B, 1)
    resets = np.zeros((T, B), bool)
    resets[-4] = True
    y, state = layer(x, resets=resets)
    assert y.size > LIMIT
    want, want_state = layer(x[:, -4:] if batch_first else x[-4:])
    np.testing.assert_array_equal(y[:, -4:] if batch_first else y[-4:], want)
    np.testing.assert_array_equal(state, want_state)


@pytest.mark.long
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_a_huge_tape(cell):
    """More than 2^31 saved activations: gradients of x behind a reset near the end, and in front of it."""
    needs(19)
    T, B, H = (1 << 15) + 9, 65, 256 + (80 if cell == "gru" else 0)
    layer = {"lstm": fastrnn.LSTM, "gru": fastrnn.GRU}[cell](1, H, seed=0)
    slots = {"lstm": 4, "gru": 3}[cell]
    assert T * B * H * slots > LIMIT
    x, resets = numbers(T, B, 1), np.zeros((T, B), bool)
    resets[-4] = resets[4] = True
    dy = np.broadcast_to(numbers(1, B, H), (T, B, H))  # takes no memory
    y, _, tape = layer.forward(x, resets=resets)
    got = layer.backward(tape, dy)
    for steps in (slice(-4, None), slice(0, 4)):
        want_y, _, tape = layer.forward(np.ascontiguousarray(x[steps]))
        np.testing.assert_array_equal(y[steps], want_y)
        np.testing.assert_array_equal(got.x[steps], layer.backward(tape, np.ascontiguousarray(dy[steps])).x)
    assert all(np.isfinite(gradient).all() and gradient.any() for gradient in got.params.values())
