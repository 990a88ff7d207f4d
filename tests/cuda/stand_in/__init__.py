"""A stand-in for CuPy, on a machine without a GPU: kernels go to the emulator, all else to NumPy.

Only what a launch layer uses is here, under CuPy's own names and with its signatures, which a test compares with the
installed CuPy. It is as strict as CuPy and a GPU, and stricter where that finds errors:

- an array is no ndarray of NumPy's, and the two do not mix; empty() is NaN, so is freed memory, and so is what lies
  beside an array, where writes are found when `installed` ends;
- launches keep to the limits of an H100; an empty grid is refused; a matrix of gemmEx lies inside an array;
- a capturing stream records launches and arithmetic; copies to or from the host, synchronisation and allocations are
  errors meanwhile; so is cuBLAS through CuPy, which refuses that too, while libcublas opened by ctypes is recorded;
- `watch` tells what was asked of which stream.
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
import types
from collections.abc import Iterator
from typing import Any

import numpy as np

from tests.cuda.stand_in import array_functions, arrays, device, functions, libraries, memory
from tests.cuda.stand_in.arrays import ForeignArray
from tests.cuda.stand_in.device import Call, watch

__all__ = ["Call", "ForeignArray", "install", "installed", "modules", "uninstall", "watch"]

_ARRAYS = (
    "arange array asarray ascontiguousarray asnumpy broadcast_to concatenate copyto empty empty_like expand_dims "
    "from_dlpack full full_like get_array_module is_available matmul may_share_memory moveaxis ndarray ones ones_like "
    "shares_memory stack sum take where zeros zeros_like"
).split()
_FROM_NUMPY = (
    "bool_ int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 float32 float64 dtype newaxis inf nan pi"
).split()
_RUNTIME = (
    "CUDARuntimeError deviceSynchronize driverGetVersion getDevice getDeviceCount runtimeGetVersion setDevice "
    "streamCaptureModeGlobal streamCaptureModeRelaxed streamCaptureModeThreadLocal streamIsCapturing"
).split()
_CUBLAS = "CUBLASError gemmEx getMathMode getStream setMathMode setStream".split()
_NVRTC = (
    "NVRTCError addNameExpression compileProgram createProgram destroyProgram getCUBIN getLoweredName getProgramLog "
    "getSupportedArchs getVersion"
).split()


def modules() -> dict[str, types.ModuleType]:
    """The modules by their names in sys.modules."""
    contents: dict[str, dict[str, Any]] = {
        "cupy": {name: getattr(array_functions, name) for name in _ARRAYS}
        | {name: getattr(np, name) for name in _FROM_NUMPY}
        | array_functions.UFUNCS
        | {"__version__": "14.2.0"},
        "cupy.cuda": {
            "Device": device.Device,
            "Event": device.Event,
            "Function": functions.Function,
            "Graph": device.Graph,
            "MemoryPointer": memory.MemoryPointer,
            "Module": functions.Module,
            "Stream": device.Stream,
            "UnownedMemory": memory.UnownedMemory,
            "alloc": memory.alloc,
            "get_current_stream": device.get_current_stream,
            "get_elapsed_time": device.get_elapsed_time,
            "is_available": array_functions.is_available,
        },
        "cupy.cuda.device": {"Device": device.Device, "get_cublas_handle": libraries.get_cublas_handle},
        "cupy.cuda.function": {"Function": functions.Function, "Module": functions.Module},
        "cupy.cuda.graph": {"Graph": device.Graph},
        "cupy.cuda.memory": {"MemoryPointer": memory.MemoryPointer, "UnownedMemory": memory.UnownedMemory},
        "cupy.cuda.stream": {
            "Event": device.Event,
            "Stream": device.Stream,
            "get_current_stream": device.get_current_stream,
        },
        "cupy_backends": {},
        "cupy_backends.cuda": {},
        "cupy_backends.cuda.api": {},
        "cupy_backends.cuda.api.driver": {
            name: value
            for name, value in vars(functions).items()
            if name.startswith(("CU_FUNC", "func")) or name == "CUDADriverError"
        },
        "cupy_backends.cuda.api.runtime": {name: getattr(device, name) for name in _RUNTIME},
        "cupy_backends.cuda.libs": {},
        "cupy_backends.cuda.libs.cublas": {name: getattr(libraries, name) for name in _CUBLAS}
        | {name: value for name, value in vars(libraries).items() if name.startswith("CUBLAS_")},
        "cupy_backends.cuda.libs.nvrtc": {name: getattr(libraries, name) for name in _NVRTC},
    }
    made: dict[str, types.ModuleType] = {}
    for name, content in contents.items():
        made[name] = types.ModuleType(name, "The stand-in of tests/cuda/stand_in.")
        made[name].__path__ = []  # a package: importing what it lacks raises ModuleNotFoundError
        vars(made[name]).update(content)
        parent, _, own = name.rpartition(".")
        if parent:
            setattr(made[parent], own, made[name])
    cuda = made["cupy.cuda"]
    cuda.driver, cuda.runtime = made["cupy_backends.cuda.api.driver"], made["cupy_backends.cuda.api.runtime"]
    cuda.cublas, cuda.nvrtc = made["cupy_backends.cuda.libs.cublas"], made["cupy_backends.cuda.libs.nvrtc"]
    return made


_before: dict[str, types.ModuleType] = {}
_opener = ctypes.CDLL


def install(
    devices: int = 1, capability: str = "90", schedule: str = "random", seed: int = 1, sanitizer: str = ""
) -> types.ModuleType:
    """Put the stand-in in CuPy's place in this process, and return the module cupy.

    ``devices`` GPUs of a compute capability ("90"); ``schedule`` and ``seed`` as in `emulator.Library.launch`, each
    launch with a seed of its own. ``sanitizer`` as in `emulator.build`: then kernels are watched, and "address" watches
    the arrays' surroundings too. `uninstall` undoes it.
    """
    if _is_installed():
        raise RuntimeError("the stand-in is installed already")
    device.reset(devices=devices, capability=capability, schedule=schedule, seed=seed, sanitizer=sanitizer)
    _before.update({name: sys.modules.pop(name) for name in list(sys.modules) if _is_cupy(name)})
    sys.modules.update(modules())
    ctypes.CDLL = libraries.OpenedByName
    _forget()
    return sys.modules["cupy"]


def uninstall() -> None:
    """Put back what was there."""
    for name in [name for name in sys.modules if _is_cupy(name)]:
        del sys.modules[name]
    sys.modules.update(_before)
    _before.clear()
    ctypes.CDLL = _opener
    memory.forget()
    _forget()


@contextlib.contextmanager
def installed(**options: Any) -> Iterator[types.ModuleType]:
    """`install` for a while; raises AssertionError if anything was written beside an array meanwhile."""
    cupy = install(**options)
    try:
        yield cupy
        overruns = memory.overruns()
    finally:
        uninstall()
    assert not overruns, overruns


def _is_cupy(name: str) -> bool:
    return name.partition(".")[0] in ("cupy", "cupy_backends", "cupyx")


def _is_installed() -> bool:
    return getattr(sys.modules.get("cupy"), "ndarray", None) is arrays.ndarray


def _forget() -> None:
    """Have the backend look anew: it keeps devices, modules and graphs."""
    for name, module in list(sys.modules.items()):
        if name.startswith("fastrnn.kernels.cuda."):
            for value in list(vars(module).values()):
                if callable(getattr(value, "cache_clear", None)):
                    value.cache_clear()
            for kept in ("_modules", "_kept"):
                getattr(module, kept, {}).clear()
