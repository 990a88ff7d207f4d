"""Which policy runs a layer, cut how, and why. All of it is decided here."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator

import numpy as np

from fastrnn.backend import Plan
from fastrnn.cells import Cell

from . import devices
from .cost import step_seconds
from .cuts import Chip, Policy, Problem, cuts
from .layout import ELEMENTS

__all__ = ["candidates", "choose", "current_chip", "forced", "plan"]


_forced: list[str] = []


@contextlib.contextmanager
def forced(kernel: str) -> Iterator[None]:
    """Take this policy ("cluster", "persistent" or "stepwise") wherever it is possible, whatever the model says.

    For tests and measurements; where it is not possible, what the model prefers is taken.
    """
    _forced.append(kernel)
    try:
        yield
    finally:
        _forced.pop()


def candidates(problem: Problem, chip: Chip) -> list[tuple[float, Policy]]:
    """All that can run a problem, with the model's seconds a step, fastest first."""
    stepwise = Policy("stepwise", "cuBLAS streams the recurrent weights each step")
    found = [(step_seconds(policy, problem, chip), policy) for policy in [*cuts(problem, chip), stepwise]]
    return sorted(found, key=lambda pair: pair[0])


def choose(cell: Cell, dtype: str, precision: str, H: int, B: int, steps: int, backward: bool, chip: Chip) -> Policy:
    """The policy for B rows of H units."""
    problem = Problem(cell.name, dtype, precision, H, B, backward)
    return _choose(problem, steps > 1, chip, _forced[-1] if _forced else None)


@functools.lru_cache(maxsize=1024)
def _choose(problem: Problem, several: bool, chip: Chip, wanted: str | None) -> Policy:
    if not several and wanted is None:
        return Policy("stepwise", "one step: weights would be loaded onto the chip for a single use")
    found = candidates(problem, chip)
    named = [pair for pair in found if pair[1].kernel == wanted]
    seconds, policy = (named or found)[0]
    why = f"{policy.why}; {seconds * 1e6:.2g} us a step by the model"
    others = dict.fromkeys(other.kernel for _, other in found if other.kernel != policy.kernel)
    best = {kernel: next(s for s, other in found if other.kernel == kernel) for kernel in others}
    why += "".join(f", {kernel} {s * 1e6:.2g}" for kernel, s in best.items())
    return policy._replace(why=why)


def plan(
    cell: Cell, T: int, B: int, I: int, H: int, dtype: str, training: bool, chip: Chip, precision: str = "exact"
) -> Plan:
    """What forward, and backward if training, would do."""
    policy = choose(cell, dtype, precision, H, B, T, False, chip)
    kernel, why = policy.kernel, policy.why
    if training:
        back = choose(cell, dtype, precision, H, B, T, True, chip)
        kernel, why = f"{kernel}, back {back.kernel}", f"{why}; back: {back.why}"
    sums = np.dtype(ELEMENTS[dtype].sums).itemsize
    rows = T * B
    saved = (len(cell.slots) + len(cell.phases)) * ELEMENTS[dtype].itemsize + (len(cell.states) - 1) * sums
    flops = 2 * rows * len(cell.gates) * H * (I + H) * (3 if training else 1)
    return Plan(kernel, why, policy.blocks * policy.columns or 1, rows * H * saved, flops)


def current_chip() -> Chip:
    """The current device's."""
    return _chip(devices.require().cuda.runtime.getDevice())


@functools.cache
def _chip(index: int) -> Chip:
    device = devices.require().cuda.Device(index)
    attributes = device.attributes  # asks the driver about a hundred things each time
    return Chip(
        attributes["MultiProcessorCount"], attributes["MaxSharedMemoryPerBlockOptin"], int(device.compute_capability)
    )
