"""A model of what a step costs under each policy: the floors of its parts, added up.

The constants are those of an H100 as others have measured it (latencies: arXiv:2402.13499 and 2501.12084), scaled by
the number of multiprocessors; none was measured with these kernels yet. ``python -m bench floors`` prints what comes
out.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from .cuts import Chip, Policy, Problem
from .units import Shape

__all__ = ["HOPPER", "Costs", "step_seconds", "wave"]


class Costs(NamedTuple):
    """Seconds, or amounts a clock cycle and multiprocessor."""

    clock: float = 1.755e9  # Hz
    grid_barrier: float = 0.8e-6  # from a block's last store to the last block's first load
    cluster_exchange: float = 0.24e-6  # the same within a cluster: that of its barrier
    first_load: float = 0.35e-6  # latency of what another block wrote, from the L2 cache
    pointwise: float = 0.2e-6
    launch: float = 1.3e-6  # from kernel to kernel in a graph
    chunk: float = 10e-6  # to take up a walk again: its input product apart, a launch, weights onto the chip
    l2_bytes: float = 5.5e12 / 132 / 1.755e9
    memory_bytes: float = 3.0e12 / 132 / 1.755e9
    cluster_bytes: float = 12.0  # into a block from others of its cluster
    l2_size: float = 40e6
    # Multiply-adds: of registers with loads and shuffles between them, of tensor cores by mma.sync, of cuBLAS.
    registers: float = 64.0
    tensor: float = 1270.0
    gemm: float = 90.0


HOPPER = Costs()
_LEAST_CHUNK = 16  # steps


def step_seconds(policy: Policy, problem: Problem, chip: Chip, costs: Costs = HOPPER) -> float:
    """Seconds of one step of all walks, of which ``policy.members`` take it at the same time."""
    if policy.shape is None:
        return _stepwise(problem, policy.members, chip, costs)
    return problem.walks // policy.members * _persistent(policy, policy.shape, problem, chip, costs)


def _persistent(policy: Policy, shape: Shape, problem: Problem, chip: Chip, costs: Costs) -> float:
    fed, itemsize = problem.fed, problem.itemsize
    rows = -(-problem.B // policy.columns)
    at_once = 8 if shape.tensor else 4
    outputs = sum(_whole(count * shape.units, 16 if shape.tensor else 1) for count in fed)
    if problem.backward:
        outputs = sum(fed) * _whole(shape.units * shape.split, 16 if shape.tensor else 1) / shape.split
    product = outputs * problem.H * _whole(rows, at_once) / _rate(problem, shape.tensor, costs, costs.registers)
    exchanged = rows * itemsize * (sum(fed) * problem.H if problem.backward else len(fed) * problem.H)
    each = len(fed) * costs.pointwise
    if policy.kernel == "cluster":
        moved = exchanged * (policy.blocks - 1) / policy.blocks / costs.cluster_bytes / costs.clock
        return len(fed) * costs.cluster_exchange + moved + product / costs.clock + each
    blocks = policy.blocks * policy.columns * policy.members
    everyone = exchanged / shape.split * blocks / chip.multiprocessors / costs.l2_bytes / costs.clock
    read = max(len(fed) * costs.first_load, everyone)
    meeting = 0.0
    if shape.split > 1:
        sums = rows * shape.units * (shape.split - 1) * (8 if problem.dtype == "float64" else 4)
        tiles = -(-rows // shape.rows)
        meeting = len(fed) * (tiles * costs.cluster_exchange + sums / costs.cluster_bytes / costs.clock)
    return len(fed) * costs.grid_barrier + read + product / costs.clock + meeting + each


def wave(seconds: float, steps: int, layers: int, costs: Costs = HOPPER) -> tuple[int, float]:
    """The best chunk of steps for layers a chunk behind one another, and the seconds of all; ``seconds``: of one step.

    Of K chunks each layer waits for one more than the layer below: (K + layers - 1) chunks one after the other.
    """
    chunk = round(math.sqrt(steps * costs.chunk / ((layers - 1) * seconds)))
    chunk = min(max(chunk, _LEAST_CHUNK), steps)
    return chunk, (-(-steps // chunk) + layers - 1) * (chunk * seconds + costs.chunk)


def _stepwise(problem: Problem, members: int, chip: Chip, costs: Costs) -> float:
    """Members' launches overlap; that their products, if small, share the chip better than one alone, it leaves out."""
    weights = sum(problem.fed) * problem.H**2
    size = weights * problem.itemsize
    bandwidth = costs.l2_bytes if size <= costs.l2_size else costs.memory_bytes
    rate = _rate(problem, problem.products if problem.precision != "3xtf32" else 0, costs, costs.gemm)
    loading = size / bandwidth
    multiplying = weights * _whole(problem.B, 16) / rate
    gemms = members * max(loading, multiplying) / chip.multiprocessors / costs.clock
    return gemms + 2 * len(problem.fed) * costs.launch


def _rate(problem: Problem, tensor: int, costs: Costs, plain: float) -> float:
    """Multiply-adds a cycle and multiprocessor."""
    if tensor:
        return costs.tensor / tensor * 2 / problem.itemsize
    return plain * (0.5 if problem.dtype == "float64" else 1.0)


def _whole(count: int, of: int) -> int:
    return -(-count // of) * of
