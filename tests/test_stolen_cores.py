"""Threads that get no core: thread 0 goes on alone, with the same bits, and calls cost about a thread's time."""

import os

import pytest

from tests.processes import run_python

pytestmark = pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="binds threads to a core")

# All threads on one core: what one thread waits for at a barrier is the other's turn there.
ON_ONE_CORE = """
import importlib, os, time

import numpy as np

import fastrnn
from tests.cases import Case
from tests.checks import layer_results, make_layer

threads = importlib.import_module("fastrnn.kernels.cpu.threads")
CASES = {
    "the input product ahead": ("lstm", 200, 1, 256),
    "threads share hidden units": ("lstm_peephole", 60, 8, 256),
    "two phases, ahead": ("gru_reset_before", 200, 1, 256),
    "two phases": ("gru_reset_before", 60, 8, 256),
    "no carry of its own": ("gru_reset_after", 60, 8, 200),
    "threads own rows": ("rnn_tanh", 200, 64, 96),
}


def run():
    found = {}
    for name, (cell, T, B, H) in CASES.items():
        problem = Case(cell, T=T, B=B, I=H, H=H, dtype="float32", resets=True).problem()
        layer = make_layer(problem)
        layer_results(problem, layer)  # not timed: compiles
        begun = time.perf_counter()
        results = layer_results(problem, layer).named()
        found[name] = results, time.perf_counter() - begun
    return found


fastrnn.set_num_threads(1)
one = run()
fastrnn.set_num_threads(3)
free = run()
core = {min(os.sched_getaffinity(0))}
for task in os.listdir("/proc/self/task"):
    os.sched_setaffinity(int(task), core)
given_up = []
for name in CASES:
    threads._pool.boxes[threads._LAST // 8] = threads._pool.boxes[threads._UNTIL // 8] = 0
    cell, T, B, H = CASES[name]
    problem = Case(cell, T=T, B=B, I=H, H=H, dtype="float32", resets=True).problem()
    begun = time.perf_counter()
    bound = layer_results(problem, make_layer(problem)).named()
    seconds = time.perf_counter() - begun
    if threads._pool.boxes[threads._UNTIL // 8]:
        given_up.append(name)
    for field, expected in one[name][0].items():
        assert np.array_equal(expected, bound[field]) and np.array_equal(expected, free[name][0][field]), (name, field)
    print(f"{name}: {seconds / one[name][1]:.1f} times one thread's time")
# The barrier a step is what collapses; without one a call ends before there is anything to give up.
assert set(given_up) >= {name for name in CASES if name != "threads own rows"}, given_up
"""


def test_threads_on_one_core():
    print(run_python(ON_ONE_CORE, timeout=240))
