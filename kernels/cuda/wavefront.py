"""Layers of one direction at the same time: each a chunk of steps behind the one below, on its part of the chip.

launch   0      1      2      3           chunk c of a layer needs chunk c of the layer below, and its own before:
layer 0  c=0    c=1    c=2                what a launch before has left. Between two launches the next chunk's input
layer 1         c=0    c=1    c=2         product is taken, of every layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastrnn.backend import Forward
from fastrnn.cell_table import Cell
from fastrnn.sequences import Schedule

from . import plan
from .forward import Saved, entered, input_product
from .packed import Packed
from .walk import launch_persistent

__all__ = ["forward_layers", "wavefront"]


def wavefront(cell: Cell, packed: Packed, schedule: Schedule, layers: int) -> plan.Wave | None:
    """See ``fastrnn.backend.LayeredBackend``."""
    size = packed.H, schedule.B, schedule.steps
    return plan.wavefront(cell, packed.dtype, packed.precision, *size, layers, plan.current_chip())


def forward_layers(
    cell: Cell, x: Any, resets: Any, layers: Sequence[Forward], keep: bool, wave: plan.Wave
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
                input_product(walk, inputs[behind], buffers[behind].slab, first, last, keep)
            else:
                walk.set_steps(steps, steps)  # not yet begun, or done: the kernel finds no row
        launch_persistent(walks, wave.policy, False)
    return buffers if keep else []
