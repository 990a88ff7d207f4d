"""From arrays to a kernel's argument block.

What of the block depends only on sizes is worked out once (``Run``). The rest is written by compiled code, which
reads an array's address and strides from the object; from Python each costs 0.2 us, and a small call has a dozen.
The block stands at the beginning of the memory that it describes.
"""

from __future__ import annotations

from functools import cache, lru_cache
from typing import Any

import numpy as np
from numba import types

from fastrnn import guards
from fastrnn.cell_table import CELLS
from fastrnn.sequences import Schedule

from .barrier import BARRIER_BYTES
from .column_sums import BLOCK_ROWS
from .gradients import CHUNK_SCRATCH
from .interrupts import LONG
from .jit import inlined, kernel
from .layout import AHEAD_ROWS, TABLE_BYTES, Layer, Template
from .memory import address_of, aligned, elements, read_int, stride, write_int
from .packed import Accumulators, Packed, row_bytes, vectors
from .plan import Plan, brief, plan, short
from .simd import VECTOR_BYTES
from .tags import GROUP

__all__ = ["Run", "arrange", "arrange_backward", "field", "prepare"]

# The sums of as many rows as wait for each other, and room so that two threads' scratch never shares a line.
_TILE_SCRATCH = BLOCK_ROWS * GROUP * VECTOR_BYTES + 256
_FIELDS = len(Layer._fields)
_BYTES = 8


def field(name: str) -> int:
    """Position of a field in an argument block."""
    return Layer._fields.index(name)


# Offsets in bytes of where runs of fields begin.
_SCHEDULE, _WEIGHTS, _GRADIENTS = (_BYTES * field(name) for name in ("order", "zero_row", "gradient_bias"))
_X, _Y, _RESETS = (_BYTES * field(name) for name in ("x", "y", "resets"))
_H_IN, _C_IN, _H_OUT, _C_OUT = (_BYTES * field(name) for name in ("h_in", "c_in", "h_out", "c_out"))
_DY, _DX, _ADD_DX, _ADD_SUMS = (_BYTES * field(name) for name in ("dy", "dx", "add_dx", "add_sums"))
_SCHEDULE_COUNT = 5
_WEIGHT_COUNT = field("back_wh2") + 1 - field("zero_row")
_GRADIENT_COUNT = field("gradient_peephole") + 1 - field("gradient_bias")

# Up to this size a call that keeps nothing leaves its memory for the next: allocating takes 0.5 of its 5 us.
_SPARE_BYTES = 1 << 16


class Run:
    """The part of an argument block that sizes decide, for one kind of call.

    Buffers lie one after the other in a single allocation, behind the block itself.
    """

    def __init__(
        self, name: str, dtype: str, I: int, H: int, T: int, B: int, steps: int, total: int, reverse: bool,
        keep: bool, threads: int, bf16: bool,
    ) -> None:  # fmt: skip
        cell = CELLS[name]
        self.plan: Plan = plan(cell, T, B, I, H, dtype, threads, keep, alive=total / steps if steps else B, bf16=bf16)
        self.long = self.plan.flops >= LONG
        U = vectors(H, dtype)
        stride, ahead = row_bytes(U), self.plan.ahead
        rows = total if keep else min(AHEAD_ROWS, total) if ahead else B
        self.size = -(-_FIELDS * _BYTES // 64) * 64
        offsets: dict[str, int] = {}
        self._gaps: list[tuple[int, int]] = []  # where buffers have guard regions between them

        def reserve(name: str, size: int) -> None:
            offsets[name] = self.size
            self.size += -(-size // 64) * 64
            self._gaps.append((self.size, self.size + guards.GAP))
            self.size += guards.GAP

        reserve("barrier", BARRIER_BYTES)
        scratch = max(TABLE_BYTES * B + AHEAD_ROWS * 8, CHUNK_SCRATCH) // 64 * 64 + 64 + _TILE_SCRATCH
        reserve("scratch", scratch * self.plan.threads)
        for name in ("hs", "cs")[: len(cell.states)]:
            reserve(name, (B + total if keep else 2 * B) * stride)
        if len(cell.phases) == 2:
            reserve("operand", (total if keep else B) * stride)
        for index, phase in enumerate(cell.phases):
            if keep or ahead or index < len(cell.phases) - 1:
                reserve("slab2" if index else "slab", rows * U * len(phase.slots) * VECTOR_BYTES)
        if keep:
            reserve("dh", B * stride)
            reserve("carry", B * stride)
        numbers = {
            "T": T, "B": B, "I": I, "H": H, "U": U, "steps": steps, "total": total, "reverse": reverse, "keep": keep,
            "by_rows": self.plan.by_rows, "ahead": ahead, "brief": brief(self.plan, threads),
            "short": short(self.plan), "state_stride": stride, "scratch_stride": scratch,
        }  # fmt: skip
        self.offsets = offsets
        self.template = Template(Layer._fields[0], Layer._fields[-1], numbers, offsets)
        self._spare: list[tuple[np.ndarray, int]] = []

    def allocate(self) -> tuple[np.ndarray, int]:
        """Memory for the block and the buffers, and the address where they start."""
        memory, base = aligned(self.size)
        if guards.ENABLED:
            start = base - address_of(memory)
            guards.watch(memory, *((start + begin, start + end) for begin, end in self._gaps))
        return memory, base

    def borrow(self) -> tuple[np.ndarray, int]:
        """As ``allocate``, for memory that comes back: small pieces are kept for the next call."""
        try:
            return self._spare.pop()  # one operation: no two threads get the same piece
        except IndexError:
            return self.allocate()

    def give_back(self, memory: tuple[np.ndarray, int]) -> None:
        """Return what ``borrow`` gave."""
        if self.size <= _SPARE_BYTES:
            self._spare.append(memory)


_run = lru_cache(maxsize=512)(Run)


def prepare(packed: Packed, schedule: Schedule, keep: bool, threads: int) -> Run:
    """What sizes decide about a call; kept with the schedule, as calls of one shape follow each other."""
    layout = packed.layout
    run = schedule.notes.get((layout, keep, threads))
    if run is None:
        T = schedule.T if schedule.clears else 0
        run = _run(
            layout.cell.name, layout.dtype, layout.I, layout.H, T, schedule.B, schedule.steps, schedule.total,
            schedule.reverse, keep, threads, layout.bf16,
        )  # fmt: skip
        schedule.notes[layout, keep, threads] = run
    return run


def _schedule_address(schedule: Schedule) -> int:
    """Address of the addresses of a schedule's arrays, in the order of the block; kept with it."""
    found = schedule.notes.get("addresses")
    if found is None:
        arrays = (schedule.order, schedule.start, schedule.lengths, schedule.active, schedule.offset)
        addresses = np.array([address_of(a) for a in arrays], np.int64)
        found = schedule.notes["addresses"] = addresses, address_of(addresses)
    address: int = found[1]
    return address


@inlined
def _copy(source, target, count):
    for i in range(count):
        write_int(target + i * _BYTES, read_int(source + i * _BYTES))


@inlined
def _place(target, template, count, memory):
    """The fields of a ``Template`` for what lies at ``memory``."""
    for i in range(count):
        value, times = read_int(template + i * _BYTES), read_int(template + (count + i) * _BYTES)
        write_int(target + i * _BYTES, value + times * memory)


@inlined
def _put(at, array, strides):
    """Address and the first strides of an array."""
    write_int(at, elements(array))
    for axis in range(strides):
        write_int(at + (1 + axis) * _BYTES, stride(array, axis))


@inlined
def _put_common(block, template, schedule, weights, packed, x, resets, h_in, c_in, h_out, c_out):
    """What both directions have: sizes and buffers, the schedule, the weights, x, and the states at both ends."""
    _place(block, template, _FIELDS, block)
    _copy(schedule, block + _SCHEDULE, _SCHEDULE_COUNT)
    _place(block + _WEIGHTS, weights, _WEIGHT_COUNT, packed)
    _put(block + _X, x, 2)
    _put(block + _RESETS, resets, 2)
    _put(block + _H_IN, h_in, 1)
    _put(block + _C_IN, c_in, 1)
    _put(block + _H_OUT, h_out, 1)
    _put(block + _C_OUT, c_out, 1)


@kernel
def _arrange(block, template, schedule, weights, packed, x, y, resets, h_in, c_in, h_out, c_out):
    _put_common(block, template, schedule, weights, packed, x, resets, h_in, c_in, h_out, c_out)
    _put(block + _Y, y, 2)


@kernel
def _arrange_backward(
    block, template, schedule, weights, packed, gradients, sums, add_sums, add_dx, x, resets, dy, dx, h, c, h0, c0
):
    _put_common(block, template, schedule, weights, packed, x, resets, h, c, h0, c0)
    _place(block + _GRADIENTS, gradients, _GRADIENT_COUNT, sums)
    write_int(block + _ADD_DX, add_dx)
    write_int(block + _ADD_SUMS, add_sums)
    _put(block + _DY, dy, 2)
    _put(block + _DX, dx, 2)


@cache
def _entry(kernel: Any) -> Any:
    return kernel.entry_point(*[types.intp] * kernel.function.__code__.co_argcount)


def _pair(arrays: tuple[np.ndarray | None, ...] | None) -> tuple[int, int]:
    """h and c of a state, as kernels take arrays; 0 for what is absent."""
    if arrays is None:
        return 0, 0
    h, c = arrays if len(arrays) == 2 else (arrays[0], None)
    return 0 if h is None else id(h), 0 if c is None else id(c)


def arrange(
    run: Run, base: int, packed: Packed, schedule: Schedule,
    x: np.ndarray | None, y: np.ndarray | None, resets: np.ndarray | None,
    state: tuple[np.ndarray | None, ...] | None, final: tuple[np.ndarray, ...] | None,
) -> None:  # fmt: skip
    """Write the argument block of a forward call at ``base``."""
    h_in, c_in = _pair(state)
    h_out, c_out = _pair(final)
    _entry(_arrange)(
        base, run.template.address, _schedule_address(schedule), packed.layout.weights.address, packed.base,
        0 if x is None else id(x), 0 if y is None else id(y), 0 if resets is None else id(resets),
        h_in, c_in, h_out, c_out,
    )  # fmt: skip


def arrange_backward(
    run: Run, base: int, packed: Packed, schedule: Schedule, sums: Accumulators,
    x: np.ndarray, resets: np.ndarray | None, dy: np.ndarray | None, dx: np.ndarray | None, add_dx: bool,
    dfinal: tuple[np.ndarray | None, ...] | None, dinitial: tuple[np.ndarray, ...],
) -> None:  # fmt: skip
    """Write the argument block of a backward call at ``base``, over that of the forward call."""
    h, c = _pair(dfinal)
    h0, c0 = _pair(dinitial)
    _entry(_arrange_backward)(
        base, run.template.address, _schedule_address(schedule), packed.layout.weights.address, packed.base,
        sums.layout.sums.address, sums.base, sums.summed, add_dx, id(x), 0 if resets is None else id(resets),
        0 if dy is None else id(dy), 0 if dx is None else id(dx), h, c, h0, c0,
    )  # fmt: skip
