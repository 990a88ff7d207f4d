"""Many Python threads at once: the bits that one caller gets, and no less throughput."""

from __future__ import annotations

import statistics
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.cases import Case
from tests.checks import layer_results, make_layer
from tests.processes import run_python

CALLERS = 8
# Brief calls, which keep the GIL, and long ones, which do not; sharing rows, hidden units, and alone.
CASES = (
    Case("lstm", T=3, B=1, I=8, H=24, dtype="float32"),
    Case("gru_reset_before", T=40, B=2, I=60, H=260, dtype="float32"),
    Case("rnn_tanh", T=60, B=37, I=60, H=128, dtype="float32", ragged=True, resets=True),
    Case("gru_reset_after", T=30, B=8, I=64, H=256, dtype="float32", num_layers=2),
    Case("lstm_peephole", T=9, B=5, I=20, H=33, dtype="float64", bidirectional=True),
)


def works() -> list[Callable[[], list[bytes]]]:
    """Calls, and what each gives: forward and backward, inference, and a stream, on layers that all callers share."""
    found: list[Callable[[], list[bytes]]] = []
    for case in CASES:
        problem = case.problem()
        layer, frozen = make_layer(problem), make_layer(problem).freeze()

        def training(problem=problem, layer=layer):
            return [array.tobytes() for array in layer_results(problem, layer).named().values()]

        def inference(problem=problem, layer=frozen):
            return [layer(problem.x, lengths=problem.lengths, resets=problem.resets)[0].tobytes()]

        def streamed(problem=problem, layer=frozen):
            stream = layer.stream(problem.case.B)
            return [stream(x_t).tobytes() for x_t in problem.x]

        found += [training, inference] + [streamed] * (not case.bidirectional)
    return found


def all_at_once(rounds: int) -> int:
    """Eight threads go through all works so many times, each from another start; returns how many calls were made."""
    calls = works()
    expected = [call() for call in calls]
    ready = threading.Barrier(CALLERS)

    def caller(start: int) -> list[int]:
        ready.wait()
        order = [(start + k) % len(calls) for k in range(rounds * len(calls))]
        return [index for index in order if calls[index]() != expected[index]]

    with ThreadPoolExecutor(CALLERS) as pool:
        wrong = list(pool.map(caller, range(CALLERS)))
    assert wrong == [[]] * CALLERS
    return CALLERS * rounds * len(calls)


def test_eight_callers_get_the_bits_of_one(set_threads):
    set_threads(2)
    assert all_at_once(3) == 336


@pytest.mark.long
@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("interval", [1e-5, 5e-3], ids=["hasty", "usual"])
def test_thousands_of_calls(threads, interval, set_threads):
    """Also where Python hands the GIL over five hundred times as often as it does by itself."""
    set_threads(threads)
    before = sys.getswitchinterval()
    sys.setswitchinterval(interval)
    try:
        assert all_at_once(60) == 6720
    finally:
        sys.setswitchinterval(before)


@pytest.mark.long
@pytest.mark.parametrize("mode", ["inference", "training", "stream"])
@pytest.mark.parametrize("shape", [(20, 1, 32, 32), (20, 1, 256, 256), (20, 8, 128, 128), (100, 32, 256, 256)], ids=str)
def test_throughput_of_eight_callers(shape, mode):
    """At least 0.9 of the same calls in turn; a measurement, for a machine that does nothing else."""
    pytest.importorskip("rich", reason="the benchmarks' terminal")
    from bench import cases
    from bench.callers import compared, programs

    _, ratios = compared(programs(cases.Case("lstm", *shape), mode, CALLERS), rounds=9, seconds=0.15)
    assert statistics.median(ratios) >= 0.9, sorted(ratios)


def test_a_call_that_keeps_the_gil_waits_for_no_worker_without_it():
    """Threads of the kernels that are slow to start: the first brief call would wait for them with the GIL for ever."""
    run_python("""
import threading, time
import numpy as np
import fastrnn
from fastrnn.kernels.cpu import threads

class Slow(threading.Thread):
    def run(self):
        time.sleep(0.3)
        super().run()

layer, x = fastrnn.LSTM(64, 256, seed=0).freeze(), np.ones((2, 4, 64), np.float32)
fastrnn.set_num_threads(1)
want = layer(x)[0]
threading.Thread = Slow  # of the workers alone: the packed weights are there
fastrnn.set_num_threads(2)
begun = time.perf_counter()
assert (layer(x)[0] == want).all()
assert time.perf_counter() - begun > 0.3 and len(threads._pool.workers) == 1
""")


def test_a_ctrl_c_while_a_worker_starts():
    """The next call starts the worker again; only one of the two takes jobs, whichever comes first."""
    run_python("""
import threading, time
import numpy as np
import fastrnn
from fastrnn.kernels.cpu import threads

made = []

class Interrupted(threading.Thread):
    def start(self):
        super().start()
        made.append(self)
        if len(made) == 1:
            raise KeyboardInterrupt

layer, x = fastrnn.LSTM(64, 256, seed=0).freeze(), np.ones((50, 8, 64), np.float32)
fastrnn.set_num_threads(1)
want = layer(x)[0]
threading.Thread = Interrupted  # of the workers alone: the packed weights are there
fastrnn.set_num_threads(2)
try:
    layer(x)
    raise AssertionError("not interrupted")
except KeyboardInterrupt:
    pass
for _ in range(200):
    assert (layer(x)[0] == want).all()
assert len(made) == 2 and len(threads._pool.workers) == 1 and sum(thread.is_alive() for thread in made) == 1
""")
