"""One layer in one direction, on NumPy arrays: what the public side calls.

Here arrays become addresses: memory is allocated, the argument block is filled, and the kernels run. Argument
checks are the caller's. What of the block depends only on sizes is worked out once (``_Run``), since a small call
takes no longer than twenty microseconds in all.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numba import types

from fastrnn.cells import CELLS, Cell
from fastrnn.sequences import Schedule

from .backward import BLOCK_ROWS
from .backward import backward as backward_kernel
from .forward import forward as forward_kernel
from .gradients import CHUNK_SCRATCH
from .gradients import gradients as gradients_kernel
from .layout import AHEAD_ROWS, TABLE_BYTES, Layer
from .memory import Addressed, address_of, aligned
from .packed import Accumulators, Packed, row_bytes, vectors
from .plan import Plan, plan
from .simd import VECTOR_BYTES
from .tags import DTYPES, GROUP, CellType, Tag
from .threads import BARRIER_BYTES, get_num_threads, mailboxes

__all__ = ["Saved", "backward", "forward", "pack"]

# The sums of as many rows as wait for each other, and room so that two threads' scratch never shares a line.
_TILE_SCRATCH = BLOCK_ROWS * GROUP * VECTOR_BYTES + 256
_FIELD = {name: index for index, name in enumerate(Layer._fields)}


def field(name: str) -> int:
    """Position of a field in an argument block."""
    return _FIELD[name]


def _fields(first: str, last: str) -> slice:
    return slice(_FIELD[first], _FIELD[last] + 1)


_SCHEDULE, CALL_FIELDS = _fields("order", "offset"), _fields("x", "c_out_row")
_GRADIENTS = _fields("gradient_bias", "gradient_peephole")


class _Run:
    """The part of an argument block that sizes decide, for one kind of call.

    Buffers lie one after the other in a single allocation; ``relative`` marks the fields that are offsets into it.
    """

    def __init__(
        self, name: str, dtype: str, I: int, H: int, T: int, B: int, steps: int, total: int, reverse: bool,
        keep: bool, threads: int,
    ) -> None:  # fmt: skip
        cell = CELLS[name]
        self.plan: Plan = plan(cell, T, B, I, H, dtype, threads, keep)
        U = vectors(H, dtype)
        stride, ahead = row_bytes(U), self.plan.ahead
        rows = total if keep else min(AHEAD_ROWS, total) if ahead else B
        self.size = 0
        values: dict[str, int] = {}

        def reserve(field: str, size: int) -> None:
            values[field] = self.size
            self.size += -(-size // 64) * 64

        reserve("barrier", BARRIER_BYTES)
        scratch = max(TABLE_BYTES * B + AHEAD_ROWS * 8, CHUNK_SCRATCH) // 64 * 64 + 64 + _TILE_SCRATCH
        reserve("scratch", scratch * self.plan.threads)
        for field in ("hs", "cs")[: len(cell.states)]:
            reserve(field, (B + total if keep else 2 * B) * stride)
        if len(cell.phases) == 2:
            reserve("operand", (total if keep else B) * stride)
        for index, phase in enumerate(cell.phases):
            if keep or ahead or index < len(cell.phases) - 1:
                reserve("slab2" if index else "slab", rows * U * len(phase.slots) * VECTOR_BYTES)
        self.relative = np.zeros(len(Layer._fields), np.int64)
        self.relative[[_FIELD[field] for field in values]] = 1
        values |= {
            "T": T, "B": B, "I": I, "H": H, "U": U, "steps": steps, "total": total, "reverse": reverse, "keep": keep,
            "by_rows": self.plan.by_rows, "ahead": ahead, "state_stride": stride, "scratch_stride": scratch,
        }  # fmt: skip
        self.template = np.zeros(len(Layer._fields), np.int64)
        for field, value in values.items():
            self.template[_FIELD[field]] = value

    def allocate(self) -> tuple[np.ndarray, int]:
        """Memory for the buffers, and the address where they start."""
        return aligned(self.size)

    def block(self, base: int, packed: Packed, schedule: Schedule) -> np.ndarray:
        """An argument block for buffers at ``base``; what belongs to the call is still absent."""
        block = self.relative * base
        block += self.template
        block[_SCHEDULE] = schedule_addresses(schedule)
        block[Packed.fields] = packed.addresses
        return block


_run = lru_cache(maxsize=512)(_Run)


def prepare(packed: Packed, schedule: Schedule, keep: bool, threads: int) -> _Run:
    """What sizes decide about a call."""
    T = schedule.T if schedule.clears else 0
    return _run(
        packed.cell.name, packed.dtype, packed.I, packed.H, T, schedule.B, schedule.steps, schedule.total,
        schedule.reverse, keep, threads,
    )  # fmt: skip


def schedule_addresses(schedule: Schedule) -> np.ndarray:
    """Addresses of a schedule's arrays, in the order of the argument block; kept with it, as most are used again."""
    if schedule.addresses is None:
        arrays = (schedule.order, schedule.start, schedule.lengths, schedule.active, schedule.offset)
        schedule.addresses = np.array([address_of(a) for a in arrays], np.int64)
    return schedule.addresses


@lru_cache(maxsize=256)
def _entry(kernel: Any, name: str, dtype: str) -> tuple[Any, Tag]:
    tag = Tag(CellType(name, DTYPES[dtype]))
    return kernel.entry_point(tag.type, types.intp, types.intp, types.intp), tag


def launcher(kernel: Any, packed: Packed) -> tuple[Any, Tag]:
    """The compiled kernel for a layer's cell and dtype, and its first argument."""
    return _entry(kernel, packed.cell.name, packed.dtype)


def _launch(kernel: Any, packed: Packed, block: np.ndarray, threads: int) -> None:
    entry, tag = launcher(kernel, packed)
    entry(tag, address_of(block), mailboxes(threads), threads)


def pack(
    cell: Cell,
    w_ih: np.ndarray,
    w_hh: np.ndarray,
    b_ih: np.ndarray | None,
    b_hh: np.ndarray | None,
    peephole: np.ndarray | None,
    backward: bool = False,
) -> Packed:
    """Pack one direction's parameters, in PyTorch's layout, C-contiguous, of one dtype; copies everything."""
    parameters = {"w_ih": w_ih, "w_hh": w_hh, "b_ih": b_ih, "b_hh": b_hh, "peephole": peephole}
    return Packed(cell, parameters, backward)


def _sequence(array: np.ndarray | None) -> tuple[int, int, int]:
    """Address and strides over time and batch."""
    return (0, 0, 0) if array is None else (address_of(array), array.strides[0], array.strides[1])


def _states(arrays: tuple[np.ndarray | None, ...] | None) -> tuple[int, int, int, int]:
    """Addresses and row strides of h and c, zeros where absent."""
    h, c = (*(arrays or ()), None, None)[:2]
    return (address_of(h), 0 if h is None else h.strides[0], address_of(c), 0 if c is None else c.strides[0])


@dataclass
class Saved(Addressed):
    """What forward keeps for backward: activations, over which backward writes dz, and the states."""

    memory: np.ndarray
    base: int
    run: _Run

    @property
    def plan(self) -> Plan:
        """How forward ran, and backward will."""
        return self.run.plan

    def copy(self) -> Saved:
        """The same in memory of its own."""
        memory, base = self.run.allocate()
        start, size = self.base - address_of(self.memory), self.run.size
        memory[base - address_of(memory) :][:size] = self.memory[start : start + size]
        return Saved(memory, base, self.run)


def forward(
    cell: Cell,
    packed: Packed,
    x: np.ndarray,
    state: tuple[np.ndarray, ...] | None,
    schedule: Schedule,
    resets: np.ndarray | None,
    y: np.ndarray | None,
    final: tuple[np.ndarray, ...],
    keep: bool,
) -> Saved | None:
    """Run forward over a (T, B, I) batch; fills ``y`` (zeros past a row's length) and ``final``."""
    run = prepare(packed, schedule, keep, get_num_threads())
    memory, base = run.allocate()
    block = run.block(base, packed, schedule)
    block[CALL_FIELDS] = (*_sequence(x), *_sequence(y), *_sequence(resets), 0, 0, *_states(state), *_states(final))
    _launch(forward_kernel, packed, block, run.plan.threads)
    return Saved(memory, base, run) if keep else None


def backward(
    cell: Cell,
    packed: Packed,
    saved: Saved,
    x: np.ndarray,
    schedule: Schedule,
    resets: np.ndarray | None,
    dy: np.ndarray | None,
    dfinal: tuple[np.ndarray | None, ...] | None,
    dx: np.ndarray | None,
    dinitial: tuple[np.ndarray, ...],
    grads: dict[str, np.ndarray | None] | Accumulators,
    consume: bool = True,
    accumulate_dx: bool = False,
) -> None:
    """Run backward; fills ``dinitial`` and ``dx`` (or adds to it), and adds into ``grads``."""
    if not consume:
        saved = saved.copy()
    run = saved.run
    sums = grads if isinstance(grads, Accumulators) else Accumulators(packed)
    rows = schedule.B * packed.state_stride
    _own, dh = aligned(2 * rows)
    block = run.block(saved.base, packed, schedule)
    block[CALL_FIELDS] = (*_sequence(x), 0, 0, 0, *_sequence(resets), 0, 0, *_states(dfinal), *_states(dinitial))
    block[_fields("dy", "carry")] = (*_sequence(dy), *_sequence(dx), accumulate_dx, dh, dh + rows)
    block[_GRADIENTS] = [sums.addresses.get(name, 0) for name in Layer._fields[_GRADIENTS]]
    _launch(backward_kernel, packed, block, run.plan.threads)
    _launch(gradients_kernel, packed, block, min(run.plan.threads, packed.U))
    if not isinstance(grads, Accumulators):
        sums.add_to(grads)
