"""What a call would do: per layer and direction the kernel, the reason, the memory, and the time to expect."""

from __future__ import annotations

import functools
import time
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from fastrnn import checks
from fastrnn.backend import load
from fastrnn.cell_table import Cell
from fastrnn.places import Place
from fastrnn.recurrent import RecurrentLayer, recurrent_layer
from fastrnn.sequences import Schedule

__all__ = ["Explanation", "Part", "explain"]


class Speed(NamedTuple):
    """A model of the kernels: a step costs the longest of its products, its weights' way in, and a least time."""

    flops: float  # a second and thread, with a batch
    bandwidth: float  # bytes of weights a second, for one row
    step: float  # seconds, for one row and very few units


@dataclass(frozen=True)
class Part:
    """One layer in one direction."""

    layer: int
    direction: str  # "forward" or "reverse"
    kernel: str
    why: str
    threads: int
    bytes: int
    flops: int
    seconds: float


@dataclass(frozen=True)
class Explanation:
    """What ``explain`` found; print it, or read ``parts``."""

    title: str
    parts: tuple[Part, ...]

    @property
    def bytes(self) -> int:
        """Memory that the call takes beside x, y and the parameters: packed weights, states, the tape if training."""
        return sum(part.bytes for part in self.parts)

    @property
    def flops(self) -> int:
        """Floating-point operations of the products; a multiply-add counts as two."""
        return sum(part.flops for part in self.parts)

    @property
    def seconds(self) -> float:
        """Predicted time of the call."""
        return sum(part.seconds for part in self.parts)

    def __str__(self) -> str:
        lines = [self.title]
        for p in self.parts:
            lines.append(f"  layer {p.layer} {p.direction}: {p.kernel}, {_count(p.threads, 'thread')}")
            lines.append(f"    {p.why}")
            lines.append(f"    {_amounts(p.bytes, p.flops, p.seconds)}")
        if len(self.parts) > 1:
            lines.append(f"  all: {_amounts(self.bytes, self.flops, self.seconds)}")
        return "\n".join(lines)


def explain(layer: RecurrentLayer, T: int, B: int, *, training: bool = False) -> Explanation:
    """Say which kernels a call with x (T, B, I) would run, and why, without running them.

    training: describe ``forward`` and ``backward`` together. The predicted time is that of a model with three
    numbers (see ``Speed``), measured once per process, cell and dtype by running three small problems.

    Raises TypeError or ValueError for a layer that is none, and sizes below 0.
    """
    recurrent_layer(layer)
    T, B = checks.integer("T", T, 0, 1 << 62), checks.integer("B", B, 0, 1 << 62)
    training = checks.flag("training", training)
    backend = load(layer.device)
    place = layer.kind.place
    speed = measure_speed(place, layer.cell, layer.dtype, backend.get_num_threads())
    parts = []
    for k in range(layer.num_layers):
        width = layer.input_size if k == 0 else layer.num_directions * layer.hidden_size
        for direction in ("forward", "reverse")[: layer.num_directions]:
            shape = (layer.cell, T, B, width, layer.hidden_size, layer.dtype.name)
            plan = backend.plan(*shape, backend.get_num_threads(), training, layer.num_directions, layer.num_layers)
            weights = len(layer.cell.gates) * layer.hidden_size * (width + layer.hidden_size) * layer.dtype.itemsize
            passes = 2 if training else 1
            seconds = passes * T * max(speed.step, weights / speed.bandwidth) if B else 0.0
            seconds = max(seconds, plan.flops / (speed.flops * plan.threads))
            parts.append(Part(k, direction, *plan[:5], seconds))
    task = "training step" if training else "inference"
    return Explanation(f"{layer!r}, {task} with T={T}, B={B}", tuple(parts))


@functools.cache
def measure_speed(place: Place, cell: Cell, dtype: np.dtype[Any], threads: int) -> Speed:
    """Run three small problems (about 3 ms once the kernels are compiled) and derive the model's numbers."""
    backend, arrays = load(place.device), place.arrays

    def seconds(T: int, B: int, H: int) -> float:
        rows = len(cell.gates) * H
        x, weights = arrays.zeros((T, B, H), dtype), arrays.zeros((rows, H), dtype)
        peephole = arrays.zeros(len(cell.peepholes) * H, dtype) if cell.peepholes else None
        packed = backend.pack(cell, weights, weights, None, None, peephole)
        final = tuple(arrays.empty((B, H), dtype) for _ in cell.states)
        schedule, times = Schedule(T, B), []
        for _ in range(4):  # the first one compiles
            place.synchronize()
            start = time.perf_counter()
            backend.forward(cell, x, None, [(packed, None, schedule, None, final)], False)
            place.synchronize()
            times.append(time.perf_counter() - start)
        return min(times)

    T, B, H = 30, 24, 128
    plan = backend.plan(cell, T, B, H, H, dtype.name, threads, False)
    rate = plan.flops / seconds(T, B, H) / plan.threads
    T, H = 50, 256
    bandwidth = T * len(cell.gates) * H * 2 * H * dtype.itemsize / seconds(T, 1, H)
    # The difference of two lengths leaves out what a call costs beside its steps.
    step = max(seconds(400, 1, 8) - seconds(100, 1, 8), 0.0) / 300
    return Speed(rate, bandwidth, step)


def _count(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def _scaled(value: float, units: tuple[tuple[float, str], ...]) -> str:
    for size, unit in units:
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value / units[-1][0]:.3g} {units[-1][1]}"


def _amounts(size: int, flops: int, seconds: float) -> str:
    memory = _scaled(size, ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")))
    work = _scaled(flops, ((1e12, "Tflop"), (1e9, "Gflop"), (1e6, "Mflop"), (1e3, "kflop")))
    when = _scaled(seconds, ((1.0, "s"), (1e-3, "ms"), (1e-6, "us")))
    return f"{memory}, {work}, about {when}"
