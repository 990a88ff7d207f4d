"""Backward through time of one layer, all its directions: steps, then the products over all rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from fastrnn.backend import Backward
from fastrnn.cell_table import Cell

from .batch import Batch
from .gradients import add_gradients
from .graphs import Steps, side_by_side
from .plan import choose, current_chip
from .walk import Walk, launch_persistent

__all__ = ["Way", "backward"]


def backward(
    cell: Cell, x: Any, resets: Any, directions: Sequence[Backward], dx: Any, consume: bool = True,
    accumulate_dx: bool = False, accumulate: bool = True,
) -> None:  # fmt: skip
    """See ``fastrnn.backend.Backend``."""
    if not directions:
        return
    packed, _, schedule, *_ = directions[0]
    B, steps = schedule.B, schedule.steps
    policy = choose(cell, packed.dtype, packed.precision, packed.H, B, steps, True, current_chip(), len(directions))
    ways = [Way(cell, resets, direction, consume) for direction in directions]
    if policy.shape is not None:
        for way in ways:
            way.walk.set_steps(0, steps)
        launch_persistent([way.walk for way in ways], policy, True)
    else:
        side_by_side([_step_by_step(way.walk) for way in ways])
    for way, (*_, grads) in zip(ways, directions, strict=True):
        add_gradients(way.walk, way.saved, x, way.d_peephole, dx, accumulate_dx, grads, accumulate)
        accumulate_dx = True


class Way:
    """One direction's walk back, with what it leaves: dz in saved.slab, and gradients of peepholes by row or None."""

    def __init__(self, cell: Cell, resets: Any, direction: Backward, consume: bool) -> None:
        packed, saved, schedule, dy, dfinal, dinitial, _ = direction
        self.walk = walk = Walk(cell, packed, Batch.of(schedule), resets, True)
        walk.point_sequence("dy", dy)
        walk.point_states(dfinal, dinitial)
        slab = saved.slab if consume else saved.slab.copy()
        walk.point(slab=slab, hs=saved.hs, cs=saved.cs, operand=saved.operand)
        walk.new("carry", schedule.B, walk.H, sums=True)
        self.saved, self.d_peephole = saved._replace(slab=slab), None
        if cell.peepholes:
            shape = schedule.B, len(cell.peepholes) * walk.H
            self.d_peephole = walk.new("d_peephole", *shape, sums=True, zero=True)


def _step_by_step(walk: Walk) -> tuple[Steps, Callable[[], None]]:
    """For ``side_by_side``: the pointwise part of a step, then what its dz sends to the step before, by cuBLAS."""
    batch = walk.batch
    steps = walk.steps("backward", 0, batch.steps, h=False)
    buffers = steps.buffers
    walk.point(**buffers)
    walk.store_arguments()

    def multiply(phase: int, rows: int) -> None:
        run = walk.phases[phase]
        dz = walk.slab_columns(buffers["dz_step"], run, 0, rows)
        walk.gemm(dz, walk.gates(walk.packed.w_hh, run), walk.rows_of(buffers["product"], 0, rows))

    def launches() -> None:
        for step in reversed(range(batch.steps)):
            rows = batch.alive(step)
            walk.launch_step("backward", step, rows)
            if len(walk.phases) == 2:
                multiply(1, rows)
                walk.launch_step("gate_backward", step, rows)
            multiply(0, rows)
        walk.launch_step("backward", -1, batch.B)

    return steps, launches
