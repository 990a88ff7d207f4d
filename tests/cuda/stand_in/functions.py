"""Modules and kernels, run by the emulator; a launch that a GPU would refuse is refused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from tests.cuda import emulator
from tests.cuda.stand_in import device

_MAGIC = b"emulated\0"
_MOST_THREADS = 1024
_SHARED_MEMORY = 49152  # that needs no funcSetAttribute
_MOST_GRID = (2**31 - 1, 65535, 65535)

_DRIVER_ERRORS = {
    1: "CUDA_ERROR_INVALID_VALUE",
    200: "CUDA_ERROR_INVALID_IMAGE",
    209: "CUDA_ERROR_NO_BINARY_FOR_GPU",
    400: "CUDA_ERROR_INVALID_HANDLE",
    500: "CUDA_ERROR_NOT_FOUND",
    720: "CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE",
    912: "CUDA_ERROR_INVALID_CLUSTER_SIZE",
}


class CUDADriverError(RuntimeError):
    """As cupy.cuda.driver.CUDADriverError."""

    def __init__(self, status: int):
        self.status = status
        super().__init__(_DRIVER_ERRORS.get(status, f"CUDA_ERROR {status}"))


def failure(status: int, why: str) -> CUDADriverError:
    """The error of that status, which says why."""
    error = CUDADriverError(status)
    error.args = (f"{error}: {why}",)
    return error


# ---- what passes for machine code: the source itself, so that it survives in a disk cache ----


def encoded(source: str, arch: str, defines: Sequence[str]) -> bytes:
    return _MAGIC + json.dumps([source, arch, list(defines)]).encode()


def _decoded(cubin: bytes) -> tuple[str, str, list[str]]:
    if not cubin.startswith(_MAGIC):
        raise failure(200, "this is no code of the stand-in's NVRTC")
    return tuple(json.loads(cubin[len(_MAGIC) :].rstrip(b"\0")))


class Module:
    """As cupy.cuda.function.Module."""

    def __init__(self) -> None:
        self._functions: dict[str, _Loaded] = {}

    def load(self, cubin: bytes) -> None:
        if not isinstance(cubin, bytes):
            raise TypeError(f"Argument 'cubin' has incorrect type (expected bytes, got {type(cubin).__name__})")
        source, arch, defines = _decoded(cubin)
        major, minor = divmod(int(arch.removeprefix("sm_").removesuffix("a")), 10)
        own_major, own_minor = divmod(int(device.world.capability), 10)
        if major != own_major or minor > own_minor or (arch.endswith("a") and minor != own_minor):
            raise failure(209, f"code for {arch} on a device of sm_{device.world.capability}")
        self._library = emulator.build(source, device.world.sanitizer, defines)
        self._device = device.getDevice()

    def get_function(self, name: str) -> Function:
        return Function(self, name)


_PORTABLE_CLUSTER, _MOST_CLUSTER = 8, 16


class _Loaded:
    """A kernel of a module: Function objects of one name share it, as they share a handle."""

    by_address: dict[int, _Loaded] = {}

    def __init__(self, module: Module, name: str):
        self.name, self.library, self.device = name, module._library, module._device
        self.attributes = {
            0: self.library.most_threads(name),
            1: 0,
            3: 0,
            4: 32,
            5: 90,
            6: 90,
            8: _SHARED_MEMORY,
            9: -1,
            14: 0,
        }
        self.address = 0x10000 + 16 * len(self.by_address)
        self.by_address[self.address] = self


class Function:
    """As cupy.cuda.function.Function."""

    def __init__(self, module: Module, funcname: str):
        if funcname not in module._library:
            raise failure(500, f"no kernel {funcname!r} in the module")
        if funcname not in module._functions:
            module._functions[funcname] = _Loaded(module, funcname)
        self.module, self._loaded = module, module._functions[funcname]

    @property
    def ptr(self) -> int:
        return self._loaded.address

    def __call__(
        self,
        grid: tuple[int, ...],
        block: tuple[int, ...],
        args: Sequence[Any],
        shared_mem: int = 0,
        stream: Any = None,
        enable_cooperative_groups: bool = False,
    ) -> None:
        for name, value in (("grid", grid), ("block", block)):
            if not isinstance(value, tuple):
                raise TypeError(f"Argument '{name}' has incorrect type (expected tuple, got {type(value).__name__})")
        sizes, threads = (grid + (1, 1))[:3], (block + (1, 1))[:3]
        stream = device.current_stream() if stream is None else stream
        self._check(sizes, threads, shared_mem, stream, enable_cooperative_groups)
        (structure,) = [_passed_by_value(value) for value in args]
        kernel, world = self._loaded, device.world

        def run() -> None:
            world.launches += 1
            kernel.library.launch(
                kernel.name, sizes, threads, structure, shared_mem, world.seed + world.launches, world.schedule
            )

        device.perform(run, "launch", kernel.name, stream, grid=sizes, block=threads, shared=shared_mem)

    def _check(
        self, grid: tuple[int, ...], block: tuple[int, ...], shared: int, stream: Any, cooperative: bool
    ) -> None:
        kernel, threads, blocks = self._loaded, int(np.prod(block)), int(np.prod(grid))
        if min(*grid, *block) < 1:
            raise ValueError(f"grid {grid}, block {block}: CuPy would take 1 for 0, and launch what nobody wanted")
        if any(size > most for size, most in zip(grid, _MOST_GRID, strict=True)):
            raise failure(1, f"a grid of {grid}")
        cluster = kernel.library.cluster(kernel.name)
        if cluster > (_MOST_CLUSTER if kernel.attributes[14] else _PORTABLE_CLUSTER):
            raise failure(912, f"clusters of {cluster} blocks")
        most = min(_MOST_THREADS, kernel.attributes[0])
        if threads > most or block[2] > 64:
            raise failure(1, f"a block of {block}, where {kernel.name} may have {most} threads")
        if shared > kernel.attributes[8]:
            raise failure(1, f"{shared} bytes of shared memory, where funcSetAttribute allows {kernel.attributes[8]}")
        if cooperative and blocks > device.MULTIPROCESSORS:
            raise failure(720, f"{blocks} blocks on {device.MULTIPROCESSORS} multiprocessors")
        if kernel.device != device.getDevice() or stream.device_id not in (-1, kernel.device):
            raise failure(
                400,
                f"{kernel.name} was loaded on device {kernel.device}, and the current one or the stream's is another",
            )


def _passed_by_value(value: Any) -> np.ndarray:
    """A copy, as a launch takes one: what changes later changes no launch, nor a graph."""
    if isinstance(value, np.ndarray):
        if value.size != 1:
            raise TypeError(
                f"You are trying to pass a numpy.ndarray of shape {value.shape} as a kernel parameter. Only "
                "numpy.ndarrays of size one can be passed by value. If you meant to pass a pointer to __global__ "
                "memory, you need to pass a cupy.ndarray instead."
            )
        value = value.reshape(())
    if not isinstance(value, np.ndarray | np.void):
        raise TypeError(f"a kernel of ours takes one structure, not {type(value)}")
    return np.array(value)


# ---- cupy.cuda.driver ----

CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK = 0
CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES = 1
CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES = 3
CU_FUNC_ATTRIBUTE_NUM_REGS = 4
CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES = 8
CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT = 9


def funcSetAttribute(f: int, attribute: int, value: int) -> None:
    attributes = _attributes(f)
    if attribute == CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES and not 0 <= value <= device.MOST_SHARED_MEMORY:
        raise failure(1, f"{value} bytes of shared memory, of {device.MOST_SHARED_MEMORY}")
    if attribute not in (8, 9, 14):
        raise failure(1, f"attribute {attribute} cannot be set")
    attributes[attribute] = value


def funcGetAttribute(attribute: int, f: int) -> int:
    found = _attributes(f)
    if attribute not in found:
        raise failure(1, f"no attribute {attribute}")
    return found[attribute]


def cluster_of(f: int) -> int:
    """Blocks of a cluster of that kernel."""
    kernel = _Loaded.by_address[f]
    return kernel.library.cluster(kernel.name)


def _attributes(f: int) -> dict[int, int]:
    if f not in _Loaded.by_address:
        raise failure(400, f"{f} is no function")
    return _Loaded.by_address[f].attributes
