"""Layers of one direction at the same time: each a chunk of steps behind another, on its part of the chip.

launch   0      1      2      3           chunk c of a layer needs chunk c of the layer below, and its own before:
layer 0  c=0    c=1    c=2                what a launch before has left. Between two launches the next chunk's input
layer 1         c=0    c=1    c=2         product is taken, of every layer.

Backward is the same from the other end: the uppermost layer goes first, its last chunk first, and between two launches
what its dz sends to the layer below is multiplied.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastrnn.backend import Backward, Dropout, Forward
from fastrnn.cell_table import Cell
from fastrnn.sequences import Schedule

from . import plan
from .backward import Way
from .dropout import apply_mask
from .forward import Saved, entered, input_product
from .gradients import add_gradients, input_gradient
from .packed import Packed
from .walk import launch_persistent

__all__ = ["backward_layers", "forward_layers", "wavefront"]


def wavefront(cell: Cell, packed: Packed, schedule: Schedule, layers: int, backward: bool) -> plan.Wave | None:
    """See ``fastrnn.backend.LayeredBackend``."""
    size = packed.H, schedule.B, schedule.steps
    return plan.wavefront(cell, packed.dtype, packed.precision, *size, layers, backward, plan.current_chip())


def forward_layers(
    cell: Cell, x: Any, resets: Any, layers: Sequence[Forward], keep: bool, wave: plan.Wave, dropout: Dropout | None
) -> list[Saved]:
    """See ``fastrnn.backend.LayeredBackend``."""
    steps, chunk = layers[0][2].steps, wave.chunk
    walks, buffers = [], []
    for layer in layers:
        walk, saved = entered(cell, resets, layer, keep, chunk)
        walk.launch_enter()
        walks.append(walk)
        buffers.append(saved)
    inputs = [x, *(y for _, _, _, y, _ in layers)]
    for launch in range(-(-steps // chunk) + len(layers) - 1):
        for behind, walk in enumerate(walks):
            first = (launch - behind) * chunk
            if 0 <= first < steps:
                last = min(first + chunk, steps)
                if behind:
                    _drop(inputs[behind], first, last, dropout, behind - 1)
                input_product(walk, inputs[behind], buffers[behind].slab, first, last, keep)
            else:
                walk.set_steps(steps, steps)  # not yet begun, or done: the kernel finds no row
        launch_persistent(walks, wave.policy, False)
    return buffers if keep else []


def backward_layers(
    cell: Cell, inputs: Sequence[Any], resets: Any, layers: Sequence[Backward], dx: Any, wave: plan.Wave,
    dropout: Dropout | None, consume: bool = True, accumulate_dx: bool = False, accumulate: bool = True,
) -> None:  # fmt: skip
    """See ``fastrnn.backend.LayeredBackend``."""
    steps, chunk = layers[0][2].steps, wave.chunk
    ways = [Way(cell, resets, layer, consume) for layer in layers]
    chunks = -(-steps // chunk)
    for launch in range(chunks + len(layers) - 1):
        for k, way in enumerate(ways):
            first = (chunks - 1 - launch + len(layers) - 1 - k) * chunk
            if 0 <= first < steps:
                last = min(first + chunk, steps)
                if k < len(ways) - 1:
                    above, dy = ways[k + 1], layers[k][3]
                    input_gradient(above.walk, above.saved, dy, *above.walk.batch.packed_range(first, last), False)
                    _drop(dy, first, last, dropout, k)
                way.walk.set_steps(first, last)
            else:
                way.walk.set_steps(steps, steps)
        launch_persistent([way.walk for way in ways], wave.policy, True)
    for k, (way, (*_, grads)) in enumerate(zip(ways, layers, strict=True)):
        below = None if k else dx
        add_gradients(way.walk, way.saved, inputs[k], way.d_peephole, below, accumulate_dx, grads, accumulate)


def _drop(array: Any, first: int, last: int, dropout: Dropout | None, boundary: int) -> None:
    """Apply to some steps of a (T, B, H) array the mask above layer ``boundary`` of these layers."""
    if dropout is not None:
        p, seed, lowest = dropout
        apply_mask(array[first:last], p, seed, lowest + boundary, first * array[0].size)
