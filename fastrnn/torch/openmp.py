"""Our kernels on PyTorch's own threads.

After each of PyTorch's operations the other threads of its OpenMP runtime spin, for milliseconds with GNU's, in the
hope of the next one, and hold the cores that workers of ours would want: GRU training at (T, B, I, H) = (100, 16, 128,
128) on two cores took 7.8 ms beside them. So within ``with team():`` kernels run on the very team that spins: 3.0 ms.
Long calls, which another thread makes, end that team before (OpenMP 5's ``omp_pause_resource_all``): 4.7 ms in that
example. The next operation that wants a team makes another, which takes 55 us.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch

from fastrnn.backend import load
from fastrnn.checks import flag

__all__ = ["set_shared_threads", "team"]

_SOFT = 1  # omp_pause_soft: threadprivate variables stay
_FORKED_WITHOUT_EXEC = 0x40  # a process's flags in Linux, PF_FORKNOEXEC

_enabled = True


def set_shared_threads(enabled: bool) -> None:
    """Whether modules of ``fastrnn.torch`` run their kernels on PyTorch's OpenMP threads; so at first.

    So they do on Linux, in processes that are no forked copies of others, with PyTorch on GNU's OpenMP (its wheels) or
    one that has GNU's interface; elsewhere, and with False, on threads of fastrnn's own. Results are the same, bitwise.
    Raises TypeError unless ``enabled`` is a bool.
    """
    global _enabled
    _enabled = flag("enabled", enabled)


def team() -> contextlib.AbstractContextManager[Any]:
    """A context in which this thread's kernels run on PyTorch's threads, where that can be and helps."""
    found: contextlib.AbstractContextManager[Any] | None = _team()
    # In a forked child the runtime would wait for threads that stayed with the parent.
    if found is None or not _enabled or os.getpid() != _process or torch.get_num_threads() == 1:
        return _nothing
    return found


_nothing = contextlib.nullcontext()
_process = os.getpid()


@cache
def _team() -> Any:
    """The team of the OpenMP runtime that PyTorch calls, or None."""
    if not _whole_process():
        return None
    # As the loader finds it: in libraries that all see (a preloaded runtime), then in those that PyTorch depends on.
    for path, mode in ((None, ctypes.DEFAULT_MODE), (torch._C.__file__, os.RTLD_NOLOAD)):
        try:
            library = ctypes.CDLL(path, mode=mode)
            functions = library.GOMP_parallel, library.omp_get_thread_num, library.omp_get_num_threads
        except (OSError, AttributeError):
            continue
        pause = getattr(library, "omp_pause_resource_all", None)
        cpu: Any = load("cpu")
        addresses = [ctypes.cast(function, ctypes.c_void_p).value for function in functions]
        return cpu.Team(*addresses, pause and partial(pause, _SOFT))
    return None


def _whole_process() -> bool:
    """Whether all threads that this process's runtimes know of are in it: it is no forked copy of another one."""
    if sys.platform != "linux":
        return False
    try:
        fields = Path("/proc/self/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return not int(fields[6]) & _FORKED_WITHOUT_EXEC
    except (OSError, ValueError, IndexError):
        return False
