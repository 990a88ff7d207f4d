"""Many launches as one: steps that come again are captured and replayed as a CUDA graph.

A step of the stepwise policy is two launches or more, each of several microseconds on the host; a graph's cost a
fraction of one. A graph has addresses baked in, and a pool gives other ones at every call. So what cuBLAS multiplies in
a step lies in buffers that belong to the graph, and kernels find all other addresses in an argument block on the
device, which also belongs to it and is written anew before each replay.
"""

from __future__ import annotations

import collections
import threading
from collections.abc import Callable, Hashable, Iterable
from typing import Any

from . import devices
from .gemm import captured

__all__ = ["Steps", "side_by_side", "steps"]

_MOST_KEPT = 64
_kept: collections.OrderedDict[Hashable, Steps] = collections.OrderedDict()
_lock = threading.Lock()


class Steps:
    """Launches with buffers of their own, and once they have come twice, their graph."""

    def __init__(self, buffers: dict[str, Any]) -> None:
        self.buffers = buffers
        self._runs = 0
        self._graph: Any = None
        self._apart: Any = None  # the stream that captured the graph, where it may run beside another
        self._events: tuple[Any, Any] = (None, None)

    def run(self, launches: Callable[[], None]) -> bool:
        """Do what ``launches`` does on CuPy's current stream, unless there is a graph of it: then returns False.

        The launches are the same every time, on the same addresses; they must not allocate or synchronise. The first
        time they simply run, which also compiles and loads all that they need; the second time they are captured.
        """
        cupy = devices.require()
        self._runs += 1
        if self._runs == 1 or cupy.cuda.get_current_stream().is_capturing():  # or the caller makes a graph of its own
            launches()
            return True
        if self._graph is None:
            self._apart = cupy.cuda.Stream(non_blocking=True)
            self._events = tuple(cupy.cuda.Event(disable_timing=True) for _ in range(2))
            self._graph = _capture(cupy, self._apart, launches)
        return False

    def replay(self, stream: Any) -> None:
        """Launch the graph."""
        self._graph.launch(stream)

    def replay_beside(self, stream: Any) -> None:
        """Launch the graph beside what the stream does from now on, until ``join``."""
        start, end = self._events
        start.record(stream)
        self._apart.wait_event(start)
        self._graph.launch(self._apart)
        end.record(self._apart)

    def join(self, stream: Any) -> None:
        """What the stream does from now on comes after the graph."""
        stream.wait_event(self._events[1])


def side_by_side(walks: Iterable[tuple[Steps, Callable[[], None]]]) -> None:
    """Run several walks' steps, each as ``Steps.run``, on CuPy's current stream; graphs at the same time.

    Small products leave most of a chip idle, and the launches of one walk fill the gaps between another's. Each walk
    has a graph of its own, and not a branch of one graph: cuBLAS takes memory to work in anew for each graph, and what
    runs at the same time must not share it. For the same reason walks without a graph run one after the other.
    """
    stream = devices.require().cuda.get_current_stream()
    ready = [steps for steps, launches in walks if not steps.run(launches)]
    for steps in ready[1:]:
        steps.replay_beside(stream)
    for steps in ready[:1]:
        steps.replay(stream)
    for steps in ready[1:]:
        steps.join(stream)


def steps(key: Hashable, make: Callable[[], dict[str, Any]]) -> Steps:
    """The steps of that key on the current device, stream and thread; ``make`` gives them their buffers.

    By stream, since what runs at the same time needs other buffers; by thread, since a thread has a cuBLAS handle of
    its own, whose first product must not be captured.
    """
    cupy = devices.require()
    key = cupy.cuda.runtime.getDevice(), cupy.cuda.get_current_stream().ptr, threading.get_ident(), key
    with _lock:
        found = _kept.get(key)
        if found is None:
            found = _kept[key] = Steps(make())
        _kept.move_to_end(key)
        while len(_kept) > _MOST_KEPT:
            _kept.popitem(last=False)
    return found


def _capture(cupy: Any, stream: Any, launches: Callable[[], None]) -> Any:
    # Not on the null stream, which is CuPy's default and can't be captured. Other threads may allocate meanwhile.
    with stream, captured(stream):
        stream.begin_capture(cupy.cuda.runtime.streamCaptureModeThreadLocal)
        try:
            launches()
        finally:
            graph = stream.end_capture()
    return graph
