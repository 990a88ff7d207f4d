"""What belongs to a device, tried without one: why it is missing, its description, its timer, its limits, its cases."""

from __future__ import annotations

import argparse
import time

import numpy as np
import pytest

from bench import devices
from bench.cases import CUDA_GRID, GRID, Case, cases_for, parse_shapes
from bench.checks import error_and_place, reference_outputs, tolerance, within
from bench.cli import main, planned_cases, usable_devices
from bench.devices import EventTimer, WallTimer, describe, missing
from bench.limits import nearer_limit
from bench.limits_cuda import _GEMM, PRECISIONS, measure
from bench.measure import Budget
from bench.peers import select
from bench.run import Plan


class FakeDriver:
    """libcuda of a machine with ``count`` devices; ``status`` is what every call returns."""

    def __init__(self, count=1, status=0):
        self.count, self.status = count, status

    def cuInit(self, flags):
        return self.status

    def cuDeviceGetCount(self, count):
        count._obj.value = self.count
        return self.status

    def cuDeviceGetName(self, name, size, device):
        name.value = b"Fake GPU"
        return 0

    def cuDeviceTotalMem_v2(self, size, device):
        size._obj.value = 80 << 30
        return 0

    def cuDriverGetVersion(self, version):
        version._obj.value = 13010
        return 0

    def cuDeviceGetAttribute(self, value, attribute, device):
        value._obj.value = {75: 9, 76: 0, 16: 132, 97: 227 << 10}[attribute]
        return 0


def no_driver():
    raise OSError("libcuda.so.1: no such file")


def test_why_there_is_no_gpu_is_one_line(monkeypatch):
    monkeypatch.setattr(devices, "find_spec", lambda module: None)
    assert missing("cpu") is None
    assert "libcuda" in missing("cuda", no_driver)
    assert "finds no device (status 100)" in missing("cuda", lambda: FakeDriver(status=100))
    assert "finds no device" in missing("cuda", lambda: FakeDriver(count=0))
    assert "CuPy is not installed" in missing("cuda", FakeDriver)
    monkeypatch.setattr(devices, "find_spec", lambda module: object())
    assert missing("cuda", FakeDriver) is None


def test_a_device_is_described_through_its_driver():
    about = describe("cuda", FakeDriver)
    assert about["name"] == "Fake GPU" and about["memory_bytes"] == 80 << 30
    assert (about["compute_capability"], about["multiprocessors"], about["driver_cuda"]) == ("9.0", 132, "13.1")
    assert describe("cpu") == {}


def test_all_devices_without_a_gpu_are_the_cpu_and_the_reason(monkeypatch, capsys):
    pytest.importorskip("rich")
    monkeypatch.setattr("bench.cli.missing", lambda device: "no CUDA driver" if device == "cuda" else None)
    left, reasons = usable_devices("all")
    assert left == ["cpu"] and len(reasons) == 1
    assert reasons[0].endswith("its cases and cupy, flashrnn, haste: no CUDA driver")
    assert main(["run", "--devices", "cuda"]) == 1
    assert "no CUDA driver" in capsys.readouterr().out


class FakeEvent:
    """The host's clock as a device that finishes everything at once."""

    def record(self):
        self.at = time.perf_counter()

    def synchronize(self):
        pass


@pytest.mark.parametrize(
    "timer", [WallTimer(), EventTimer(FakeEvent, lambda start, end: 1e3 * (end.at - start.at))], ids=["wall", "events"]
)
def test_a_timer_gives_the_seconds_of_one_call(timer):
    calls = []
    seconds = timer(lambda: (calls.append(1), time.sleep(2e-3)), 3)
    assert len(calls) == 3
    assert 2e-3 <= seconds < 1
    timer.wait()


class FakeGpu:
    """Copies 1 TB/s, multiplies 10 TFLOP/s in float32 and 40 in the others, has no bfloat16."""

    def copy_seconds(self, size):
        return size / 1e12

    def gemm_seconds(self, size, precision):
        if precision == "bfloat16":
            raise NotImplementedError("bfloat16")
        return 2 * size**3 / (10e12 if precision == "float32" else 40e12)

    def cache_bytes(self):
        return 50 << 20


def test_the_gpus_limits_and_the_nearer_one():
    limits = measure(FakeGpu())
    assert limits["flops"]["float32"] == pytest.approx(10e12)
    assert "bfloat16" not in limits["flops"] and limits["cache"] == {"L2": 50 << 20}
    assert limits["bytes"]["memory"] == pytest.approx(2e12)  # read and written
    large = Case("lstm", 512, 256, 1024, 1024, device="cuda")
    assert nearer_limit(large, limits) == ("GEMM", pytest.approx(large.flops / 10e12))
    small = Case("lstm", 1, 1, 128, 128, device="cuda")
    assert nearer_limit(small, limits)[0] == "memory"
    unknown = Case("lstm", 512, 256, 1024, 1024, dtype="bfloat16", device="cuda")
    assert nearer_limit(unknown, limits) == ("memory", pytest.approx(unknown.streamed_bytes / 2e12))
    assert set(_GEMM) == set(PRECISIONS)


def options(**changed):
    given = {"cells": "lstm", "shapes": "grid", "modes": "forward", "dtypes": "float32"} | changed
    return argparse.Namespace(**given)


def test_each_device_has_its_own_shapes_and_both_meet_for_the_crossover():
    assert parse_shapes("grid") == GRID and parse_shapes("grid", "cuda") == CUDA_GRID
    assert len(CUDA_GRID) == 20 and {t for t, _, _, _ in CUDA_GRID} == {512}
    cases, alone = planned_cases(options(), ["cpu", "cuda"])
    shapes = {device: {case.shape for case in cases if case.device == device} for device in ("cpu", "cuda")}
    assert set(GRID) <= shapes["cpu"] and set(CUDA_GRID) <= shapes["cuda"]
    assert len(shapes["cpu"] & shapes["cuda"]) >= 16
    assert all(case.T == 100 for case in alone)
    assert Case("lstm", 100, 1, 128, 128) in set(cases) - alone, "a shape of the CPU's own keeps its rivals"
    assert len(cases) == len(set(cases))
    assert planned_cases(options(), ["cpu"])[1] == frozenset()


def test_sixteen_bits_are_for_the_gpu():
    assert {case.dtype for case in cases_for(["lstm"], GRID, ["float32", "float16"])} == {"float32"}
    both, _ = planned_cases(options(dtypes="float32,bfloat16"), ["cpu", "cuda"])
    assert {(case.device, case.dtype) for case in both} == {
        ("cpu", "float32"),
        ("cuda", "float32"),
        ("cuda", "bfloat16"),
    }
    with pytest.raises(ValueError, match="bfloat16 is computed on cuda only"):
        planned_cases(options(dtypes="bfloat16"), ["cpu"])


def test_a_plan_has_a_stage_per_device_and_number_of_threads():
    cases, _ = planned_cases(options(), ["cpu", "cuda"])
    plan = Plan(cases, ["numpy", "torch", "cupy"], (1, 2), Budget())
    stages = [(stage.device, stage.threads, stage.rivals) for stage in plan.stages()]
    assert stages == [
        ("cpu", 1, ["numpy", "torch"]),
        ("cpu", 2, ["numpy", "torch"]),
        ("cuda", 2, ["torch", "cupy"]),
    ]
    assert [stage.device for stage in Plan((), (), (1,), Budget()).stages()] == ["cpu"]


def test_peers_of_another_device_do_not_take_part():
    assert not {"cupy", "flashrnn", "haste", "torch-compile"} & set(select("auto"))
    assert "numpy" not in select("auto", ["cuda"])
    with pytest.raises(ValueError, match="runs on cuda only"):
        select("cupy")


@pytest.mark.parametrize("mode", ["forward", "training"])
def test_in_a_large_case_a_window_is_compared(mode, monkeypatch):
    case = Case("gru_reset_before", 9, 6, 5, 8, mode=mode)
    assert case.checking is case
    monkeypatch.setattr("bench.cases._CHECKED_FLOPS", case.flops / 4)
    monkeypatch.setattr("bench.cases._CHECKED_ROWS", 2)
    monkeypatch.setattr("bench.cases._CHECKED_STEPS", 2)
    steps, rows = case.window
    assert steps < case.T and 1 < len(rows) < case.B and rows[-1] == case.B - 1
    expected = reference_outputs(case)
    # a contender computes all of it, with the dy of the case to check
    problem = case.checking.problem()
    network = problem.network()
    y, _, tape = network.forward(problem.x, problem.state)
    got = {"y": y}
    if mode == "training":
        dx, dstate, dparams = network.backward(tape, problem.dy, tuple(np.zeros_like(s) for s in problem.state))
        got |= {"dx": dx, "dstate0": dstate[0]} | {f"d{name}": g for name, g in dparams.items()}
    error, where = error_and_place(within(case, got), expected, "float32")
    assert error < 1e-6, where
    assert "state0" not in expected
    assert (problem.dy == 0).any() and not (case.problem().dy == 0).any()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("cell", ["rnn_relu", "lstm", "gru_reset_after"])
def test_reduced_precision_is_told_from_a_wrong_gate(cell, dtype):
    pytest.importorskip("ml_dtypes")
    case = Case(cell, 40, 4, 32, 32, dtype=dtype, mode="training", device="cuda")
    expected = reference_outputs(case)
    rounded = {name: array.astype(np.float32) for name, array in reference_outputs(case, dtype).items()}
    error, where = error_and_place(rounded, expected, dtype)
    assert error < tolerance(dtype, ours=False), where
    wrong = dict(rounded)
    wrong["dweight_hh_l0"] = np.roll(wrong["dweight_hh_l0"], 32 if cell != "rnn_relu" else 1, axis=0)
    assert error_and_place(wrong, expected, dtype)[0] > 2 * tolerance(dtype, ours=False)
