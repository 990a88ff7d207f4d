"""Whether a GPU can be used, said in words where it cannot; which code the current one runs.

CuPy is imported by these functions, never by importing this file.
"""

from __future__ import annotations

import ctypes
import functools
import sys
from typing import Any, NoReturn

from fastrnn.backend import GPUUnavailable

__all__ = [
    "ARCHITECTURES",
    "LEAST_CAPABILITY",
    "GPUUnavailable",
    "architecture",
    "cublas",
    "cublas_library",
    "driver",
    "nvrtc",
    "require",
]

ARCHITECTURES = ("sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120")
"""What the kernels are tested to compile for: Turing, Ampere, Ada, Hopper, Blackwell."""

LEAST_CAPABILITY = 75
"""Turing, times ten as in sm_75: the oldest that NVRTC of CUDA 13 compiles for."""

_OLDEST_CUPY = 14  # the first with arrays of bfloat16
_OLDEST_CUDA = 12  # that there is such a CuPy for
_LATEST_CUDA = 13


def _missing(what: str, remedy: str) -> NoReturn:
    raise GPUUnavailable(f'device "cuda" is not available: {what}. {remedy}')


@functools.cache
def require() -> Any:
    """The module cupy, if all that the backend needs is there; else raises GPUUnavailable.

    Looks once; a failure is looked into anew by the next call.
    """
    cuda = _driver_cuda()
    cupy = _cupy(cuda)
    toolkit = max(cupy.cuda.runtime.runtimeGetVersion() // 1000, nvrtc().getVersion()[0])
    if cuda // 1000 < toolkit:
        _missing(
            f"the NVIDIA driver knows CUDA {_version(cuda)}, too old for the installed CuPy or NVRTC of CUDA {toolkit}",
            f"Update the driver, or replace these packages: {_install(cuda)}",
        )
    cublas()
    architecture(cupy.cuda.runtime.getDevice())
    return cupy


def driver() -> Any:
    """The driver's own library, past CuPy's binding; raises GPUUnavailable where there is none."""
    library = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        return ctypes.CDLL(library)
    except OSError:
        _missing(
            f"there is no NVIDIA driver ({library} cannot be loaded)",
            'Install the driver of an NVIDIA GPU (in a container: run it with --gpus all), or use device="cpu"',
        )


def _driver_cuda() -> int:
    """The CUDA version that the driver knows, 1000 * major + 10 * minor, once it has found a device."""
    library = driver()
    status, count, version = library.cuInit(0), ctypes.c_int(0), ctypes.c_int(0)
    if status not in (0, _NO_DEVICE):
        _missing(
            f"the NVIDIA driver does not start (cuInit returns {status})",
            "See whether nvidia-smi works; after an update of the driver, restart the machine",
        )
    if status or library.cuDeviceGetCount(ctypes.byref(count)) or not count.value:
        _missing(
            "the NVIDIA driver finds no device",
            "See what nvidia-smi lists, and whether CUDA_VISIBLE_DEVICES hides it",
        )
    library.cuDriverGetVersion(ctypes.byref(version))
    if version.value // 1000 < _OLDEST_CUDA:
        _missing(
            f"the NVIDIA driver knows CUDA {_version(version.value)}, and CuPy needs {_OLDEST_CUDA}",
            f"Update the driver, then: {_install(0)}",
        )
    return version.value


_NO_DEVICE = 100  # CUDA_ERROR_NO_DEVICE


def _version(cuda: int) -> str:
    return f"{cuda // 1000}.{cuda % 1000 // 10}"


def _extra(cuda: int) -> str:
    return f'pip install "fastrnn[cuda{min(cuda // 1000, _LATEST_CUDA)}]"'


def _install(cuda: int) -> str:
    """What to type, for a driver's version of CUDA; 0 if that is not known."""
    return _extra(cuda) if cuda else f"{_extra(13000)} (or [cuda12] for a driver that knows only CUDA 12)"


def _cupy(cuda: int) -> Any:
    try:
        import cupy
    except ImportError as error:
        if error.name == "cupy":
            _missing("CuPy is not installed", f"Install it: {_install(cuda)}")
        _missing(f"CuPy cannot be imported ({_gist(error)})", f"Install it anew: {_install(cuda)}")
    if int(cupy.__version__.partition(".")[0]) < _OLDEST_CUPY:
        _missing(f"CuPy {cupy.__version__} is too old, {_OLDEST_CUPY} is the least", f"Update it: {_install(cuda)}")
    return cupy


def nvrtc() -> Any:
    """CuPy's binding of NVRTC, which needs no driver; raises GPUUnavailable where CuPy or the library is missing."""
    cupy = _cupy(0)
    try:
        from cupy_backends.cuda.libs import nvrtc as binding

        binding.getVersion()
    except (ImportError, RuntimeError) as error:
        _missing(f"NVRTC, the CUDA compiler, cannot be loaded ({_gist(error)})", _libraries(cupy))
    return binding


def cublas() -> Any:
    """CuPy's binding of cuBLAS; raises GPUUnavailable where the library is missing."""
    cupy = _cupy(0)
    try:
        from cupy_backends.cuda.libs import cublas as binding
    except (ImportError, RuntimeError) as error:
        _missing(f"cuBLAS cannot be loaded ({_gist(error)})", _libraries(cupy))
    return binding


def _gist(error: Exception) -> str:
    """The first line that says something; CuPy frames its own."""
    return next((line for line in str(error).splitlines() if line.strip(" =")), type(error).__name__)


@functools.cache
def cublas_library() -> Any:
    """cuBLAS itself, which CuPy has loaded, past CuPy's binding."""
    major = _cupy(0).cuda.runtime.runtimeGetVersion() // 1000
    return ctypes.CDLL(f"cublas64_{major}.dll" if sys.platform == "win32" else f"libcublas.so.{major}")


def _libraries(cupy: Any) -> str:
    major = cupy.cuda.runtime.runtimeGetVersion() // 1000
    return (
        f'Install the libraries: {_extra(major * 1000)}, or pip install "cuda-toolkit[nvrtc,cudart,cublas]=={major}.*"'
    )


@functools.cache
def architecture(device: int) -> str:
    """What to compile for so that a device runs it, such as ``"sm_90"``; GPUUnavailable for one that is too old.

    Never an ``a`` variant (sm_90a): such code runs on that one architecture alone, and what it offers beyond (wgmma,
    setmaxnreg, tcgen05) no kernel uses. Clusters, distributed shared memory and bulk copies are there without.
    """
    capability = int(_cupy(0).cuda.Device(device).compute_capability)
    if capability < LEAST_CAPABILITY:
        _missing(
            f"device {device} has compute capability {_capability(capability)}, and {_capability(LEAST_CAPABILITY)} is "
            "the least (Turing: GeForce RTX 20, Tesla T4)",
            'Choose another device with CUDA_VISIBLE_DEVICES or cupy.cuda.Device, or use device="cpu"',
        )
    # Code for a smaller minor version of the same major runs too: a card may be younger than NVRTC.
    known = [a for a in nvrtc().getSupportedArchs() if a // 10 == capability // 10 and a <= capability]
    if not known:
        version = ".".join(map(str, nvrtc().getVersion()))
        _missing(
            f"NVRTC {version} does not know device {device} of compute capability {_capability(capability)}",
            f"Install a newer one: {_extra(_LATEST_CUDA * 1000)}",
        )
    return f"sm_{max(known)}"


def _capability(number: int) -> str:
    return f"{number // 10}.{number % 10}"
