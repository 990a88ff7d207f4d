"""Arrays that end, or begin, where memory may not be touched: a read beyond ends the process.

Guard regions find stores; what is read beyond an array and discarded changes no result, until it crosses into a page
that is not there.
"""

from __future__ import annotations

import ctypes
import mmap
from typing import Any

import numpy as np

__all__ = ["SIDES", "Pages"]

SIDES = ("end", "start")
_NO_ACCESS = 0  # PROT_NONE
_GUARD = 1 << 20  # as far as a wrong row or step may lie; it takes no memory


class Pages:
    """Makes arrays between two regions without access, against one of them.

    It stands in for the module numpy where layers make their arrays.
    """

    def __init__(self, side: str) -> None:
        assert side in SIDES
        self.at_end = side == "end"
        self._protect = ctypes.CDLL(None, use_errno=True).mprotect
        self._protect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)

    def empty(self, shape: Any, dtype: Any = float) -> np.ndarray:
        """NaN, or what is read as one, all over."""
        dtype, page = np.dtype(dtype), mmap.PAGESIZE
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        within = -(-size // page) * page
        whole = np.frombuffer(mmap.mmap(-1, within + 2 * _GUARD), np.uint8)
        for guard in (whole[:_GUARD], whole[_GUARD + within :]):
            if self._protect(guard.ctypes.data, _GUARD, _NO_ACCESS):
                raise OSError(ctypes.get_errno(), "mprotect")
        start = _GUARD + (within - size if self.at_end else 0)
        memory = whole[start : start + size]
        memory[...] = 0xFF
        return memory.view(dtype).reshape(shape)

    def empty_like(self, array: np.ndarray) -> np.ndarray:
        return self.empty(array.shape, array.dtype)

    def zeros(self, shape: Any, dtype: Any = float) -> np.ndarray:
        array = self.empty(shape, dtype)
        array[...] = 0
        return array

    def copy(self, value: Any) -> Any:
        """Of an array, or of all those of a tuple."""
        if isinstance(value, tuple):
            return tuple(map(self.copy, value))
        if not isinstance(value, np.ndarray):
            return value
        array = self.empty_like(value)
        array[...] = value
        return array
