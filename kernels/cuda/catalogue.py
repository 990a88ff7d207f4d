"""Every translation unit that calls can ask for: for tests that compile them, and for the table of their registers."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from fastrnn.cells import CELLS, Cell

from .clusters import SIZES
from .cuts import FIRST_WITH_CLUSTERS, Chip, Problem
from .layout import ELEMENTS
from .plan import candidates
from .units import clusters, dropout, persistent, stepwise, sums

__all__ = ["Unit", "every_unit"]

_ROWS = 16
# Units of two members, whose code is that of one twice: where kernels are fullest, of cells with one and two phases.
_PAIRED = ("lstm_peephole", "bfloat16", 512), ("gru_reset_before", "bfloat16", 512)


class Unit(NamedTuple):
    """One text for the compiler."""

    label: str
    source: str
    spills: dict[str, int]  # by kernel, the most bytes of a thread that may lie in local memory


def every_unit(capability: int = 90, sizes: Sequence[int] = (100, 512, 1024)) -> Iterator[Unit]:
    """Units for a compute capability: those that do not depend on sizes, and what runs 16 rows of H units each."""
    chip = Chip(132, 227 * 1024, capability)
    if capability >= FIRST_WITH_CLUSTERS:
        yield Unit("clusters", clusters(SIZES), {f"cluster_{size}": 0 for size in SIZES})
    for dtype in ELEMENTS:
        yield Unit(f"sums {dtype}", sums(dtype), {"sum_rows": 0})
        yield Unit(f"dropout {dtype}", dropout(dtype), {"apply_mask": 0})
        for cell in CELLS.values():
            yield _stepwise(cell, dtype)
            yield from _persistent(cell, dtype, chip, sizes)


def _stepwise(cell: Cell, dtype: str) -> Unit:
    kernels = ["enter", "store_arguments", "forward_0", "backward"]
    if len(cell.phases) == 2:
        kernels += ["forward_1", "gate_backward"]
    return Unit(f"stepwise {cell.name} {dtype}", stepwise(cell.name, dtype), dict.fromkeys(kernels, 0))


def _persistent(cell: Cell, dtype: str, chip: Chip, sizes: Sequence[int]) -> Iterator[Unit]:
    # Compilers for other architectures spend a few registers more on the same text: up to 40 bytes go to local memory.
    most = 0 if 80 <= chip.capability <= 90 else 64
    seen = set()
    precisions = ("exact", "tf32", "3xtf32") if dtype == "float32" else ("exact",)
    for H, backward, precision, members in itertools.product(sizes, (False, True), precisions, (1, 2)):
        if members > 1 and (cell.name, dtype, H) not in _PAIRED:
            continue
        problem = Problem(cell.name, dtype, precision, H, _ROWS, backward, members)
        found = [policy for _, policy in candidates(problem, chip) if policy.members == members]
        for policy in {policy.kernel: policy for policy in reversed(found)}.values():
            shape = policy.shape
            if shape is None or (shape, backward, members) in seen:
                continue
            seen.add((shape, backward, members))
            kernel = "backward" if backward else "forward"
            label = f"{policy.kernel} {kernel} {cell.name} {dtype} H={H}"
            label += f", tensor cores x{shape.tensor}" * (shape.tensor > 0) + f", {members} members" * (members > 1)
            yield Unit(label, persistent(cell.name, dtype, shape, backward, members), {kernel: most})
