"""What the GPU can do at most: how fast its memory copies, and how fast cuBLAS multiplies large matrices.

A recurrent kernel cannot beat either: all its arithmetic is in products, and its arguments come from memory once.
What binds small batches, a synchronisation of the whole device in every step, is not among them.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from bench.devices import cupy_timer

__all__ = ["CupyGpu", "Gpu", "Limits", "measure"]

_COPIED_BYTES = 1 << 30  # far beyond the caches
_GEMM_SIZE = 8192
_RANDOM = 1 << 20  # numbers, repeated: drawing all of them would need cuRAND, which a user may not have
_ROUNDS = 5


class Gpu(Protocol):
    """What ``measure`` needs of a GPU."""

    def copy_seconds(self, size: int) -> float:
        """Seconds of copying so many bytes from the device's memory to its memory."""
        ...

    def gemm_seconds(self, size: int, precision: str) -> float:
        """Seconds of multiplying two square matrices. Raises NotImplementedError for an unknown precision."""
        ...

    def cache_bytes(self) -> int:
        """Size of the L2 cache."""
        ...


PRECISIONS = ("float32", "tf32", "float16", "bfloat16", "float64")


def measure(gpu: Gpu) -> dict[str, Any]:
    """``{"flops": {precision: FLOP/s}, "bytes": {"memory": B/s, read and written}, "cache": {"L2": bytes}}``.

    The best of several rounds: a limit is what the device can do. A precision that it lacks is left out.
    """
    flops = {}
    for precision in PRECISIONS:
        try:
            seconds = min(gpu.gemm_seconds(_GEMM_SIZE, precision) for _ in range(_ROUNDS))
        except NotImplementedError:
            continue
        flops[precision] = 2 * _GEMM_SIZE**3 / seconds
    copied = min(gpu.copy_seconds(_COPIED_BYTES) for _ in range(_ROUNDS))
    return {"flops": flops, "bytes": {"memory": 2 * _COPIED_BYTES / copied}, "cache": {"L2": gpu.cache_bytes()}}


# cudaDataType of the operands, cublasComputeType_t, and bytes of a number
_GEMM = {
    "float32": (0, 68, 4),
    "tf32": (0, 77, 4),
    "float16": (2, 68, 2),
    "bfloat16": (14, 68, 2),
    "float64": (1, 70, 8),
}
_GEMM_DEFAULT = -1  # cublasGemmAlgo_t


class CupyGpu:
    """The current device through CuPy, timed with events."""

    def __init__(self) -> None:
        import cupy
        from cupy_backends.cuda.libs import cublas

        self._cupy, self._cublas, self._timer = cupy, cublas, cupy_timer()

    def cache_bytes(self) -> int:
        return int(self._cupy.cuda.Device().attributes.get("L2CacheSize", 0))

    def copy_seconds(self, size: int) -> float:
        source = self._cupy.ones(size // 4, "float32")
        target = self._cupy.empty_like(source)

        def copy() -> None:
            target.data.copy_from_device_async(source.data, size, self._cupy.cuda.get_current_stream())

        return self._warm(copy)

    def gemm_seconds(self, size: int, precision: str) -> float:
        kind, compute, width = _GEMM[precision]
        # random bits of positive numbers below 2 in every format: zeros draw less power, and run faster, than data
        bits = np.random.default_rng(0).integers(0, 0x4000, _RANDOM, np.uint16)
        operands = [self._cupy.tile(self._cupy.asarray(bits), size * size * width // 2 // _RANDOM) for _ in range(2)]
        product = self._cupy.empty(size * size * width, "uint8")
        scalar = np.float64 if precision == "float64" else np.float32
        one, zero = np.ones(1, scalar), np.zeros(1, scalar)
        handle = self._cupy.cuda.device.get_cublas_handle()

        def gemm() -> None:
            self._cublas.gemmEx(
                handle, 0, 0, size, size, size,
                one.ctypes.data, operands[0].data.ptr, kind, size, operands[1].data.ptr, kind, size,
                zero.ctypes.data, product.data.ptr, kind, size, compute, _GEMM_DEFAULT,
            )  # fmt: skip

        try:
            return self._warm(gemm)
        except self._cublas.CUBLASError as error:
            raise NotImplementedError(f"{precision}: {error}") from error

    def _warm(self, run: Any) -> float:
        run()
        return self._timer(run, 4)


class Limits:
    """Served to the run by a process of its own."""

    def measure(self, threads: int) -> dict[str, Any]:
        return {"threads": threads} | measure(CupyGpu())
