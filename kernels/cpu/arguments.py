"""From arrays to a kernel's argument block.

What of the block depends only on sizes is worked out once (``Run``). The rest is written by compiled code, which
reads an array's address and strides in 35 ns; from Python each costs ten times that, and a small call has a dozen.
The block stands at the beginning of the memory that it describes.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numba import types

from fastrnn.cells import CELLS
from fastrnn.sequences import Schedule

from .column_sums import BLOCK_ROWS
from .gradients import CHUNK_SCRATCH
from .jit import inlined, kernel
from .layout import AHEAD_ROWS, TABLE_BYTES, Layer
from .memory import address_of, aligned, read_int, write_int
from .packed import Accumulators, Packed, row_bytes, vectors
from .plan import Plan, plan
from .simd import VECTOR_BYTES
from .tags import DTYPES, GROUP, ElementType, Tag
from .threads import BARRIER_BYTES

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
_DY, _DX, _ADD_DX = (_BYTES * field(name) for name in ("dy", "dx", "add_dx"))
_SCHEDULE_COUNT = 5
_WEIGHT_COUNT = Packed.fields.stop - Packed.fields.start
_GRADIENT_COUNT = Accumulators.fields.stop - Accumulators.fields.start


class Run:
    """The part of an argument block that sizes decide, for one kind of call.

    Buffers lie one after the other in a single allocation, behind the block itself; ``template`` (2, fields) has the
    fields' values, and for those that are offsets into the allocation a 1.
    """

    def __init__(
        self, name: str, dtype: str, I: int, H: int, T: int, B: int, steps: int, total: int, reverse: bool,
        keep: bool, threads: int, bf16: bool,
    ) -> None:  # fmt: skip
        cell = CELLS[name]
        self.plan: Plan = plan(cell, T, B, I, H, dtype, threads, keep, total / steps if steps else B, bf16)
        U = vectors(H, dtype)
        stride, ahead = row_bytes(U), self.plan.ahead
        rows = total if keep else min(AHEAD_ROWS, total) if ahead else B
        self.size = -(-_FIELDS * _BYTES // 64) * 64
        offsets: dict[str, int] = {}

        def reserve(name: str, size: int) -> None:
            offsets[name] = self.size
            self.size += -(-size // 64) * 64

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
        values = offsets | {
            "T": T, "B": B, "I": I, "H": H, "U": U, "steps": steps, "total": total, "reverse": reverse, "keep": keep,
            "by_rows": self.plan.by_rows, "ahead": ahead, "state_stride": stride, "scratch_stride": scratch,
        }  # fmt: skip
        self.template = np.array([[d.get(name, 0) for name in Layer._fields] for d in (values, offsets)], np.int64)
        self.template[1] = self.template[1] != 0
        self.address = address_of(self.template)

    def allocate(self) -> tuple[np.ndarray, int]:
        """Memory for the block and the buffers, and the address where they start."""
        return aligned(self.size)


_run = lru_cache(maxsize=512)(Run)


def prepare(packed: Packed, schedule: Schedule, keep: bool, threads: int) -> Run:
    """What sizes decide about a call."""
    latest = packed.latest
    if latest[0] is schedule and latest[1] is keep and latest[2] == threads:
        return latest[3]
    T = schedule.T if schedule.clears else 0
    run = _run(
        packed.cell.name, packed.dtype, packed.I, packed.H, T, schedule.B, schedule.steps, schedule.total,
        schedule.reverse, keep, threads, packed.bf16,
    )  # fmt: skip
    packed.latest = schedule, keep, threads, run
    return run


def _schedule_address(schedule: Schedule) -> int:
    """Address of the addresses of a schedule's arrays, in the order of the block; kept with it, to be used again."""
    if schedule.addresses is None:
        arrays = (schedule.order, schedule.start, schedule.lengths, schedule.active, schedule.offset)
        found = np.array([address_of(a) for a in arrays], np.int64)
        schedule.addresses = found, address_of(found)
    return schedule.addresses[1]


@inlined
def _copy(source, target, count):
    for i in range(count):
        write_int(target + i * _BYTES, read_int(source + i * _BYTES))


@inlined
def _place(block, template):
    """The fields that sizes decide, for memory that begins at ``block``."""
    for i in range(_FIELDS):
        value, relative = read_int(template + i * _BYTES), read_int(template + (_FIELDS + i) * _BYTES)
        write_int(block + i * _BYTES, value + relative * block)


@inlined
def _put(at, array, strides):
    """Address and the first strides of an array; an empty one counts as absent."""
    if array.size > 0:
        write_int(at, array.ctypes.data)
    else:
        write_int(at, 0)
    for axis in range(strides):
        write_int(at + (1 + axis) * _BYTES, array.strides[axis])


@inlined
def _put_common(block, template, schedule, weights, x, resets, h_in, c_in, h_out, c_out):
    """What both directions have: sizes and buffers, the schedule, the weights, x, and the states at both ends."""
    _place(block, template)
    _copy(schedule, block + _SCHEDULE, _SCHEDULE_COUNT)
    _copy(weights, block + _WEIGHTS, _WEIGHT_COUNT)
    _put(block + _X, x, 2)
    _put(block + _RESETS, resets, 2)
    _put(block + _H_IN, h_in, 1)
    _put(block + _C_IN, c_in, 1)
    _put(block + _H_OUT, h_out, 1)
    _put(block + _C_OUT, c_out, 1)


@kernel
def _arrange(_like, block, template, schedule, weights, x, y, resets, h_in, c_in, h_out, c_out):
    _put_common(block, template, schedule, weights, x, resets, h_in, c_in, h_out, c_out)
    _put(block + _Y, y, 2)


@kernel
def _arrange_backward(_like, block, template, schedule, weights, gradients, add_dx, x, resets, dy, dx, h, c, h0, c0):
    _put_common(block, template, schedule, weights, x, resets, h, c, h0, c0)
    _copy(gradients, block + _GRADIENTS, _GRADIENT_COUNT)
    write_int(block + _ADD_DX, add_dx)
    _put(block + _DY, dy, 2)
    _put(block + _DX, dx, 2)


class _Arranger:
    """The compiled functions of one dtype, and what stands in for absent arrays."""

    def __init__(self, dtype: str) -> None:
        kind = DTYPES[dtype]
        self.tag = Tag(ElementType(kind))
        sequence, state = types.Array(kind, 3, "A"), types.Array(kind, 2, "A")
        flags = types.Array(types.boolean, 2, "A")
        integers, ends = [types.intp] * 4, [state] * 4
        self.forward = _arrange.entry_point(self.tag.type, *integers, sequence, sequence, flags, *ends)
        self.backward = _arrange_backward.entry_point(
            self.tag.type, *integers, types.intp, types.intp, sequence, flags, sequence, sequence, *ends
        )
        self.no_sequence, self.no_state = np.empty((0, 0, 0), dtype), np.empty((0, 0), dtype)
        self.no_flags = np.empty((0, 0), np.bool_)

    def pair(self, arrays: tuple[np.ndarray | None, ...] | None) -> tuple[np.ndarray, np.ndarray]:
        """h and c of a state, whichever exist."""
        if arrays is None:
            return self.no_state, self.no_state
        h, c = arrays if len(arrays) == 2 else (arrays[0], None)
        return self.no_state if h is None else h, self.no_state if c is None else c


_arranger = lru_cache(maxsize=None)(_Arranger)


def arrange(
    run: Run, base: int, packed: Packed, schedule: Schedule,
    x: np.ndarray | None, y: np.ndarray | None, resets: np.ndarray | None,
    state: tuple[np.ndarray | None, ...] | None, final: tuple[np.ndarray, ...] | None,
) -> None:  # fmt: skip
    """Write the argument block of a forward call at ``base``."""
    a = _arranger(packed.dtype)
    a.forward(
        a.tag, base, run.address, _schedule_address(schedule), packed.address,
        a.no_sequence if x is None else x, a.no_sequence if y is None else y, a.no_flags if resets is None else resets,
        *a.pair(state), *a.pair(final),
    )  # fmt: skip


def arrange_backward(
    run: Run, base: int, packed: Packed, schedule: Schedule, sums: Accumulators,
    x: np.ndarray, resets: np.ndarray | None, dy: np.ndarray | None, dx: np.ndarray | None, add_dx: bool,
    dfinal: tuple[np.ndarray | None, ...] | None, dinitial: tuple[np.ndarray, ...],
) -> None:  # fmt: skip
    """Write the argument block of a backward call at ``base``, over that of the forward call."""
    a = _arranger(packed.dtype)
    a.backward(
        a.tag, base, run.address, _schedule_address(schedule), packed.address, address_of(sums.addresses), add_dx,
        x, a.no_flags if resets is None else resets, a.no_sequence if dy is None else dy,
        a.no_sequence if dx is None else dx, *a.pair(dfinal), *a.pair(dinitial),
    )  # fmt: skip
