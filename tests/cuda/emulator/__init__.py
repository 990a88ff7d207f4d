"""Kernels for a GPU, run by the CPU: compiled by g++, one fiber per GPU thread, in a schedule that a seed decides.

What it finds: wrong results; deadlocks, divergent barriers and divergent collectives of a warp, each named by thread
and source line; shared memory read before it was written (it starts as NaN); and, in a process under a sanitizer,
missing barriers, relaxed flags and accesses out of bounds. What it does not model: time, caches, and the reordering
of one thread's own accesses, which ThreadSanitizer stands in for.
"""

from tests.cuda.emulator.build import available, build
from tests.cuda.emulator.launch import SCHEDULES, EmulatorError, Library
from tests.cuda.emulator.sanitizers import run_sanitized, sanitizer_available

__all__ = [
    "SCHEDULES",
    "EmulatorError",
    "Library",
    "available",
    "build",
    "run_sanitized",
    "sanitizer_available",
]
