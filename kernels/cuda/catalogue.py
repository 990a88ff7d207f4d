"""Every translation unit that calls can ask for: for tests that compile them, and for the table of their registers."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from fastrnn.cells import CELLS, Cell

from .cuts import Chip, Problem
from .layout import ELEMENTS
from .plan import candidates
from .units import dropout, persistent, stepwise, sums

__all__ = ["Unit", "every_unit"]

_ROWS = 16


class Unit(NamedTuple):
    """One text for the compiler."""

    label: str
    source: str
    spills: dict[str, int]  # by kernel, the most bytes of a thread that may lie in local memory


def every_unit(capability: int = 90, sizes: Sequence[int] = (100, 512, 1024)) -> Iterator[Unit]:
    """Units for a compute capability: those that do not depend on sizes, and what runs 16 rows of H units each."""
    chip = Chip(132, 227 * 1024, capability)
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
    for H, backward, precision in itertools.product(sizes, (False, True), precisions):
        problem = Problem(cell.name, dtype, precision, H, _ROWS, backward)
        fastest = {policy.kernel: policy for _, policy in reversed(candidates(problem, chip))}
        for policy in fastest.values():
            shape = policy.shape
            if shape is None or (shape, backward) in seen:
                continue
            seen.add((shape, backward))
            kernel = "backward" if backward else "forward"
            tensor = f", tensor cores x{shape.tensor}" * (shape.tensor > 0)
            label = f"{policy.kernel} {kernel} {cell.name} {dtype} H={H}{tensor}"
            yield Unit(label, persistent(cell.name, dtype, shape, backward), {kernel: most})
