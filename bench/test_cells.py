"""The case table for pytest-benchmark: ``pytest bench --benchmark-only [--benchmark-compare]``.

Grouped by mode and shape, so that cells (and peers, if asked for) stand beside each other. Everything runs in one
process; for a fair look at rivals use ``python -m bench``, which gives each a process of its own. On a GPU the clock
is one of events. Without --benchmark-only there is nothing to do here.
"""

from __future__ import annotations

import importlib
import os
from functools import cache

import pytest

from bench.cases import MODES, Case, cases_for, parse_shapes
from bench.checks import error_and_place, reference_outputs, tolerance, within
from bench.devices import DEVICES, DTYPES, cuda_clock, missing
from bench.peers import OURS, REGISTRY, select
from bench.peers.base import UnsupportedError
from bench.selection import cells_named, names_among

THREADS = int(os.environ.get("FASTRNN_BENCH_THREADS", "1"))


@cache
def peer(name, device):
    module, _, class_name = REGISTRY[name].target.partition(":")
    return getattr(importlib.import_module(module), class_name)(THREADS, device)


@cache
def expected(case: Case):
    return reference_outputs(case)


@cache
def reason(device):
    return missing(device)


def pytest_generate_tests(metafunc):
    if "case" not in metafunc.fixturenames:
        return
    option = metafunc.config.getoption
    parameters = []
    for device in DEVICES if option("--benchmark-only", default=False) else ():
        cases = cases_for(
            cells_named(option("--bench-cells")),
            parse_shapes(option("--bench-shapes"), device),
            names_among(option("--bench-dtypes"), DTYPES["cuda"], "dtypes"),
            MODES,
            [device],
        )
        # A peer that is named may run on the other device only; auto finds those of this one.
        peers = [name for name in select(option("--bench-peers"), DEVICES) if device in REGISTRY[name].devices]
        marks = [pytest.mark.gpu, pytest.mark.benchmark(timer=cuda_clock)] if device == "cuda" else []
        for case in cases:
            for name in [OURS, *peers]:
                label = f"{case.key.replace(' ', '-')}-{name}"
                parameters.append(pytest.param(case, name, id=label, marks=marks))
    metafunc.parametrize("case,contender", parameters)


@pytest.fixture(autouse=True)
def on_a_device_that_is_there(request):
    """Runs before ``benchmark`` takes its clock from a device that may not be there."""
    why = reason(request.getfixturevalue("case").device)
    if why:
        pytest.skip(why)


def test_cell(case, contender, benchmark):
    """Check against the reference, then time; a frozen layer for inference."""
    benchmark.group = f"{case.mode} {','.join(map(str, case.shape))} {case.dtype} {case.device}"
    try:
        adapter = peer(contender, case.device)
        if case.mode not in adapter.modes:
            raise UnsupportedError(f"no {case.mode}")
        variant = adapter.variants_of(case)[0]
        program = adapter.program(case.checking, variant)
    except UnsupportedError as why:
        pytest.skip(f"{contender}: {why}")
    precision = program.precision or case.dtype
    wanted = {name: array for name, array in expected(case).items() if name not in program.lacks}
    error, where = error_and_place(within(case, program.outputs(program.run())), wanted, precision)
    assert error <= tolerance(precision, ours=contender == OURS), f"error {error:.1e} in {where}"
    benchmark.extra_info |= {"flops": case.flops, "error": error, "how": program.how, "threads": THREADS}
    benchmark((program if case.checking is case else adapter.program(case, variant)).run)
