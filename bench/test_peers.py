"""The rivals' adapters compute what they claim. Those for the GPU are tried on the CPU as far as they can be."""

from __future__ import annotations

import numpy as np
import pytest

from bench.cases import CELLS, Case, cases_for
from bench.checks import reference_outputs
from bench.contender import Contender
from bench.devices import WallTimer
from bench.peers import REGISTRY, select
from bench.peers.base import Peer, UnsupportedError
from bench.peers.cupy_loop import CupyLoop


def reference_file(case, folder):
    path = folder / "reference.npz"
    np.savez(path, **reference_outputs(case))
    return str(path)


def reports(contender, cell, folder, modes=("forward", "training", "step"), **options):
    for case in cases_for([cell], [(4, 3, 5, 8)], modes=modes, **options):
        for report in contender.prepare(case.to_json(), reference_file(case, folder)).values():
            yield case, report


# Numba compiles mygrad's one layer for half a minute
INSTALLED = [
    pytest.param(name, marks=[pytest.mark.slow] * (name == "mygrad")) for name in select("auto") if name != "numpy"
]


@pytest.mark.parametrize("peer", INSTALLED)
@pytest.mark.parametrize("cell", CELLS)
def test_every_installed_rival_computes_every_cell_it_claims(peer, cell, tmp_path):
    contender = Contender(REGISTRY[peer].target, threads=1)
    for _, report in reports(contender, cell, tmp_path):
        assert report["status"] in ("ready", "unsupported"), report
        if report["status"] == "ready":
            assert report["error"] < 1e-5


class OnNumpy(CupyLoop):
    """The adapter for CuPy with NumPy's functions and the host's clock."""

    devices = ("cpu",)

    def _array_module(self):
        return np

    def _timer(self):
        return WallTimer()

    def memory(self):
        return Peer.memory(self)

    def versions(self):
        return {"numpy": np.__version__}


@pytest.mark.parametrize("cell", CELLS)
def test_the_loop_for_cupy_computes_every_cell(cell, tmp_path):
    contender = Contender(f"{__name__}:OnNumpy", threads=1)
    for _, report in reports(contender, cell, tmp_path, dtypes=("float64",)):
        assert report["status"] == "ready", report
        assert report["error"] < 1e-12


def test_a_dtype_without_products_is_unsupported():
    with pytest.raises(UnsupportedError, match="no product of"):
        OnNumpy(1, "cpu")._must_multiply(np.array([["a"]]))


def test_torch_takes_a_precision_per_variant_on_the_gpu(monkeypatch):
    torch = pytest.importorskip("torch")
    pytest.importorskip("ml_dtypes")
    from bench.peers import pytorch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(pytorch, "torch_timer", WallTimer)
    on_gpu = pytorch.PyTorch(1, "cuda")
    on_gpu.device = torch.device("cpu").type  # the arrays stay here
    float32, bfloat16 = (Case("lstm", 4, 3, 5, 8, dtype=dtype, device="cuda") for dtype in ("float32", "bfloat16"))
    assert on_gpu.variants_of(float32) == ("fp32", "tf32")
    assert on_gpu.variants_of(bfloat16) == ("bf16",)
    assert on_gpu.program(float32, "tf32").precision == "tf32"
    assert on_gpu.program(float32, "fp32").precision is None
    program = on_gpu.program(bfloat16, "bf16")
    outputs = program.outputs(program.run())
    assert outputs["y"].dtype == np.float32
    assert np.abs(outputs["y"] - reference_outputs(bfloat16)["y"]).max() < 0.02


def test_a_library_without_a_gpu_build_says_so(monkeypatch):
    torch = pytest.importorskip("torch")
    from bench.peers.pytorch import PyTorch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UnsupportedError, match="finds no CUDA device"):
        PyTorch(1, "cuda")
    with pytest.raises(UnsupportedError, match="numpy does not run on cuda"):
        Contender(REGISTRY["numpy"].target, threads=1, device="cuda")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_compiled_step_of_torch(tmp_path):
    pytest.importorskip("torch")
    contender = Contender(REGISTRY["torch-compile"].target, threads=1)
    ((_, report),) = reports(contender, "rnn_sigmoid", tmp_path, modes=("forward",))
    assert report["status"] == "ready", report
    assert report["error"] < 1e-5
