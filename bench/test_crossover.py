"""CPU against GPU: the answers, and the report they stand in, from invented times."""

from __future__ import annotations

import pytest

from bench.cases import Case
from bench.crossover import answers, lines
from bench.report import write_report
from bench.results import SCHEMA
from bench.tables import groups, mode_table


def timed(seconds, **more):
    return {
        "status": "timed",
        "seconds": seconds,
        "low": seconds,
        "high": seconds,
        "blocks": [seconds] * 3,
        "error": 1e-6,
        "first_call_s": 1.0,
        "warmup_s": 0.1,
        "native": True,
        "how": "invented",
        "peak_bytes": 3 << 20,
    } | more


def row(case, seconds, **entries):
    mine = {"fastrnn frozen" if case.mode == "forward" else "fastrnn": timed(seconds)}
    return {
        "case": case.to_json(),
        "threads": 2,
        "compile_s": 0.5,
        "flops": case.flops,
        "streamed_bytes": case.streamed_bytes,
        "limit": "GEMM" if case.device == "cuda" else "FMA",
        "floor_s": seconds / 2,
        "entries": mine | entries,
    }


def invented(cpu=lambda B, H: 1e-9 * B * H * H, gpu=lambda B, H: 1e-3, cells=("lstm",), mode="forward", sizes=None):
    """A results file: on the CPU ``cpu(B, H)`` seconds, on the GPU ``gpu(B, H)``."""
    cases = []
    for cell in cells:
        for H in sizes or (128, 512):
            for B in (1, 16, 64, 256):
                for device, seconds in (("cpu", cpu), ("cuda", gpu)):
                    cases.append(row(Case(cell, 100, B, H, H, mode=mode, device=device), seconds(B, H)))
    gpu_limits = {"flops": {"float32": 5e13}, "bytes": {"memory": 3e12}, "cache": {"L2": 50 << 20}}
    cpu_limits = {"threads": 2, "flops": {"float32": 5e11}, "bytes": {"L1": 1e12, "L2": 2e11}, "cache": {}}
    gpu_about = {
        "name": "Fake GPU",
        "memory_bytes": 80 << 30,
        "compute_capability": "9.0",
        "multiprocessors": 132,
        "driver": "580.1",
        "driver_cuda": "13.0",
        "packages": {"cupy-cuda13x": "14.0.1"},
    }
    return {
        "schema": SCHEMA,
        "created": "2026-11-22T00:00:00+00:00",
        "commit": {"hash": None, "modified": None},
        "machine": {
            "processor": "Fake CPU",
            "microarchitecture": "fake",
            "vectors": ["avx2"],
            "cores": 2,
            "memory_bytes": None,
            "system": "Linux",
            "python": "3.11",
            "devices": {"cuda": gpu_about},
        },
        "settings": {"threads": [2], "rivals": []},
        "contenders": {},
        "limits": {"2": cpu_limits, "cuda": gpu_limits},
        "cases": cases,
        "workloads": {},
        "elapsed_s": {},
        "complete": True,
    }


def test_the_crossover_batch_of_each_hidden_size_and_the_crossover_size_of_each_batch():
    # 1 ms on the GPU; on the CPU at H = 128: 0.016, 0.26, 1.05, 4.2 ms, at H = 512: 0.26, 4.2, ... ms
    found = answers(invented())
    about = "forward (T=100, float32)"
    assert f"lstm H=128, {about}: the CPU wins up to B=16, the GPU from B=64" in found
    assert f"lstm H=512, {about}: the CPU wins up to B=1, the GPU from B=16" in found
    assert f"lstm B=1, {about}: the CPU wins at every H from 128 to 512" in found
    assert f"lstm B=16, {about}: the CPU wins up to H=128, the GPU from H=512" in found
    assert f"lstm B=256, {about}: the GPU wins at every H from 128 to 512" in found
    assert len(found) == 6


def test_times_without_one_crossover_are_not_given_one():
    found = answers(invented(gpu=lambda B, H: 1.0 if B == 64 else 1e-3))
    about = "forward (T=100, float32)"
    assert f"lstm H=512, {about}: no one crossover, the CPU wins at B=1, 64, the GPU at B=16, 256" in found
    assert f"lstm H=128, {about}: the CPU wins up to B=64, the GPU from B=256" in found


def test_only_cases_of_both_devices_count_and_training_is_apart():
    results = invented(mode="training")
    results["cases"] = [r for r in results["cases"] if r["case"]["device"] == "cpu" or r["case"]["B"] == 1]
    (line,) = answers(results)
    assert line == "lstm B=1, forward + backward (T=100, float32): the CPU wins at every H from 128 to 512"
    for r in results["cases"]:
        if r["case"]["device"] == "cuda":
            r["entries"]["fastrnn"] = {"status": "unsupported", "why": "no CUDA kernels yet"}
    assert answers(results) == [] and lines(results) == []


def test_the_report_says_it_and_shows_memory_and_device(tmp_path):
    text = write_report(invented(), tmp_path, []).read_text()
    assert "the CPU wins up to B=16, the GPU from B=64" in text
    assert "Fake GPU, 80.0 GiB" in text and "limits of cuda: GEMM GFLOP/s float32 50000" in text
    assert "3 MiB" in text


def test_an_unsupported_kernel_is_shown_with_its_message_and_the_rivals_times():
    results = invented()
    for r in results["cases"]:
        if r["case"]["device"] == "cuda":
            r["entries"] = {
                "fastrnn frozen": {"status": "unsupported", "why": "no CUDA kernels yet"},
                "torch tf32": timed(2e-3),
            }
    ((about, rows),) = ((about, rows) for about, rows in groups(results) if about["device"] == "cuda")
    table = mode_table(about, rows)
    assert table.columns.index("vs torch tf32") == 8
    assert table.rows[0][2] == "unsupported" and table.rows[0][8] == "2.00 ms"
    assert "fastrnn unsupported: no CUDA kernels yet" in table.notes
    assert {len(r) for r in table.rows} == {len(table.columns)}


@pytest.mark.parametrize("sizes", [(128,), (128, 512, 1024)])
def test_a_single_hidden_size_is_no_line_over_hidden_sizes(sizes):
    assert {line.varied for line in lines(invented(sizes=sizes), "H") if len(line.points) > 1} == (
        {"H"} if len(sizes) > 1 else set()
    )
