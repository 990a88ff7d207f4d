"""``python -m fastrnn``: what a report of a bug needs to say about versions, processor, GPU, cache and threads."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version

import fastrnn
from fastrnn.cores import usable_cores

__all__ = ["facts", "main"]

_PACKAGES = ("numpy", "numba", "llvmlite", "cupy-cuda13x", "cupy-cuda12x", "ml_dtypes", "torch", "onnx")
_VARIABLES = ("FASTRNN_", "NUMBA_", "OMP_", "CUDA_", "CUPY_", "XDG_CACHE_HOME")


def facts() -> Iterator[tuple[str, str]]:
    """Name and value of each, in the order in which they are printed. Compiles nothing."""
    yield "fastrnn", f"{fastrnn.__version__} at {os.path.dirname(os.path.abspath(fastrnn.__file__))}"
    yield "Python", f"{platform.python_version()} ({platform.python_implementation()}) on {platform.platform()}"
    found = ((name, _installed(name)) for name in _PACKAGES)
    yield "packages", ", ".join(f"{name} {number}" for name, number in found if number)
    yield "processor", import_module("fastrnn.kernels.cpu.simd").processor()
    yield "threads", f"{fastrnn.get_num_threads()} of {usable_cores()} usable cores (machine: {os.cpu_count()})"
    folder = import_module("fastrnn.kernels.cpu.jit").cache_folder()
    yield "cache", str(folder) if folder else "none: no folder can be written, every process compiles anew"
    yield "GPU", _gpu()
    chosen = (f"{name}={value}" for name, value in sorted(os.environ.items()) if name.startswith(_VARIABLES))
    yield "environment", " ".join(chosen) or "nothing set"


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _gpu() -> str:
    devices = import_module("fastrnn.kernels.cuda.devices")
    try:
        cupy = devices.require()
    except fastrnn.GPUUnavailable as reason:
        return f"none: {reason}"
    index = cupy.cuda.runtime.getDevice()
    name = cupy.cuda.runtime.getDeviceProperties(index)["name"].decode()
    return f"{name} ({devices.architecture(index)}), CUDA runtime {cupy.cuda.runtime.runtimeGetVersion()}"


def main() -> int:
    """Print the facts, a line each."""
    for name, value in facts():
        print(f"{name + ':':13}{value}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
