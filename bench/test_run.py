"""A whole run on both devices, the GPU invented: its processes, its limits, and what the file says afterwards."""

from __future__ import annotations

import json
import time

import pytest

from bench import devices
from bench.cases import cases_for
from bench.compare import changes, comparison_table, drift
from bench.crossover import answers
from bench.devices import EventTimer
from bench.limits import Limits
from bench.limits_cuda import measure
from bench.measure import Budget
from bench.peers import OURS, REGISTRY, Entry
from bench.peers.base import Memory, Peer, UnsupportedError
from bench.peers.numpy_reference import NumpyReference
from bench.report import write_report
from bench.results import load, save
from bench.run import Plan, execute
from bench.test_devices import FakeDriver, FakeEvent, FakeGpu

SHAPES = [(4, 2, 5, 8), (4, 3, 5, 8)]
BOTH = ("cpu", "cuda")


class FakeMemory:
    """Every variant holds 5 MiB."""

    def release(self):
        pass

    def reset(self):
        pass

    def peak(self):
        return 5 << 20


class OnBoth(NumpyReference):
    """NumPy as a GPU that is slower by half a millisecond, which its events see; also ours here."""

    name = "fastrnn"
    devices = BOTH

    def memory(self) -> Memory:
        return FakeMemory() if self.device == "cuda" else Peer.memory(self)

    def program(self, case, variant):
        program = super().program(case, variant)
        if case.device == "cuda":
            run = program.run
            program.run = lambda: (time.sleep(5e-4), run())[1]
            program.timer = EventTimer(FakeEvent, lambda start, end: 1e3 * (end.at - start.at))
        return program


class NoKernelsYet(OnBoth):
    """Ours as long as it has nothing for the GPU."""

    def program(self, case, variant):
        if case.device == "cuda":
            raise UnsupportedError("no CUDA kernels yet")
        return super().program(case, variant)


class Precise(OnBoth):
    """A rival with two precisions on the GPU."""

    name = "torch"

    def variants_of(self, case):
        return ("fp32", "tf32") if case.device == "cuda" else ("",)

    def program(self, case, variant):
        program = super().program(case, variant)
        program.precision = "tf32" if variant == "tf32" else None
        return program


class NoBackend(OnBoth):
    """A library that was built without CUDA."""

    name = "jax"

    def __init__(self, threads, device="cpu"):
        super().__init__(threads, device)
        if device == "cuda":
            raise UnsupportedError("no cuda backend")


class GpuLimits:
    def measure(self, threads):
        return {"threads": threads} | measure(FakeGpu())


class FewLimits(Limits):
    """The CPU's limits without measuring: a run needs some."""

    def measure(self, threads):
        rates = {"L1": 1e12, "L2": 5e11, "L3": 2e11, "DRAM": 5e10}
        return {
            "threads": threads,
            "flops": {"float32": 1e12, "float64": 5e11},
            "bytes": rates,
            "cache": {"L1": 1 << 15, "L2": 1 << 20, "L3": 1 << 25},
        }


class Said(list):
    """A progress that keeps what is said."""

    def begin(self, what, effort):
        pass

    def advance(self, effort):
        pass

    def say(self, line):
        self.append(line)


@pytest.fixture
def run(monkeypatch):
    """Carries out a run with ``ours`` in fastrnn's place; returns the results and what was said."""
    here = __name__
    monkeypatch.setitem(REGISTRY, "torch", Entry(f"{here}:Precise", (), BOTH))
    monkeypatch.setitem(REGISTRY, "jax", Entry(f"{here}:NoBackend", (), BOTH))
    monkeypatch.setitem(devices.LIMITS, "cuda", f"{here}:GpuLimits")
    monkeypatch.setitem(devices.LIMITS, "cpu", f"{here}:FewLimits")
    monkeypatch.setattr("bench.run.compile_kernels", lambda *arguments: {})
    describe = devices.describe
    monkeypatch.setattr("bench.machine.devices.describe", lambda device: describe(device, FakeDriver))

    def carry_out(ours):
        monkeypatch.setitem(REGISTRY, OURS, Entry(f"{here}:{ours.__name__}", (), BOTH))
        cases = list(cases_for(["lstm"], SHAPES, modes=["forward"], devices=BOTH))
        alone = frozenset(cases_for(["lstm"], SHAPES[1:], modes=["forward"], devices=BOTH))
        plan = Plan(cases, ("torch", "jax"), (1,), Budget(rounds=2, block_s=0.002, close=0), alone=alone)
        said = Said()
        return execute(plan, said, keep=lambda results: None), said

    return carry_out


def test_a_run_on_both_devices(run, tmp_path):
    results, said = run(OnBoth)
    assert results["complete"]
    assert set(results["limits"]) == {"1", "cuda"}
    assert results["machine"]["devices"]["cuda"]["name"] == "Fake GPU"
    assert set(results["contenders"]) == {"fastrnn", "torch", "jax", "fastrnn (cuda)", "torch (cuda)"}
    assert [line for line in said if "jax is left out on cuda" in line and "no cuda backend" in line]
    on_gpu = {row["case"]["B"]: row for row in results["cases"] if row["case"]["device"] == "cuda"}
    assert set(on_gpu[2]["entries"]) == {"fastrnn", "torch fp32", "torch tf32"}
    assert on_gpu[2]["entries"]["torch tf32"]["precision"] == "tf32"
    assert set(on_gpu[3]["entries"]) == {"fastrnn"}, "the crossover's cases are measured without rivals"
    entry = on_gpu[2]["entries"]["fastrnn"]
    assert entry["status"] == "timed" and entry["seconds"] > 5e-4 and entry["peak_bytes"] == 5 << 20
    assert on_gpu[2]["limit"] in ("GEMM", "memory")
    (line,) = answers(results)
    assert line.startswith("lstm H=8 I=5, forward (T=4, float32): ")
    save(results, tmp_path / "both.json")
    again = load(tmp_path / "both.json")
    assert again == json.loads(json.dumps(results))
    assert {change.verdict for change in changes(again, results)} == {"same"}
    table = comparison_table(changes(again, results), {device: drift(again, results, device) for device in BOTH})
    assert "1.000 on cpu, 1.000 on cuda" in table.notes[0]
    assert "Fake GPU" in write_report(results, tmp_path, []).read_text()


def test_a_gpu_without_kernels_of_ours_measures_the_rivals_and_is_no_failure(run):
    from bench.cli import _failures

    results, _ = run(NoKernelsYet)
    on_gpu = [row["entries"] for row in results["cases"] if row["case"]["device"] == "cuda"]
    assert {entries["fastrnn"]["status"] for entries in on_gpu} == {"unsupported"}
    assert on_gpu[0]["torch fp32"]["status"] == "timed"
    assert on_gpu[0]["fastrnn"]["why"] == "no CUDA kernels yet"
    assert _failures(results) == [] and answers(results) == []
    assert results["complete"]
