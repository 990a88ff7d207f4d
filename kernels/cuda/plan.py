"""Which policy runs a layer, cut how, and why. All of it is decided here."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from fastrnn.backend import MOST_LAYERS, Plan
from fastrnn.cell_table import Cell

from . import devices
from .clusters import at_once
from .cost import HOPPER, step_seconds, wave
from .cuts import FIRST_WITH_CLUSTERS, Chip, Policy, Problem, cuts
from .layout import ELEMENTS

__all__ = ["Wanted", "Wave", "candidates", "choose", "current_chip", "forced", "plan", "wavefront"]


class Wanted(NamedTuple):
    """A kernel, how many walks go side by side, sizes of the kernel's shape; None: whatever the model prefers."""

    kernel: str | None = None
    members: int | None = None
    shape: tuple[tuple[str, int], ...] = ()

    def cut(self, policy: Policy, problem: Problem) -> bool:
        """Whether a policy has the kernel and the shape. Forward splits no products."""
        kernel, shape = self.kernel, dict(self.shape)
        if kernel == "split" and not problem.backward:
            kernel = "persistent"
            shape.pop("split", None)
        sizes = all(getattr(policy.shape, name, None) == size for name, size in shape.items())
        return kernel in (None, policy.kernel) and sizes

    def order(self, policy: Policy, problem: Problem) -> bool:
        """Whether as many walks go side by side, where there are several."""
        return self.members in (None, policy.members) or problem.walks == 1


_forced: list[Wanted] = []


@contextlib.contextmanager
def forced(kernel: str | None, members: int | None = None, **shape: int) -> Iterator[None]:
    """Take this policy ("cluster", "persistent", "split" or "stepwise") where it is possible, whatever the model says.

    members: so many directions, or layers, walk side by side; 1: one after the other. shape: sizes that its cut must
    have, such as ``units=8`` or ``split=4``. For tests and measurements; where it is not possible, what the model
    prefers is taken.
    """
    _forced.append(Wanted(kernel, members, tuple(shape.items())))
    try:
        yield
    finally:
        _forced.pop()


def candidates(problem: Problem, chip: Chip) -> list[tuple[float, Policy]]:
    """All that can run a problem, with the model's seconds a step, fastest first."""
    stepwise = Policy("stepwise", "cuBLAS streams the recurrent weights each step", members=problem.walks)
    found = [(step_seconds(policy, problem, chip), policy) for policy in [*cuts(problem, chip), stepwise]]
    return sorted(found, key=lambda pair: pair[0])


def choose(
    cell: Cell, dtype: str, precision: str, H: int, B: int, steps: int, backward: bool, chip: Chip, walks: int = 1
) -> Policy:
    """The policy for B rows of H units in each of the walks."""
    problem = Problem(cell.name, dtype, precision, H, B, backward, walks)
    return _choose(problem, steps > 1, chip, _forced[-1] if _forced else Wanted())


@functools.lru_cache(maxsize=1024)
def _choose(problem: Problem, several: bool, chip: Chip, wanted: Wanted) -> Policy:
    if not several and wanted.kernel is None:
        why = "one step: weights would be loaded onto the chip for a single use"
        return Policy("stepwise", why, members=problem.walks)
    found = candidates(problem, chip)
    named = [pair for pair in found if wanted.cut(pair[1], problem)] or found
    seconds, policy = next((pair for pair in named if wanted.order(pair[1], problem)), named[0])
    others = dict[str, float]()
    for other_seconds, other in found:
        others.setdefault(_called(other, problem), other_seconds)
    others.pop(mine := _called(policy, problem))
    how = mine.removeprefix(policy.kernel)
    why = f"{policy.why}{how and ','}{how}; {seconds * 1e6:.2g} us a step by the model"
    why += "".join(f", {name} {s * 1e6:.2g}" for name, s in others.items())
    return policy._replace(why=why)


def _called(policy: Policy, problem: Problem) -> str:
    """The kernel, and in which order it takes several walks."""
    if problem.walks == 1:
        return policy.kernel
    return policy.kernel + (" side by side" if policy.members > 1 else " one after the other")


class Wave(NamedTuple):
    """Layers side by side, each some steps behind the one below."""

    policy: Policy
    chunk: int  # steps


def wavefront(
    cell: Cell, dtype: str, precision: str, H: int, B: int, steps: int, layers: int, backward: bool, chip: Chip
) -> Wave | None:  # fmt: skip
    """How layers go side by side, forward or back; None where one after the other is as fast, or all that can be."""
    if not 1 < layers <= MOST_LAYERS or steps < 2 or not B:
        return None
    each = cell, dtype, precision, H, B, steps, backward, chip
    together, alone = choose(*each, layers), choose(*each)
    if together.members != layers or together.shape is None:
        return None
    problem = Problem(cell.name, dtype, precision, H, B, backward)
    chunk, seconds = wave(step_seconds(together, problem._replace(walks=layers), chip), steps, layers)
    pays = seconds < layers * (steps * step_seconds(alone, problem, chip) + HOPPER.chunk)
    wanted = bool(_forced) and _forced[-1].members == layers
    return Wave(together, chunk) if chunk < steps and (pays or wanted) else None


def _so(wave: Wave, neighbour: str) -> str:
    layers = wave.policy.members
    return f"{wave.policy.why}; {layers} layers at the same time, each {wave.chunk} steps behind the one {neighbour}"


def plan(
    cell: Cell, T: int, B: int, I: int, H: int, dtype: str, training: bool, chip: Chip, directions: int = 1,
    layers: int = 1, precision: str = "exact",
) -> Plan:  # fmt: skip
    """What forward, and backward if training, would do in each of the directions and layers."""
    policy = choose(cell, dtype, precision, H, B, T, False, chip, directions)
    kernel, why = policy.kernel, policy.why
    together, behind = (
        wavefront(cell, dtype, precision, H, B, T, min(layers, MOST_LAYERS), back, chip) if directions == 1 else None
        for back in (False, True)
    )
    if together is not None:
        policy, kernel, why = together.policy, together.policy.kernel, _so(together, "below")
    if training:
        back = choose(cell, dtype, precision, H, B, T, True, chip, directions)
        kernel = f"{kernel}, back {(behind.policy if behind else back).kernel}"
        why += f"; back: {_so(behind, 'above') if behind else back.why}"
    sums = np.dtype(ELEMENTS[dtype].sums).itemsize
    rows = T * B
    saved = (len(cell.slots) + len(cell.phases)) * ELEMENTS[dtype].itemsize + (len(cell.states) - 1) * sums
    flops = 2 * rows * len(cell.gates) * H * (I + H) * (3 if training else 1)
    return Plan(kernel, why, policy.blocks * policy.columns * policy.members or 1, rows * H * saved, flops)


def current_chip() -> Chip:
    """The current device's."""
    return _chip(devices.require().cuda.runtime.getDevice())


@functools.cache
def _chip(index: int) -> Chip:
    device = devices.require().cuda.Device(index)
    attributes = device.attributes  # asks the driver about a hundred things each time
    shared, capability = attributes["MaxSharedMemoryPerBlockOptin"], int(device.compute_capability)
    clusters, cooperative = at_once(shared) if capability >= FIRST_WITH_CLUSTERS else ((), False)
    return Chip(attributes["MultiProcessorCount"], shared, capability, clusters, cooperative)
