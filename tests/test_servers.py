"""In other people's servers and pools: forked workers, joblib, threads by environment variables; the same bits."""

from __future__ import annotations

import os

import pytest

from tests.processes import run_python

# What a worker computes, as a digest; ways of sharing work as in test_invariance. Scripts import it.
CELLS = (("lstm", 37), ("gru_reset_before", 5), ("rnn_tanh", 1), ("gru_reset_after", 12))


def digest(threads: int = 0) -> str:
    """Of everything that some layers compute, forward and backward; on so many threads, 0: as it is."""
    import hashlib

    import fastrnn
    from tests.cases import Case
    from tests.checks import layer_results, make_layer

    if threads:
        fastrnn.set_num_threads(threads)
    total = hashlib.sha256()
    for cell, B in CELLS:
        problem = Case(cell, T=5, B=B, I=60, H=260, dtype="float32").problem()
        layer = make_layer(problem)
        for name, array in layer_results(problem, layer).named().items():
            total.update(name.encode() + array.tobytes())
        total.update(layer.freeze()(problem.x)[0].tobytes())
    return total.hexdigest()


@pytest.fixture(scope="module")
def expected():
    """The digest of a process of its own."""
    return run_python("from tests.test_servers import digest; print(digest(1))", timeout=240).strip()


@pytest.mark.parametrize("threads", [2, 4])
def test_processes_agree_whatever_their_threads(threads, expected):
    script = f"from tests.test_servers import digest; print(digest({threads})); print(digest(1))"
    assert run_python(script, timeout=240).split() == [expected] * 2


PREFORK = """
import os, signal, socket, sys
import fastrnn
from tests.test_servers import digest

fastrnn.set_num_threads(2)
digest()  # the master warms up, as with gunicorn's preload_app
listening = socket.create_server(("127.0.0.1", 0))
workers = []
for _ in range(3):
    worker = os.fork()
    if worker == 0:
        signal.alarm(100)
        while True:
            connection, _ = listening.accept()
            with connection:
                while connection.recv(1):
                    connection.sendall(f"{os.getpid()} {digest()}\\n".encode())
    workers.append(worker)

# A connection a worker, all open at once; the master computes meanwhile.
answers = []
connections = [socket.create_connection(listening.getsockname(), timeout=60) for _ in workers]
for _ in range(2):
    for connection in connections:
        connection.sendall(b"?")
    answers.append(f"{os.getpid()} {digest()}")
    for connection in connections:
        answers.append(connection.makefile().readline().strip())
for worker in workers:
    os.kill(worker, signal.SIGTERM)
    _, status = os.waitpid(worker, 0)
    assert os.WTERMSIG(status) == signal.SIGTERM, status  # nothing of ours kept it from ending
print("\\n".join(answers))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_server_that_forks_its_workers(expected):
    answers = [line.split() for line in run_python(PREFORK, timeout=240).splitlines()]
    assert len({worker for worker, _ in answers}) == 4, "master and workers answer"
    assert {found for _, found in answers} == {expected}


JOBLIB = """
import sys
import fastrnn
from joblib import Parallel, delayed
from tests.test_servers import digest

fastrnn.set_num_threads(2)
found = [digest()] + Parallel(n_jobs=3, backend=sys.argv[1])(delayed(digest)() for _ in range(6)) + [digest()]
print("\\n".join(found))
"""


@pytest.mark.parametrize("backend", ["loky", "threading", "multiprocessing"])
def test_joblib(backend, expected):
    pytest.importorskip("joblib")
    assert run_python(JOBLIB, backend, timeout=240).split() == [expected] * 8


THREADS = "import fastrnn; print(fastrnn.get_num_threads())"


def test_thread_variables():
    """Numba's is a limit: the kernels are Numba's, and joblib sets it for workers. OpenMP's is not: there is none."""
    without = dict.fromkeys(("NUMBA_NUM_THREADS", "OMP_NUM_THREADS"), "")
    cores = int(run_python(THREADS, **without))
    assert int(run_python(THREADS, **without | {"OMP_NUM_THREADS": "1"})) == cores
    assert int(run_python(THREADS, **without | {"NUMBA_NUM_THREADS": "1"})) == 1
    for useless in ("1000", "many"):  # Numba itself refuses 0 and less
        assert int(run_python(THREADS, **without | {"NUMBA_NUM_THREADS": useless})) == cores
    more = f"import fastrnn; fastrnn.set_num_threads({cores + 2}); print(fastrnn.get_num_threads())"
    assert int(run_python(more, **without | {"NUMBA_NUM_THREADS": "1"})) == cores + 2
