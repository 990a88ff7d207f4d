"""One layer, its directions one by one, on NumPy arrays: what the public side calls. Arguments are checked there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numba import types

from fastrnn import guards
from fastrnn.backend import Backward, Forward
from fastrnn.cell_table import Cell

from .arguments import Run, arrange, arrange_backward, prepare
from .backward import backward as backward_kernel
from .forward import forward as forward_kernel
from .gradients import gradients as gradients_kernel
from .interrupts import run_interruptibly
from .memory import Addressed, address_of
from .packed import Accumulators, Packed, PackedLayout
from .plan import Plan
from .tags import DTYPES, CellType, Tag
from .teams import rest
from .threads import get_num_threads, mailboxes

__all__ = ["Saved", "backward", "forward", "pack"]


@lru_cache(maxsize=256)
def _entry(kernel: Any, name: str, dtype: str, bf16: bool) -> tuple[Any, Tag]:
    tag = Tag(CellType(name, DTYPES[dtype], bf16))
    return kernel.entry_point(tag.type, types.intp, types.intp, types.intp), tag


def launcher(kernel: Any, layout: PackedLayout) -> tuple[Any, Tag]:
    """The compiled kernel for a layer's cell and dtype, and its first argument."""
    found = layout.launchers.get(kernel)
    if found is None:
        found = layout.launchers[kernel] = _entry(kernel, layout.cell.name, layout.dtype, layout.bf16)
    return found


def _launch(kernel: Any, layout: PackedLayout, run: Run, block: int, threads: int) -> None:
    entry, tag = launcher(kernel, layout)
    if run.long:
        rest()
        run_interruptibly(lambda: entry(tag, block, mailboxes(threads), threads), block + run.offsets["barrier"])
    else:
        entry(tag, block, mailboxes(threads), threads)
    if guards.ENABLED:
        guards.check(f"the {kernel.__name__} kernel of {layout.cell.name}")


def pack(
    cell: Cell,
    w_ih: np.ndarray,
    w_hh: np.ndarray,
    b_ih: np.ndarray | None,
    b_hh: np.ndarray | None,
    peephole: np.ndarray | None,
    backward: bool = False,
    bf16: bool = False,
    once: bool = False,
) -> Packed:
    """Pack one direction's parameters, in PyTorch's layout, C-contiguous, of one dtype; copies everything.

    bf16: round the weights, not the biases, to bfloat16: half the bytes to read at every step. Not for backward.
    once: for a single tape, whose backward may keep its sums in place of what forward alone reads.
    """
    return Packed(cell, (w_ih, w_hh, b_ih, b_hh, peephole), backward, bf16, once)


@dataclass(slots=True)
class Saved(Addressed):
    """What forward keeps for backward: activations, over which backward writes dz, and the states."""

    memory: np.ndarray
    base: int
    run: Run

    @property
    def plan(self) -> Plan:
        """How forward ran, and backward will."""
        return self.run.plan

    def copy(self) -> Saved:
        """The same in memory of its own."""
        memory, base = self.run.allocate()
        start, size = self.base - address_of(self.memory), self.run.size
        memory[base - address_of(memory) :][:size] = self.memory[start : start + size]
        return Saved(memory, base, self.run)


def forward(
    cell: Cell, x: np.ndarray, resets: np.ndarray | None, directions: Sequence[Forward], keep: bool
) -> list[Saved]:
    """Run forward over a (T, B, I) batch; see ``fastrnn.backend.Backend``. Of no direction anything without keep."""
    kept = []
    for packed, state, schedule, y, final in directions:
        run = prepare(packed, schedule, keep, get_num_threads())
        memory = run.allocate() if keep else run.borrow()
        base = memory[1]
        arrange(run, base, packed, schedule, x, y, resets, state, final)
        _launch(forward_kernel, packed.layout, run, base, run.plan.threads)
        if keep:
            kept.append(Saved(*memory, run))
        else:
            run.give_back(memory)
    return kept


def backward(
    cell: Cell,
    x: np.ndarray,
    resets: np.ndarray | None,
    directions: Sequence[Backward],
    dx: np.ndarray | None,
    consume: bool = True,
    accumulate_dx: bool = False,
    accumulate: bool = True,
) -> None:
    """Run backward; see ``fastrnn.backend.Backend``."""
    for packed, saved, schedule, dy, dfinal, dinitial, grads in directions:
        if not consume:
            saved = saved.copy()
        run = saved.run
        sums = grads if isinstance(grads, Accumulators) else Accumulators(packed, in_place=consume and packed.once)
        arrange_backward(run, saved.base, packed, schedule, sums, x, resets, dy, dx, accumulate_dx, dfinal, dinitial)
        _launch(backward_kernel, packed.layout, run, saved.base, run.plan.threads)
        _launch(gradients_kernel, packed.layout, run, saved.base, min(run.plan.threads, packed.layout.U))
        sums.summed = sums.summed or schedule.total > 0
        if not isinstance(grads, Accumulators):
            sums.store_in(grads, accumulate)
        accumulate_dx = True  # the other directions' part
