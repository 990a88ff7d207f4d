"""Launching emulated kernels on NumPy memory."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Sequence

import numpy as np

# In the order of device_emulation.cpp. "in order": the lowest block, then thread, that can run. "last first": the
# one that was woken last. "random": any. "one block ahead": one block, by the seed, runs whenever it can.
SCHEDULES = ("in order", "last first", "random", "one block ahead")
MESSAGE_BYTES = 4096

# The runtime holds the state of one launch.
_ONE_AT_A_TIME = threading.Lock()


class EmulatorError(Exception):
    """A kernel that does not compile, cannot be launched so, or broke a rule of the GPU while it ran."""


class _Launch(ctypes.Structure):
    """EmulatedLaunch of device_emulation.h."""

    _fields_ = [
        ("grid", ctypes.c_uint * 3),
        ("block", ctypes.c_uint * 3),
        ("shared_bytes", ctypes.c_uint),
        ("schedule", ctypes.c_uint),
        ("seed", ctypes.c_ulonglong),
        ("arguments", ctypes.c_void_p),
        ("arguments_bytes", ctypes.c_ulonglong),
        ("message", ctypes.c_char_p),
        ("message_bytes", ctypes.c_ulonglong),
    ]


class Library:
    """Kernels that were compiled together."""

    def __init__(self, handle: ctypes.CDLL):
        self._handle = handle

    def __contains__(self, name: str) -> bool:
        return hasattr(self._handle, f"{name}_most_threads")

    def most_threads(self, name: str) -> int:
        """The bound on a block that KERNEL states."""
        return self._function(f"{name}_most_threads")()

    def cluster(self, name: str) -> int:
        """Blocks of a cluster; 1 where there are none."""
        return self._function(f"{name}_cluster")()

    def launch(
        self,
        name: str,
        grid: Sequence[int],
        block: Sequence[int],
        arguments: np.void,
        shared: int = 0,
        seed: int = 1,
        schedule: str = "random",
    ) -> None:
        """Run a kernel to its end.

        ``grid`` and ``block``: one to three sizes. ``arguments``: the kernel's structure, a NumPy scalar (or array
        of no dimensions) of an aligned structured dtype, whose addresses point to memory that the caller keeps
        alive. ``shared``: bytes of dynamic shared memory. ``seed`` decides the schedules "random" and "one block
        ahead". Raises EmulatorError with the thread and the source line of a deadlock, a divergent barrier or
        collective, a misaligned access, or what the launch asks for in vain.
        """
        value = np.array(arguments)  # a copy: aligned, and the kernel's own
        if value.dtype.names is None or value.shape != ():
            raise TypeError(f"arguments are one structure, not {value.dtype} of shape {value.shape}")
        message = ctypes.create_string_buffer(MESSAGE_BYTES)
        launch = _Launch(
            (ctypes.c_uint * 3)(*grid, *[1] * (3 - len(grid))),
            (ctypes.c_uint * 3)(*block, *[1] * (3 - len(block))),
            shared,
            SCHEDULES.index(schedule),
            seed,
            value.ctypes.data,
            value.nbytes,
            ctypes.cast(message, ctypes.c_char_p),
            MESSAGE_BYTES,
        )
        with _ONE_AT_A_TIME:
            failed = self._function(name)(ctypes.byref(launch))
        if failed:
            raise EmulatorError(message.value.decode())

    def _function(self, name: str) -> ctypes._CFuncPtr:
        try:
            return getattr(self._handle, name)
        except AttributeError:
            raise EmulatorError(f"no kernel has the name {name!r}") from None
