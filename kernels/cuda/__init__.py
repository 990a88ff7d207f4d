"""The CUDA backend: CuPy arrays in, CuPy arrays out. See ``fastrnn.backend.Backend`` for what each function does.

    __init__.py     the functions that ``fastrnn.backend`` promises
    plan.py         which policy runs a layer, among the cuts that fit (cuts.py), by a model of their cost (cost.py)
    forward.py, backward.py, gradients.py     one layer in its directions, host side
    wavefront.py    layers at the same time
    walk.py         the argument block and the launches;  batch.py   rows of a batch;  gemm.py   cuBLAS
    graphs.py       steps by cuBLAS, as CUDA graphs;  stepper.py   streams;  place.py   what the public side asks
    layout.py       argument block and cell table, generated as C++;  units.py, catalogue.py   translation units
    compiler.py     NVRTC, the disk cache, loading;  devices.py   what is missing where there is no GPU
    cell_math.cuh   the cells;  units.cuh   one unit at one step;  stepwise.cuh, persistent.cuh   the policies
    exchange.cuh, cluster.cuh   how blocks hand on h and dz;  tensor_cores.cuh   products
    rows.cuh        where things lie;  numbers.cuh, device.cuh   types and the hardware;  sums.cuh, dropout.cuh

CuPy is imported by the first call, never by importing this package. Everything runs on CuPy's current stream and
current device, without synchronisation.
"""

from __future__ import annotations

from fastrnn.backend import Plan
from fastrnn.cell_table import Cell

from .backward import backward
from .devices import GPUUnavailable
from .forward import forward
from .gradients import accumulators
from .packed import pack
from .place import place
from .plan import current_chip
from .plan import plan as _plan
from .stepper import stepper
from .wavefront import backward_layers, forward_layers, wavefront

__all__ = [
    "GPUUnavailable", "accumulators", "backward", "backward_layers", "forward", "forward_layers", "get_num_threads",
    "pack", "place", "plan", "set_num_threads", "stepper", "wavefront",
]  # fmt: skip


def plan(
    cell: Cell, T: int, B: int, I: int, H: int, dtype: str, threads: int, training: bool, directions: int = 1,
    layers: int = 1,
) -> Plan:  # fmt: skip
    """What forward (and backward, if training) would do, and why. ``threads`` does not matter."""
    return _plan(cell, T, B, I, H, dtype, training, current_chip(), directions, layers)


def set_num_threads(n: int) -> None:
    """Nothing: the CPU's threads are no matter here."""


def get_num_threads() -> int:
    """1: one host thread launches kernels."""
    return 1
