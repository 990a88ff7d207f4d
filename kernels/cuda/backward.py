"""Backward through time of one layer in one direction: steps, then the products over all rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastrnn.backend import Backward
from fastrnn.cells import Cell
from fastrnn.sequences import Schedule

from .batch import Batch
from .forward import Saved
from .gradients import add_gradients
from .packed import Packed
from .plan import choose, current_chip
from .walk import Walk

__all__ = ["backward"]


def backward(
    cell: Cell, x: Any, resets: Any, directions: Sequence[Backward], dx: Any, consume: bool = True,
    accumulate_dx: bool = False, accumulate: bool = True,
) -> None:  # fmt: skip
    """See ``fastrnn.backend.Backend``."""
    for direction in directions:
        _backward(cell, x, resets, *direction, dx, consume, accumulate_dx, accumulate)
        accumulate_dx = True


def _backward(
    cell: Cell, x: Any, resets: Any, packed: Packed, saved: Saved, schedule: Schedule, dy: Any,
    dfinal: Sequence[Any] | None, dinitial: tuple[Any, ...], grads: Any, dx: Any, consume: bool, accumulate_dx: bool,
    accumulate: bool,
) -> None:  # fmt: skip
    batch = Batch.of(schedule)
    walk = Walk(cell, packed, batch, resets, True)
    walk.point_sequence("dy", dy)
    walk.point_states(dfinal, dinitial)
    slab = saved.slab if consume else saved.slab.copy()
    walk.point(slab=slab, hs=saved.hs, cs=saved.cs, operand=saved.operand)
    walk.new("carry", batch.B, walk.H, sums=True)
    d_peephole = None
    if cell.peepholes:
        d_peephole = walk.new("d_peephole", batch.B, len(cell.peepholes) * walk.H, sums=True, zero=True)
    policy = choose(cell, packed.dtype, packed.precision, walk.H, batch.B, batch.steps, True, current_chip())
    if policy.shape is not None:
        walk.launch_persistent(policy, True, 0, batch.steps)
    else:
        _step_by_step(walk)
    add_gradients(walk, saved._replace(slab=slab), x, d_peephole, dx, accumulate_dx, grads, accumulate)


def _step_by_step(walk: Walk) -> None:
    """The pointwise part of a step, then what its dz sends to the step before, by cuBLAS."""
    batch = walk.batch
    sequence = walk.sequence("backward", 0, batch.steps, h=False)
    buffers = sequence.buffers
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

    sequence.run(launches)
