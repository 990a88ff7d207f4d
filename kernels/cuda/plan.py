"""Which policy runs a layer, cut how, and why. All of it is decided here."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from fastrnn.cells import Cell

from . import devices
from .layout import ELEMENTS, runs
from .units import Shape

__all__ = ["Chip", "Plan", "Policy", "choose", "current_chip", "forced", "persistent_policy", "plan"]

# 32-bit registers of weights a thread may hold: 128 leave no spill in 255 (152 to 230 are used at 64 to 128).
_WEIGHT_REGISTERS = 128
_THREADS = 256
# Rows of a block beyond which cuBLAS wins, without and with tensor cores. Estimates from instruction counts (a row of
# 512 units is about 50 instructions a warp, with tensor cores eight rows are), not yet measured.
_MOST_ROWS = {False: 32, True: 64}
_TENSOR_PRODUCTS = {"exact": 0, "tf32": 1, "3xtf32": 3}  # of tensor cores, for one of float32
_TENSOR_CORES, _CLUSTERS = 80, 90  # compute capability of the first with mma of bfloat16 and TF32; with clusters
_ITEMSIZE = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}


class Chip(NamedTuple):
    """What a device has room for."""

    multiprocessors: int
    shared_memory: int  # bytes a block
    capability: int  # 90: sm_90


class Policy(NamedTuple):
    """How a layer walks its steps."""

    kernel: str  # "cluster", "persistent" or "stepwise"
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


def choose(cell: Cell, dtype: str, precision: str, H: int, B: int, steps: int, backward: bool, chip: Chip) -> Policy:
    """The policy for B rows of H units."""
    return _choose(cell.name, dtype, precision, H, B, steps > 1, backward, chip, _forced[-1] if _forced else None)


def persistent_policy(
    kernel: str, cell: Cell, dtype: str, precision: str, H: int, B: int, backward: bool, chip: Chip
) -> Policy | None:
    """How the policy "persistent" or "cluster" would run, if it can, whether or not it is the best."""
    return _cut(kernel, cell.name, dtype, precision, H, B, backward, chip)


@functools.lru_cache(maxsize=1024)
def _choose(
    name: str, dtype: str, precision: str, H: int, B: int, several: bool, backward: bool, chip: Chip, wanted: str | None
) -> Policy:
    if wanted == "stepwise":
        return Policy("stepwise", "asked for")
    if not several and wanted is None:
        return Policy("stepwise", "one step: weights would be loaded onto the chip for a single use")
    for kernel in ("cluster", "persistent") if wanted is None else (wanted, "persistent"):
        found = _cut(kernel, name, dtype, precision, H, B, backward, chip)
        if found is not None and (wanted or B <= found.columns * _MOST_ROWS[found.shape.tensor > 0]):
            return found
    if found is None:
        return Policy("stepwise", "the recurrent weights exceed the chip's registers: cuBLAS streams them each step")
    return Policy("stepwise", "rows enough for cuBLAS to be faster than products from registers")


def _cut(
    kernel: str, name: str, dtype: str, precision: str, H: int, B: int, backward: bool, chip: Chip
) -> Policy | None:
    """The kernel with the fewest blocks whose weights fit their registers, by tensor cores if they may."""
    vector = 16 // _ITEMSIZE[dtype]
    aligned = H % vector == 0
    allowed = 1 if _ITEMSIZE[dtype] == 2 else _TENSOR_PRODUCTS[precision] if dtype == "float32" else 0
    fitted = functools.partial(_fitted, name, dtype, H, B, backward, chip)
    if kernel == "cluster":
        if not aligned or chip.capability < _CLUSTERS:
            return None
        candidates = [(units, size) for size in (4, 8, 16) for units in (8, 16, 32) if size * units >= H]
    else:
        candidates = [(units, 0) for units in (32, 16, 8, 4)]
    if not aligned or chip.capability < _TENSOR_CORES:
        allowed = 0
    for tensor in sorted({allowed, 0}, reverse=True):
        for units, cluster in candidates:
            found = fitted(units, vector if aligned else 1, tensor, cluster)
            if found is not None and not (tensor and units not in (8, 16, 32)):
                return found
    return None


def _fitted(
    name: str, dtype: str, H: int, B: int, backward: bool, chip: Chip, units: int, vector: int, tensor: int,
    cluster: int,
) -> Policy | None:  # fmt: skip
    """The kernel with that many units a block, if it fits the chip. cluster: blocks of one, 0 without."""
    fed = [run.count for run in runs(name, "h")]
    words, warps, blocks = np.dtype(ELEMENTS[dtype].sums).itemsize // 4, _THREADS // 32, cluster or -(-H // units)
    if tensor:
        rounds = -(-H // (4 * vector * warps))
        # Eight registers a round for every 16 outputs; backward has one output a unit, and a depth of all slots.
        tiles = -(-units // 16) * sum(fed) if backward else sum(-(-count * units // 16) for count in fed)
        registers = 8 * rounds * tiles * (2 if tensor == 3 else 1)
    else:
        rounds = -(-H // (_THREADS // units * vector))
        registers = sum(fed) * rounds * vector * words
    if registers > _WEIGHT_REGISTERS or blocks > chip.multiprocessors:
        return None
    # As many columns as there is room for, but none without enough rows to fill what a product takes at once. Clusters
    # lie within a group of multiprocessors, of which some are left over.
    room = chip.multiprocessors * 7 // 8 // blocks if cluster else chip.multiprocessors // blocks
    columns = max(1, min(room, -(-B // (8 if tensor else 4))))
    shape = Shape(vector, units, _THREADS, rounds, tensor, cluster)
    shared = warps * shape.rows * (1 if backward else max(fed)) * units * 4 * words
    if cluster:
        widths = [count * H for count in fed] if backward else [H] * len(fed)
        pitches = [-(-width * _ITEMSIZE[dtype] // 128) * 128 + 64 for width in widths]
        shared += -(-B // columns) * (2 * pitches[0] + sum(pitches[1:]))
    if shared > chip.shared_memory:
        return None
    where = "as operands of tensor cores" if tensor else "in registers"
    how = f"a cluster of {blocks} blocks" if cluster else f"{blocks} blocks"
    why = f"{how} of {units} units hold the recurrent weights {where} for all steps"
    return Policy("cluster" if cluster else "persistent", why, shape, blocks, columns, shared)


def plan(
    cell: Cell, T: int, B: int, I: int, H: int, dtype: str, training: bool, chip: Chip, precision: str = "exact"
) -> Plan:
    """What forward, and backward if training, would do."""
    policy = choose(cell, dtype, precision, H, B, T, False, chip)
    kernel, why = policy.kernel, policy.why
    if training:
        back = choose(cell, dtype, precision, H, B, T, True, chip)
        kernel, why = f"{kernel}, back {back.kernel}", f"{why}; back: {back.why}"
    itemsize = _ITEMSIZE[dtype]
    sums = np.dtype(ELEMENTS[dtype].sums).itemsize
    rows = T * B
    saved = (len(cell.slots) + len(cell.phases)) * itemsize + (len(cell.states) - 1) * sums
    flops = 2 * rows * len(cell.gates) * H * (I + H) * (3 if training else 1)
    return Plan(kernel, why, policy.blocks * policy.columns or 1, rows * H * saved, flops)


def current_chip() -> Chip:
    """The current device's."""
    return _chip(devices.require().cuda.runtime.getDevice())


@functools.cache
def _chip(index: int) -> Chip:
    device = devices.require().cuda.Device(index)
    attributes = device.attributes  # asks the driver about a hundred things each time
    return Chip(
        attributes["MultiProcessorCount"], attributes["MaxSharedMemoryPerBlockOptin"], int(device.compute_capability)
    )
