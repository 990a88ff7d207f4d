"""Guard regions around buffers, to catch a kernel that stores out of bounds: ``FASTRNN_GUARD=1`` turns them on.

Every buffer that kernels write to then has a known pattern before and behind it, which is looked at after every
kernel. It costs memory and time; without the variable nothing is changed.
"""

from __future__ import annotations

import os
import threading
import weakref
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["ENABLED", "GAP", "OutOfBounds", "arrays", "check", "watch"]

ENABLED = os.environ.get("FASTRNN_GUARD", "0") not in ("", "0")
GAP = 1024 if ENABLED else 0
"""Bytes of a region. A store that misses its place lies within a few vectors of it, or a few rows."""

_PATTERN = np.uint8(0xA5)
_regions: dict[int, tuple[weakref.ref[NDArray[np.uint8]], list[tuple[int, int]]]] = {}
_lock = threading.Lock()


class OutOfBounds(RuntimeError):
    """A kernel has written outside of its buffers: a bug of fastrnn. Results can't be trusted."""


def watch(memory: NDArray[np.uint8], *regions: tuple[int, int]) -> None:
    """Fill regions (start, end) of the array that owns a memory, and look at them from now on while it lives."""
    key = id(memory)

    def forget(_: Any) -> None:
        _regions.pop(key, None)

    for start, end in regions:
        memory[start:end] = _PATTERN
    with _lock:
        _, known = _regions.get(key, (None, []))
        _regions[key] = weakref.ref(memory, forget), [*known, *regions]


def check(what: str) -> None:
    """Raise OutOfBounds if any guard region of a living buffer has changed; ``what`` ran last."""
    with _lock:
        watched = list(_regions.values())
    for reference, regions in watched:
        memory = reference()
        if memory is None:
            continue
        for start, end in regions:
            changed = np.flatnonzero(memory[start:end] != _PATTERN)
            if len(changed):
                raise OutOfBounds(
                    f"{what} wrote outside of a buffer: {len(changed)} bytes from {start + changed[0]} on, in the "
                    f"guard region {start}..{end} of {memory.size} bytes"
                )


class _GuardedNumPy:
    """NumPy whose ``empty`` and ``empty_like`` put guard regions around."""

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)

    def empty(self, shape: Any, dtype: Any = float) -> NDArray[Any]:
        dtype = np.dtype(dtype)
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        memory = np.empty(size + 2 * GAP, np.uint8)
        watch(memory, (0, GAP), (GAP + size, size + 2 * GAP))
        array: NDArray[Any] = memory[GAP : GAP + size].view(dtype)
        return array.reshape(shape)

    def empty_like(self, array: NDArray[Any]) -> NDArray[Any]:
        return self.empty(array.shape, array.dtype)


arrays: Any = _GuardedNumPy() if ENABLED else np
"""The module that makes the arrays kernels write to."""
