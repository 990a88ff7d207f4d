"""The case table for pytest-benchmark: ``pytest bench --benchmark-only [--benchmark-compare]``.

Grouped by mode and shape, so that cells (and peers, if asked for) stand beside each other. Everything runs in one
process; for a fair look at rivals use ``python -m bench``, which gives each a process of its own.
"""

from __future__ import annotations

import importlib
import os
from functools import cache

import pytest

from bench.cases import MODES, Case, cases_for, parse_shapes
from bench.checks import largest_error, reference_outputs, tolerance
from bench.cli import cells_named, names_among
from bench.peers import OURS, REGISTRY, select
from bench.peers.base import UnsupportedError

THREADS = int(os.environ.get("FASTRNN_BENCH_THREADS", "1"))


@cache
def peer(name):
    module, _, class_name = REGISTRY[name].target.partition(":")
    return getattr(importlib.import_module(module), class_name)(THREADS)


@cache
def expected(case: Case):
    return reference_outputs(case)


def pytest_generate_tests(metafunc):
    if "case" not in metafunc.fixturenames:
        return
    option = metafunc.config.getoption
    cases = cases_for(
        cells_named(option("--bench-cells")),
        parse_shapes(option("--bench-shapes")),
        names_among(option("--bench-dtypes"), ("float32", "float64"), "dtypes"),
        MODES,
        ("cpu", "cuda"),
    )
    contenders = [OURS, *select(option("--bench-peers"))]
    pairs = [(case, name) for case in cases for name in contenders]
    ids = [f"{case.key.replace(' ', '-')}-{name}" for case, name in pairs]
    metafunc.parametrize("case,contender", pairs, ids=ids)


def test_cell(benchmark, case, contender):
    """Check against the reference, then time; a frozen layer for inference."""
    if case.device == "cuda":
        pytest.skip("fastrnn has no CUDA kernels yet")
    benchmark.group = f"{case.mode} {','.join(map(str, case.shape))} {case.dtype} {case.device}"
    variants = peer(contender).variants.get(case.mode, ("",))
    if case.mode not in peer(contender).modes:
        pytest.skip(f"{contender} has no {case.mode}")
    try:
        program = peer(contender).program(case, variants[0])
    except UnsupportedError as reason:
        pytest.skip(f"{contender}: {reason}")
    error, where = largest_error(program.outputs(program.run()), expected(case))
    assert error <= tolerance(case, ours=contender == OURS), f"error {error:.1e} in {where}"
    benchmark.extra_info |= {"flops": case.flops, "error": error, "how": program.how, "threads": THREADS}
    benchmark(program.run)
