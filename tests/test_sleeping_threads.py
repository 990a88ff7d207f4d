"""Calls after a pause, when the kernels' other threads sleep: short ones do without, long ones wake them elsewhere."""

import os
import sys

import pytest

from tests.processes import run_python

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or len(os.sched_getaffinity(0)) < 2, reason="about two cores, as Linux has them"
)

_START = """
import importlib, os, statistics, time

import numpy as np

import fastrnn

threads = importlib.import_module("fastrnn.kernels.cpu.threads")
fastrnn.set_num_threads(2)
short = fastrnn.GRU(256, 256, seed=0).freeze(), np.ones((1, 1, 256), np.float32)
long = fastrnn.LSTM(256, 256, seed=0).freeze(), np.ones((20, 1, 256), np.float32)


def call(kind):
    layer, x = kind
    return layer(x)[0]


want = [call(kind) for kind in (short, long)]
box = threads._FIRST // 8


def word(name):
    return int(threads._pool.boxes[box + getattr(threads, name) // 8])


def fall_asleep():
    for _ in range(1000):
        time.sleep(0.005)
        if word("_PARKED"):
            return
    raise AssertionError("a worker without work does not sleep")


def same():
    return all((call(kind) == before).all() for kind, before in zip((short, long), want))


worker = threads._pool.workers[0].native_id
cores = os.sched_getaffinity(worker)
"""


def test_a_short_call_wakes_nobody():
    run_python(
        _START
        + """
for _ in range(20):
    fall_asleep()
    jobs = word("_SEQUENCE")
    call(short)
    assert word("_SEQUENCE") == jobs and word("_PARKED")
assert same()
"""
    )


def test_short_calls_that_follow_each_other_wake_them():
    run_python(
        _START
        + """
fall_asleep()
jobs = word("_SEQUENCE")
for _ in range(2000):
    call(short)
assert word("_SEQUENCE") > jobs + 100, word("_SEQUENCE") - jobs
assert same()
"""
    )


def test_a_long_call_wakes_them_and_leaves_them_all_their_cores():
    run_python(
        _START
        + """
woken = 0
for _ in range(50):
    fall_asleep()
    jobs = word("_SEQUENCE")
    call(long)
    woken += word("_SEQUENCE") > jobs  # not while jobs run on one thread, as the others lately had no core
    fall_asleep()
    assert os.sched_getaffinity(worker) == cores
assert woken > 5 and same() and os.sched_getaffinity(0) == cores, woken
"""
    )


def test_a_worker_that_may_use_one_core_keeps_it():
    """The caller's own core too: it stays the only one."""
    run_python(
        _START
        + """
for core in sorted(cores)[:2]:
    os.sched_setaffinity(worker, {core})
    for _ in range(20):
        fall_asleep()
        call(long)
        assert os.sched_getaffinity(worker) == {core}
assert same()
"""
    )


def test_calls_after_pauses_take_no_longer_than_on_one_thread():
    """Woken behind the thread that waits for them, they took 6 to 30 times as long, on two virtual cores."""
    printed = run_python(
        _START
        + """
def median(kind, n):
    fastrnn.set_num_threads(n)
    times = []
    for _ in range(40):
        time.sleep(0.002)
        begun = time.perf_counter()
        call(kind)
        times.append(time.perf_counter() - begun)
    return statistics.median(times)


for kind in (short, long):
    # A busy machine slows both, but not at the same time: the least of some rounds.
    print(min(median(kind, 2) / median(kind, 1) for _ in range(5)))
"""
    )
    assert all(float(line) < 3 for line in printed.split()), printed
