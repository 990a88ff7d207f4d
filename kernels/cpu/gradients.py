"""Gradients of the parameters, after the loop: products over all packed rows, and the sums of the biases.

dWx = x^T dz, dWh = h^T dz (h: the state that entered), db = 1^T dz; dz stands in the slab. Threads own panels of
hidden units, and no sum over rows is ever split between threads: the bits do not depend on their number. Rows are
taken in chunks, so that a chunk of dz stays in the L2 cache while every column of x and h passes over it.
"""

from __future__ import annotations

from .barrier import stopped
from .jit import helper, inlined, kernel
from .layout import (
    Layer,
    alive_rows,
    entering_row,
    full_units,
    leaving_row,
    panel,
    slab_panel,
    slab_row,
    slab_step,
    time_of,
    unit_share,
)
from .memory import read, read_int, write_int
from .simd import fill, fma, load, store
from .tags import (
    GROUP,
    compiled_where,
    element_bytes,
    h_rows,
    h_width,
    is_last,
    peephole_sees_new,
    peephole_slots,
    slots,
    two_phases,
    units,
    vector_bytes,
    x_rows,
    x_width,
)
from .threads import job, run_whole
from .tiles import outer_all, outer_h, outer_x

__all__ = ["CHUNK_SCRATCH", "gradients"]

# Rows in a chunk. 64 reloads the sums too often, 256 no longer fits beside the weights' gradients.
_CHUNK = 128
_X, _H, _OPERAND, _C_OLD, _C_NEW, _BEFORE, _ALIVE, _ROW, _DZ, _ONE = range(10)
CHUNK_SCRATCH = 10 * _CHUNK * 8


@inlined
def _entry(tables, number, k):
    return tables + (number * _CHUNK + k) * 8


@helper
def fill_chunk(a, tables, s, r, count):
    """Tables of the ``count`` packed rows from (s, r) on; returns the (s, r) that follows."""
    v = read(Layer, a)
    for k in range(count):
        while r >= read_int(v.active + s * 8):
            s, r = s + 1, 0
        t, b = time_of(a, s, r)
        before = read_int(v.offset + s * 8)
        write_int(_entry(tables, _X, k), v.x + t * v.x_time + b * v.x_batch)
        write_int(_entry(tables, _H, k), entering_row(a, v.hs, s, r))
        write_int(_entry(tables, _OPERAND, k), v.operand + (before + r) * v.state_stride)
        if v.peephole != 0:
            write_int(_entry(tables, _C_OLD, k), entering_row(a, v.cs, s, r))
            write_int(_entry(tables, _C_NEW, k), leaving_row(a, v.cs, s, r))
        write_int(_entry(tables, _BEFORE, k), before)
        write_int(_entry(tables, _ALIVE, k), read_int(v.active + s * 8))
        write_int(_entry(tables, _ROW, k), r)
        write_int(_entry(tables, _ONE, k), v.ones)
        r += 1
    return s, r


@helper
def fill_dz(phase, tables, slab, ahead, U, u, count):
    """Table of the chunk's rows of dz in the panel that starts at unit vector u."""
    for k in range(count):
        step = slab_step(phase, slab, U, read_int(_entry(tables, _BEFORE, k)))
        start = slab_panel(phase, step, alive_rows(ahead, read_int(_entry(tables, _ALIVE, k))), u)
        write_int(_entry(tables, _DZ, k), start + read_int(_entry(tables, _ROW, k)) * slab_row(phase, ahead, U))


@compiled_where(lambda phase: bool(phase.cell.peepholes))
def add_peephole_gradients(phase, out, stride, tables, u, count, add):
    """dp += sum over rows of dz * c, for one unit vector: c before the step, or after it for the output gate."""
    zero = fill(phase, 0.0)
    for gate in range(len(peephole_slots(phase))):
        slot = peephole_slots(phase)[gate] * vector_bytes(phase)
        cells = _C_OLD
        if peephole_sees_new(phase)[gate]:
            cells = _C_NEW
        total = zero
        for k in range(count):
            dz = load(phase, read_int(_entry(tables, _DZ, k)) + slot)
            c = load(phase, read_int(_entry(tables, cells, k)) + u * vector_bytes(phase))
            total = fma(dz, c, total)
        here = out + gate * stride + u * vector_bytes(phase)
        if add:
            total = load(phase, here) + total
        store(total, here)


@helper
def add_chunk(phase, a, tables, u_first, u_last, count, add):
    """A chunk's share of the gradients of a zone's panels in [u_first, u_last): added, or the first that is there."""
    v = read(Layer, a)
    slab, dwx, dwh, bias, operands = v.slab, v.gradient_wx, v.gradient_wh, v.gradient_bias, _H
    if two_phases(phase) and is_last(phase):
        slab, dwx, dwh, bias = v.slab2, v.gradient_wx2, v.gradient_wh2, v.gradient_bias2
        operands = _OPERAND
    dz = _entry(tables, _DZ, 0)
    x_row, h_row = x_width(phase) * vector_bytes(phase), h_width(phase) * vector_bytes(phase)
    for u in range(u_first, u_last, units(phase)):
        fill_dz(phase, tables, slab, v.ahead, v.U, u, count)
        out = dwx + u // units(phase) * x_row * v.I
        tiles, i = (v.I + x_rows(phase) - 1) // x_rows(phase), 0
        for tile in range(tiles):
            m = (v.I - i + tiles - tile - 1) // (tiles - tile)
            outer_x(phase, m, out + i * x_row, _entry(tables, _X, 0), i * element_bytes(phase), dz, 0, count, add)
            i += m
        out = dwh + u // units(phase) * h_row * v.H
        tiles, i = (v.H + h_rows(phase) - 1) // h_rows(phase), 0
        for tile in range(tiles):
            m = (v.H - i + tiles - tile - 1) // (tiles - tile)
            outer_h(phase, m, out + i * h_row, _entry(tables, operands, 0), i * element_bytes(phase), dz, 0, count, add)
            i += m
        outer_all(phase, bias + u * slots(phase) * vector_bytes(phase), _entry(tables, _ONE, 0), dz, count, add)
        add_peephole_gradients(phase, v.gradient_peephole, v.state_stride, tables, u, count, add)


@helper
def add_chunk_zones(full, tail, a, tables, u_first, u_last, count, add):
    """``add_chunk`` over a thread's hidden units, in both zones."""
    end = full_units(full, read(Layer, a).U)
    add_chunk(full, a, tables, u_first, min(u_last, end), count, add)
    if units(full) > 1:
        add_chunk(tail, a, tables, max(u_first, end), u_last, count, add)


@helper
def gradients_share(cell, a, w, n):
    """Thread w of n: all rows, for its hidden units."""
    v = read(Layer, a)
    tables = v.scratch + w * v.scratch_stride
    grain = 1
    if units(panel(cell, 0, 1)) > 1:
        grain = GROUP
    u_first, u_last = unit_share(v.U, grain, w, n)
    s = r = 0
    for begin in range(0, v.total, _CHUNK):
        if stopped(v.barrier):
            return
        count = min(_CHUNK, v.total - begin)
        s, r = fill_chunk(a, tables, s, r, count)
        add = v.add_sums or begin > 0
        add_chunk_zones(panel(cell, 0, 1), panel(cell, 0, 0), a, tables, u_first, u_last, count, add)
        if two_phases(cell):
            add_chunk_zones(panel(cell, 1, 1), panel(cell, 1, 0), a, tables, u_first, u_last, count, add)


gradients_job = job(gradients_share)


@kernel
def gradients(cell, a, pool, threads):
    """Gradients of one layer's packed parameters; ``a``: address of its argument block, dz in its slabs."""
    run_whole(gradients_job(cell), a, pool, threads, read(Layer, a).brief)
