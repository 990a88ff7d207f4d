"""Which way a layer runs: how many threads, what they own, and why. All of it is decided here."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fastrnn.cell_table import Cell

from .simd import VECTOR_BYTES

__all__ = ["Plan", "brief", "plan", "short"]

# A step with fewer multiply-adds than this runs faster on one thread: about a microsecond of work, against two
# passes through the barrier.
_SMALLEST_SHARED_STEP = 40_000
# Weights up to this size stay in every core's own L2 cache, so threads may each read all of them.
_PRIVATE_WEIGHTS = 640 * 1024
# Up to this many rows a step, the input product runs over many steps at once.
_FEW_ROWS = 3
# Rows a thread should have to fill its register tiles.
_ROWS_A_THREAD = 6
# Calls of fewer operations than this keep the GIL: about 40 us on one thread, and 200 us on all of them, when another
# caller would find no core. To give it up and take it again among other callers costs more, a switch of threads each.
_BRIEF, _BRIEF_ON_ALL = 3e6, 3e7
# Up to so many operations, 1 ms after the last call, one thread is as fast as two of which one sleeps: LSTM (T, B,
# H) = (20, 1, 128) 119 us and 164, (10, 1, 256) 203 and 220, (1, 16, 256) 179 and 212; (20, 1, 256) 294 and 262.
_SHORT = 1e7


class Plan(NamedTuple):
    """How one layer and direction runs."""

    kernel: str
    why: str
    threads: int
    bytes: int
    flops: int

    @property
    def ahead(self) -> bool:
        """The input product of many steps is taken before them."""
        return self.kernel.startswith("ahead")

    @property
    def by_rows(self) -> bool:
        """Threads own rows of the batch instead of hidden units."""
        return self.kernel == "rows"


def plan(
    cell: Cell, T: int, B: int, I: int, H: int, dtype: str, threads: int, training: bool, directions: int = 1,
    layers: int = 1, alive: float | None = None, bf16: bool = False,
) -> Plan:  # fmt: skip
    """Choose for a (T, B, I) batch and H hidden units; ``threads`` is the most to use.

    Other directions and layers come before or after, and do not matter.

    alive: rows of a ragged batch at the average step; default B. bf16: how the weights are packed.
    """
    itemsize = np.dtype(dtype).itemsize
    lanes = VECTOR_BYTES // itemsize
    gates = len(cell.gates)
    multiply_adds = B * gates * H * (I + H)
    weights = gates * H * (I + H) * (2 if bf16 else itemsize)
    rows = T * B
    size = weights + itemsize * 2 * B * H * len(cell.states)
    if training:
        saved = len(cell.slots) + len(cell.states) + len(cell.phases) - 1
        size = 2 * weights + itemsize * rows * H * saved
    flops = 2 * T * multiply_adds * (3 if training else 1)
    groups = -(-H // (4 * lanes))
    if B <= _FEW_ROWS:
        shared = min(threads, groups) if multiply_adds >= _SMALLEST_SHARED_STEP else 1
        why = "a step has too few rows for a register tile: the input product of many steps is taken at once"
        return Plan("ahead", why, shared, size, flops)
    if threads == 1 or multiply_adds < _SMALLEST_SHARED_STEP:
        return Plan("single", "a step is too small to share" if threads > 1 else "one thread", 1, size, flops)
    if (B if alive is None else alive) >= _ROWS_A_THREAD * threads and weights <= _PRIVATE_WEIGHTS:
        return Plan("rows", "the weights fit every core's L2 cache: no barrier", threads, size, flops)
    sharing = min(threads, groups)
    if sharing == 1:
        if B >= 2 * threads:
            return Plan("rows", "too few hidden units to share", threads, size, flops)
        return Plan("single", "too few hidden units and rows to share", 1, size, flops)
    return Plan("units", "each thread keeps its part of the weights; one barrier a step", sharing, size, flops)


def brief(plan: Plan, threads: int) -> bool:
    """Whether a call is too short to give up the GIL; ``threads`` as given to ``plan``."""
    return plan.flops <= (_BRIEF_ON_ALL if plan.threads == threads > 1 else _BRIEF)


def short(plan: Plan) -> bool:
    """Whether one thread has done a call before others have woken."""
    return plan.flops <= _SHORT
