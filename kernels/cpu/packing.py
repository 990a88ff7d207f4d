"""Between PyTorch's layout of the parameters and the order in which the kernels read them.

Legend: G gates, K columns (I or H), F slots fed by the product at hand, P unit vectors a panel, L lanes.

``(G*H, K)``                 PyTorch's: gate by gate, hidden unit by hidden unit
``[panel][K][F][P][L]``      ``pack_panels``: forward, each step of k reads the next F * P vectors
``[group][panel][F][P][L][columns]``  ``pack_columns``: backward, each slot value reads its row of a group of columns
``[panel][S][P][L]``         biases

Units past H are zeros. Which gate feeds which slot comes from the cell table, as an array of gate numbers, so these
kernels are compiled once a dtype, not once a cell.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

import numpy as np

from fastrnn.cells import Cell

from .jit import helper, inlined, kernel
from .layout import share
from .memory import read, read_float, read_int, write_float
from .simd import fill, lanes, load, load_part, store, store_part
from .tags import GROUP, element_bytes, vector_bytes
from .threads import job, run_job

__all__ = ["Batch", "Kind", "Record", "fed_gates", "move"]

# Columns copied at a time: this many rows of a panel stay in the L1 cache while its slots are written in turn.
_BLOCK = 64


class Record(NamedTuple):
    """One matrix, bias or set of peephole rows to move; a list of them is the argument block."""

    kind: int
    plain: int
    plain_stride: int
    packed: int
    gates: int  # address of the number of the gate that feeds each slot; -1: none
    H: int
    K: int
    U: int
    F: int
    P: int


class Batch(NamedTuple):
    """Argument block: where the records are, and how many."""

    records: int
    count: int


class Kind(IntEnum):
    """What is done with a record. A bias is a matrix with one column."""

    SET_PANELS, ADD_PANELS, ADD_PLAIN, SET_COLUMNS, SET_ROWS, ADD_ROWS = range(6)


RECORD_BYTES = 8 * len(Record._fields)


@inlined
def _panel_of(u, U, P):
    """First unit vector of the panel that holds u, and the panel's width in the zone where u lies."""
    if P > 1 and u < U // GROUP * GROUP:
        return u // P * P, P
    return u, 1


@helper
def _slot_vectors(like, v, u, f):
    """Address of slot f of unit vector u at k = 0 in a packed matrix, and the bytes from one k to the next."""
    start, width = _panel_of(u, v.U, v.P)
    first = v.packed + (start * v.F * v.K + f * width + u - start) * vector_bytes(like)
    return first, v.F * width * vector_bytes(like)


@helper
def _to_panels(like, a, add, w, n):
    v = read(Record, a)
    begin, end = share(v.U, w, n)
    for u in range(begin, end):
        for k_begin in range(0, v.K, _BLOCK):
            k_end = min(v.K, k_begin + _BLOCK)
            for f in range(v.F):
                first, step = _slot_vectors(like, v, u, f)
                for lane in range(lanes(like)):
                    unit = u * lanes(like) + lane
                    target = first + lane * element_bytes(like)
                    gate = read_int(v.gates + f * 8)
                    source = v.plain + (gate * v.H + unit) * v.plain_stride
                    if unit >= v.H or gate < 0:
                        if not add:
                            for k in range(k_begin, k_end):
                                write_float(like, target + k * step, 0.0)
                    elif add:
                        for k in range(k_begin, k_end):
                            value = read_float(like, source + k * element_bytes(like))
                            write_float(like, target + k * step, read_float(like, target + k * step) + value)
                    else:
                        for k in range(k_begin, k_end):
                            write_float(like, target + k * step, read_float(like, source + k * element_bytes(like)))


@helper
def _from_panels(like, a, w, n):
    v = read(Record, a)
    begin, end = share(v.U, w, n)
    for u in range(begin, end):
        for k_begin in range(0, v.K, _BLOCK):
            k_end = min(v.K, k_begin + _BLOCK)
            for f in range(v.F):
                first, step = _slot_vectors(like, v, u, f)
                gate = read_int(v.gates + f * 8)
                real = min(lanes(like), v.H - u * lanes(like))
                if gate < 0:
                    real = 0
                for lane in range(real):
                    unit = u * lanes(like) + lane
                    source = first + lane * element_bytes(like)
                    target = v.plain + (gate * v.H + unit) * v.plain_stride
                    for k in range(k_begin, k_end):
                        there = target + k * element_bytes(like)
                        write_float(like, there, read_float(like, there) + read_float(like, source + k * step))


@helper
def _to_columns(like, a, w, n):
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
                    source = v.plain + (read_int(v.gates + f * 8) * v.H + unit) * v.plain_stride
                    for k in range(width):
                        target = v.packed + (column * depth + (row + lane) * width + k) * vector_bytes(like)
                        valid = min(lanes(like), v.K - (column + k) * lanes(like))
                        if unit >= v.H:
                            store(zero, target)
                        elif valid == lanes(like):
                            store(load(like, source + (column + k) * vector_bytes(like)), target)
                        else:
                            store(load_part(like, source + (column + k) * vector_bytes(like), valid), target)


@helper
def _rows(like, a, add):
    """F contiguous rows of H elements -> rows K bytes apart; or back, added."""
    v = read(Record, a)
    for f in range(v.F):
        for u in range(v.U):
            valid = min(lanes(like), v.H - u * lanes(like))
            plain = v.plain + f * v.H * element_bytes(like) + u * vector_bytes(like)
            packed = v.packed + f * v.K + u * vector_bytes(like)
            if add:
                store_part(load_part(like, plain, valid) + load(like, packed), plain, valid)
            else:
                store(load_part(like, plain, valid), packed)


@helper
def _move_share(like, a, w, n):
    batch = read(Batch, a)
    for i in range(batch.count):
        record = batch.records + i * RECORD_BYTES
        kind = read(Record, record).kind
        if kind == Kind.SET_PANELS or kind == Kind.ADD_PANELS:
            _to_panels(like, record, kind == Kind.ADD_PANELS, w, n)
        elif kind == Kind.ADD_PLAIN:
            _from_panels(like, record, w, n)
        elif kind == Kind.SET_COLUMNS:
            _to_columns(like, record, w, n)
        elif w == 0:
            _rows(like, record, kind == Kind.ADD_ROWS)


_move_job = job(_move_share)


@kernel
def move(like, a, pool, threads):
    """Carry out all records of a batch; ``a``: address of the Batch."""
    run_job(_move_job(like), a, pool, threads)


def fed_gates(cell: Cell, names: tuple[str | None, ...], all_slots: bool = False) -> np.ndarray:
    """Number of the gate that feeds each slot, for the slots that are fed; or for all, -1 where none does."""
    numbers = [-1 if name is None else cell.gates.index(name) for name in names]
    return np.array([n for n in numbers if all_slots or n >= 0], dtype=np.int64)
