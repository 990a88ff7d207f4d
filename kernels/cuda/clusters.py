"""How many clusters of blocks run at once on a device: the driver knows, and CuPy does not ask it."""

from __future__ import annotations

import ctypes
from typing import Any

from . import compiler, devices, units
from .layout import sum_arguments

__all__ = ["SIZES", "at_once"]

SIZES = (2, 4, 8, 16)
_MOST_DYNAMIC_SHARED_MEMORY, _LARGER_CLUSTERS_ALLOWED = 8, 14  # CUfunction_attribute


class _Launch(ctypes.Structure):
    """CUlaunchConfig."""

    _fields_ = [
        ("grid", ctypes.c_uint * 3),
        ("block", ctypes.c_uint * 3),
        ("shared", ctypes.c_uint),
        ("stream", ctypes.c_void_p),
        ("attributes", ctypes.c_void_p),
        ("attribute_count", ctypes.c_uint),
    ]


def at_once(shared: int) -> tuple[tuple[tuple[int, int], ...], bool]:
    """((blocks of a cluster, clusters that run at once), ...), and whether clusters may be launched cooperatively.

    For blocks that have a multiprocessor of the current device each, with ``shared`` bytes of memory: all that it has.
    """
    driver, cupy = devices.driver(), devices.require()
    functions = compiler.load(units.clusters(SIZES)).functions
    found = []
    for size in SIZES:
        function = functions[f"cluster_{size}"]
        cupy.cuda.driver.funcSetAttribute(function.ptr, _MOST_DYNAMIC_SHARED_MEMORY, shared)
        if size > 8:
            cupy.cuda.driver.funcSetAttribute(function.ptr, _LARGER_CLUSTERS_ALLOWED, 1)
        launch = _Launch((size, 1, 1), (units.STEP_THREADS, 1, 1), shared)
        count = ctypes.c_int(0)
        handle = ctypes.c_void_p(function.ptr)
        if not driver.cuOccupancyMaxActiveClusters(ctypes.byref(count), handle, ctypes.byref(launch)):
            found.append((size, count.value))
    return tuple(found), _cooperative(driver, cupy, functions[f"cluster_{SIZES[0]}"])


def _cooperative(driver: Any, cupy: Any, function: Any) -> bool:
    """Launch one cluster cooperatively: nothing but the attempt tells whether that may be."""
    stream = cupy.cuda.Stream(non_blocking=True)
    argument = sum_arguments()
    parameters = (ctypes.c_void_p * 1)(argument.ctypes.data)
    status = driver.cuLaunchCooperativeKernel(
        ctypes.c_void_p(function.ptr), SIZES[0], 1, 1, units.STEP_THREADS, 1, 1, 0, ctypes.c_void_p(stream.ptr),
        parameters,
    )  # fmt: skip
    return status == 0
