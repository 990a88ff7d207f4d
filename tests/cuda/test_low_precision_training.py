"""Training in float16 and bfloat16 goes the way of float32: the losses of two small tasks, step by step.

Mixed precision as users do it: parameters are kept in float32 and rounded for the layer, whose gradients of parameters
are float32; float16 scales the loss, as gradients below 6e-8 would be lost. Output layer, loss and Adam are float32.
"""

from __future__ import annotations

import numpy as np
import pytest

import fastrnn
from fastrnn import nn
from tests.cuda import emulator, stand_in
from tests.cuda.whole_layers import few_multiprocessors

pytest.importorskip("ml_dtypes", reason="bfloat16 needs ml_dtypes")
pytestmark = pytest.mark.skipif(bool(emulator.available()), reason=emulator.available() or "-")

T, B, H, STEPS = 10, 8, 16, 40
SCALE = {"float32": 1.0, "float16": 1024.0, "bfloat16": 1.0}
TEXT = "the cat sat on the mat, the rat ran at the cat; " * 8


def next_characters(rng):
    """One-hot (T, B, V) of pieces of the text, and which character follows each: a character model."""
    alphabet = sorted(set(TEXT))
    text = np.array([alphabet.index(c) for c in TEXT])
    starts = rng.integers(0, len(text) - T - 1, B)
    pieces = text[starts + np.arange(T + 1)[:, None]]
    return np.eye(len(alphabet), dtype=np.float32)[pieces[:-1]], pieces[1:]


def sums(rng):
    """The adding problem: two of T numbers are marked; their sum is wanted after the last step."""
    x = np.zeros((T, B, 2), np.float32)
    x[:, :, 0] = rng.uniform(0, 1, (T, B))
    for row in range(B):
        x[rng.choice(T, 2, replace=False), row, 1] = 1
    return x, (x[:, :, :1] * x[:, :, 1:]).sum(axis=0)


TASKS = {
    "characters": (next_characters, len(set(TEXT)), lambda o, t: nn.softmax_cross_entropy(o, t)),
    "adding": (sums, 1, lambda o, t: nn.mean_squared_error(o[-1], t)),
}


def losses(task, kind, dtype):
    """The loss of every step, on the stand-in."""
    make, outputs, loss_of = TASKS[task]
    rng = np.random.default_rng(0)
    inputs = make(rng)[0].shape[2]
    with few_multiprocessors(), stand_in.installed() as cupy:
        master = getattr(fastrnn, kind)(inputs, H, seed=1)  # float32, on the host: what Adam changes
        layer = getattr(fastrnn, kind)(inputs, H, dtype=dtype, device="cuda")
        output = nn.Linear(H, outputs, seed=2)
        optimizer, found = nn.Adam([master, output], rate=1e-2), []
        for _ in range(STEPS):
            x, targets = make(rng)
            layer.flat_params[...] = cupy.asarray(master.flat_params.astype(layer.dtype))
            y, _, tape = layer.forward(cupy.asarray(x.astype(layer.dtype)))
            o, tape_o = output.forward(y.get().astype(np.float32))
            loss, do = loss_of(o, targets)
            if task == "adding":
                do = np.concatenate([np.zeros((T - 1, *do.shape), do.dtype), do[None]])
            of_output = output.backward(tape_o, do)
            dy = (of_output.x * SCALE[dtype]).astype(layer.dtype)
            grads = layer.backward(tape, cupy.asarray(dy), input_grad=False)
            assert grads.flat.dtype == np.float32
            flat = grads.flat.get() / SCALE[dtype]
            optimizer.step([flat, of_output.flat])
            found.append(loss)
    return np.array(found)


@pytest.mark.parametrize("task, kind", [("characters", "LSTM"), ("adding", "GRU")])
def test_low_precision_learns_as_float32_does(task, kind):
    exact = losses(task, kind, "float32")
    start, end = exact[:5].mean(), exact[-5:].mean()
    assert end < 0.75 * start, "nothing was learned"
    for dtype, tolerance in (("float16", 5e-4), ("bfloat16", 4e-3)):
        apart = np.abs(losses(task, kind, dtype) - exact).max() / start
        print(f"{task} {kind} {dtype}: losses apart by at most {apart:.1e} of the first; {start:.3f} -> {end:.3f}")
        assert apart < tolerance
