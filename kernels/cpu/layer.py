"""One layer in one direction, on NumPy arrays: what the public side calls.

Here arrays become addresses: buffers are allocated, the argument block is filled, and the kernels run. Argument
checks are the caller's.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numba import types

from fastrnn.cells import CELLS, Cell
from fastrnn.sequences import Schedule

from .backward import backward as backward_kernel
from .forward import forward as forward_kernel
from .gradients import CHUNK_SCRATCH
from .gradients import gradients as gradients_kernel
from .jit import entry_point
from .layout import TABLE_BYTES, Layer
from .memory import address_of, aligned_empty, aligned_zeros, block
from .packing import bias_places, fed_gates, pack_columns, pack_panels, packing_of, unpack_panels
from .plan import Plan, plan
from .simd import VECTOR_BYTES
from .tags import DTYPES, CellType, ElementType, Tag
from .threads import get_num_threads, mailboxes

__all__ = ["Packed", "Saved", "backward", "forward", "pack"]

_ABSENT = Layer(*[0] * len(Layer._fields))
# The largest tile, and slack so that tiles of different threads do not share lines.
_TILE_SCRATCH = 8 * 8 * VECTOR_BYTES + 256


# ---------------------------------------------------------------- packed parameters


@dataclass(frozen=True)
class _Matrices:
    """The packed parameters of one phase."""

    wx: np.ndarray
    wh: np.ndarray
    bias: np.ndarray
    back_wx: np.ndarray | None
    back_wh: np.ndarray | None


@dataclass(frozen=True)
class Packed:
    """A layer's parameters as the kernels read them: an immutable snapshot."""

    cell: Cell
    dtype: str
    I: int  # noqa: E741
    H: int
    phases: tuple[_Matrices, ...]
    peephole: np.ndarray | None
    zero_row: np.ndarray
    one: np.ndarray

    @property
    def U(self) -> int:
        """Vectors of hidden units."""
        return _vectors(self.H, self.dtype)

    @property
    def state_stride(self) -> int:
        """Bytes of a state row."""
        return _row_bytes(self.U)


def _vectors(count: int, dtype: str) -> int:
    lanes = VECTOR_BYTES // np.dtype(dtype).itemsize
    return -(-count // lanes)


def _row_bytes(vectors: int) -> int:
    # Rows a multiple of 2 KB apart would share the sets of the L1 cache.
    size = vectors * VECTOR_BYTES
    return size + VECTOR_BYTES if size % 2048 == 0 else size


@cache
def _tag(name: str, dtype: str) -> Tag:
    return Tag(CellType(name, DTYPES[dtype]) if name else ElementType(DTYPES[dtype]))


def _launch(kernel: Any, name: str, dtype: str, arguments: tuple[int, ...], threads: int) -> None:
    tag = _tag(name, dtype)
    entry = entry_point(kernel, tag.type, types.intp, types.intp, types.intp)
    arguments_block = block(arguments)
    entry(tag, address_of(arguments_block), mailboxes(threads), threads)


@cache
def _bias_places(name: str, phase: int, which: str, H: int, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    cell, lanes = CELLS[name], VECTOR_BYTES // np.dtype(dtype).itemsize
    return bias_places(cell, cell.phases[phase], which, H, _vectors(H, dtype), lanes)


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
    dtype = w_ih.dtype.name
    H, I = w_hh.shape[1], w_ih.shape[1]  # noqa: E741
    U, lanes = _vectors(H, dtype), VECTOR_BYTES // w_ih.dtype.itemsize
    phases = []
    for index, phase in enumerate(cell.phases):
        from_x, from_h = fed_gates(cell, phase.x), fed_gates(cell, phase.h)
        bias = aligned_zeros(U * len(phase.slots) * lanes, dtype)
        for which, source in (("x", b_ih), ("h", b_hh)):
            if source is not None:
                packed_at, plain_at = _bias_places(cell.name, index, which, H, dtype)
                bias[packed_at] += source[plain_at]
        phases.append(
            _Matrices(
                wx=_pack(pack_panels, phase, w_ih, from_x, H, U, I),
                wh=_pack(pack_panels, phase, w_hh, from_h, H, U, H),
                bias=bias,
                back_wx=_pack(pack_columns, phase, w_ih, from_x, H, U, _vectors(I, dtype) * lanes) if backward else None,
                back_wh=_pack(pack_columns, phase, w_hh, from_h, H, U, U * lanes) if backward else None,
            )
        )
    stride = _row_bytes(U) // w_ih.dtype.itemsize
    rows = None
    if peephole is not None:
        rows = aligned_zeros((len(cell.peepholes), stride), dtype)
        rows[:, :H] = peephole.reshape(-1, H)
    # The zero row also stands in for rows of x (I wide) and dy.
    zero_row = aligned_zeros(max(stride, I), dtype)
    return Packed(cell, dtype, I, H, tuple(phases), rows, zero_row, np.ones(1, dtype))


def _pack(kernel: Any, phase, weight: np.ndarray, gates: np.ndarray, H: int, U: int, K: int) -> np.ndarray:
    """One packed matrix; K: its depth or, for columns, their number rounded up to whole vectors."""
    lanes = VECTOR_BYTES // weight.dtype.itemsize
    packed = aligned_empty(U * lanes * len(gates) * K, weight.dtype)
    threads = get_num_threads() if packed.nbytes > 1 << 18 else 1
    _launch(kernel, "", weight.dtype.name, packing_of(phase, weight, address_of(packed), gates, H, U), threads)
    return packed


# ---------------------------------------------------------------- forward


@dataclass
class Saved:
    """What forward keeps for backward; ``slabs`` hold activations until backward writes dz over them."""

    hs: np.ndarray
    cs: np.ndarray | None
    operand: np.ndarray | None
    slabs: list[np.ndarray]
    plan: Plan

    def copy(self) -> Saved:
        """A Saved whose slabs may be overwritten."""
        return Saved(self.hs, self.cs, self.operand, [slab.copy() for slab in self.slabs], self.plan)


def _enter_state(first_rows: np.ndarray, state: np.ndarray | None, schedule: Schedule, H: int) -> None:
    """Write a (B, H) state, sorted, into padded rows."""
    first_rows.fill(0)
    if state is not None:
        first_rows[:, :H] = state[schedule.order] if schedule.ragged else state


def _leave_state(target: np.ndarray, rows: np.ndarray, schedule: Schedule, keep: bool, first: int) -> None:
    """Read each row's state after its last valid step, in the caller's order."""
    B, H = target.shape
    if not schedule.ragged:
        last = B + schedule.total - B if keep else (first + schedule.steps & 1) * B
        target[...] = rows[last : last + B, :H]
        return
    lengths = schedule.lengths
    if keep:
        index = np.where(lengths > 0, B + schedule.offset[lengths - 1], 0)
    else:
        index = (first + lengths & 1) * B
    target[schedule.order] = rows[index + np.arange(B), :H]


def _common(packed: Packed, schedule: Schedule, x: np.ndarray, resets: np.ndarray | None, chosen: Plan) -> dict:
    """Fields of the argument block that forward and backward share."""
    first = packed.phases[0]
    last = packed.phases[-1]
    fields = {
        "B": schedule.B, "I": packed.I, "H": packed.H, "U": packed.U, "steps": schedule.steps,
        "total": schedule.total, "T": schedule.T, "by_rows": int(chosen.by_rows), "reverse": int(schedule.reverse),
        "order": address_of(schedule.order), "lengths": address_of(schedule.lengths),
        "active": address_of(schedule.active), "offset": address_of(schedule.offset),
        "x": address_of(x), "x_time": x.strides[0], "x_batch": x.strides[1],
        "state_stride": packed.state_stride, "zero_row": address_of(packed.zero_row), "ones": address_of(packed.one),
        "bias": address_of(first.bias), "wx": address_of(first.wx), "wh": address_of(first.wh),
        "bias2": address_of(last.bias), "wx2": address_of(last.wx), "wh2": address_of(last.wh),
        "peephole": address_of(packed.peephole),
    }  # fmt: skip
    if resets is not None:
        fields |= {
            "resets": address_of(resets), "reset_time": resets.strides[0], "reset_batch": resets.strides[1],
        }  # fmt: skip
    return fields


def _scratch(threads: int, B: int) -> tuple[np.ndarray, int]:
    size = (max(TABLE_BYTES * B, CHUNK_SCRATCH) + 63) // 64 * 64 + _TILE_SCRATCH
    return aligned_empty(threads * size, np.uint8), size


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
    B, H, dtype = schedule.B, packed.H, packed.dtype
    chosen = plan(cell, schedule.T, B, packed.I, H, dtype, get_num_threads(), keep)
    width = packed.state_stride // x.itemsize
    rows = B + schedule.total if keep else 2 * B
    states = [aligned_empty((rows, width), dtype) for _ in cell.states]
    for buffer, initial in zip(states, state or [None] * len(states), strict=True):
        _enter_state(buffer[:B], initial, schedule, H)
    slab_rows = schedule.total if keep else B
    vector = VECTOR_BYTES // x.itemsize
    slabs = [
        aligned_empty(slab_rows * packed.U * len(phase.slots) * vector, dtype)
        for phase in (cell.phases if keep else cell.phases[:-1])
    ]
    operand = aligned_empty((slab_rows, width), dtype) if len(cell.phases) == 2 else None
    scratch, scratch_stride = _scratch(chosen.threads, B)
    barrier = aligned_zeros(8, np.int64)
    arguments = _ABSENT._replace(
        **_common(packed, schedule, x, resets, chosen),
        keep=int(keep), barrier=address_of(barrier), scratch=address_of(scratch), scratch_stride=scratch_stride,
        hs=address_of(states[0]), cs=address_of(states[1]) if len(states) == 2 else 0,
        operand=address_of(operand),
        slab=address_of(slabs[0]) if slabs else 0, slab2=address_of(slabs[-1]) if slabs else 0,
        y=address_of(y), y_time=y.strides[0] if y is not None else 0, y_batch=y.strides[1] if y is not None else 0,
    )  # fmt: skip
    _launch(forward_kernel, cell.name, dtype, arguments, chosen.threads)
    for target, buffer in zip(final, states, strict=True):
        _leave_state(target, buffer, schedule, keep, 0)
    return Saved(states[0], states[1] if len(states) == 2 else None, operand, slabs, chosen) if keep else None


# ---------------------------------------------------------------- backward


@dataclass
class _Accumulators:
    """Packed gradients of one phase, zeros at first."""

    wx: np.ndarray
    wh: np.ndarray
    bias: np.ndarray


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
    grads: dict[str, np.ndarray],
    consume: bool = True,
    accumulate_dx: bool = False,
) -> None:
    """Run backward; fills ``dinitial`` and ``dx`` (or adds to it), and adds into the arrays of ``grads``."""
    if not consume:
        saved = saved.copy()
    B, H, dtype = schedule.B, packed.H, packed.dtype
    width = packed.state_stride // x.itemsize
    dfinal = dfinal or (None,) * len(cell.states)
    dh, carry = aligned_empty((B, width), dtype), aligned_empty((B, width), dtype)
    _enter_state(dh, dfinal[0], schedule, H)
    _enter_state(carry, dfinal[1] if len(cell.states) == 2 else None, schedule, H)
    accumulators = [
        _Accumulators(*(aligned_zeros(a.shape, dtype) for a in (matrices.wx, matrices.wh, matrices.bias)))
        for matrices in packed.phases
    ]
    peephole = None if packed.peephole is None else aligned_zeros(packed.peephole.shape, dtype)
    scratch, scratch_stride = _scratch(max(saved.plan.threads, get_num_threads()), B)
    barrier = aligned_zeros(8, np.int64)
    arguments = _ABSENT._replace(
        **_common(packed, schedule, x, resets, saved.plan),
        keep=1, barrier=address_of(barrier), scratch=address_of(scratch), scratch_stride=scratch_stride,
        hs=address_of(saved.hs), cs=address_of(saved.cs), operand=address_of(saved.operand),
        slab=address_of(saved.slabs[0]), slab2=address_of(saved.slabs[-1]),
        dy=address_of(dy), dy_time=dy.strides[0] if dy is not None else 0, dy_batch=dy.strides[1] if dy is not None else 0,
        dx=address_of(dx), dx_time=dx.strides[0] if dx is not None else 0, dx_batch=dx.strides[1] if dx is not None else 0,
        add_dx=int(accumulate_dx), dh=address_of(dh), carry=address_of(carry),
        back_wx=address_of(packed.phases[0].back_wx), back_wh=address_of(packed.phases[0].back_wh),
        back_wx2=address_of(packed.phases[-1].back_wx), back_wh2=address_of(packed.phases[-1].back_wh),
        gradient_wx=address_of(accumulators[0].wx), gradient_wh=address_of(accumulators[0].wh),
        gradient_bias=address_of(accumulators[0].bias),
        gradient_wx2=address_of(accumulators[-1].wx), gradient_wh2=address_of(accumulators[-1].wh),
        gradient_bias2=address_of(accumulators[-1].bias), gradient_peephole=address_of(peephole),
    )  # fmt: skip
    _launch(backward_kernel, cell.name, dtype, arguments, saved.plan.threads)
    shared = saved.plan.threads if saved.plan.threads > 1 else 1
    _launch(gradients_kernel, cell.name, dtype, arguments, min(shared, packed.U))
    _add_gradients(cell, packed, accumulators, peephole, grads)
    for target, rows in zip(dinitial, (dh, carry), strict=False):
        target[schedule.order] = rows[:, :H]


def _add_gradients(cell: Cell, packed: Packed, accumulators: list[_Accumulators], peephole, grads: dict) -> None:
    """From the packed order back to PyTorch's, added into the caller's arrays."""
    H, U, dtype = packed.H, packed.U, packed.dtype
    for index, (phase, sums) in enumerate(zip(cell.phases, accumulators, strict=True)):
        for name, buffer, fed in (("w_ih", sums.wx, phase.x), ("w_hh", sums.wh, phase.h)):
            gates = fed_gates(cell, fed)
            packing = packing_of(phase, grads[name], address_of(buffer), gates, H, U)
            threads = get_num_threads() if buffer.nbytes > 1 << 18 else 1
            _launch(unpack_panels, "", dtype, packing, threads)
        for name, which in (("b_ih", "x"), ("b_hh", "h")):
            if grads.get(name) is not None:
                packed_at, plain_at = _bias_places(cell.name, index, which, H, dtype)
                grads[name][plain_at] += sums.bias[packed_at]
    if peephole is not None:
        grads["peephole"] += peephole[:, :H].ravel()
