"""Products of all rows at once, by cuBLAS: the input product, the gradients, and one step's product where no kernel
of ours holds the weights."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from . import devices
from .layout import ELEMENTS

__all__ = ["Gemm", "Matrix"]


class Matrix(NamedTuple):
    """A row-major matrix somewhere on the device; ``stride`` elements from row to row."""

    address: int
    rows: int
    columns: int
    stride: int
    dtype: str

    def part(self, row: int, rows: int, column: int, columns: int) -> Matrix:
        """Some of the rows and columns."""
        itemsize = _ITEMSIZE[self.dtype]
        address = self.address + (row * self.stride + column) * itemsize
        return Matrix(address, rows, columns, self.stride, self.dtype)

    @staticmethod
    def of(array: Any) -> Matrix:
        """A 2-d CuPy array with contiguous rows."""
        rows, columns = array.shape
        return Matrix(array.data.ptr, rows, columns, array.strides[0] // array.itemsize, array.dtype.name)


_ITEMSIZE = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}
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
        cupy = devices.require()
        # cuBLAS thinks in columns, and so sees every matrix transposed: out' = b' a'.
        zero, one = self._factors
        devices.cublas().gemmEx(
            cupy.cuda.device.get_cublas_handle(), int(b_transposed), int(a_transposed), out.columns, out.rows, depth,
            one, b.address, ELEMENTS[b.dtype].cuda, b.stride, a.address, ELEMENTS[a.dtype].cuda, a.stride,
            one if add else zero, out.address, ELEMENTS[out.dtype].cuda, out.stride,
            self._compute, _DEFAULT_ALGORITHM,
        )  # fmt: skip
