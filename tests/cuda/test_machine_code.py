"""The steps of kernels in machine code: nothing spilled, tensor cores where they were asked for, wide loads.

For Hopper, of the shapes that the cost model chooses over the GPU grid. Needs NVRTC and nvdisasm, but no GPU. That the
inspection would see a mistake, is shown on kernels with one.
"""

from __future__ import annotations

import pytest

from bench import sass
from bench.kernel_table import grid_problems, model_products
from fastrnn.cell_table import CELLS
from fastrnn.kernels.cuda import devices
from fastrnn.kernels.cuda.catalogue import chosen_units, precisions
from fastrnn.kernels.cuda.compiler import CompileError, compile, flatten, of_each
from fastrnn.kernels.cuda.cuts import Chip

HOPPER = Chip(132, 227 * 1024, 90)
# One phase and two, one state and two; the other cells differ in arithmetic, and in outputs of a unit.
FIRST = ("lstm", "gru_reset_before")
OTHERS = [cell for cell in CELLS if cell not in FIRST]


@pytest.fixture(scope="module", autouse=True)
def tools():
    try:
        devices.nvrtc()
    except devices.GPUUnavailable as reason:
        pytest.skip(reason=str(reason))
    if sass.disassembler() is None:
        pytest.skip(reason=f"pip install {sass.PACKAGE}")


def loops_of(code, log):
    return {name: sass.step_loop(kernel) for name, kernel in sass.instructions(code).items()}


def complaints(unit, loop):
    """What is wrong with the step of a kernel that walks all steps."""
    shape = unit.policy.shape
    if loop is None:
        yield "has no loop over steps"
        return
    if loop.local:
        yield f"{loop.local} loads and stores of local memory"
    if bool(loop.tensor) != bool(shape.tensor):
        yield f"{loop.tensor} products by tensor cores"
    # The compiler multiplies several rows at once where it has unrolled the loop over them, and never fewer.
    if loop.products < 0.99 * model_products(unit):
        yield f"{loop.products} products, where the model counts {model_products(unit):.0f}"
    depths = unit.problem.fed if unit.problem.backward else [1] * len(unit.problem.fed)
    loads = sum(-(-depth * shape.rounds // shape.split) for depth in depths)
    if loop.wide < loads or (shape.vector > 1 and loop.narrow):
        yield f"{loop.wide} loads of 16 bytes of what others wrote, {loop.narrow} narrower ones"
    if shape.cluster and (loop.remote < len(unit.problem.fed) or loop.remote_narrow):
        yield f"{loop.remote} stores of 16 bytes to other blocks, {loop.remote_narrow} narrower ones"


def check_steps(problems):
    """Of the units that are chosen for the problems; returns these."""
    units, found = list(chosen_units(HOPPER, problems)), []
    for unit, loops in zip(units, of_each([unit.source for unit in units], "sm_90", loops_of), strict=True):
        assert not isinstance(loops, CompileError), f"{unit.label}: {loops}"
        found += [f"{unit.label}: {kernel} {what}" for kernel in loops for what in complaints(unit, loops[kernel])]
    assert not found, "\n".join(found)
    return units


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("cell", FIRST)
def test_steps_of_the_grid(cell, dtype):
    # float32: without tensor cores for the one cell, with three products each for the other
    wanted = {"lstm": "exact", "gru_reset_before": "3xtf32" if dtype == "float32" else "exact"}[cell]
    units = check_steps(problem for problem in grid_problems([cell], [dtype]) if problem.precision == wanted)
    assert {"cluster", "persistent"} & {unit.policy.kernel for unit in units} and len(units) > 8


# With and without tensor cores, forward and back, in the largest and the fullest kernels of some cells.
SOME = [("rnn_tanh", "float32", 512, 1), ("rnn_relu", "bfloat16", 1024, 16), ("rnn_sigmoid", "float32", 128, 16)]
SOME += [
    ("lstm_peephole", "float32", 512, 16),
    ("lstm_coupled", "bfloat16", 512, 1),
    ("gru_reset_after", "float32", 512, 16),
]
SOME += [("lstm_peephole_coupled", "float32", 256, 1), ("gru_reset_after", "bfloat16", 256, 64)]


@pytest.mark.parametrize("cell, dtype, H, B", SOME)
def test_some_steps_of_other_cells(cell, dtype, H, B):
    exact = [problem for problem in grid_problems([cell], [dtype]) if problem.precision == "exact"]
    assert len(check_steps(problem for problem in exact if (problem.H, problem.B) == (H, B))) == 2


@pytest.mark.long
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("cell", CELLS)
def test_every_step_of_the_grid(cell, dtype):
    for precision in precisions(dtype):
        assert check_steps(problem for problem in grid_problems([cell], [dtype]) if problem.precision == precision)


# Loops over steps, each with a barrier and a product, and what must not be in one.
PLANTED = """
using fastrnn::u32;
struct Block { float* p; const u32* w; int n; };
KERNEL(spills, 1024, Block) {
    float v[100];
#pragma unroll
    for (int i = 0; i < 100; i++) v[i] = a.p[i * a.n + threadIdx.x];
    for (int s = 0; s < a.n; s++) {
#pragma unroll
        for (int i = 0; i < 100; i++) v[i] = v[i] * v[(i + 7) % 100] + a.p[s];
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < 100; i++) a.p[i] = v[i];
}
KERNEL(narrow, 256, Block) {
    float sum = 0.0f;
    for (int s = 0; s < a.n; s++) {
#pragma unroll 1
        for (int i = 0; i < s; i++) sum += a.p[i] * fastrnn::load_shared_by_blocks(a.p + s + i);
        a.p[threadIdx.x] = sum;
        __syncthreads();
    }
}
KERNEL(waits, 256, Block) {
    float sum[4] = {}, d[4] = {};
    for (int s = 0; s < a.n; s++) {
        sum[1] += a.p[s];
        SPIN_WHILE(fastrnn::load_acquire(a.w) < u32(s));
        const uint4 v = fastrnn::load_shared_by_blocks(reinterpret_cast<const uint4*>(a.p) + s);
        fastrnn::mma_bfloat16(d, v.x, v.y, v.z, v.w, v.x, v.y);
        __syncthreads();
        a.p[s % a.n * threadIdx.x] = sum[0] += d[0] + sum[1];
    }
}
KERNEL(once, 256, Block) {
    a.p[threadIdx.x] += 1.0f;
    __syncthreads();
    a.p[255 - threadIdx.x] += 1.0f;
}
"""


def test_what_is_planted_is_found():
    found = loops_of(*compile(flatten(["device"], PLANTED), "sm_90"))
    assert found["once"] is None
    assert found["spills"].local > 20
    assert (found["narrow"].local, found["narrow"].tensor, found["narrow"].wide) == (0, 0, 0)
    assert found["narrow"].narrow == found["narrow"].plain == 1
    waits = found["waits"]
    assert (waits.tensor, waits.plain, waits.wide, waits.narrow) == (1, 0, 1, 0), "a polled flag is no operand"
    assert waits.divisions == 1 and waits.meeting["BAR"] == 1 and waits.meeting["CCTL"] == 1
