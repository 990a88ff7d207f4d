"""Which policy runs a layer, cut how, and why. All of it is decided here."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from fastrnn.cells import Cell

from .layout import ELEMENTS, runs
from .units import Shape

__all__ = ["Chip", "Plan", "Policy", "choose", "forced", "plan"]

# 32-bit registers of weights a thread may hold: 128 leave no spill in 255 (152 to 230 are used at 64 to 128).
_WEIGHT_REGISTERS = 128
_THREADS = 256
# Rows beyond which a block's own product loses to cuBLAS; the tensor cores of 16-bit products win sooner. Estimates
# from the instruction counts (a row of 512 units is about 50 instructions a warp), not yet measured.
_MOST_ROWS = {"float32": 32, "float64": 32, "float16": 8, "bfloat16": 8}


class Chip(NamedTuple):
    """What a device has room for."""

    multiprocessors: int
    shared_memory: int  # bytes a block


class Policy(NamedTuple):
    """How a layer walks its steps."""

    kernel: str  # "persistent" or "stepwise"
    why: str
    shape: Shape | None = None
    blocks: int = 0  # that share the hidden units
    columns: int = 0  # groups of such blocks, that share the rows
    shared: int = 0  # bytes


class Plan(NamedTuple):
    """As ``fastrnn.backend.Plan``."""

    kernel: str
    why: str
    threads: int
    bytes: int
    flops: int


_forced: list[str] = []


@contextlib.contextmanager
def forced(kernel: str) -> Iterator[None]:
    """Take this policy wherever it is possible, whatever the estimate says: for tests and measurements."""
    _forced.append(kernel)
    try:
        yield
    finally:
        _forced.pop()


def choose(cell: Cell, dtype: str, H: int, B: int, steps: int, backward: bool, chip: Chip) -> Policy:
    """The policy for B rows of H units."""
    return _choose(cell.name, dtype, H, B, steps > 1, backward, chip, _forced[-1] if _forced else None)


@functools.lru_cache(maxsize=1024)
def _choose(
    name: str, dtype: str, H: int, B: int, several: bool, backward: bool, chip: Chip, wanted: str | None
) -> Policy:
    if wanted == "stepwise":
        return Policy("stepwise", "asked for")
    if not several and wanted is None:
        return Policy("stepwise", "one step: weights would be loaded onto the chip for a single use")
    found = _cut(name, dtype, H, B, backward, chip)
    if found is None:
        return Policy("stepwise", "the recurrent weights exceed the chip's registers: cuBLAS streams them each step")
    if wanted is None and B > found.columns * _MOST_ROWS[dtype]:
        return Policy("stepwise", "rows enough for cuBLAS to be faster than products from registers")
    return found


def _cut(name: str, dtype: str, H: int, B: int, backward: bool, chip: Chip) -> Policy | None:
    """The persistent kernel with the fewest blocks whose weights fit their registers."""
    itemsize = 8 if dtype == "float64" else 4 if dtype == "float32" else 2
    words = np.dtype(ELEMENTS[dtype].sums).itemsize // 4
    vector = 16 // itemsize if H % (16 // itemsize) == 0 else 1
    fed = [run.count for run in runs(name, "h")]
    for units in (32, 16, 8, 4):
        blocks = -(-H // units)
        rounds = -(-H // (_THREADS // units * vector))
        if sum(fed) * rounds * vector * words > _WEIGHT_REGISTERS or blocks > chip.multiprocessors:
            continue
        shape = Shape(vector, units, _THREADS, rounds)
        outputs = 1 if backward else max(fed)
        shared = _THREADS // 32 * shape.rows * outputs * units * 4 * words
        if shared > chip.shared_memory:
            continue
        columns = max(1, min(chip.multiprocessors // blocks, -(-B // 4)))
        why = f"{blocks} blocks of {units} units hold the recurrent weights in registers for all steps"
        return Policy("persistent", why, shape, blocks, columns, shared)
    return None


def plan(cell: Cell, T: int, B: int, I: int, H: int, dtype: str, training: bool, chip: Chip) -> Plan:
    """What forward, and backward if training, would do."""
    policy = choose(cell, dtype, H, B, T, False, chip)
    kernel, why = policy.kernel, policy.why
    if training:
        back = choose(cell, dtype, H, B, T, True, chip)
        kernel, why = f"{kernel}, back {back.kernel}", f"{why}; back: {back.why}"
    itemsize = 8 if dtype == "float64" else 4 if dtype == "float32" else 2
    sums = np.dtype(ELEMENTS[dtype].sums).itemsize
    rows = T * B
    saved = (len(cell.slots) + len(cell.phases)) * itemsize + (len(cell.states) - 1) * sums
    flops = 2 * rows * len(cell.gates) * H * (I + H) * (3 if training else 1)
    return Plan(kernel, why, policy.blocks * policy.columns or 1, rows * H * saved, flops)


def chip_of(cupy: Any) -> Chip:
    """The current device's."""
    attributes = cupy.cuda.Device().attributes
    return Chip(attributes["MultiProcessorCount"], attributes["MaxSharedMemoryPerBlockOptin"])
