"""Ctrl-C during a long call, and memory that runs out: the call ends with an error, and nothing is harmed."""

import platform

import pytest

from tests.processes import run_python

# What each way of sharing work runs for several seconds, unless it is interrupted: arguments of the layer, then T, B.
LONG_CALLS = {
    "one row, the input product ahead": ("LSTM(8, 256)", 500_000, 1),
    "threads share hidden units": ("LSTM(16, 1024)", 600, 32),
    "two phases": ("GRU(16, 1024)", 600, 32),
    "threads own rows": ("RNN(16, 96)", 100_000, 64),
    "one thread": ("LSTM(512, 512, dtype='float64')", 300, 64),
}

SCRIPT = """
import os, signal, sys, threading, time
import numpy as np
import fastrnn
from fastrnn import GRU, LSTM, RNN

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background processes ignore it
way, make, T, B, signals = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5])
fastrnn.set_num_threads(1 if "float64" in make else 2)
layer = eval(make)
width = layer.input_size
x = np.random.default_rng(0).standard_normal((T, B, width), layer.dtype)
few = x[:3]

def step():
    y, _, tape = layer.forward(few)
    return y, layer.backward(tape, y).flat

expected = step()  # compiles, too
unharmed = layer.flat_params.copy(), x.copy()

begun, last = threading.Event(), [0.0]

def fire():
    begun.wait()
    for _ in range(signals):
        time.sleep(0.15)
        last[0] = time.perf_counter()
        os.kill(os.getpid(), signal.SIGINT)

if way == "backward":
    y, _, tape = layer.forward(x, recompute=0)
firing = threading.Thread(target=fire)
firing.start()
try:
    begun.set()
    if way == "inference":
        layer(x, return_sequences=False)
    elif way == "forward":
        layer.forward(x)
    else:
        layer.backward(tape, y)
except KeyboardInterrupt:
    print("late" if time.perf_counter() - last[0] > 1 else "interrupted")
else:
    print("not interrupted")
for _ in range(signals + 1):  # what is fired after the call shall hit nothing else
    try:
        firing.join()
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        break
    except KeyboardInterrupt:
        pass
for was, now in zip(expected, step()):
    assert (was == now).all()
assert all((was == now).all() for was, now in zip(unharmed, (layer.flat_params, x)))
"""


@pytest.mark.parametrize("call", LONG_CALLS)
def test_ctrl_c_ends_a_long_inference(call):
    make, T, B = LONG_CALLS[call]
    assert run_python(SCRIPT, "inference", make, str(T), str(B), "1") == "interrupted\n"


@pytest.mark.parametrize("signals", [1, 3])
@pytest.mark.parametrize("way", ["forward", "backward"])
def test_ctrl_c_ends_a_long_training_step(way, signals):
    assert run_python(SCRIPT, way, "GRU(16, 1024)", "250", "64", str(signals)) == "interrupted\n"


def test_a_handler_that_does_not_raise_runs_during_the_call():
    heard = run_python(
        """
import os, signal, threading, time
import numpy as np
import fastrnn
layer = fastrnn.LSTM(16, 512, seed=0)
x = np.ones((400, 64, 16), np.float32)
expected = layer(x)[0]
heard = []
signal.signal(signal.SIGINT, lambda *_: heard.append(time.perf_counter()))
def fire():
    time.sleep(0.02)
    os.kill(os.getpid(), signal.SIGINT)
threading.Thread(target=fire).start()
y = layer(x)[0]
ended = time.perf_counter()
assert (y == expected).all()
print(len(heard), ended > heard[0])
"""
    )
    assert heard == "1 True\n"


@pytest.mark.skipif(platform.system() != "Linux", reason="limits the process's address space")
@pytest.mark.parametrize("way", ["inference", "forward", "backward"])
def test_memory_runs_out(way):
    """A MemoryError; then the same layer, tape and arrays go on as if nothing had been asked for."""
    printed = run_python(
        """
import sys
import numpy as np
import fastrnn
from tests.processes import limited_memory
way = sys.argv[1]
layer = fastrnn.LSTM(2, 2048, seed=0)
small = np.ones((3, 2, 2), np.float32)

def step(tape=None):
    y, _, fresh = layer.forward(small)
    return y, layer.backward(tape or fresh, y).flat

expected = step()
large, tape = np.zeros((3000, 16, 2), np.float32), layer.forward(small)[2]
try:
    with limited_memory(50 << 20):
        if way == "inference":
            layer(large)
        elif way == "forward":
            layer.forward(large)
        else:
            layer.backward(tape, expected[0])
except MemoryError:
    print("MemoryError")
for was, now in zip(expected, step(tape)):
    assert (was == now).all()
""",
        way,
    )
    assert printed == "MemoryError\n"
