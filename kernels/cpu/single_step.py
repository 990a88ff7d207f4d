"""One step at a time from states that the caller keeps: an argument block filled once, and five addresses a call.

Whether arrays fit is seen by compiled code too, which reads it from the objects: from Python type, dtype, shape and
flags cost 0.2 us an array, and a step has up to five.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numba import types

from fastrnn.cell_table import Cell
from fastrnn.sequences import Schedule

from .arguments import arrange, field, prepare
from .forward import forward as forward_kernel
from .jit import inlined, kernel
from .layer import launcher
from .memory import Addressed, elements, read_int, write_int
from .packed import Packed
from .threads import get_num_threads, mailboxes

__all__ = ["READABLE", "WRITEABLE", "SingleStep", "fits", "single_step"]

_BYTES = 8
_X, _H_IN, _C_IN, _H_OUT, _C_OUT = (_BYTES * field(name) for name in ("x", "h_in", "c_in", "h_out", "c_out"))

# NumPy's binary interface, in bytes from an object's start: its type; behind the head and the address of the elements
# the number of axes, the address of their lengths, and beyond strides and base the dtype and the flags.
_HEAD = object.__basicsize__
_TYPE, _AXES, _LENGTHS, _DTYPE, _FLAGS = _HEAD - 8, _HEAD + 8, _HEAD + 16, _HEAD + 40, _HEAD + 48
_INT = 0xFFFFFFFF  # C's int, in the lower half of a word
# The word of a dtype with its kind, order of bytes, flags (masked out) and type. Its address will not do: that of an
# array which has been pickled has another.
_KIND, _KIND_BITS = _HEAD + 8, ~(0xFF << 24)
READABLE = 0x101  # C-contiguous and aligned
WRITEABLE = 0x400


@inlined
def _same_dtype(a, b):
    return a == b or read_int(a + _KIND) & _KIND_BITS == read_int(b + _KIND) & _KIND_BITS


@inlined
def fits(array, like, axes, B, width, flags):
    """Whether an array, given as ``id(array)``, has the type and dtype of ``like`` and is (B, width), or (width,)."""
    if read_int(array + _TYPE) != read_int(like + _TYPE):
        return False
    if not _same_dtype(read_int(array + _DTYPE), read_int(like + _DTYPE)):
        return False
    if read_int(array + _AXES) & _INT != axes or read_int(array + _FLAGS) & flags != flags:
        return False
    lengths = read_int(array + _LENGTHS)
    if axes == 1:
        return read_int(lengths) == width
    return read_int(lengths) == B and read_int(lengths + _BYTES) == width


@kernel
def _arrange_step(block, like, axes, B, I, H, x, h_in, c_in, h_out, c_out):
    """Write the addresses of arrays that fit, and return whether all do; c_in and c_out: 0 for cells without."""
    fit = fits(x, like, axes, B, I, READABLE) and fits(h_in, like, axes, B, H, READABLE)
    fit = fit and fits(h_out, like, axes, B, H, READABLE | WRITEABLE)
    if c_in != 0:
        fit = fit and fits(c_in, like, axes, B, H, READABLE) and fits(c_out, like, axes, B, H, READABLE | WRITEABLE)
    if fit:
        write_int(block + _X, elements(x))
        write_int(block + _H_IN, elements(h_in))
        write_int(block + _C_IN, elements(c_in))
        write_int(block + _H_OUT, elements(h_out))
        write_int(block + _C_OUT, elements(c_out))
    return fit


@cache
def _entry() -> Any:
    return _arrange_step.entry_point(*[types.intp] * _arrange_step.function.__code__.co_argcount)


class SingleStep(Addressed):
    """A step on packed weights. Any thread may call it: each call has an argument block to itself."""

    def __init__(self, cell: Cell, packed: Packed) -> None:
        layout = packed.layout
        self._cell, self._packed, self._I, self._H = cell, packed, layout.I, layout.H
        self._like = np.empty(0, layout.dtype)
        self._free: dict[tuple[int, int], list[tuple[Any, int, int]]] = {}
        self._launch, self._tag = launcher(forward_kernel, layout)
        self._arrange = _entry()

    def __call__(self, x: Any, h: Any, c: Any, h_out: Any, c_out: Any) -> bool:
        """Take a step from x (B, I), or (I,), and h and c, into h_out and c_out; c and c_out None for cells without.

        False, and nothing done, unless all are plain C-contiguous arrays of one form in the weights' dtype.
        """
        axes = getattr(x, "ndim", 0)
        if axes != 2 and axes != 1:
            return False
        B = len(x) if axes == 2 else 1
        key = B, get_num_threads()
        free = self._free.get(key)
        if free is None:
            if len(self._free) >= _SIZES:
                self._free.clear()
            free = self._free[key] = []
        try:
            block = free.pop()  # one operation: no two threads get the same
        except IndexError:
            block = self._block(B)
        _, base, threads = block
        fits = self._arrange(
            base, id(self._like), axes, B, self._I, self._H, id(x), id(h), 0 if c is None else id(c), id(h_out),
            0 if c_out is None else id(c_out),
        )  # fmt: skip
        if fits:
            self._launch(self._tag, base, mailboxes(threads), threads)
        free.append(block)
        return bool(fits)

    def _block(self, B: int) -> tuple[Any, int, int]:
        """An argument block for B rows: what it refers to, its address, and how many threads take part."""
        schedule, dtype = Schedule(1, B), self._like.dtype
        run = prepare(self._packed, schedule, False, get_num_threads())
        memory, base = run.allocate()
        states = (np.empty((B, self._H), dtype),) * len(self._cell.states)  # for their strides
        arrange(run, base, self._packed, schedule, np.empty((1, B, self._I), dtype), None, None, states, states)
        return (memory, schedule), base, run.plan.threads


_SIZES = 16  # batch sizes for which blocks are kept


def single_step(cell: Cell, packed: Packed) -> SingleStep:
    """Steps from states that the caller keeps."""
    return SingleStep(cell, packed)
