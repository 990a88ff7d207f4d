"""One layer, one direction, one step at a time: the argument block is filled once and kept."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numba import types

from fastrnn import guards
from fastrnn.cell_table import Cell
from fastrnn.sequences import Schedule

from .arguments import arrange, field, prepare
from .forward import forward as forward_kernel
from .jit import inlined, kernel
from .layer import launcher
from .layout import Layer
from .memory import Addressed, address_of, elements, write_int
from .packed import Packed
from .single_step import READABLE, WRITEABLE, fits
from .threads import get_num_threads, mailboxes

__all__ = ["Stepper", "stepper"]

_BYTES = 8
_X, _Y, _FIRST = (_BYTES * field(name) for name in ("x", "y", "first"))


@inlined
def _apart(a, b, a_bytes, b_bytes):
    return a + a_bytes <= b or b + b_bytes <= a


@kernel
def _arrange_step(block, like, axes, B, I, H, size, first, x, y):
    """Write a step's arrays, given by ``id``, into its block, and return whether they are as kernels take them."""
    fit = fits(x, like, axes, B, I, READABLE) and fits(y, like, axes, B, H, READABLE | WRITEABLE)
    if fit:
        source, target = elements(x), elements(y)
        fit = _apart(source, target, B * I * size, B * H * size)
        write_int(block + _X, source)
        write_int(block + _Y, target)
        write_int(block + _FIRST, first)
    return fit


@cache
def _arranging() -> Any:
    return _arrange_step.entry_point(*[types.intp] * _arrange_step.function.__code__.co_argcount)


class Stepper(Addressed):
    """A layer's run on input that arrives step by step; the state lives in the kernel's own two buffers.

    ``step(x, out)``: x (B, I) C-contiguous, out (B, H) C-contiguous, both of the layer's dtype, or (I,) and (H,).
    ``state``: a tuple of (B, H) arrays, one a state; reading copies, assigning copies.
    """

    def __init__(self, cell: Cell, packed: Packed, B: int) -> None:
        self._packed, self._layout, self._schedule = packed, packed.layout, Schedule(1, B)
        self._run = prepare(packed, self._schedule, False, get_num_threads())
        self._memory, base = self._run.allocate()
        arrange(self._run, base, packed, self._schedule, None, None, None, None, None)
        start = base - address_of(self._memory)
        block = self._memory[start:][: 8 * len(Layer._fields)].view(np.int64)
        itemsize = np.dtype(self._layout.dtype).itemsize
        strides = {"x_batch": self._layout.I * itemsize, "y_batch": self._layout.H * itemsize, "resume": 1}
        for name, value in strides.items():
            block[field(name)] = value
        self._rows = [self._state_rows(name, base) for name in ("hs", "cs")[: len(cell.states)]]
        self._first = 0
        self._B, self._size, self._like = B, itemsize, np.empty(0, self._layout.dtype)
        self._entry, self._tag = launcher(forward_kernel, self._layout)
        self._arrange = _arranging()
        self._address, self._threads = base, self._run.plan.threads
        self._pool = mailboxes(self._threads)
        self.state = tuple(np.zeros((B, self._layout.H), self._layout.dtype) for _ in cell.states)

    def _state_rows(self, name: str, base: int) -> np.ndarray:
        """The two buffers of a state as a (2, B, stride) view."""
        B, stride = self._schedule.B, self._layout.state_stride
        start = base - address_of(self._memory) + self._run.offsets[name]
        return self._memory[start : start + 2 * B * stride].view(self._layout.dtype).reshape(2, B, -1)

    def step(self, x: Any, out: Any) -> bool:
        """Take one step; False, and nothing done, unless both are plain arrays of one form that do not overlap."""
        axes = getattr(x, "ndim", 0)
        if axes != 2 and (axes != 1 or self._B != 1):
            return False
        layout, first = self._layout, self._first
        if not self._arrange(
            self._address, id(self._like), axes, self._B, layout.I, layout.H, self._size, first, id(x), id(out)
        ):
            return False
        self._entry(self._tag, self._address, self._pool, self._threads)
        self._first = 1 - first
        if guards.ENABLED:
            guards.check(f"a step of {layout.cell.name}")
        return True

    def reset(self, rows: Any) -> None:
        """Zero the state of rows, given as NumPy takes an index."""
        for part in self._rows:
            part[self._first, rows] = 0

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
