"""What adapters whose arrays are CuPy's have in common. CuPy is imported only where there is something to do."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["PoolMemory", "to_host"]


def to_host(array: Any) -> np.ndarray:
    """A NumPy array of NumPy's or CuPy's; 16-bit numbers as float32, which holds them exactly."""
    on_host = array if isinstance(array, np.ndarray) else array.get()
    return on_host.astype(np.float32) if on_host.dtype.itemsize == 2 else on_host


class PoolMemory:
    """Device bytes that CuPy's pool took: it gives none back unless asked to, so they are the most."""

    def __init__(self) -> None:
        import cupy

        self._pool = cupy.get_default_memory_pool()
        self._before = 0

    def release(self) -> None:
        self._pool.free_all_blocks()

    def reset(self) -> None:
        self.release()
        self._before = self._pool.total_bytes()

    def peak(self) -> int | None:
        return self._pool.total_bytes() - self._before
