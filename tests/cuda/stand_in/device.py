"""Devices, streams, events and graphs as CuPy shows them, and the one place that says what is done when.

Work is done at once, in the order in which it is asked for; only a capturing stream keeps it for its graph.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

MULTIPROCESSORS = 132
MOST_SHARED_MEMORY = 232448
DRIVER_VERSION = 13000
RUNTIME_VERSION = 13020

_RUNTIME_ERRORS = {
    1: "cudaErrorInvalidValue",
    101: "cudaErrorInvalidDevice",
    400: "cudaErrorInvalidResourceHandle",
    900: "cudaErrorStreamCaptureUnsupported",
    901: "cudaErrorStreamCaptureInvalidated",
    906: "cudaErrorStreamCaptureImplicit",
}


class CUDARuntimeError(RuntimeError):
    """As cupy.cuda.runtime.CUDARuntimeError."""

    def __init__(self, status: int):
        self.status = status
        super().__init__(_RUNTIME_ERRORS.get(status, f"cudaError {status}"))


def failure(status: int, why: str) -> CUDARuntimeError:
    """The error of that status, which says why."""
    error = CUDARuntimeError(status)
    error.args = (f"{error}: {why}",)
    return error


# ---- what is done, and when ----


class Call(NamedTuple):
    """Something that a stream was asked for, or that made the host wait.

    kind: "launch", "product", "arithmetic", "fill", "graph", "record", "wait", "to host", "from host" or "synchronize".
    """

    kind: str
    name: str
    stream: int
    details: dict[str, Any]


class World:
    """All that lasts from install() to uninstall()."""

    number = 0

    def __init__(
        self,
        devices: int = 1,
        capability: str = "90",
        schedule: str = "random",
        seed: int = 1,
        sanitizer: str = "",
    ):
        self.number += 1
        self.devices, self.capability, self.sanitizer = devices, capability, sanitizer
        self.schedule, self.seed = schedule, seed  # of the emulator; every launch has a seed of its own
        self.launches = 0
        self.captures: dict[int, Capture] = {}  # by the stream's address
        self.watchers: list[list[Call]] = []
        self.overruns: list[str] = []


class Capture:
    """What a stream has been asked for since begin_capture."""

    def __init__(self, mode: int, blocking: bool):
        self.mode, self.blocking = mode, blocking
        self.actions: list[Callable[[], None]] = []


class _Thread(threading.local):
    def __init__(self) -> None:
        self.device = 0
        self.streams: dict[int, list[Any]] = {}


world = World()
_thread = _Thread()


def reset(**options: Any) -> None:
    """A new world, with nothing captured and device 0 current."""
    world.__init__(**options)  # type: ignore[misc]
    _thread.__init__()  # type: ignore[misc]


@contextlib.contextmanager
def watch() -> Iterator[list[Call]]:
    """Every call from here on."""
    calls: list[Call] = []
    world.watchers.append(calls)
    try:
        yield calls
    finally:
        world.watchers.remove(calls)


def note(kind: str, name: str = "", stream: int | None = None, **details: Any) -> None:
    """Tell the watchers."""
    address = current_stream().ptr if stream is None else stream
    for calls in world.watchers:
        calls.append(Call(kind, name, address, details))


def perform(action: Callable[[], None], kind: str, name: str = "", stream: Any = None, **details: Any) -> None:
    """Have a stream (by default the current one) do something: now, or in the graph that it captures."""
    stream = current_stream() if stream is None else stream
    note(kind, name, stream.ptr, **details)
    capture = world.captures.get(stream.ptr)
    if capture is not None:
        capture.actions.append(action)
        return
    if stream.ptr == 0 and any(other.blocking for other in world.captures.values()):
        raise failure(906, "the null stream would wait for a stream that captures; make that one non_blocking")
    action()


def host_waits(kind: str, name: str = "") -> None:
    """The host waits for the current stream, which a capturing stream forbids."""
    note(kind, name)
    if current_stream().ptr in world.captures:
        raise failure(900, f"{name or kind} while the stream captures")


def capture_mode() -> int | None:
    """The mode in which the current stream captures, or None."""
    capture = world.captures.get(current_stream().ptr)
    return None if capture is None else capture.mode


# ---- cupy.cuda ----


class Device:
    """As cupy.cuda.Device: compared by id, not hashable."""

    def __init__(self, device: Any = None):
        self.id = getDevice() if device is None else int(device)
        self._before: list[int] = []

    def __int__(self) -> int:
        return self.id

    def __eq__(self, other: object) -> bool:
        return self.id == other.id if isinstance(other, Device) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<CUDA Device {self.id}>"

    def __enter__(self) -> Device:
        self._before.append(getDevice())
        self.use()
        return self

    def __exit__(self, *args: object) -> None:
        setDevice(self._before.pop())

    def use(self) -> None:
        setDevice(self.id)

    def synchronize(self) -> None:
        with self:
            deviceSynchronize()

    @property
    def compute_capability(self) -> str:
        _known(self.id)
        return world.capability

    @property
    def attributes(self) -> dict[str, int]:
        _known(self.id)
        return {
            "CooperativeLaunch": 1,
            "L2CacheSize": 50 << 20,
            "MaxRegistersPerBlock": 65536,
            "MaxSharedMemoryPerBlock": 49152,
            "MaxSharedMemoryPerBlockOptin": MOST_SHARED_MEMORY,
            "MaxSharedMemoryPerMultiprocessor": 233472,
            "MaxThreadsPerBlock": 1024,
            "MaxThreadsPerMultiProcessor": 2048,
            "MultiProcessorCount": MULTIPROCESSORS,
            "WarpSize": 32,
        }


class Stream:
    """As cupy.cuda.Stream."""

    null: Stream
    ptds: Stream
    _addresses = itertools.count(0x1000, 0x100)

    def __init__(self, null: bool = False, non_blocking: bool = False, ptds: bool = False, priority: int | None = None):
        self.ptr = 0 if null else 2 if ptds else next(self._addresses)
        self.device_id = -1 if null or ptds else getDevice()
        self.is_non_blocking = non_blocking

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stream) and self.ptr == other.ptr

    def __hash__(self) -> int:
        return self.ptr

    def __repr__(self) -> str:
        return f"<Stream {self.ptr} (device {self.device_id})>"

    def __enter__(self) -> Stream:
        _streams(self._device()).append(self)
        return self

    def __exit__(self, *args: object) -> None:
        _streams(self._device()).pop()

    def use(self) -> Stream:
        _streams(self._device())[-1] = self
        return self

    @property
    def done(self) -> bool:
        return True

    def synchronize(self) -> None:
        note("synchronize", "stream", self.ptr)
        if self.ptr in world.captures:
            raise failure(900, "synchronize() of a stream that captures")

    def record(self, event: Event | None = None) -> Event:
        event = Event() if event is None else event
        event.record(self)
        return event

    def wait_event(self, event: Event) -> None:
        note("wait", "", self.ptr, event=event.ptr)

    def begin_capture(self, mode: int | None = None) -> None:
        if self.ptr in (0, 1):
            raise RuntimeError("cannot capture on the default (legacy) stream")
        if self.ptr in world.captures:
            raise failure(900, "the stream captures already")
        world.captures[self.ptr] = Capture(streamCaptureModeRelaxed if mode is None else mode, not self.is_non_blocking)

    def end_capture(self) -> Graph:
        if self.ptr not in world.captures:
            raise failure(901, "the stream does not capture")
        graph = Graph.__new__(Graph)
        graph._actions = world.captures.pop(self.ptr).actions
        return graph

    def is_capturing(self) -> bool:
        return self.ptr in world.captures

    def _device(self) -> int:
        current = getDevice()
        if self.device_id not in (-1, current):
            raise RuntimeError(
                f"The device that the stream is created on ({self.device_id})"
                f" does not match with the current device ({current})"
            )
        return current


Stream.null, Stream.ptds = Stream(null=True), Stream(ptds=True)


class Event:
    """As cupy.cuda.Event."""

    def __init__(self, block: bool = False, disable_timing: bool = False, interprocess: bool = False):
        self.ptr = id(self)
        self._recorded: float | None = None

    @property
    def done(self) -> bool:
        return True

    def record(self, stream: Stream | None = None) -> None:
        self._recorded = time.perf_counter()
        note("record", "", None if stream is None else stream.ptr, event=self.ptr)

    def synchronize(self) -> None:
        note("synchronize", "event")


def get_elapsed_time(start_event: Event, end_event: Event) -> float:
    """Milliseconds."""
    if start_event._recorded is None or end_event._recorded is None:
        raise RuntimeError("cudaErrorInvalidResourceHandle: invalid resource handle")
    return 1e3 * (end_event._recorded - start_event._recorded)


class Graph:
    """As cupy.cuda.Graph."""

    _actions: list[Callable[[], None]]

    def __init__(self, *args: Any, **kwargs: Any):
        raise NotImplementedError(
            "currently this class cannot be initiated by the user and must be created via stream capture"
        )

    def launch(self, stream: Stream | None = None) -> None:
        perform(self._run, "graph", "", stream, length=len(self._actions))

    def upload(self, stream: Stream | None = None) -> None:
        pass

    def _run(self) -> None:
        for action in self._actions:
            action()


def _streams(device: int) -> list[Stream]:
    return _thread.streams.setdefault(device, [Stream.null])


def current_stream() -> Stream:
    """The current stream of the current device."""
    return _streams(_thread.device)[-1]


def get_current_stream(device_id: int = -1) -> Stream:
    return _streams(getDevice() if device_id == -1 else device_id)[-1]


# ---- cupy.cuda.runtime ----

streamCaptureModeGlobal, streamCaptureModeThreadLocal, streamCaptureModeRelaxed = range(3)


def _known(device: int) -> None:
    if not 0 <= device < world.devices:
        raise failure(101, f"device {device} of {world.devices}")


def getDeviceCount() -> int:
    return world.devices


def getDevice() -> int:
    return _thread.device


def setDevice(device: int) -> None:
    _known(device)
    _thread.device = device


def driverGetVersion() -> int:
    return DRIVER_VERSION


def runtimeGetVersion() -> int:
    return RUNTIME_VERSION


def deviceSynchronize() -> None:
    note("synchronize", "device")
    if world.captures:
        raise failure(900, "deviceSynchronize() while a stream captures")


def streamIsCapturing(stream: int) -> bool:
    return stream in world.captures
