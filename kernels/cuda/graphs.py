"""Many launches as one: a sequence that comes again is captured and replayed as a CUDA graph.

A step of the stepwise policy is two launches or more, each of several microseconds on the host; a graph's cost a
fraction of one. A graph has addresses baked in, and a pool gives other ones at every call. So what cuBLAS multiplies in
a step lies in buffers that belong to the sequence, and kernels find all other addresses in an argument block on the
device, which also belongs to it and is written anew before each replay.
"""

from __future__ import annotations

import collections
import threading
from collections.abc import Callable, Hashable
from typing import Any

from . import devices
from .gemm import captured

__all__ = ["Sequence", "sequence"]

_MOST_SEQUENCES = 64
_sequences: collections.OrderedDict[Hashable, Sequence] = collections.OrderedDict()
_lock = threading.Lock()


class Sequence:
    """Launches with buffers of their own, and once they have come twice, their graph."""

    def __init__(self, buffers: dict[str, Any]) -> None:
        self.buffers = buffers
        self._runs = 0
        self._graph: Any = None

    def run(self, launches: Callable[[], None]) -> None:
        """Do what ``launches`` does on CuPy's current stream: the same every time, on the same addresses.

        The first time it simply runs, which also compiles and loads all that it needs; the second time it is captured.
        It must not allocate or synchronise.
        """
        cupy = devices.require()
        stream = cupy.cuda.get_current_stream()
        self._runs += 1
        if self._runs == 1 or stream.is_capturing():  # or the caller makes a graph of its own
            launches()
            return
        if self._graph is None:
            self._graph = _capture(cupy, launches)
        self._graph.launch(stream)


def sequence(key: Hashable, make: Callable[[], dict[str, Any]]) -> Sequence:
    """The sequence of that key on the current device, stream and thread; ``make`` gives it its buffers.

    By stream, since what runs at the same time needs other buffers; by thread, since a thread has a cuBLAS handle of
    its own, whose first product must not be captured.
    """
    cupy = devices.require()
    key = cupy.cuda.runtime.getDevice(), cupy.cuda.get_current_stream().ptr, threading.get_ident(), key
    with _lock:
        found = _sequences.get(key)
        if found is None:
            found = _sequences[key] = Sequence(make())
        _sequences.move_to_end(key)
        while len(_sequences) > _MOST_SEQUENCES:
            _sequences.popitem(last=False)
    return found


def _capture(cupy: Any, launches: Callable[[], None]) -> Any:
    # The null stream, which is CuPy's default, can't be captured. Other threads may allocate meanwhile.
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream, captured(stream):
        stream.begin_capture(cupy.cuda.runtime.streamCaptureModeThreadLocal)
        try:
            launches()
        finally:
            graph = stream.end_capture()
    return graph
