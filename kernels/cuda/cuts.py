"""How the kernels that hold the recurrent weights can be cut for a layer and a chip: every way that fits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from .layout import ELEMENTS, runs
from .units import Shape

__all__ = ["FIRST_WITH_CLUSTERS", "Chip", "Policy", "Problem", "cuts"]

# 32-bit registers of weights a thread may hold: 128 leave no spill in 255 (152 to 230 are used at 64 to 128).
_WEIGHT_REGISTERS = 128
_THREADS = 256
_WARPS = _THREADS // 32
_TENSOR_PRODUCTS = {"exact": 0, "tf32": 1, "3xtf32": 3}  # of tensor cores, for one of float32
_TENSOR_CORES = 80  # compute capability of the first with mma of bfloat16 and TF32
FIRST_WITH_CLUSTERS = 90
_LARGER_CLUSTERS = (9, 10)  # major versions with clusters of 16, as is known without asking


class Chip(NamedTuple):
    """What a device has room for."""

    multiprocessors: int
    shared_memory: int  # bytes a block
    capability: int  # 90: sm_90
    clusters: tuple[tuple[int, int], ...] | None = None  # (blocks of one, how many run at once); None: nobody asked
    cooperative_clusters: bool = True  # whether clusters may be launched all at once or not at all

    def room_for(self, cluster: int) -> int:
        """How many clusters of that many blocks run at once, one block a multiprocessor."""
        if self.clusters is not None:
            return min(self.multiprocessors // cluster, dict(self.clusters).get(cluster, 0))
        if cluster > 8 and self.capability // 10 not in _LARGER_CLUSTERS:
            return 0
        # A cluster lies within a group of 16 or 18 multiprocessors, of which some are left over.
        return (self.multiprocessors - self.multiprocessors // (8 if cluster > 8 else 32)) // cluster


class Problem(NamedTuple):
    """One step of some walks, alike and apart: a layer's directions, or layers that are at different steps."""

    cell: str
    dtype: str
    precision: str
    H: int
    B: int
    backward: bool
    walks: int = 1

    @property
    def itemsize(self) -> int:
        """Bytes of an element."""
        return ELEMENTS[self.dtype].itemsize

    @property
    def fed(self) -> list[int]:
        """Slots that the recurrent product feeds, by phase."""
        return [run.count for run in runs(self.cell, "h")]

    @property
    def products(self) -> int:
        """Tensor-core products for one of the layer's dtype; 0: they are not to be used."""
        if self.itemsize == 2:
            return 1
        return _TENSOR_PRODUCTS[self.precision] if self.dtype == "float32" else 0


class Policy(NamedTuple):
    """How a layer walks its steps."""

    kernel: str  # "cluster", "persistent", "split" or "stepwise"
    why: str
    shape: Shape | None = None
    blocks: int = 0  # that share the hidden units
    columns: int = 0  # groups of such blocks, that share the rows
    shared: int = 0  # bytes
    members: int = 1  # walks that are side by side; the others come after them


def cuts(problem: Problem, chip: Chip) -> Iterator[Policy]:
    """The kernels whose weights fit the registers of as many blocks as the chip can run at once.

    One walk with the whole chip to itself, or all side by side, each with its part. Tensor cores are used wherever they
    may be and something fits.
    """
    for members in sorted({1, problem.walks}):
        yield from _cuts(problem, chip, members)


def _cuts(problem: Problem, chip: Chip, members: int) -> Iterator[Policy]:
    vector = 16 // problem.itemsize
    aligned = problem.H % vector == 0
    # (blocks of a cluster, blocks that split a product)
    groups = [(0, 1)]
    if chip.capability >= FIRST_WITH_CLUSTERS:
        groups += [(size, 1) for size in (4, 8, 16) if aligned]
        groups += [(0, split) for split in (2, 4, 8) if problem.backward and chip.cooperative_clusters]
    tensor = problem.products if aligned and chip.capability >= _TENSOR_CORES else 0
    for products in sorted({tensor, 0}, reverse=True):
        found = [
            policy
            for cluster, split in groups
            for units in ((8, 16, 32) if cluster or products else (4, 8, 16, 32))
            if (policy := _fitted(problem, chip, units, vector if aligned else 1, products, cluster, split, members))
        ]
        yield from found
        if found:
            return


def _fitted(
    problem: Problem, chip: Chip, units: int, vector: int, tensor: int, cluster: int, split: int, members: int
) -> Policy | None:
    """The kernel with that many units a block, if it fits. cluster: blocks of one, 0 without; split as in Shape."""
    H, B, fed, itemsize = problem.H, problem.B, problem.fed, problem.itemsize
    words, blocks = np.dtype(ELEMENTS[problem.dtype].sums).itemsize // 4, cluster or -(-H // (units * split)) * split
    if tensor:
        rounds = -(-H // (4 * vector * _WARPS))
        # Eight registers a round for every 16 outputs; backward has one output a unit, and a depth of all slots.
        if problem.backward:
            tiles = -(-units * split // 16) * sum(-(-count * rounds // split) for count in fed)
        else:
            tiles = rounds * sum(-(-count * units // 16) for count in fed)
        registers = 8 * tiles * (2 if tensor == 3 else 1)
    else:
        rounds = -(-H // (_THREADS // units * vector))
        registers = split * sum(-(-count * rounds // split) for count in fed) * vector * words
    if registers > _WEIGHT_REGISTERS or blocks * members > chip.multiprocessors or blocks * units < H:
        return None
    # As many columns as there is room for, but none without enough rows to fill what a product takes at once. Clusters
    # that wait for each other must all be there.
    together = cluster or split
    room = chip.room_for(together) // (blocks // together) if together > 1 else chip.multiprocessors // blocks
    if room < members:
        return None
    columns = max(1, min(room // members, -(-B // (8 if tensor else 4))))
    shape = Shape(vector, units, _THREADS, rounds, tensor, cluster, split)
    sums = shape.rows * units * 4 * words  # bytes, of a warp
    shared = _WARPS * sums * (split if problem.backward else max(fed))
    if split > 1:
        shared += 2 * split * sums + 16  # two mbarriers
    if cluster:
        widths = [count * H for count in fed] if problem.backward else [H] * len(fed)
        pitches = [-(-width * itemsize // 128) * 128 + 64 for width in widths]
        shared += 32 + -(-B // columns) * (2 * pitches[0] + sum(pitches[1:]))  # 32: three mbarriers
    if shared > chip.shared_memory:
        return None
    where = "as operands of tensor cores" if tensor else "in registers"
    how = f"clusters of {blocks} blocks" if cluster else f"{blocks} blocks"
    why = f"{how} of {units} units hold the recurrent weights {where} for all steps"
    if split > 1:
        why += f", and clusters of {split} split the depth of their products"
    kernel = "cluster" if cluster else "split" if split > 1 else "persistent"
    return Policy(kernel, why, shape, blocks, columns, shared, members)
