"""Between PyTorch's layout of the parameters and the order in which the kernels read them.

Legend: G gates, K columns (I or H), F slots fed by the product at hand, P unit vectors a panel, L lanes.

``(G*H, K)``                 PyTorch's: gate by gate, hidden unit by hidden unit
``[panel][K][F][P][L]``      forward, each step of k reads the next F * P vectors
``[group][panel][F][P][L][columns]``  backward, each slot value reads its row of a group of columns
``[panel][S][P][L]``         biases; ``[F][stride]`` peephole weights

As bfloat16, two neighbouring vectors of a row of a panel share the place of one, lane by lane: the first has the lower
halves of its words, the second the upper ones, so that a shift makes the one and a mask the other. What is left over in
a row of an odd number of vectors has half a vector's place.

Units past H are zeros. Which gate feeds which slot comes from the cell table, as an array of gate numbers, so these
kernels are compiled once a dtype, not once a cell.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from fastrnn.cell_table import Cell

from .jit import helper, inlined, kernel
from .layout import share
from .memory import elements, read, read_int, write_int
from .simd import (
    VECTOR_BYTES,
    call,
    fill,
    lanes,
    load,
    load_part,
    load_part_at,
    pointer,
    store,
    store_part,
    store_part_at,
    suffix,
)
from .tags import GROUP, element_bytes, is_bf16, vector_bytes, weight_bytes
from .threads import job, run_whole

__all__ = ["BATCH_BYTES", "SOURCES", "Batch", "Kind", "Record", "fed_gates", "move", "transpose"]

# Columns copied at a time: rows of a matrix long enough for the hardware to fetch ahead, and a piece of a panel that
# stays in the L2 cache while its slots are written in turn. Unpacking (4096, 1024): 7.5 to 5.2 ms against 64.
_BLOCK = 256


class Record(NamedTuple):
    """One matrix, or set of vectors, to move; a list of them is part of the argument block."""

    kind: int
    source: int  # which of the batch's arrays in PyTorch's layout
    packed: int  # offset from the batch's base
    gates: int  # address of the number of the gate that feeds each slot; -1: none
    H: int
    K: int  # columns of a matrix; for vectors 0, or the bytes between the rows of slots outside panels
    U: int
    F: int
    P: int


class Batch(NamedTuple):
    """Argument block: the records, where packed memory starts, and where the arrays' objects are listed."""

    records: int
    count: int
    base: int
    add: int  # what is unpacked is added to what the arrays hold
    arrays: int


class Kind(IntEnum):
    """What is done with a record: matrices and vectors (biases, peephole weights) are packed, or unpacked."""

    PACK_PANELS, UNPACK_PANELS, PACK_COLUMNS, PACK_VECTORS, ADD_VECTORS, UNPACK_VECTORS = range(6)


SOURCES = ("w_ih", "w_hh", "b_ih", "b_hh", "peephole")
RECORD_BYTES, BATCH_BYTES = 8 * len(Record._fields), 8 * len(Batch._fields)


def _transposed(builder: ir.IRBuilder, rows: list[ir.Value]) -> list[ir.Value]:
    """Eklundh's transposition: at each power of two, blocks off the diagonal change places."""
    count = len(rows)
    rows, lanes = list(rows), range(count)
    size = 1
    while size < count:
        upper = [lane if not lane & size else count + lane - size for lane in lanes]
        lower = [lane + size if not lane & size else count + lane for lane in lanes]
        for i in range(count):
            if not i & size:
                a, b = rows[i], rows[i + size]
                rows[i], rows[i + size] = (
                    builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(ir.IntType(32), count), order))
                    for order in (upper, lower)
                )
        size *= 2
    return rows


def _bf16(builder: ir.IRBuilder, values: ir.Value) -> ir.Value:
    """Float32 rounded to the nearest bfloat16, ties to even; a NaN stays one."""
    words, halves = (ir.VectorType(ir.IntType(bits), values.type.count) for bits in (32, 16))
    constant = lambda value: ir.Constant(words, [value] * words.count)  # noqa: E731
    bits = builder.bitcast(values, words)
    upper = builder.lshr(bits, constant(16))
    half = builder.add(constant(0x7FFF), builder.and_(upper, constant(1)))
    rounded = builder.lshr(builder.add(bits, half), constant(16))
    quiet = builder.or_(upper, constant(0x40))
    return builder.trunc(builder.select(builder.fcmp_unordered("uno", values, values), quiet, rounded), halves)


def _store_halves(builder: ir.IRBuilder, halves: ir.Value, place: ir.Value, valid: ir.Value, paired: ir.Value) -> None:
    """Store a vector of 16-bit halves, if ``valid`` is not 0: one after the other, or every other one if ``paired``."""
    count = halves.type.count
    spread = ir.VectorType(halves.type.element, 2 * count)
    bit, index = ir.IntType(1), ir.VectorType(ir.IntType(32), 2 * count)
    numbers = [lane // 2 for lane in range(2 * count)]
    apart = builder.shuffle_vector(halves, halves, ir.Constant(index, numbers))
    others = ir.Constant(ir.VectorType(bit, 2 * count), [lane % 2 == 0 for lane in range(2 * count)])
    none = ir.Constant(others.type, [False] * (2 * count))
    zero = ir.Constant(valid.type, 0)
    mask = builder.select(builder.and_(paired, builder.icmp_signed("!=", valid, zero)), others, none)
    arguments = [apart, pointer(builder, place, spread), ir.Constant(ir.IntType(32), 2), mask]
    call(builder, f"llvm.masked.store.{suffix(spread)}.p0", arguments, ir.VoidType())
    store_part_at(builder, halves, place, builder.select(paired, zero, valid))


@intrinsic(prefer_literal=True)
def transpose(
    _typing, like, unpack, option, source, source_step, in_rows, in_columns, target, target_step, rows, columns
):
    """A square of lanes x lanes elements: row r of ``target`` becomes, or is increased by, column r of ``source``.

    Reads the first in_columns elements of the first in_rows rows, zeros elsewhere; writes ``rows`` x ``columns``.
    unpack, a literal: ``option`` says whether to add; else whether bfloat16 halves are stored apart.
    """
    unpacking, dtype = bool(unpack.literal_value), like.dtype
    count = VECTOR_BYTES * 8 // dtype.bitwidth

    def codegen(context, builder, sig, args):
        option, source, source_step, in_rows, in_columns, target, target_step, rows, columns = args[2:]
        zero = ir.Constant(rows.type, 0)
        chosen = builder.icmp_signed("!=", option, zero)

        def places(start, step, real, width):
            for r in range(count):
                number = ir.Constant(real.type, r)
                valid = builder.select(builder.icmp_signed("<", number, real), width, zero)
                yield builder.add(start, builder.mul(number, step)), valid

        from_places = places(source, source_step, in_rows, in_columns)
        turned = _transposed(builder, [load_part_at(builder, place, n, dtype) for place, n in from_places])
        for row, (place, n) in zip(turned, places(target, target_step, rows, columns), strict=True):
            if unpacking:
                row = builder.fadd(load_part_at(builder, place, builder.select(chosen, n, zero), dtype), row)
            if like.bf16:
                _store_halves(builder, _bf16(builder, row), place, n, chosen)
            else:
                store_part_at(builder, row, place, n)
        return context.get_dummy_value()

    return types.void(like, unpack, *[types.intp] * 9), codegen


@inlined
def _panel_of(u, U, P):
    """First unit vector of the panel that holds u, and the panel's width in the zone where u lies."""
    if P > 1 and u < U // GROUP * GROUP:
        return u // P * P, P
    return u, 1


@helper
def _slot_vectors(v, base, u, f, depth, size):
    """Slot f of unit vector u in panels ``depth`` deep: address of the panel, number of the vector in a row, and of how
    many there are. size: bytes of a vector.
    """
    start, width = _panel_of(u, v.U, v.P)
    return base + v.packed + start * v.F * depth * size, f * width + u - start, v.F * width


@inlined
def _within_row(like, number, count):
    """Where a row of ``count`` vectors of weights has one of them, and whether it shares the place with another."""
    size = weight_bytes(like)
    if is_bf16(like) and number < count // 2 * 2:
        return number // 2 * 2 * size + number % 2 * element_bytes(like) // 2, 1
    return number * size, 0


@helper
def _panels(like, a, base, plain, unpack, add, w, n):
    """A matrix into panels, or panels into a matrix: squares of units x columns change their order."""
    v = read(Record, a)
    begin, end = share(v.U, w, n)
    row_bytes = v.K * element_bytes(like)
    for u in range(begin, end):
        units = min(lanes(like), v.H - u * lanes(like))
        for block in range(0, v.K, _BLOCK):
            for f in range(v.F):
                panel, number, count = _slot_vectors(v, base, u, f, v.K, weight_bytes(like))
                offset, paired = _within_row(like, number, count)
                first, step = panel + offset, count * weight_bytes(like)
                source = plain + (read_int(v.gates + f * 8) * v.H + u * lanes(like)) * row_bytes
                for k in range(block, min(v.K, block + _BLOCK), lanes(like)):
                    columns = min(lanes(like), v.K - k)
                    here, there = source + k * element_bytes(like), first + k * step
                    if unpack:
                        transpose(like, 1, add, there, step, columns, units, here, row_bytes, units, columns)
                    else:
                        transpose(like, 0, paired, here, row_bytes, units, columns, there, step, columns, lanes(like))


@helper
def _columns(like, a, base, plain, w, n):
    """A matrix into groups of columns: every vector of a row is copied as it is."""
    v = read(Record, a)
    count = (v.K + lanes(like) - 1) // lanes(like)
    groups = count // GROUP
    depth = v.U * v.F * lanes(like)
    zero = fill(like, 0.0)
    begin, end = share(groups + count % GROUP, w, n)
    for group in range(begin, end):
        width, column = GROUP, group * GROUP
        if group >= groups:
            width, column = 1, group + groups * (GROUP - 1)
        for u in range(v.U):
            start, panel_width = _panel_of(u, v.U, v.P)
            for f in range(v.F):
                row = (start * v.F + f * panel_width + u - start) * lanes(like)
                for lane in range(lanes(like)):
                    unit = u * lanes(like) + lane
                    source = plain + (read_int(v.gates + f * 8) * v.H + unit) * v.K * element_bytes(like)
                    for k in range(width):
                        target = base + v.packed + (column * depth + (row + lane) * width + k) * vector_bytes(like)
                        valid = min(lanes(like), v.K - (column + k) * lanes(like))
                        if unit >= v.H:
                            store(zero, target)
                        elif valid == lanes(like):
                            store(load(like, source + (column + k) * vector_bytes(like)), target)
                        else:
                            store(load_part(like, source + (column + k) * vector_bytes(like), valid), target)


@helper
def _vectors(like, a, base, plain, kind, add):
    """Biases into the slots that they feed, peephole weights into rows; or back."""
    v = read(Record, a)
    for f in range(v.F):
        gate = read_int(v.gates + f * 8)
        for u in range(v.U):
            valid = min(lanes(like), v.H - u * lanes(like))
            here = plain + (gate * v.H + u * lanes(like)) * element_bytes(like)
            there = base + v.packed + f * v.K + u * vector_bytes(like)
            if v.K == 0:
                panel, number, _ = _slot_vectors(v, base, u, f, 1, vector_bytes(like))
                there = panel + number * vector_bytes(like)
            if gate < 0:
                if kind == Kind.PACK_VECTORS:
                    store(fill(like, 0.0), there)
            elif kind == Kind.PACK_VECTORS:
                store(load_part(like, here, valid), there)
            elif kind == Kind.ADD_VECTORS:
                store(load(like, there) + load_part(like, here, valid), there)
            else:
                before = 0
                if add:
                    before = valid
                store_part(load_part(like, here, before) + load(like, there), here, valid)


@helper
def _move_share(like, a, w, n):
    batch = read(Batch, a)
    for i in range(batch.count):
        address = batch.records + i * RECORD_BYTES
        record = read(Record, address)
        plain = elements(read_int(batch.arrays + record.source * 8))
        if record.kind == Kind.PACK_PANELS or record.kind == Kind.UNPACK_PANELS:
            _panels(like, address, batch.base, plain, record.kind == Kind.UNPACK_PANELS, batch.add, w, n)
        elif record.kind == Kind.PACK_COLUMNS:
            _columns(like, address, batch.base, plain, w, n)
        elif w == 0:
            _vectors(like, address, batch.base, plain, record.kind, batch.add)


_move_job = job(_move_share)


@kernel
def move(like, batch, records, count, base, add, w_ih, w_hh, b_ih, b_hh, peephole, pool, threads, brief):
    """Carry out ``count`` records; the Batch, and behind it the arrays' ids, are written at ``batch``."""
    arrays = batch + BATCH_BYTES
    for i, value in enumerate((records, count, base, add, arrays, w_ih, w_hh, b_ih, b_hh, peephole)):
        write_int(batch + i * 8, value)
    run_whole(_move_job(like), batch, pool, threads, brief)


def fed_gates(cell: Cell, names: tuple[str | None, ...], all_slots: bool = False) -> np.ndarray:
    """Number of the gate that feeds each slot, for the slots that are fed; or for all, -1 where none does."""
    numbers = [-1 if name is None else cell.gates.index(name) for name in names]
    return np.array([n for n in numbers if all_slots or n >= 0], dtype=np.int64)
