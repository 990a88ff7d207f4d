"""fastrnn.torch on PyTorch's own threads: the same bits with them and without, wherever and however it is called."""

from __future__ import annotations

import ctypes
import os
import sys
import threading

import pytest

torch = pytest.importorskip("torch", reason="fastrnn.torch needs PyTorch")

import fastrnn.torch  # noqa: E402
from fastrnn import network  # noqa: E402
from fastrnn.backend import load  # noqa: E402
from fastrnn.torch import autograd, openmp  # noqa: E402
from tests.processes import run_python  # noqa: E402

needs_team = pytest.mark.skipif(openmp._team() is None, reason="PyTorch's OpenMP runtime lends no team here")
SHAPES = [(9, 1, 200), (7, 16, 160)]  # shared by hidden units, ahead and not
T, B, H = SHAPES[1]


@pytest.fixture(autouse=True)
def two_threads_each():
    ours, theirs = fastrnn.get_num_threads(), torch.get_num_threads()
    fastrnn.set_num_threads(2), torch.set_num_threads(2)
    yield
    fastrnn.torch.set_shared_threads(True)
    fastrnn.set_num_threads(ours), torch.set_num_threads(theirs)


def module(cell="GRU", hidden=H):
    torch.manual_seed(1)
    return getattr(fastrnn.torch, cell)(hidden, hidden, 2)


def step(model, shape=(T, B, H)):
    """Outputs and all gradients of a training step, and inference, after an operation that PyTorch's threads share."""
    x = torch.linspace(-1, 1, torch.Size(shape).numel()).reshape(shape).requires_grad_()
    torch.ones(200_000).add(1)
    y, _ = model(x)
    gradients = torch.autograd.grad(y.square().sum(), [x, *model.parameters()])
    with torch.no_grad():
        return [y.detach(), *gradients, model(x)[0]]


def same(found, expected):
    return all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def without_team(*arguments):
    fastrnn.torch.set_shared_threads(False)
    try:
        return step(*arguments)
    finally:
        fastrnn.torch.set_shared_threads(True)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("cell", ["GRU", "LSTM"])
def test_the_same_bits_with_any_team(cell, shape):
    model = module(cell, shape[2])
    expected = without_team(model, shape)
    for theirs in (2, 1, 3, 2):
        torch.set_num_threads(theirs)
        for ours in (2, 1, 3):
            fastrnn.set_num_threads(ours)
            assert same(step(model, shape), expected)


def test_only_booleans():
    with pytest.raises(TypeError, match="enabled must be True or False, got 1"):
        fastrnn.torch.set_shared_threads(1)


@needs_team
def test_kernels_run_on_the_team(monkeypatch):
    """The runtime's function is called for each job, and not with one thread or when turned off."""
    cpu, calls = load("cpu"), []
    library = ctypes.CDLL(None)
    member = ctypes.CFUNCTYPE(None, ctypes.c_int64)
    kind = ctypes.CFUNCTYPE(None, member, ctypes.c_int64, ctypes.c_int, ctypes.c_int)

    @kind
    def parallel(function, data, threads, flags):
        calls.append(threads)
        library.GOMP_parallel(function, ctypes.c_int64(data), threads, flags)

    address = lambda function: ctypes.cast(function, ctypes.c_void_p).value  # noqa: E731
    team = cpu.Team(address(parallel), address(library.omp_get_thread_num), address(library.omp_get_num_threads))
    monkeypatch.setattr(openmp, "_team", lambda: team)
    model = module()
    step(model)
    assert calls and set(calls) == {0}  # a team as large as PyTorch's own
    calls.clear()
    without_team(model)
    torch.set_num_threads(1)
    step(model)
    assert not calls


def test_a_runtime_that_lends_nothing(monkeypatch):
    expected = step(module())
    monkeypatch.setattr(openmp, "_team", lambda: None)
    assert same(step(module()), expected)


def test_backward_runs_on_the_calling_thread(monkeypatch):
    """Else a team of another thread's would be made for it."""
    seen = []

    class Watched:
        train, infer = network.train, network.infer

        @staticmethod
        def backward(*arguments):
            seen.append(threading.get_ident())
            return network.backward(*arguments)

    monkeypatch.setattr(autograd, "network", Watched)
    step(module())
    assert seen == [threading.get_ident()]


@needs_team
def test_several_python_threads():
    # Made in turn: PyTorch's generator of initial values is one for all threads.
    models, wrong = [module() for _ in range(4)], []
    expected = step(models[0])

    def work(model):
        wrong.extend(1 for _ in range(20) if not same(step(model), expected))

    workers = [threading.Thread(target=work, args=(model,)) for model in models]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert not wrong and not any(worker.is_alive() for worker in workers)


@needs_team
def test_inside_a_parallel_region():
    """There a team of the calling thread's has one member."""
    models = [module() for _ in range(2)]  # made in turn: PyTorch's generator of initial values is one for all threads
    expected, found = step(models[0]), []

    @ctypes.CFUNCTYPE(None, ctypes.c_void_p)
    def region(_):
        found.append(step(models.pop()))

    ctypes.CDLL(None).GOMP_parallel(region, None, 2, 0)
    assert len(found) == 2 and all(same(f, expected) for f in found)


@needs_team
def test_a_long_call_runs_on_our_workers_and_can_be_interrupted(monkeypatch):
    """It is made by another thread: PyTorch's team rests meanwhile."""
    from fastrnn.kernels.cpu import arguments, interrupts

    expected = step(module())
    monkeypatch.setattr(arguments, "LONG", 0.0)
    handed_over, run = [], interrupts.run_interruptibly
    monkeypatch.setattr("fastrnn.kernels.cpu.layer.run_interruptibly", lambda *a: (handed_over.append(1), run(*a)))
    model = fastrnn.torch.GRU(H, H, 2)  # a run of these sizes is kept, with what is long: another T
    model.load_state_dict(module().state_dict())
    step(model, (T + 4, B, H))
    assert handed_over
    monkeypatch.undo()
    assert same(step(model), expected)


_FORKING = """
import os, sys, time
import torch
torch.set_num_threads(2)
torch.ones(1_000_000).add(1).sum()
{before}
child = os.fork()
if child == 0:
    import fastrnn, fastrnn.torch
    fastrnn.set_num_threads(2)
    model = fastrnn.torch.GRU(160, 160)
    x = torch.ones(7, 16, 160)
    y, _ = model(x)
    y.backward(x)
    os._exit(0 if y.isfinite().all() else 3)
for _ in range(600):
    done, status = os.waitpid(child, os.WNOHANG)
    if done:
        break
    time.sleep(0.1)
else:
    os.kill(child, 9)
print(os.waitstatus_to_exitcode(status) if done else "hung")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.parametrize("before", ["", "import fastrnn.torch; fastrnn.torch.GRU(160, 160)(torch.ones(7, 16, 160))"])
def test_a_forked_child_leaves_its_parents_team_alone(before):
    """GNU's runtime would wait for its threads for ever."""
    assert run_python(_FORKING.format(before=before)).strip() == "0"


_DIGEST = """
import hashlib, tests.test_torch_threads as t
print(hashlib.sha256(b"".join(a.numpy().tobytes() for a in t.step(t.module()))).hexdigest())
"""


@pytest.mark.parametrize(
    "setting", [{"OMP_THREAD_LIMIT": "1"}, {"OMP_NUM_THREADS": "3"}, {"OMP_WAIT_POLICY": "passive"}]
)
def test_settings_of_the_runtime(setting):
    assert run_python(_DIGEST, **setting) == run_python(_DIGEST)


@pytest.mark.skipif(sys.platform != "linux", reason="as Linux tells")
def test_a_process_that_is_no_copy():
    assert run_python("from fastrnn.torch import openmp; print(openmp._whole_process())").strip() == "True"
