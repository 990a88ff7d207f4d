"""One layer, one direction, one step at a time: the argument block is filled once and kept."""

from __future__ import annotations

import numpy as np

from fastrnn import guards
from fastrnn.cell_table import Cell
from fastrnn.sequences import Schedule

from .arguments import arrange, field, prepare
from .forward import forward as forward_kernel
from .layer import launcher
from .layout import Layer
from .memory import Addressed, address_of
from .packed import Packed
from .threads import get_num_threads, mailboxes

__all__ = ["Stepper", "stepper"]

_X, _Y, _FIRST = field("x"), field("y"), field("first")


class Stepper(Addressed):
    """A layer's run on input that arrives step by step; the state lives in the kernel's own two buffers.

    ``step(x, out)``: x (B, I) C-contiguous, out (B, H) C-contiguous, both of the layer's dtype.
    ``state``: a tuple of (B, H) arrays, one a state; reading copies, assigning copies.
    """

    def __init__(self, cell: Cell, packed: Packed, B: int) -> None:
        self._packed, self._layout, self._schedule = packed, packed.layout, Schedule(1, B)
        self._run = prepare(packed, self._schedule, False, get_num_threads())
        self._memory, base = self._run.allocate()
        arrange(self._run, base, packed, self._schedule, None, None, None, None, None)
        start = base - address_of(self._memory)
        self._block = block = self._memory[start:][: 8 * len(Layer._fields)].view(np.int64)
        itemsize = np.dtype(self._layout.dtype).itemsize
        strides = {"x_batch": self._layout.I * itemsize, "y_batch": self._layout.H * itemsize, "resume": 1}
        for name, value in strides.items():
            block[field(name)] = value
        self._rows = [self._state_rows(name, base) for name in ("hs", "cs")[: len(cell.states)]]
        self._first = 0
        self._entry, self._tag = launcher(forward_kernel, self._layout)
        self._address, self._threads = base, self._run.plan.threads
        self._pool = mailboxes(self._threads)
        self.state = tuple(np.zeros((B, self._layout.H), self._layout.dtype) for _ in cell.states)

    def _state_rows(self, name: str, base: int) -> np.ndarray:
        """The two buffers of a state as a (2, B, stride) view."""
        B, stride = self._schedule.B, self._layout.state_stride
        start = base - address_of(self._memory) + self._run.offsets[name]
        return self._memory[start : start + 2 * B * stride].view(self._layout.dtype).reshape(2, B, -1)

    def step(self, x: np.ndarray, out: np.ndarray) -> None:
        """Take one step."""
        block = self._block
        block[_X] = address_of(x)
        block[_Y] = address_of(out)
        block[_FIRST] = self._first
        self._entry(self._tag, self._address, self._pool, self._threads)
        self._first ^= 1
        if guards.ENABLED:
            guards.check(f"a step of {self._layout.cell.name}")

    @property
    def state(self) -> tuple[np.ndarray, ...]:
        """The state after the last step."""
        return tuple(rows[self._first, :, : self._layout.H].copy() for rows in self._rows)

    @state.setter
    def state(self, values: tuple[np.ndarray, ...]) -> None:
        for rows, value in zip(self._rows, values, strict=True):
            rows[self._first] = 0
            rows[self._first, :, : self._layout.H] = value


def stepper(cell: Cell, packed: Packed, B: int) -> Stepper:
    """A run of B rows from a state of zeros."""
    return Stepper(cell, packed, B)
