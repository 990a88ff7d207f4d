"""Products of all rows at once, by cuBLAS: the input product, the gradients, and one step's product where no kernel
of ours holds the weights."""

from __future__ import annotations

import contextlib
import ctypes
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from . import devices
from .layout import ELEMENTS

__all__ = ["Gemm", "Matrix", "captured"]


class Matrix(NamedTuple):
    """A row-major matrix somewhere on the device; ``stride`` elements from row to row."""

    address: int
    rows: int
    columns: int
    stride: int
    dtype: str

    def part(self, row: int, rows: int, column: int, columns: int) -> Matrix:
        """Some of the rows and columns."""
        itemsize = ELEMENTS[self.dtype].itemsize
        address = self.address + (row * self.stride + column) * itemsize
        return Matrix(address, rows, columns, self.stride, self.dtype)

    @staticmethod
    def of(array: Any) -> Matrix:
        """A 2-d CuPy array with contiguous rows."""
        rows, columns = array.shape
        return Matrix(array.data.ptr, rows, columns, array.strides[0] // array.itemsize, array.dtype.name)


# cublasComputeType_t. float16 and bfloat16 are summed in float32, as "exact" is.
_COMPUTE_64F, _COMPUTE_32F, _COMPUTE_32F_FAST_TF32 = 70, 68, 77
_DEFAULT_ALGORITHM = -1
_SCALARS = {kind: np.array([0, 1], kind) for kind in ("float32", "float64")}


class Gemm:
    """``gemm(a, b, out)`` for one dtype and precision."""

    def __init__(self, dtype: str, precision: str) -> None:
        """precision: "tf32" lets float32 products round their operands to TF32; anything else is exact."""
        kind = ELEMENTS[dtype].sums
        if dtype == "float32" and precision == "tf32":
            self._compute = _COMPUTE_32F_FAST_TF32
        else:
            self._compute = _COMPUTE_64F if kind == "float64" else _COMPUTE_32F
        address, size = _SCALARS[kind].ctypes.data, _SCALARS[kind].itemsize
        self._factors = address, address + size

    def __call__(
        self, a: Matrix, b: Matrix, out: Matrix, *, a_transposed: bool = False, b_transposed: bool = False,
        add: bool = False,
    ) -> None:  # fmt: skip
        """out = a b, or out += a b with ``add``, on CuPy's current stream."""
        depth = a.rows if a_transposed else a.columns
        if not (out.rows and out.columns and depth):
            return
        captured = _thread.captured
        handle = _handle() if captured is None else captured.handle
        # cuBLAS thinks in columns, and so sees every matrix transposed: out' = b' a'.
        zero, one = self._factors
        (devices.cublas() if captured is None else captured).gemmEx(
            handle, int(b_transposed), int(a_transposed), out.columns, out.rows, depth,
            one, b.address, ELEMENTS[b.dtype].cuda, b.stride, a.address, ELEMENTS[a.dtype].cuda, a.stride,
            one if add else zero, out.address, ELEMENTS[out.dtype].cuda, out.stride,
            self._compute, _DEFAULT_ALGORITHM,
        )  # fmt: skip


def _handle() -> int:
    return devices.require().cuda.device.get_cublas_handle()


class _Captured:
    """cuBLAS itself, while a stream captures: CuPy's binding refuses to be called then."""

    def __init__(self, stream: Any) -> None:
        self.handle, self._stream = _handle(), stream
        self._library = devices.cublas_library()

    def gemmEx(self, handle: int, ta: int, tb: int, m: int, n: int, k: int, *matrices: int) -> None:
        """As CuPy's. matrices: alpha, A, its type, lda, B, ..., beta, C, ..., compute type, algorithm."""
        kinds = [ctypes.c_void_p] + 2 * _MATRIX + [ctypes.c_void_p] + _MATRIX + [ctypes.c_int] * 2
        sizes = [ctypes.c_int(value) for value in (ta, tb, m, n, k)]
        others = [kind(value) for kind, value in zip(kinds, matrices, strict=True)]
        self._checked(self._library.cublasSetStream_v2(ctypes.c_void_p(handle), ctypes.c_void_p(self._stream.ptr)))
        self._checked(self._library.cublasGemmEx(ctypes.c_void_p(handle), *sizes, *others))

    @staticmethod
    def _checked(status: int) -> None:
        if status:
            raise RuntimeError(f"cuBLAS failed while a graph was captured (status {status})")


_MATRIX = [ctypes.c_void_p, ctypes.c_int, ctypes.c_int]


class _Thread(threading.local):
    captured: _Captured | None = None


_thread = _Thread()


@contextlib.contextmanager
def captured(stream: Any) -> Iterator[None]:
    """Products of this thread go to a stream that captures from within on."""
    _thread.captured = _Captured(stream)
    try:
        yield
    finally:
        _thread.captured = None
