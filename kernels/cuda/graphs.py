"""Many launches as one: a sequence that comes again with the same addresses is captured and replayed as a CUDA graph.

A step of the stepwise policy is two launches or more, each of several microseconds on the host; a graph's cost a
fraction of one. A graph has addresses baked in. But a loop that trains or infers on batches of one shape gets the same
memory from CuPy's pool again and again, so the addresses themselves are the key.
"""

from __future__ import annotations

import collections
import threading
from collections.abc import Callable, Hashable
from typing import Any

from . import devices
from .gemm import captured

__all__ = ["replay"]

_MOST_GRAPHS = 32
_graphs: collections.OrderedDict[Hashable, Any] = collections.OrderedDict()  # None: seen once
_lock = threading.Lock()


def replay(key: Hashable, launches: Callable[[], None]) -> None:
    """Do what ``launches`` does on CuPy's current stream, which is the same whenever the key is the same.

    The first time it simply runs, which also compiles and loads all that it needs; the second time it is captured. It
    must not allocate or synchronise.
    """
    cupy = devices.require()
    stream = cupy.cuda.get_current_stream()
    if stream.is_capturing():  # the caller makes a graph of its own
        launches()
        return
    # A thread has a cuBLAS handle of its own, whose first product must not be captured.
    key = cupy.cuda.runtime.getDevice(), threading.get_ident(), key
    with _lock:
        seen = key in _graphs
        graph = _graphs.setdefault(key, None)
        _graphs.move_to_end(key)
        while len(_graphs) > _MOST_GRAPHS:
            _graphs.popitem(last=False)
    if not seen:
        launches()
        return
    if graph is None:
        graph = _capture(cupy, launches)
        with _lock:
            _graphs[key] = graph
    graph.launch(stream)


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
