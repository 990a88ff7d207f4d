"""A device's ways, in one place: whether it is there, what it is, its dtypes, and how work on it is timed and weighed.

A process that measures on the CPU sees no GPU (see ``environment``), so that no library moves there by itself. The
GPU is asked for through its driver alone, without a library and without starting a context.
"""

from __future__ import annotations

import ctypes
import sys
import time
from collections.abc import Callable
from importlib.metadata import distributions
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

__all__ = [
    "DEVICES",
    "DTYPES",
    "EventTimer",
    "HostMemory",
    "Timer",
    "WallTimer",
    "cuda_clock",
    "cupy_timer",
    "describe",
    "environment",
    "limits_key",
    "missing",
    "torch_timer",
]

DEVICES = ("cpu", "cuda")
DTYPES = {"cpu": ("float32", "float64"), "cuda": ("float32", "float64", "float16", "bfloat16")}

LIMITS = {"cpu": "bench.limits:Limits", "cuda": "bench.limits_cuda:Limits"}
"""What measures a device's limits: served by a process of its own."""


def limits_key(device: str, threads: int) -> str:
    """Where a results file has the limits that hold for a case."""
    return str(threads) if device == "cpu" else device


def environment(device: str) -> dict[str, str]:
    """What a process that measures on this device finds in its environment, besides the threads."""
    if device == "cpu":
        return {"CUDA_VISIBLE_DEVICES": ""}
    # JAX takes three quarters of the memory at once unless told otherwise; others measure beside it
    return {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}


# -- is it there, and what is it --------------------------------------------------------------------------------

_MAJOR, _MINOR, _MULTIPROCESSORS, _SHARED = 75, 76, 16, 97  # CUdevice_attribute


def _cuda_driver() -> Any:
    """The CUDA driver's library; OSError if there is none."""
    return ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")


def missing(device: str, load_driver: Callable[[], Any] = _cuda_driver) -> str | None:
    """Why nothing can be measured on a device, in one line; None if it can."""
    if device == "cpu":
        return None
    try:
        driver = load_driver()
    except OSError as error:
        return f"no CUDA driver ({error})"
    count = ctypes.c_int(0)
    status = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    if status or not count.value:
        return f"the CUDA driver finds no device (status {status})"
    if find_spec("cupy") is None:
        return "CuPy is not installed (pip install 'fastrnn[cuda13]')"
    return None


def describe(device: str, load_driver: Callable[[], Any] = _cuda_driver) -> dict[str, Any]:
    """The first GPU as stored in a results file; {} for the CPU, which ``bench.machine`` describes."""
    if device == "cpu":
        return {}
    driver = load_driver()
    name, memory, version = ctypes.create_string_buffer(256), ctypes.c_size_t(0), ctypes.c_int(0)
    driver.cuInit(0)
    driver.cuDeviceGetName(name, len(name), 0)
    driver.cuDeviceTotalMem_v2(ctypes.byref(memory), 0)
    driver.cuDriverGetVersion(ctypes.byref(version))

    def attribute(number: int) -> int:
        value = ctypes.c_int(0)
        driver.cuDeviceGetAttribute(ctypes.byref(value), number, 0)
        return value.value

    return {
        "name": name.value.decode(),
        "memory_bytes": memory.value,
        "compute_capability": f"{attribute(_MAJOR)}.{attribute(_MINOR)}",
        "multiprocessors": attribute(_MULTIPROCESSORS),
        "shared_bytes": attribute(_SHARED),
        "driver": _driver_release(),
        "driver_cuda": f"{version.value // 1000}.{version.value % 1000 // 10}",
        "packages": _cuda_packages(),
    }


def _driver_release() -> str | None:
    try:
        words = Path("/proc/driver/nvidia/version").read_text().split()
    except OSError:
        return None
    return next((word for word in words if word.count(".") >= 1 and word[0].isdigit()), None)


def _cuda_packages() -> dict[str, str]:
    """Versions of CuPy and of the CUDA libraries that were installed as packages."""
    wanted = ("cupy", "nvidia-cuda-runtime", "nvidia-cuda-nvrtc", "nvidia-cublas", "nvidia-cudnn")
    found = {dist.metadata["Name"]: dist.version for dist in distributions() if dist.metadata["Name"]}
    return {name: version for name, version in sorted(found.items()) if name.lower().startswith(wanted)}


# -- time -------------------------------------------------------------------------------------------------------


class Timer(Protocol):
    """How a program's calls are timed."""

    least_s: float
    """A sample is at least this long, so that taking the time costs it nothing."""

    def __call__(self, run: Callable[[], Any], calls: int) -> float:
        """Seconds that one of ``calls`` calls takes, one after the other."""
        ...

    def wait(self) -> None:
        """Return when all work that was asked for is done."""
        ...


class WallTimer:
    """The host's clock, for calls that return when their work is done."""

    least_s = 100e-6

    def __call__(self, run: Callable[[], Any], calls: int) -> float:
        started = time.perf_counter()
        for _ in range(calls):
            run()
        return (time.perf_counter() - started) / calls

    def wait(self) -> None:
        pass


class Event(Protocol):
    """A mark in the device's stream of work: CuPy's and PyTorch's have these methods."""

    def record(self) -> None: ...
    def synchronize(self) -> None: ...


class EventTimer:
    """Events on the device's stream around the calls: what the device took, waiting for the host included.

    new_event : makes an event
    milliseconds : between two events
    """

    least_s = 1e-3

    def __init__(self, new_event: Callable[[], Event], milliseconds: Callable[[Any, Any], float]) -> None:
        self._new_event, self._milliseconds = new_event, milliseconds

    def __call__(self, run: Callable[[], Any], calls: int) -> float:
        start, end = self._new_event(), self._new_event()
        self.wait()  # work that was still waiting would stand between start and the first call
        start.record()
        for _ in range(calls):
            run()
        end.record()
        end.synchronize()
        return self._milliseconds(start, end) / 1e3 / calls

    def wait(self) -> None:
        event = self._new_event()
        event.record()
        event.synchronize()


def cupy_timer() -> EventTimer:
    """Events of CuPy, on its current stream."""
    import cupy

    return EventTimer(cupy.cuda.Event, cupy.cuda.get_elapsed_time)


def torch_timer() -> EventTimer:
    """Events of PyTorch, on its current stream."""
    import torch

    return EventTimer(lambda: torch.cuda.Event(enable_timing=True), lambda start, end: start.elapsed_time(end))


_first_event: list[Any] = []


def cuda_clock() -> float:
    """A clock for pytest-benchmark: the device's seconds since the first call, by events, when its work is done."""
    import cupy

    now = cupy.cuda.Event()
    now.record()
    now.synchronize()
    if not _first_event:
        _first_event.append(now)
    return cupy.cuda.get_elapsed_time(_first_event[0], now) / 1e3


# -- memory -----------------------------------------------------------------------------------------------------


class HostMemory:
    """The most physical memory that this process held since ``reset`` (Linux), else since it began."""

    def release(self) -> None:
        pass

    def reset(self) -> None:
        try:
            Path("/proc/self/clear_refs").write_text("5")
        except OSError:
            pass

    def peak(self) -> int | None:
        try:
            for line in Path("/proc/self/status").read_text().splitlines():
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
        except OSError:
            pass
        try:
            import resource
        except ImportError:
            return None
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
