"""Devices: which module runs a layer, and what every such module offers."""

from __future__ import annotations

import functools
import importlib
import platform
import sysconfig
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from fastrnn.cell_table import Cell
from fastrnn.sequences import Schedule

__all__ = [
    "MOST_LAYERS", "Accumulators", "Backend", "Backward", "Dropout", "Forward", "GPUUnavailable", "LayeredBackend",
    "Plan", "Stepper", "get_num_threads", "load", "set_num_threads",
]  # fmt: skip


class Plan(NamedTuple):
    """What a backend would do for one direction of a layer."""

    kernel: str
    why: str
    threads: int
    bytes: int
    flops: int


class Accumulators(Protocol):
    """Gradients of one layer's parameters, zeros at first, in an order of the backend's own."""

    def store_in(self, arrays: tuple[NDArray[Any] | None, ...], add: bool) -> None:
        """Fill, or add to, arrays shaped as the parameters are, in the order of ``pack``'s arguments."""


class Stepper(Protocol):
    """One layer of a stream: holds its state between steps."""

    state: tuple[NDArray[Any], ...]  # (B, H) each; reading copies, and so does assigning

    def step(self, x: NDArray[Any], out: NDArray[Any]) -> bool:
        """Take one step from x (B, I), and write h into out (B, H), both C-contiguous, which must not overlap x.

        On the CPU any arguments are safe: False, and nothing done, unless they are so, or (I,) and (H,) for one row.
        """

    def reset(self, rows: Any) -> None:
        """Zero the state of some rows: a slice or integers."""


MOST_LAYERS = 4  # that a ``LayeredBackend`` walks at the same time

# One direction of a layer in a call of ``forward``: packed weights, the initial state or None, the schedule, y or None
# (0 past a row's length), and the final state, these two to be filled. Plain tuples: as a class with names each takes
# 0.2 us of a call.
Forward = tuple[Any, tuple[NDArray[Any], ...] | None, Schedule, NDArray[Any] | None, tuple[NDArray[Any], ...]]

# One direction in a call of ``backward``: packed weights, what forward saved, the schedule, dy or None, the gradients
# of the final state or None, those of the initial state to be filled, and grads (w_ih, w_hh, ...) to be filled or added
# to.
Backward = tuple[
    Any,
    Any,
    Schedule,
    NDArray[Any] | None,
    Sequence[NDArray[Any] | None] | None,
    tuple[NDArray[Any], ...],
    tuple[NDArray[Any] | None, ...] | Accumulators,
]


# Between layers in one call: probability, seed, and the number of the boundary above the first of them; see
# ``fastrnn.dropout``.
Dropout = tuple[float, int, int]


class Backend(Protocol):
    """The functions of ``fastrnn.kernels.cpu`` and its twins. One call is one layer in all its directions.

    Directions read the same x and resets and do not wait for each other: a backend may walk them at the same time.
    Their schedules differ in nothing but the way through time.

    All arrays have one dtype. x, y, dy and dx are (T, B, ·) with any strides but a contiguous last axis; states
    are tuples of contiguous (B, H), one per ``cell.states``; resets is a C-contiguous bool (T, B) or None. States that
    come in and those that go out may be the same arrays. A schedule may be a segment of a whole one: it then touches
    its own steps and rows of these arrays, and nothing else.
    """

    def pack(
        self,
        cell: Cell,
        w_ih: NDArray[Any],
        w_hh: NDArray[Any],
        b_ih: NDArray[Any] | None,
        b_hh: NDArray[Any] | None,
        peephole: NDArray[Any] | None,
        backward: bool = False,
        bf16: bool = False,
        once: bool = False,
    ) -> Any:
        """A snapshot of the weights in the kernels' order, with what backward needs if asked for.

        bf16: weights, but not biases, rounded to bfloat16; never together with backward. once: it serves a single
        tape, so that the backward that consumes the tape may overwrite it. Else it is immutable.
        """

    def forward(
        self,
        cell: Cell,
        x: NDArray[Any],
        resets: NDArray[np.bool_] | None,
        directions: Sequence[Forward],
        keep: bool,
    ) -> Sequence[Any]:
        """Fill every direction's y and final; return for each what backward needs, which never refers to y, if keep."""

    def backward(
        self,
        cell: Cell,
        x: NDArray[Any],
        resets: NDArray[np.bool_] | None,
        directions: Sequence[Backward],
        dx: NDArray[Any] | None,
        consume: bool = True,
        accumulate_dx: bool = False,
        accumulate: bool = True,
    ) -> None:
        """Fill every dinitial; fill or add to every grads, and to dx their sum; overwrite saved if consume."""

    def accumulators(self, packed: Any) -> Accumulators:
        """What several calls of backward may add into, to bring the parameters into their own order only once."""

    def stepper(self, cell: Cell, packed: Any, B: int) -> Stepper:
        """A step-by-step walk from a zero state."""

    def plan(
        self, cell: Cell, T: int, B: int, I: int, H: int, dtype: str, threads: int, training: bool,
        directions: int = 1, layers: int = 1,
    ) -> Plan:  # fmt: skip
        """What forward (and backward, if training) would do, and why, in each of so many directions and layers."""

    def set_num_threads(self, n: int) -> None: ...

    def get_num_threads(self) -> int: ...


class LayeredBackend(Backend, Protocol):
    """A backend that can also walk several layers of one direction at the same time; its ``Place`` says so."""

    def wavefront(self, cell: Cell, packed: Any, schedule: Schedule, layers: int, backward: bool) -> Any:
        """How it would walk so many layers alike, 2 to ``MOST_LAYERS``; None: one after the other."""

    def forward_layers(
        self,
        cell: Cell,
        x: NDArray[Any],
        resets: NDArray[np.bool_] | None,
        layers: Sequence[Forward],
        keep: bool,
        wave: Any,
        dropout: Dropout | None,
    ) -> Sequence[Any]:
        """As ``forward`` for each layer, which reads the y of the one before it; wave: what ``wavefront`` returned."""

    def backward_layers(
        self,
        cell: Cell,
        inputs: Sequence[NDArray[Any]],
        resets: NDArray[np.bool_] | None,
        layers: Sequence[Backward],
        dx: NDArray[Any] | None,
        wave: Any,
        dropout: Dropout | None,
        consume: bool = True,
        accumulate_dx: bool = False,
        accumulate: bool = True,
    ) -> None:
        """As ``backward`` for each layer, the last one first. inputs: each layer's x; dx: of the first.

        The dy of all layers but the last is filled with the dx of the one after it.
        """


class GPUUnavailable(RuntimeError):
    """device="cuda" cannot be used here; the message says what is missing and what to install."""


@functools.cache
def load(device: str) -> Backend:
    """The backend of a device; imported at first use, since that is when Numba loads."""
    try:
        return cast(Backend, importlib.import_module(f"fastrnn.kernels.{device}"))
    except ModuleNotFoundError as error:
        if error.name not in ("numba", "llvmlite"):
            raise
        raise ImportError(_without_numba(error.name), name=error.name) from error


def _without_numba(name: str) -> str:
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        version = ".".join(platform.python_version_tuple()[:2])
        cure = (
            f"Numba may have no build for free-threaded Python {version}t (it has none for 3.13t): use python{version}"
        )
    else:
        cure = "pip install numba"
    return f"fastrnn's kernels are compiled by Numba, and {name} is not installed: {cure}"


def set_num_threads(n: int) -> None:
    """Set how many threads the CPU kernels use; results are bitwise the same for any number.

    n may exceed the number of cores. Raises TypeError or ValueError unless n is an integer of at least 1.
    """
    from fastrnn import checks

    load("cpu").set_num_threads(checks.integer("n", n, 1))


def get_num_threads() -> int:
    """How many threads the CPU kernels use."""
    return load("cpu").get_num_threads()
