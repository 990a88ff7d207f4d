"""Layers on a GPU for tests that speak NumPy: arguments go up, results come down, and the device's side is watched.

A test of the contract is written for NumPy arrays. With fastrnn.RNN, LSTM and GRU replaced by the classes here it asks
the same of a GPU. What it can't see from the host is checked at every call: arguments and parameters are bit for bit
what they were; and what belongs to the caller (results, and the given states) is overwritten with NaN as soon as the
test has its copy, so that a later call that still relied on it would show.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
from collections.abc import Iterator
from typing import Any

import numpy as np

import fastrnn
from fastrnn.parameters import FlatParameters
from tests.cuda import stand_in

__all__ = ["BRIDGES", "GPU", "Bridged", "bridged", "device_array", "only"]

PUBLIC = {name: getattr(fastrnn, name) for name in ("RNN", "LSTM", "GRU")}
# By its full name: the package has a function plan, too.
plan = importlib.import_module("fastrnn.kernels.cuda.plan")
devices = importlib.import_module("fastrnn.kernels.cuda.devices")


def _why_no_gpu() -> str:
    try:
        devices.require()
    except fastrnn.GPUUnavailable as reason:
        return str(reason)
    return ""


WHY_NO_GPU = _why_no_gpu()  # asks the driver first, so that CuPy is imported only where there is one
GPU = not WHY_NO_GPU


@contextlib.contextmanager
def device() -> Iterator[Any]:
    """CuPy: the real one where there is a GPU, else the stand-in."""
    if GPU:
        yield devices.require()
    else:
        with stand_in.installed() as cupy:
            yield cupy


# Of the stand-in, as few as a policy can do with: as many blocks run at once, and each is 256 fibers. With the 132 of
# an H100 a test of the contract took 8 seconds.
MULTIPROCESSORS = (4, 8, 20, 40, 132)


@contextlib.contextmanager
def only(policy: str, members: int | None = None, **shape: int) -> Iterator[None]:
    """Every layer by this policy; one that can't be is an error, and not run by another.

    members: so many directions or layers side by side, where there are several. shape: sizes of the policy's cut.
    """
    choose = plan._choose

    def chosen(problem: Any, several: bool, chip: Any, wanted: Any) -> Any:
        for multiprocessors in (chip.multiprocessors,) if GPU else MULTIPROCESSORS:
            smaller = chip._replace(multiprocessors=min(multiprocessors, chip.multiprocessors))
            found = choose(problem, several, smaller, wanted)
            if wanted.cut(found, problem) and wanted.order(found, problem):
                return found
        raise AssertionError(f"{problem} runs as {found.kernel}: {found.why}")

    plan._choose = chosen
    try:
        with plan.forced(policy, members, **shape):
            yield
    finally:
        plan._choose = choose


@contextlib.contextmanager
def bridged() -> Iterator[None]:
    """The public names are the classes of this module."""
    vars(fastrnn).update(BRIDGES)
    try:
        yield
    finally:
        vars(fastrnn).update(PUBLIC)


# ---- arrays ----


def device_array(array: np.ndarray) -> Any:
    """The array on the device, with its strides."""
    return _Sent(array).array


class _Sent:
    """An array on the device, and what lay on the host when it was sent."""

    def __init__(self, host: np.ndarray):
        cupy = devices.require()
        start = host.__array_interface__["data"][0]
        low, high = np.lib.array_utils.byte_bounds(host) if host.size else (start, start)
        memory = np.lib.stride_tricks.as_strided(_bytes_at(host, low), (high - low,), (1,))
        self._bytes = memory.tobytes()
        self._memory = cupy.asarray(np.frombuffer(self._bytes or b"\0", np.uint8))
        pointer = self._memory.data + (start - low)
        self.array = cupy.ndarray(host.shape, host.dtype, pointer, host.strides)

    def check(self) -> None:
        assert self._memory.get().tobytes() == (self._bytes or b"\0"), "a call wrote to one of its arguments"


def _bytes_at(host: np.ndarray, address: int) -> np.ndarray:
    """One byte of the array's memory, from which as_strided can go on; it keeps the array alive."""

    class Window:
        __array_interface__ = {"data": (address, True), "shape": (1,), "typestr": "|u1", "version": 3}
        base = host

    return np.asarray(Window())


class _Call:
    """The arguments of one call: sent once each, and checked after it."""

    def __init__(self) -> None:
        self._sent: dict[int, tuple[np.ndarray, _Sent]] = {}

    def send(self, value: Any) -> Any:
        """NumPy arrays of a tuple, too; whatever else stays what it is."""
        if type(value) is tuple:
            return tuple(map(self.send, value))
        if not isinstance(value, np.ndarray):
            return value
        if id(value) not in self._sent:
            self._sent[id(value)] = value, _Sent(value)
        return self._sent[id(value)][1].array

    def check(self, *written: Any) -> None:
        """None was written to, but for these."""
        for host, sent in self._sent.values():
            if not any(host is other for other in written):
                sent.check()


def _received(value: Any) -> Any:
    """Copies on the host. The device's own are NaN from now on."""
    if isinstance(value, tuple):
        return tuple(map(_received, value))
    host = value.get()
    value[...] = np.nan
    return host


def _spoil(state: Any) -> None:
    """A state that was given is the caller's again."""
    for part in state if isinstance(state, tuple) else (state,):
        if hasattr(part, "get"):
            part[...] = np.nan


# ---- layers ----


class Gradients:
    """What backward returned, on the host: x, state, flat and params, as `fastrnn.Gradients` has them."""

    def __init__(self, layout: Any, of_device: Any):
        self.of_device = of_device
        self.x = None if of_device.x is None else _received(of_device.x)
        self.state = _received(of_device.state)
        self.flat = _received(of_device.flat)
        self.params = FlatParameters(layout, self.flat).views

    def _pairs(self) -> Iterator[tuple[np.ndarray, Any]]:
        if self.x is not None:
            yield self.x, self.of_device.x
        states = (self.state, self.of_device.state)
        yield from zip(*(s if isinstance(s, tuple) else (s,) for s in states), strict=True)
        yield self.flat, self.of_device.flat

    def send(self) -> Any:
        """Back to the device, to be added to."""
        for host, array in self._pairs():
            array[...] = device_array(host)
        return self.of_device

    def receive(self) -> Gradients:
        """The sums, in the same arrays."""
        for host, array in self._pairs():
            host[...] = _received(array)
        return self


class Bridged:
    """A layer on the device. ``flat_params`` and ``params`` are the host's, and go up before each call."""

    kind: str

    def __init__(self, *sizes: Any, **options: Any):
        self._attach(PUBLIC[self.kind](*sizes, **{"device": "cuda"} | options))

    def _attach(self, layer: Any) -> Bridged:
        self.layer = layer
        self._parameters = FlatParameters(layer.layout, layer.flat_params.get())
        self._of_tapes: list[tuple[Any, _Call]] = []
        return self

    def _send_parameters(self) -> None:
        if not self.layer.frozen:
            self.layer.flat_params[...] = device_array(self._parameters.flat)

    def _check(self, call: _Call, *written: Any) -> None:
        call.check(*written)
        assert self.layer.flat_params.get().tobytes() == self._parameters.flat.tobytes(), "a call wrote to parameters"

    # What a layer does

    def __call__(self, x: Any, state: Any = None, *, resets: Any = None, **options: Any) -> Any:
        self._send_parameters()
        call = _Call()
        y, final = self.layer(call.send(x), call.send(state), resets=call.send(resets), **options)
        self._check(call)
        return _received(y), _received(final)

    def forward(self, x: Any, state: Any = None, *, resets: Any = None, **options: Any) -> Any:
        self._send_parameters()
        call = _Call()
        given = call.send(state)
        y, final, tape = self.layer.forward(call.send(x), given, resets=call.send(resets), **options)
        self._check(call)
        kept = _Call()
        kept._sent = {key: pair for key, pair in call._sent.items() if pair[0] is x}
        self._of_tapes = [pair for pair in self._of_tapes if not pair[0].consumed] + [(tape, kept)]
        _spoil(given)
        return _received(y), _received(final), tape

    def backward(self, tape: Any, dy: Any = None, dstate: Any = None, *, out: Any = None, **options: Any) -> Any:
        call = _Call()
        target = out.send() if isinstance(out, Gradients) else out
        grads = self.layer.backward(tape, call.send(dy), call.send(dstate), out=target, **options)
        self._check(call)
        for of_tape, kept in self._of_tapes:
            if of_tape is tape:
                kept.check()
        if out is None:
            return Gradients(self.layer.layout, grads)
        assert grads is target
        return out.receive()

    def stream(self, batch_size: Any = 1, state: Any = None, **options: Any) -> Stream:
        self._send_parameters()
        call = _Call()
        stream = self.layer.stream(batch_size, call.send(state), **options)
        call.check()
        return Stream(stream)

    # Parameters

    @property
    def flat_params(self) -> np.ndarray:
        return self._parameters.flat

    @flat_params.setter
    def flat_params(self, value: np.ndarray) -> None:
        assert value is self._parameters.flat

    @property
    def params(self) -> Any:
        return self._parameters.views

    def load_params(self, mapping: Any) -> None:
        self._send_parameters()
        try:
            self.layer.load_params(mapping)
        finally:
            self._parameters.flat[...] = self.layer.flat_params.get()

    def freeze(self, **options: Any) -> Bridged:
        self._send_parameters()
        self.layer.freeze(**options)
        return self

    def unfreeze(self) -> Bridged:
        self.layer.unfreeze()
        return self

    # Copies

    def __reduce__(self) -> Any:
        self._send_parameters()
        return _attached, (type(self), self.layer)

    def __copy__(self) -> Bridged:
        self._send_parameters()
        return _attached(type(self), copy.copy(self.layer))

    def __getattr__(self, name: str) -> Any:
        if name == "layer":  # not there yet
            raise AttributeError(name)
        return getattr(self.layer, name)

    def __repr__(self) -> str:
        return repr(self.layer)


def _attached(kind: type[Bridged], layer: Any) -> Bridged:
    return kind.__new__(kind)._attach(layer)


class Stream:
    """A stream on the device."""

    def __init__(self, stream: Any):
        self._stream = stream

    def __call__(self, x_t: Any, out: Any = None) -> Any:
        call = _Call()
        sent, target = call.send(x_t), call.send(out)
        y = self._stream(sent, target)
        call.check(out)
        if out is None:
            return y.get()
        assert y is target
        out[...] = y.get()
        return out

    @property
    def state(self) -> Any:
        return _received(self._stream.state)

    @state.setter
    def state(self, value: Any) -> None:
        call = _Call()
        sent = call.send(value)
        self._stream.state = sent
        call.check()
        _spoil(sent)

    def reset(self, rows: Any = None) -> None:
        self._stream.reset(rows)


class RNN(Bridged):
    kind = "RNN"


class LSTM(Bridged):
    kind = "LSTM"


class GRU(Bridged):
    kind = "GRU"


BRIDGES = {"RNN": RNN, "LSTM": LSTM, "GRU": GRU}
