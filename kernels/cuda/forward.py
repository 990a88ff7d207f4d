"""Forward through time of one layer in one direction: input product, steps, and what backward will need."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from fastrnn.backend import Forward
from fastrnn.cells import Cell
from fastrnn.sequences import Schedule

from .batch import Batch
from .layout import runs
from .packed import Packed
from .plan import choose, current_chip
from .walk import Walk

__all__ = ["Saved", "forward"]

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
    saved = [_forward(cell, x, resets, *direction, keep) for direction in directions]
    return saved if keep else []


def _forward(
    cell: Cell, x: Any, resets: Any, packed: Packed, state: tuple[Any, ...] | None, schedule: Schedule, y: Any,
    final: tuple[Any, ...], keep: bool,
) -> Saved:  # fmt: skip
    batch = Batch.of(schedule)
    walk = Walk(cell, packed, batch, resets, keep)
    if y is not None:
        batch.clear_padding(y)
        walk.point_sequence("y", y)
    walk.point_states(state, final)
    B, H, total = batch.B, packed.H, batch.total
    steps_at_once = batch.steps
    if not keep and batch.steps:
        step_bytes = max(B * walk.slots * H * np.dtype(x.dtype).itemsize, 1)
        steps_at_once = min(max(_SLAB_BYTES // step_bytes, 1), batch.steps)
    slab = walk.new("slab", total if keep else steps_at_once * B, walk.slots, H)
    hs = walk.new("hs", total if keep else 2 * B, H)
    cs = walk.new("cs", total if keep else B, H, sums=True) if len(cell.states) == 2 else None
    operand = walk.new("operand", total if keep else B, H) if len(cell.phases) == 2 else None
    policy = choose(cell, packed.dtype, packed.precision, H, B, batch.steps, False, current_chip())
    if policy.shape is not None or not batch.steps:
        walk.launch_enter()
    for first in range(0, batch.steps, max(steps_at_once, 1)):
        last = min(first + steps_at_once, batch.steps)
        _input_product(walk, x, slab, first, last, keep)
        if policy.shape is not None:
            walk.launch_persistent(policy, False, first, last)
        else:
            _step_by_step(walk, hs, first, last)
    return Saved(slab, hs, cs, operand)


def _input_product(walk: Walk, x: Any, slab: Any, first: int, last: int, keep: bool) -> None:
    """x Wih' into the slab, for the packed rows of some steps."""
    begin, end = walk.batch.packed_range(first, last)
    start = 0 if keep else begin
    walk.args["slab_first"] = start
    rows, _alive = walk.batch.gather(x, begin, end)
    for run in runs(walk.cell.name, "x"):
        target = walk.slab_columns(slab, run, begin - start, end - begin)
        walk.gemm(rows, walk.gates(walk.packed.w_ih, run), target, b_transposed=True)


def _step_by_step(walk: Walk, hs: Any, first: int, last: int) -> None:
    """The recurrent product of a step by cuBLAS, then its pointwise part."""
    sequence = walk.sequence("forward", first, last, h=True)
    buffers, B = sequence.buffers, walk.batch.B
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

    sequence.run(launches)
