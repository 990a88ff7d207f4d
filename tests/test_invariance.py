"""Bitwise the same: for any number of threads, for a row in any company, with other callers, in child processes."""

from __future__ import annotations

import multiprocessing
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import fastrnn
from tests.cases import DTYPES, LAYERS, Case
from tests.checks import as_public, as_tuple, layer_results, make_layer
from tests.processes import run_python

WHOLE = {"num_layers": 2, "bidirectional": True, "ragged": True, "resets": True}


def bits(problem, layer):
    """Everything that a layer computes for a problem, as bytes by name."""
    arrays = layer_results(problem, layer).named()
    state = as_public(problem.state)
    y, final = layer(problem.x, state, lengths=problem.lengths, resets=problem.resets)
    arrays |= {"inference": y} | {f"inference state[{k}]": s for k, s in enumerate(as_tuple(final))}
    return {name: array.tobytes() for name, array in arrays.items()}


# Shapes for each way of sharing the work: rows of the batch, hidden units, hidden units with the input product of many
# steps taken ahead, and steps too small to share.
SHARED = {
    "rows": {"T": 5, "B": 37, "I": 60, "H": 80},
    "units": {"T": 5, "B": 5, "I": 60, "H": 260},
    "ahead": {"T": 70, "B": 2, "I": 60, "H": 260},
    "single": {"T": 9, "B": 4, "I": 5, "H": 17},
}


@pytest.mark.parametrize("way", SHARED)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cell", LAYERS)
def test_any_number_of_threads(cell, dtype, way, set_threads):
    for structure in ({}, WHOLE):
        case = Case(cell, dtype=dtype, **SHARED[way], **structure)
        problem = case.problem()
        layer = make_layer(problem)
        set_threads(3)
        part = fastrnn.explain(layer, case.T, case.B, training=True).parts[0]
        assert part.kernel == way, f"the case is named for {way}, and runs as {part.kernel}"
        assert (part.threads > 1) == (way != "single")
        set_threads(1)
        want = bits(problem, layer)
        for n in (2, 3, 4, 13):
            set_threads(n)
            got = bits(problem, layer)
            assert [name for name in want if got[name] != want[name]] == [], f"with {n} threads"


@pytest.mark.parametrize("H", [17, 80, 130])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cell", LAYERS)
def test_a_row_in_any_batch(cell, dtype, H):
    """Row 0 alone, and in batches of 2 to 13: outputs, states and gradients of x and state."""
    problem = Case(cell, T=4, B=13, H=H, dtype=dtype, num_layers=2, bidirectional=True).problem()
    layer = make_layer(problem)

    def first_row(B):
        state, dstate = (as_public([s[:, :B] for s in states]) for states in (problem.state, problem.dstate))
        y, final, tape = layer.forward(problem.x[:, :B], state)
        grads = layer.backward(tape, problem.dy[:, :B], dstate)
        y_inferred, _ = layer(problem.x[:, :B], state)
        states = [*as_tuple(final), *as_tuple(grads.state)]
        return [y[:, 0], y_inferred[:, 0], grads.x[:, 0], *(s[:, 0] for s in states)]

    alone = first_row(1)
    for B in range(2, 14):
        for mine, theirs in zip(first_row(B), alone, strict=True):
            np.testing.assert_array_equal(mine, theirs, err_msg=f"in a batch of {B}")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cell", LAYERS)
def test_a_row_in_any_ragged_batch(cell, dtype):
    """Each row of a ragged batch, also sorted and reversed, is what it is alone."""
    problem = Case(cell, T=7, B=9, H=40, dtype=dtype, **WHOLE).problem()
    layer = make_layer(problem)
    shortest_first = np.argsort(problem.lengths, kind="stable")

    def rows(order):
        state, dstate = (as_public([s[:, order] for s in states]) for states in (problem.state, problem.dstate))
        options = {"lengths": problem.lengths[order], "resets": problem.resets[:, order]}
        y, final, tape = layer.forward(problem.x[:, order], state, **options)
        grads = layer.backward(tape, problem.dy[:, order], dstate)
        per_row = [y, grads.x, *as_tuple(final), *as_tuple(grads.state)]
        return {row: [a[:, k] for a in per_row] for k, row in enumerate(order)}

    together = rows(np.arange(9))
    for order in (shortest_first, shortest_first[::-1], *([row] for row in range(9))):
        for row, arrays in rows(np.asarray(order)).items():
            for mine, theirs in zip(arrays, together[row], strict=True):
                np.testing.assert_array_equal(mine, theirs, err_msg=f"row {row} in the order {order}")


@pytest.mark.parametrize("B", [1, 7])
@pytest.mark.parametrize("cell", LAYERS)
def test_pieces_of_a_sequence(cell, B):
    """Inference in two calls, the state handed over, is the one call: T is no part of the arithmetic either."""
    problem = Case(cell, T=11, B=B, H=33, num_layers=2, dtype="float32").problem()
    layer = make_layer(problem)
    y, final = layer(problem.x, as_public(problem.state))
    first, state = layer(problem.x[:4], as_public(problem.state))
    second, last = layer(problem.x[4:], state)
    np.testing.assert_array_equal(np.concatenate([first, second]), y)
    np.testing.assert_array_equal(as_tuple(last), as_tuple(final))


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("threads", [1, 3])
def test_concurrent_callers(threads, frozen, set_threads):
    """Eight Python threads on one shared layer and on layers of their own get what one caller gets."""
    shapes = list(SHARED.values())
    cases = [Case(cell, dtype="float32", **shapes[k % len(shapes)]) for k, cell in enumerate(LAYERS)]
    problems = [case.problem() for case in cases]
    layers = [make_layer(problem) for problem in problems]
    inputs = [problems[0], *(cases[0].problem(seed) for seed in range(1, 8))]
    if frozen:
        for layer in layers:
            layer.freeze()
    set_threads(threads)
    work = [(problem, layers[0]) for problem in inputs] + list(zip(problems, layers, strict=True))
    want = [bits(*item) for item in work]
    barrier = threading.Barrier(8)

    def caller(start):
        barrier.wait()
        wrong = []
        for k in range(3 * len(work)):
            index = (start + k) % len(work)
            got = bits(*work[index])
            wrong += [(index, name) for name in got if got[name] != want[index][name]]
        return wrong

    with ThreadPoolExecutor(8) as pool:
        for wrong in pool.map(caller, range(0, 8 * 2, 2)):
            assert not wrong


def test_the_thread_count_may_change_under_way(set_threads):
    """One caller computes while another keeps setting the number of threads."""
    problem = Case("lstm", dtype="float32", **SHARED["units"]).problem()
    layer = make_layer(problem)
    want = bits(problem, layer)
    done = threading.Event()

    def restless():
        n = 0
        while not done.is_set():
            n = n % 5 + 1
            fastrnn.set_num_threads(n)

    other = threading.Thread(target=restless)
    other.start()
    try:
        for _ in range(30):
            assert bits(problem, layer) == want
    finally:
        done.set()
        other.join()


CHILDREN = """
import hashlib
import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor

import fastrnn
from tests.cases import Case
from tests.checks import layer_results, make_layer


def digest(_):
    fastrnn.set_num_threads(2)
    total = hashlib.sha256()
    for cell, B in (("lstm", 37), ("gru_reset_before", 5), ("rnn_tanh", 1)):
        problem = Case(cell, T=5, B=B, I=60, H=260, dtype="float32").problem()
        for name, array in layer_results(problem, make_layer(problem)).named().items():
            total.update(name.encode() + array.tobytes())
    return total.hexdigest()


if __name__ == "__main__":
    here = digest(0)
    with ProcessPoolExecutor(3, multiprocessing.get_context(sys.argv[1])) as pool:
        there = list(pool.map(digest, range(6)))
    assert there == [here] * 6, (here, there)
    assert digest(0) == here
"""


@pytest.mark.parametrize(
    "method", sorted({"fork", "spawn", "forkserver"} & set(multiprocessing.get_all_start_methods()))
)
def test_child_processes(method, tmp_path):
    """Children of a process that has used its threads compute the same bits."""
    script = tmp_path / "children.py"
    script.write_text(CHILDREN)
    run_python(str(script), method, timeout=240)


FORK_UNDER_LOAD = """
import os
import signal
import threading

import numpy as np

import fastrnn
from tests.cases import Case
from tests.checks import layer_results, make_layer

fastrnn.set_num_threads(3)
problem = Case("lstm", T=5, B=5, I=60, H=260, dtype="float32").problem()
layer = make_layer(problem)
want = layer_results(problem, layer).named()


def same():
    got = layer_results(problem, layer).named()
    return all(np.array_equal(got[name], want[name]) for name in want)


busy = True


def load():
    while busy:
        assert same()


callers = [threading.Thread(target=load) for _ in range(2)]
for caller in callers:
    caller.start()
for _ in range(20):
    child = os.fork()
    if child == 0:
        signal.alarm(30)  # a child that hangs is killed, and shows in its status
        os._exit(0 if same() and same() else 1)
    _, status = os.waitpid(child, 0)
    assert status == 0, status
busy = False
for caller in callers:
    caller.join()
assert same()
"""


@pytest.mark.skipif(
    not hasattr(multiprocessing, "get_context") or "fork" not in multiprocessing.get_all_start_methods(),
    reason="this system cannot fork",
)
def test_forking_while_other_threads_compute():
    run_python(FORK_UNDER_LOAD, timeout=240)


@pytest.mark.parametrize(
    "ending",
    ["", "import sys; sys.exit(0)", "threading.Thread(target=forever, daemon=True).start(); time.sleep(0.2)"],
    ids=["plain", "exit", "daemon thread still computing"],
)
def test_the_interpreter_ends(ending):
    """Workers neither keep a finished process alive nor crash it on the way out."""
    script = f"""
import threading, time
import numpy as np
import fastrnn
fastrnn.set_num_threads(4)
layer = fastrnn.LSTM(60, 260)
x = np.ones((50, 5, 60), np.float32)

def forever():
    while True:
        layer(x)

layer(x)
{ending}
"""
    for _ in range(3):
        run_python(script, timeout=60)


def test_first_calls_from_many_threads_at_once():
    """A fresh process whose first calls come together: loading or compiling kernels is safe."""
    run_python(
        """
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from tests.cases import Case
from tests.checks import layer_results, make_layer

problems = [Case(cell, dtype="float32").problem() for cell in ("lstm", "gru_reset_after") * 4]
barrier = threading.Barrier(8)

def first(problem):
    barrier.wait()
    return layer_results(problem, make_layer(problem)).named()

with ThreadPoolExecutor(8) as pool:
    results = list(pool.map(first, problems))
for k, named in enumerate(results):
    for name, array in named.items():
        assert np.array_equal(array, results[k % 2][name]), (k, name)
""",
        timeout=300,
    )
