"""The device's memory, and a pool as CuPy's is: what is freed serves the next array of the size on the same stream.

Of several that would do, the latest freed one is taken; CuPy takes any.

Fresh and freed memory is all bits set (NaN, or -1), and so are 512 bytes on either side: who reads what nobody wrote
gets NaN, and who writes beside an array is found when it is freed, or by `overruns`.
"""

from __future__ import annotations

import ctypes
import threading
import weakref
from collections import defaultdict
from typing import Any

import numpy as np

from tests.cuda.stand_in import device

ALIGNMENT = 512
_POISON = 0xFF
_lock = threading.RLock()  # entered again where collecting garbage frees memory
_pool: defaultdict[tuple[int, int, int], list[np.ndarray]] = defaultdict(list)
_live: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()


class Memory:
    """Bytes on the current device."""

    def __init__(self, size: int):
        if device.capture_mode() not in (None, device.streamCaptureModeRelaxed):
            raise device.failure(900, "an allocation while the stream captures: the pool may have to grow")
        self.size, self.device_id = size, device.getDevice()
        self._world = device.world.number
        room = -(-max(size, 1) // ALIGNMENT) * ALIGNMENT
        self._shelf = self.device_id, device.current_stream().ptr, room
        with _lock:
            shelf = _pool[self._shelf]
            self._block = shelf.pop() if shelf else _aligned(room + 2 * ALIGNMENT)
        _watched(self._block, False)
        self._block[:] = _POISON
        self.ptr = self._block.ctypes.data + ALIGNMENT
        self._watch_sides(True)
        with _lock:
            _live[self.ptr] = self

    @property
    def _bytes(self) -> np.ndarray:
        return self._block[ALIGNMENT : ALIGNMENT + self.size]

    def _watch_sides(self, on: bool) -> None:
        _watched(self._block[:ALIGNMENT], on)
        _watched(self._block[ALIGNMENT + self.size :], on)

    def overrun(self) -> str:
        """What was written beside this memory, or nothing."""
        self._watch_sides(False)
        beside = np.nonzero(self._block != _POISON)[0] - ALIGNMENT
        beside = beside[(beside < 0) | (beside >= self.size)]
        self._watch_sides(True)
        if not beside.size:
            return ""
        return f"{beside.size} bytes were written beside an array of {self.size} bytes, the first at offset {beside[0]}"

    def __del__(self) -> None:
        if not hasattr(self, "ptr"):
            return
        found = self.overrun()
        if found and self._world == device.world.number:
            device.world.overruns.append(found)
        self._watch_sides(False)
        self._block[:] = _POISON
        _watched(self._block, True)
        with _lock:
            _pool[self._shelf].append(self._block)


def _watched(region: np.ndarray, on: bool) -> None:
    """Have AddressSanitizer, where it is there, report who touches these bytes, or let it be."""
    if device.world.sanitizer == "address":
        tell = ctypes.CDLL(None)["__asan_poison_memory_region" if on else "__asan_unpoison_memory_region"]
        tell(ctypes.c_void_p(region.ctypes.data), ctypes.c_size_t(region.size))


class UnownedMemory:
    """As cupy.cuda.UnownedMemory."""

    def __init__(self, ptr: int, size: int, owner: Any, device_id: int = -1):
        self.ptr, self.size, self._owner = ptr, size, owner
        self.device_id = device.getDevice() if device_id == -1 else device_id
        with _lock:
            _live[ptr] = self

    @property
    def _bytes(self) -> np.ndarray:
        return at(self.ptr, self.size)


class MemoryPointer:
    """As cupy.cuda.MemoryPointer."""

    def __init__(self, mem: Any, offset: int):
        self.mem, self.ptr = mem, mem.ptr + offset

    @property
    def device_id(self) -> int:
        return self.mem.device_id

    @property
    def device(self) -> device.Device:
        return device.Device(self.device_id)

    def __add__(self, offset: int) -> MemoryPointer:
        return MemoryPointer(self.mem, self.ptr + offset - self.mem.ptr)

    def __int__(self) -> int:
        return self.ptr

    def memset_async(self, value: int, size: int, stream: Any = None) -> None:
        device.perform(lambda: at(self.ptr, size).fill(value), "fill", "memset_async", stream)


def alloc(size: int) -> MemoryPointer:
    return MemoryPointer(Memory(size), 0)


def at(address: int, size: int) -> np.ndarray:
    """The bytes at an address, whoever has them."""
    return np.frombuffer((ctypes.c_ubyte * size).from_address(address), np.uint8) if size else np.empty(0, np.uint8)


def _alive() -> list[Any]:
    with _lock:
        return list(_live.values())


def is_allocated(address: int, size: int) -> bool:
    """Whether all these bytes belong to one array."""
    return any(m.ptr <= address and address + size <= m.ptr + m.size for m in _alive())


def overruns() -> list[str]:
    """Writes beside arrays, freed or not, since the world began."""
    number = device.world.number
    alive = [m.overrun() for m in _alive() if isinstance(m, Memory) and m._world == number]
    return device.world.overruns + [found for found in alive if found]


def forget() -> None:
    """Empty the pool."""
    with _lock:
        _pool.clear()


def _aligned(size: int) -> np.ndarray:
    raw = np.empty(size + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + size]
