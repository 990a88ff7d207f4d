"""Every translation unit that calls can ask for: for tests that compile them, and tables of what they became."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from fastrnn.cell_table import CELLS, Cell

from .clusters import SIZES
from .cuts import FIRST_WITH_CLUSTERS, Chip, Policy, Problem
from .layout import ELEMENTS
from .plan import candidates
from .units import clusters, dropout, persistent, stepwise, sums

__all__ = ["Unit", "chosen_units", "every_unit", "precisions"]

_ROWS = 16
# Units of two members, whose code is that of one twice: where kernels are fullest, of cells with one and two phases.
_PAIRED = ("lstm_peephole", "bfloat16", 512), ("gru_reset_before", "bfloat16", 512)


class Unit(NamedTuple):
    """One text for the compiler."""

    label: str
    source: str
    spills: dict[str, int]  # by kernel, the most bytes of a thread that may lie in local memory
    problem: Problem | None = None  # of a kernel that walks all steps: what it was cut for, and how
    policy: Policy | None = None


def precisions(dtype: str) -> tuple[str, ...]:
    """Those that a dtype has."""
    return ("exact", "tf32", "3xtf32") if dtype == "float32" else ("exact",)


def every_unit(
    capability: int = 90,
    sizes: Sequence[int] = (100, 512, 1024),
    cells: Iterable[str] = CELLS,
    dtypes: Iterable[str] = ELEMENTS,
) -> Iterator[Unit]:
    """Units for a compute capability: those that do not depend on sizes, and what runs 16 rows of H units each."""
    chip = Chip(132, 227 * 1024, capability)
    if capability >= FIRST_WITH_CLUSTERS:
        yield Unit("clusters", clusters(SIZES), {f"cluster_{size}": 0 for size in SIZES})
    for dtype in dtypes:
        yield Unit(f"sums {dtype}", sums(dtype), {"sum_rows": 0})
        yield Unit(f"dropout {dtype}", dropout(dtype), {"apply_mask": 0})
        for cell in cells:
            yield _stepwise(CELLS[cell], dtype)
            yield from _persistent(cell, dtype, chip, sizes)


def chosen_units(chip: Chip, problems: Iterable[Problem]) -> Iterator[Unit]:
    """What the cost model chooses for each problem, where that walks all steps; each text once."""
    seen = set()
    for problem in problems:
        _, policy = candidates(problem, chip)[0]
        if policy.shape is not None:
            unit = _unit(problem, policy, f" B={problem.B}")
            if unit.source not in seen:
                seen.add(unit.source)
                yield unit


def _stepwise(cell: Cell, dtype: str) -> Unit:
    kernels = ["enter", "store_arguments", "forward_0", "backward"]
    if len(cell.phases) == 2:
        kernels += ["forward_1", "gate_backward"]
    return Unit(f"stepwise {cell.name} {dtype}", stepwise(cell.name, dtype), dict.fromkeys(kernels, 0))


def _persistent(cell: str, dtype: str, chip: Chip, sizes: Sequence[int]) -> Iterator[Unit]:
    seen = set()
    for H, backward, precision, members in itertools.product(sizes, (False, True), precisions(dtype), (1, 2)):
        if members > 1 and (cell, dtype, H) not in _PAIRED:
            continue
        problem = Problem(cell, dtype, precision, H, _ROWS, backward, members)
        found = [policy for _, policy in candidates(problem, chip) if policy.members == members]
        for policy in {policy.kernel: policy for policy in reversed(found)}.values():
            if policy.shape is not None and (policy.shape, backward, members) not in seen:
                seen.add((policy.shape, backward, members))
                yield _unit(problem, policy, most=_spilled(policy, chip))


def _spilled(policy: Policy, chip: Chip) -> int:
    """Bytes of a thread that compilers leave in local memory.

    None on sm_80 to sm_90. Those for other architectures spend a few registers more on the same text: up to 96 a
    member, before the loop.
    """
    return 0 if 80 <= chip.capability <= 90 else 96 * policy.members


def _unit(problem: Problem, policy: Policy, more: str = "", most: int = 0) -> Unit:
    assert policy.shape is not None
    kernel, members = "backward" if problem.backward else "forward", policy.members
    label = f"{policy.kernel} {kernel} {problem.cell} {problem.dtype} H={problem.H}{more}"
    label += f", tensor cores x{policy.shape.tensor}" * (policy.shape.tensor > 0) + f", {members} members" * (
        members > 1
    )
    source = persistent(problem.cell, problem.dtype, policy.shape, problem.backward, members)
    return Unit(label, source, {kernel: most}, problem, policy)
