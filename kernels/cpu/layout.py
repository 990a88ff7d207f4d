"""Where things lie: the argument block of one layer and direction, and the address arithmetic of its buffers.

Legend: T time, B batch, I inputs, H hidden units, N packed rows (all valid steps), V bytes of a vector, U vectors
of hidden units (H rounded up), S slots of a phase, P units of a panel (vectors), n rows alive at a step.

``hs``, ``cs``   (B + N, stride)    state rows: first the initial state, then what each packed row leaves
                                    (inference: 2 x B rows in turn)
``slab``         [step][panel][n][S][P] V     per phase: pre-activations, then activations, then dz, all in place;
                                    for a few rows [packed row][panel][S][P] V (``ahead``)
``operand``      (N, stride)        what a second phase multiplies (inference: B rows)
``tables``       per thread, B addresses each: the rows of x, y, ... that this thread works on at this step

A row of a state is padded to whole vectors. The state that *enters* a step is the row that the step before left,
or the zero row where a reset says so: no copy, and no branch in the kernels.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .jit import helper, inlined
from .memory import address_of, read, read_byte, read_int, write_int
from .simd import VECTOR_BYTES, Vector, lanes, load_at, store_at
from .tags import GROUP, by_panel, h_slots, panel, slots, units, vector_bytes, x_slots

__all__ = ["AHEAD_ROWS", "TABLE_BYTES", "Layer", "Table", "Template"]


class Layer(NamedTuple):
    """Everything that a kernel needs to know, as integers: sizes, flags, byte strides and addresses (0: absent)."""

    # sizes and flags
    T: int  # y and dx are zeroed from a row's length up to here
    B: int
    I: int
    H: int
    U: int
    steps: int
    total: int
    reverse: int
    keep: int  # write the tape
    by_rows: int  # threads own rows (no barriers) instead of hidden units
    ahead: int  # take the input product of many steps at once, before them; the slab is then row-major
    brief: int  # too short a call to give up the GIL
    short: int  # too short a job to wait for threads that sleep
    state_stride: int
    scratch_stride: int
    # buffers
    barrier: int
    scratch: int
    hs: int
    cs: int
    operand: int
    slab: int
    slab2: int
    # the schedule
    order: int
    start: int
    lengths: int
    active: int
    offset: int
    # parameters
    zero_row: int
    ones: int  # address of a 1: the column of x that the biases multiply
    bias: int
    wx: int
    wh: int
    bias2: int
    wx2: int
    wh2: int
    peephole: int
    back_wx: int
    back_wh: int
    back_wx2: int
    back_wh2: int
    # the call
    x: int
    x_time: int
    x_batch: int
    y: int
    y_time: int
    y_batch: int
    resets: int
    reset_time: int
    reset_batch: int
    first: int  # in which of the two state buffers inference starts
    resume: int  # the state is there already, and stays there
    # states that come in and go out: (B, H) arrays, or in backward their gradients; _row: bytes between rows
    h_in: int
    h_in_row: int
    c_in: int
    c_in_row: int
    h_out: int
    h_out_row: int
    c_out: int
    c_out_row: int
    # backward
    dy: int
    dy_time: int
    dy_batch: int
    dx: int
    dx_time: int
    dx_batch: int
    add_dx: int
    add_sums: int  # the sums that become the parameters' gradients already hold some
    dh: int
    carry: int
    gradient_bias: int
    gradient_wx: int
    gradient_wh: int
    gradient_bias2: int
    gradient_wx2: int
    gradient_wh2: int
    gradient_peephole: int


class Template:
    """A run of the argument block's fields: numbers, and offsets that become addresses in one piece of memory."""

    def __init__(self, first: str, last: str, numbers: dict[str, int], offsets: dict[str, int]) -> None:
        names = Layer._fields[Layer._fields.index(first) : Layer._fields.index(last) + 1]
        # A column a field: its number or offset, and how often the memory's address is added.
        self.table = np.array(
            [[(numbers | offsets).get(name, 0) for name in names], [name in offsets for name in names]], np.int64
        )
        self.address = address_of(self.table)


class Table(IntEnum):
    """Numbers of the address tables in a thread's scratch, each for the rows that the thread works on."""

    X, Y, H_IN, H_OUT, C_IN, C_OUT, OPERAND = range(7)


_I64 = ir.IntType(64)
TABLE_BYTES = 7 * 8  # of all tables, a row
# Rows whose input product is taken at once when a step has few: eight tiles share a read of the weights.
AHEAD_ROWS = 48


# ---------------------------------------------------------------- shares


@inlined
def share(count, w, n):
    """First and one past last of ``count`` things that thread w of n takes."""
    return count * w // n, count * (w + 1) // n


@helper
def unit_share(count, grain, w, n):
    """As ``share`` for vectors of units: a boundary within the full zone falls on a multiple of ``grain``."""
    full = count // grain * grain
    first, last = share(count, w, n)
    if first < full:
        first = min((first + grain // 2) // grain * grain, full)
    if last < full:
        last = min((last + grain // 2) // grain * grain, full)
    return first, last


@inlined
def row_share(a, w, n):
    """First row, stride and most rows of thread w of n.

    Rows that all go on to the end are cut into runs: then two threads write to few lines in common. Dealt out in turn,
    training of an RNN at (100,16,128,128) reached 76 % of the peak in place of 81. Others are dealt out, as they end in
    turn.
    """
    v = read(Layer, a)
    if v.steps > 0 and read_int(v.active + (v.steps - 1) * 8) == v.B:
        first = v.B * w // n
        return first, 1, v.B * (w + 1) // n - first
    return w, n, v.B


@inlined
def own_rows(count, first, stride, most):
    """How many rows of a share lie below ``count``."""
    return min(most, max(0, (count - first + stride - 1) // stride))


# ---------------------------------------------------------------- addresses


@inlined
def full_units(phase_panel, U):
    """Vectors of units in the full zone of a phase."""
    if units(phase_panel) == 1:
        return U
    return U // GROUP * GROUP


@inlined
def table_row(tables, B, number, i):
    """Address of entry i of a table."""
    return tables + (number * B + i) * 8


@inlined
def state_row(keep, first, offset, B, s):
    """First state row that step s leaves (s = -1: the initial state)."""
    if keep:
        if s < 0:
            return 0
        return B + read_int(offset + s * 8)
    return ((first + s + 1) & 1) * B


@inlined
def slab_step(phase_panel, slab, U, before):
    """Address of a step's part of a slab that ``before`` packed rows precede."""
    return slab + before * U * slots(phase_panel) * vector_bytes(phase_panel)


@inlined
def alive_rows(ahead, n):
    """By how many rows' panels the panels of a step lie apart: n, or 1 in a row-major slab."""
    if ahead:
        return 1
    return n


@inlined
def slab_panel(phase_panel, step, alive, u):
    """Address of the panel that starts at unit vector u, in the part of a step."""
    return step + u * slots(phase_panel) * vector_bytes(phase_panel) * alive


@inlined
def panel_row(phase_panel):
    """Bytes of a row of a panel."""
    return units(phase_panel) * slots(phase_panel) * vector_bytes(phase_panel)


@inlined
def slab_row(phase_panel, ahead, U):
    """Bytes from a row to the next: a row of the panel, or of all panels in a row-major slab."""
    if ahead:
        return U * slots(phase_panel) * vector_bytes(phase_panel)
    return panel_row(phase_panel)


@inlined
def unit_slots(phase_panel, step, alive, row_bytes, r, u):
    """Address of the first slot of unit vector u and row r in a step; slots lie ``units`` vectors apart."""
    within = u & (units(phase_panel) - 1)  # a power of two
    return slab_panel(phase_panel, step, alive, u - within) + r * row_bytes + within * vector_bytes(phase_panel)


@inlined
def time_of(a, s, r):
    """Time at which row r stands at step s, and its batch entry."""
    v = read(Layer, a)
    b = read_int(v.order + r * 8)
    start = read_int(v.start + r * 8)
    if v.reverse:
        return start - s, b
    return start + s, b


@inlined
def is_reset(a, s, r):
    """Whether row r starts step s from a zero state."""
    v = read(Layer, a)
    if v.resets == 0:
        return False
    t, b = time_of(a, s, r)
    return read_byte(v.resets + t * v.reset_time + b * v.reset_batch) != 0


@helper
def entering_row(a, states, s, r):
    """Address of the state of row r that enters step s."""
    v = read(Layer, a)
    if is_reset(a, s, r):
        return v.zero_row
    return states + (state_row(v.keep, v.first, v.offset, v.B, s - 1) + r) * v.state_stride


@helper
def leaving_row(a, states, s, r):
    """Address of the state of row r that leaves step s."""
    v = read(Layer, a)
    return states + (state_row(v.keep, v.first, v.offset, v.B, s) + r) * v.state_stride


@helper
def fill_state_tables(a, tables, s, first, stride, n):
    """Tables of the states that enter and leave step s, for the n rows first, first + stride, ..."""
    v = read(Layer, a)
    cs = v.cs if v.cs != 0 else v.hs
    entered = state_row(v.keep, v.first, v.offset, v.B, s - 1)
    left = state_row(v.keep, v.first, v.offset, v.B, s)
    operand = 0
    if v.keep:
        operand = read_int(v.offset + s * 8)
    for i in range(n):
        r = first + i * stride
        h_in, c_in = v.hs + (entered + r) * v.state_stride, cs + (entered + r) * v.state_stride
        if is_reset(a, s, r):
            h_in = c_in = v.zero_row
        write_int(table_row(tables, v.B, Table.H_IN, i), h_in)
        write_int(table_row(tables, v.B, Table.C_IN, i), c_in)
        write_int(table_row(tables, v.B, Table.H_OUT, i), v.hs + (left + r) * v.state_stride)
        write_int(table_row(tables, v.B, Table.C_OUT, i), cs + (left + r) * v.state_stride)
        write_int(table_row(tables, v.B, Table.OPERAND, i), v.operand + (operand + r) * v.state_stride)


@helper
def fill_table(a, table, base, time_stride, batch_stride, s, first, stride, n):
    """Addresses of the rows of a (T, B, ...) array at step s; the zero row where there is no array."""
    v = read(Layer, a)
    for i in range(n):
        address = v.zero_row
        if base != 0:
            t, b = time_of(a, s, first + i * stride)
            address = base + t * time_stride + b * batch_stride
        write_int(table + i * 8, address)


# ---------------------------------------------------------------- slots of a unit vector


def _panel_slots(builder, kind, number, start, phase):
    """Addresses of the slots of one phase of a unit vector; they lie ``units`` vectors apart."""
    step = builder.mul(by_panel(builder, number, [p.units for p in kind.panels]), ir.Constant(_I64, VECTOR_BYTES))
    count = len(kind.cell.phases[phase].slots)
    return [builder.add(start, builder.mul(step, ir.Constant(_I64, slot))) for slot in range(count)]


def _places(builder, kind, args):
    """Addresses of all slots of a unit vector: those of the first phase, where there are two, then of the last."""
    panel, gates, here, gate_here = args
    first = _panel_slots(builder, kind, gates, gate_here, 0) if len(kind.cell.phases) == 2 else []
    return first + _panel_slots(builder, kind, panel, here, -1)


def _load_tuple(context, builder, kind, places):
    result = ir.Constant(context.get_value_type(kind), ir.Undefined)
    for n, place in enumerate(places):
        result = builder.insert_value(result, load_at(builder, place, kind.dtype.dtype), n)
    return result


def _store_tuple(builder, values, places, dtype):
    count = len(places)
    for n, place in enumerate(places):
        store_at(builder, builder.extract_value(values, values.type.count - count + n), place, dtype)


@intrinsic
def load_slots(_typing, last, gates, here, gate_here):
    """All slots of one unit vector as a tuple of vectors.

    last, here: panel of the last phase, and the address of its first slot; gates, gate_here: of the first of two.
    """
    kind = types.UniTuple(Vector(last.dtype), len(last.cell.slots))

    def codegen(context, builder, sig, args):
        return _load_tuple(context, builder, kind, _places(builder, last, args))

    return kind(last, gates, types.intp, types.intp), codegen


@intrinsic
def load_gates(_typing, gates, here):
    """The slots of the first phase of one unit vector as a tuple of vectors."""
    kind = types.UniTuple(Vector(gates.dtype), len(gates.cell.phases[0].slots))

    def codegen(context, builder, sig, args):
        return _load_tuple(context, builder, kind, _panel_slots(builder, gates, *args, 0))

    return kind(gates, types.intp), codegen


@intrinsic
def store_slots(_typing, last, values, here):
    """Store the slots of the last phase of one unit vector: the last of ``values``."""

    def codegen(context, builder, sig, args):
        _store_tuple(builder, args[1], _panel_slots(builder, last, args[0], args[2], -1), last.dtype)
        return context.get_dummy_value()

    return types.void(last, values, types.intp), codegen


@intrinsic
def store_gates(_typing, gates, values, here):
    """Store the slots of the first phase of one unit vector."""

    def codegen(context, builder, sig, args):
        _store_tuple(builder, args[1], _panel_slots(builder, gates, args[0], args[2], 0), gates.dtype)
        return context.get_dummy_value()

    return types.void(gates, values, types.intp), codegen


@intrinsic
def store_all_slots(_typing, last, gates, values, here, gate_here):
    """Store all slots of one unit vector, those of a first phase too."""

    def codegen(context, builder, sig, args):
        panel, gate_panel, values, *addresses = args
        _store_tuple(builder, values, _places(builder, last, [panel, gate_panel, *addresses]), last.dtype)
        return context.get_dummy_value()

    return types.void(last, gates, values, types.intp, types.intp), codegen


@intrinsic
def load_peepholes(_typing, phase_panel, base, stride, at):
    """The peephole weights of one unit vector, a tuple (empty for a cell that has none); rows lie ``stride`` apart."""
    count, dtype = len(phase_panel.cell.peepholes), phase_panel.dtype

    def codegen(context, builder, sig, args):
        first = builder.add(args[1], args[3])
        rows = [builder.mul(args[2], ir.Constant(_I64, row)) for row in range(count)]
        return _load_tuple(context, builder, kind, [builder.add(first, row) for row in rows])

    kind = types.UniTuple(Vector(dtype), count)
    return kind(phase_panel, types.intp, types.intp, types.intp), codegen


@inlined
def valid_lanes(like, H, u):
    """Lanes of unit vector u that are real hidden units."""
    return min(lanes(like), H - u * lanes(like))


__all__ += [
    "alive_rows", "entering_row", "fill_state_tables", "fill_table", "full_units", "h_slots", "is_reset",
    "leaving_row", "load_gates", "load_peepholes", "load_slots", "own_rows", "panel", "panel_row", "row_share", "share",
    "slab_panel", "slab_row", "slab_step", "state_row", "store_all_slots", "store_gates", "store_slots", "table_row",
    "time_of", "unit_share", "unit_slots", "valid_lanes", "x_slots",
]  # fmt: skip
