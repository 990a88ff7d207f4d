"""Forward through time of one layer, all its directions: input product, steps, and what backward will need."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from fastrnn.backend import Forward
from fastrnn.cell_table import Cell

from .batch import Batch
from .graphs import Steps, side_by_side
from .layout import runs
from .plan import choose, current_chip
from .walk import Walk, launch_persistent

__all__ = ["Saved", "entered", "forward", "input_product"]

# Bytes of the input product that exist at a time where no tape is kept: large enough for whole products, small enough
# to stay in an L2 cache of 50 MB.
_SLAB_BYTES = 32 << 20


class Saved(NamedTuple):
    """What backward needs beside x. slab (R, S, H) activations; hs, cs, operand (R, H): see layout.py."""

    slab: Any
    hs: Any
    cs: Any
    operand: Any


def forward(cell: Cell, x: Any, resets: Any, directions: Sequence[Forward], keep: bool) -> list[Saved]:
    """See ``fastrnn.backend.Backend``."""
    if not directions:
        return []
    packed, _, schedule, _, _ = directions[0]
    B, H, steps = schedule.B, packed.H, schedule.steps
    steps_at_once = steps
    if not keep and steps:
        # By the number of directions, not by that of those that walk side by side: it may show in a product's sums.
        step_bytes = B * len(cell.slots) * H * np.dtype(x.dtype).itemsize * len(directions)
        steps_at_once = min(max(_SLAB_BYTES // max(step_bytes, 1), 1), steps)
    walks, buffers = [], []
    for direction in directions:
        walk, saved = entered(cell, resets, direction, keep, steps_at_once)
        walks.append(walk)
        buffers.append(saved)
    policy = choose(cell, packed.dtype, packed.precision, H, B, steps, False, current_chip(), len(walks))
    if policy.shape is not None or not steps:
        for walk in walks:
            walk.launch_enter()
    for first in range(0, steps, max(steps_at_once, 1)):
        last = min(first + steps_at_once, steps)
        for walk, saved in zip(walks, buffers, strict=True):
            input_product(walk, x, saved.slab, first, last, keep)
        if policy.shape is not None:
            launch_persistent(walks, policy, False)
        else:
            side_by_side([_step_by_step(w, saved.hs, first, last) for w, saved in zip(walks, buffers, strict=True)])
    return buffers if keep else []


def entered(cell: Cell, resets: Any, direction: Forward, keep: bool, steps_at_once: int) -> tuple[Walk, Saved]:
    """A walk with all that it reads and writes, but the input product."""
    packed, state, schedule, y, final = direction
    batch = Batch.of(schedule)
    walk = Walk(cell, packed, batch, resets, keep)
    if y is not None:
        batch.clear_padding(y)
        walk.point_sequence("y", y)
    walk.point_states(state, final)
    B, H, total = batch.B, packed.H, batch.total
    slab = walk.new("slab", total if keep else steps_at_once * B, walk.slots, H)
    hs = walk.new("hs", total if keep else 2 * B, H)
    cs = walk.new("cs", total if keep else B, H, sums=True) if len(cell.states) == 2 else None
    operand = walk.new("operand", total if keep else B, H) if len(cell.phases) == 2 else None
    return walk, Saved(slab, hs, cs, operand)


def input_product(walk: Walk, x: Any, slab: Any, first: int, last: int, keep: bool) -> None:
    """x Wih' into the slab, for the packed rows of the steps that come next."""
    walk.set_steps(first, last)
    begin, end = walk.batch.packed_range(first, last)
    start = 0 if keep else begin
    walk.args["slab_first"] = start
    rows, _alive = walk.batch.gather(x, begin, end)
    for run in runs(walk.cell.name, "x"):
        target = walk.slab_columns(slab, run, begin - start, end - begin)
        walk.gemm(rows, walk.gates(walk.packed.w_ih, run), target, b_transposed=True)


def _step_by_step(walk: Walk, hs: Any, first: int, last: int) -> tuple[Steps, Callable[[], None]]:
    """For ``side_by_side``: the recurrent product of a step by cuBLAS, then its pointwise part."""
    steps = walk.steps("forward", first, last, h=True)
    buffers, B = steps.buffers, walk.batch.B
    walk.point(**buffers)
    if first == 0:
        walk.launch_enter()
    else:
        buffers["h_step"][first & 1] = hs.reshape(2, B, -1)[first & 1]
    walk.store_arguments()

    def launches() -> None:
        for step in range(first, last):
            rows = walk.batch.alive(step)
            for index, run in enumerate(walk.phases):
                if index:
                    multiplied = walk.rows_of(buffers["operand_step"], 0, rows)
                else:
                    multiplied = walk.rows_of(buffers["h_step"], (step & 1) * B, rows)
                width = run.count * walk.H
                target = walk.rows_of(buffers["product"], 0, rows)._replace(columns=width, stride=width)
                walk.gemm(multiplied, walk.gates(walk.packed.w_hh, run), target, b_transposed=True)
                walk.launch_step(f"forward_{index}", step, rows)

    return steps, launches
