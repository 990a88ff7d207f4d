"""Every kernel compiles for every architecture and stays in its registers. Needs CuPy and NVRTC, but no GPU."""

from __future__ import annotations

import pytest

from fastrnn.kernels.cuda import devices
from fastrnn.kernels.cuda.catalogue import Unit, every_unit
from fastrnn.kernels.cuda.compiler import CompileError, Resources, flatten, of_each, resources


@pytest.fixture(scope="module")
def nvrtc():
    try:
        return devices.nvrtc()
    except devices.GPUUnavailable as reason:
        pytest.skip(reason=str(reason))


def resources_of_each(sources, arch):
    """What the kernels of each source take, or why it does not compile."""
    return of_each(sources, arch, lambda code, log: resources(log))


def complaints(units, arch):
    """What is wrong with units on an architecture."""
    units = list(units)
    for unit, found in zip(units, resources_of_each([unit.source for unit in units], arch), strict=True):
        label, limits = unit.label, unit.spills
        if isinstance(found, CompileError):
            yield f"{label}: {found}"
            continue
        if set(found) != set(limits):
            yield f"{label}: has the kernels {sorted(found)}, and {sorted(limits)} were expected"
        for kernel, used in found.items():
            # Arrays that are indexed at run time lie beside what was spilled, and are as slow.
            local = max(used.spill_stores, used.stack)
            if local > limits.get(kernel, 0):
                yield f"{label}: {kernel} has {local} bytes of local memory, {limits.get(kernel, 0)} allowed: {used}"


# The elements and cells that are code of their own: of two 16-bit types one, and each state, phase and peephole.
APART = {
    "cells": ("rnn_tanh", "lstm_peephole", "gru_reset_before", "gru_reset_after"),
    "dtypes": ("float32", "bfloat16"),
}


def units(arch):
    """What is to compile in tests. `python -m bench kernels` compiles every unit for every architecture."""
    capability, medium = int(arch[3:]), (512,)
    if arch != "sm_90":
        return list(every_unit(capability, medium, **APART))
    # Each element and cell in one size; what is code of its own in all.
    found = [*every_unit(capability, medium), *every_unit(capability, **APART)]
    return list({unit.source: unit for unit in found}.values())


@pytest.mark.parametrize("arch", devices.ARCHITECTURES)
def test_every_kernel_compiles(nvrtc, arch):
    found = list(complaints(units(arch), arch))
    assert not found, "\n".join(found)


def test_labels_and_sources_are_told_apart():
    units = list(every_unit())
    assert len({unit.label for unit in units}) == len({unit.source for unit in units}) == len(units) > 0
    assert all(unit.spills for unit in units), "a unit without kernels"


# A kernel with three blocks of memory: 150 values that threads of 64 registers cannot hold, an array that is indexed
# at run time, and shared memory.
PLANTED = """
struct Block { float* p; int n; };
KERNEL(spills, 1024, Block) {
    float v[150];
#pragma unroll
    for (int i = 0; i < 150; i++) v[i] = a.p[i * a.n + threadIdx.x];
#pragma unroll
    for (int i = 0; i < 150; i++) a.p[i * a.n] = v[149 - i] * v[i * 7 % 150];
}
KERNEL(indexes, 128, Block) {
    float v[16];
    for (int i = 0; i < 16; i++) v[a.p[i] > 0 ? i : 0] = a.p[i];
    a.p[threadIdx.x] = v[a.n];
}
KERNEL(shares, 128, Block) {
    __shared__ float s[128];
    s[threadIdx.x] = a.p[threadIdx.x];
    __syncthreads();
    a.p[threadIdx.x] = s[127 - threadIdx.x];
}
"""


@pytest.mark.parametrize("arch", ["sm_75", "sm_120"])
def test_what_is_planted_is_found(nvrtc, arch):
    sources = [flatten(["device"], text) for text in (PLANTED, PLANTED.replace("a.n", "a.m"))]
    names = ["spills", "indexes", "shares"]
    allowed = [
        Unit("right", sources[0], dict.fromkeys(names, 10000)),
        Unit("none", sources[0], dict.fromkeys(names, 0)),
    ]
    other = [Unit("names", sources[0], {"shares": 0, "absent": 0}), Unit("wrong", sources[1], dict.fromkeys(names, 0))]
    assert not list(complaints(allowed[:1], arch))
    found = sorted(complaints(allowed + other, arch))
    begins = ["names: has the kernels ['indexes', 'shares', 'spills']", "names: indexes has 64", "names: spills has"]
    begins += ["none: indexes has 64 bytes", "none: spills has", f"wrong: {arch}: NVRTC_ERROR_COMPILATION"]
    assert len(found) == len(begins)
    assert all(text.startswith(begin) for text, begin in zip(found, begins, strict=True)), found
    assert 'instances(6): error: class "Block" has no member "m"' in found[-1]


def test_registers_and_memory_are_read_from_the_real_log(nvrtc):
    (found,) = resources_of_each([flatten(["device"], PLANTED)], "sm_90")
    assert found["shares"]._replace(registers=0) == Resources(0, 0, 0, 0, shared=512)
    assert found["spills"].registers == 64 and found["spills"].spill_loads > 0
    assert 0 < found["shares"].registers < 64
