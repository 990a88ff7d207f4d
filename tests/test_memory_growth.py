"""Thousands of calls of mixed shapes: the process does not grow once it has seen them all."""

from __future__ import annotations

import sys

import pytest

from tests.processes import run_python

CALLS = """
import gc
import sys
from pathlib import Path

import numpy as np

import fastrnn

calls, warm_up = map(int, sys.argv[1:])
rng = np.random.default_rng(0)
common = {"dtype": "float32", "seed": 0}
layers = [
    fastrnn.LSTM(5, 17, 2, bidirectional=True, dropout=0.5, **common),
    fastrnn.GRU(5, 40, reset_after=True, batch_first=True, **common),
]
frozen = [fastrnn.LSTM(5, 33, **common).freeze(), fastrnn.GRU(5, 17, reset_after=True, **common).freeze()]
streams = [layer.stream(2) for layer in frozen]
shapes = [(int(T), int(B)) for T in (0, 1, 2, 7, 30) for B in (0, 1, 3, 8, 40)]


def training(layer, T, B, k):
    x = np.ones((B, T, 5) if layer.batch_first else (T, B, 5), np.float32)
    lengths = rng.integers(0, T + 1, B) if k % 2 else None
    y, state, tape = layer.forward(x, lengths=lengths, recompute=3 * (k % 3 == 0))
    grads = layer.backward(tape, y, input_grad=k % 5 > 0)
    if k % 7 == 0:
        y, state, tape = layer.forward(x, lengths=lengths)
        layer.backward(tape, y, out=grads, input_grad=k % 5 > 0)


def one(k):
    T, B = shapes[k * 7 % len(shapes)]
    kind = k % 4
    if kind == 0:
        training(layers[k // 4 % 2], T, B, k // 4)
    elif kind == 1:
        layers[0](np.ones((T, B, 5), np.float32))
        layers[1].stream(1 + B)
    elif kind == 2:
        frozen[k // 4 % 2](np.ones((T, B, 5), np.float32), return_sequences=k % 8 > 3)
    else:
        stream = streams[k // 4 % 2]
        stream(np.ones((2, 5), np.float32))
        stream.reset([k // 8 % 2])
    if k % 50 == 0:
        try:
            frozen[0](np.ones((T, B, 4), np.float32))  # refused calls leave nothing either
        except ValueError:
            pass


def resident():
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


for k in range(warm_up):
    one(k)
before = resident()
for k in range(calls):
    one(k)
print(resident() - before)
"""


def growth(calls, warm_up, timeout):
    return int(run_python(CALLS, str(calls), str(warm_up), timeout=timeout))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/statm")
def test_2000_calls_do_not_grow():
    assert growth(2000, 1000, 300) < 1 << 20


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/statm")
def test_100000_calls_do_not_grow():
    found = growth(100_000, 4000, 7200)
    print(f"\n{found} bytes more after 100,000 calls")
    assert found < 1 << 20
