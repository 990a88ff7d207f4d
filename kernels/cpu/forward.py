"""The loop over time, forward: one for all cells, for inference and for training.

For every step, panel of hidden units and tile of rows: the register tile sums bias + x Wx + h Wh, and the cell's
math turns the sums, still in L1, into the new state. In training the sums' place is the slab that backward needs; in
inference it is a scratch of a tile's size, so that nothing of size B * 4H is ever written (2 MB of it cost 15 %).

Threads own hidden units, with one barrier a step and phase, or rows, with none.
"""

from __future__ import annotations

from .cell_math import forward as cell_forward
from .cell_math import gate as cell_gate
from .jit import helper, kernel
from .layout import (
    TABLE_BYTES,
    Layer,
    Table,
    fill_state_tables,
    fill_table,
    full_units,
    load_peepholes,
    load_slots,
    own_rows,
    panel,
    panel_row,
    slab_panel,
    slab_step,
    store_slots,
    table_row,
    unit_share,
    unit_slots,
    valid_lanes,
)
from .memory import read, read_int
from .simd import fill, lanes, load, store, store_part
from .tags import GROUP, compiled_where, h_slots, has_c, is_last, row_limit, slots, two_phases, units, vector_bytes, x_slots
from .threads import arrive, await_all, job, run_job
from .tiles import accumulate

__all__ = ["forward"]


@compiled_where(lambda phase: phase.index < len(phase.cell.phases) - 1)
def activate_gates(phase, a, m, z, z_row, tables, i, u):
    """First phase of two: activate m rows of a panel, and write the operand of the second."""
    v = read(Layer, a)
    for e in range(m):
        h_in = read_int(table_row(tables, v.B, Table.H_IN, i + e))
        operand = read_int(table_row(tables, v.B, Table.OPERAND, i + e))
        for j in range(units(phase)):
            at = (u + j) * vector_bytes(phase)
            here = z + e * z_row + j * vector_bytes(phase)
            activated, product = cell_gate(phase, load_slots(phase, phase, here, here), load(phase, h_in + at))
            store_slots(phase, activated, here)
            store(product, operand + at)


@compiled_where(lambda phase: phase.index == len(phase.cell.phases) - 1)
def activate(phase, gates, a, m, z, z_row, tables, i, u, gate_step, n, r, r_stride):
    """Last phase: turn the sums of m rows of a panel into the new state; write it to the state rows and to y.

    ``gates``: the first phase's panel in the same zone; its slots lie in ``gate_step``, for rows r, r + r_stride, ...
    """
    v = read(Layer, a)
    for e in range(m):
        h_in = read_int(table_row(tables, v.B, Table.H_IN, i + e))
        c_in = read_int(table_row(tables, v.B, Table.C_IN, i + e))
        h_out = read_int(table_row(tables, v.B, Table.H_OUT, i + e))
        c_out = read_int(table_row(tables, v.B, Table.C_OUT, i + e))
        y = read_int(table_row(tables, v.B, Table.Y, i + e))
        for j in range(units(phase)):
            at = (u + j) * vector_bytes(phase)
            here = z + e * z_row + j * vector_bytes(phase)
            gate_here = unit_slots(gates, gate_step, n, r + e * r_stride, u + j)
            sums = load_slots(phase, gates, here, gate_here)
            p = load_peepholes(phase, v.peephole, v.state_stride, at)
            activated, h, c = cell_forward(phase, sums, load(phase, h_in + at), load(phase, c_in + at), p)
            if v.keep:
                store_slots(phase, activated, here)
            store(h, h_out + at)
            if has_c(phase):
                store(c, c_out + at)
            if v.y != 0:
                valid = valid_lanes(phase, v.H, u + j)
                if valid == lanes(phase):
                    store(h, y + at)
                else:
                    store_part(h, y + at, valid)


@helper
def advance(phase, gates, a, tables, scratch, s, first, stride, rows, u_first, u_last):
    """One phase of step s, for the rows first, first + stride, ... and the panels of one zone in [u_first, u_last)."""
    v = read(Layer, a)
    # Without a tape one part of B rows serves every step: threads that own rows may be at different steps, so the
    # places of rows in it must not depend on how many are alive.
    n, before = v.B, 0
    if v.keep:
        n, before = read_int(v.active + s * 8), read_int(v.offset + s * 8)
    bias, wx, wh, slab, operands = v.bias, v.wx, v.wh, v.slab, Table.H_IN
    if two_phases(phase) and is_last(phase):
        bias, wx, wh, slab, operands = v.bias2, v.wx2, v.wh2, v.slab2, Table.OPERAND
    step = slab_step(phase, slab, v.U, before)
    gate_step = slab_step(gates, v.slab, v.U, before)
    in_slab = v.keep or not is_last(phase)
    x_width = (x_slots(phase)[1] - x_slots(phase)[0]) * vector_bytes(phase)
    h_width = (h_slots(phase)[1] - h_slots(phase)[0]) * vector_bytes(phase)
    tiles = (rows + row_limit(phase) - 1) // row_limit(phase)
    for u in range(u_first, u_last, units(phase)):
        following = u + units(phase)
        if following >= u_last:
            following = u_first
        i = 0
        for tile in range(tiles):
            m = (rows - i + tiles - tile - 1) // (tiles - tile)
            r = first + i * stride
            z, z_row = scratch, panel_row(phase)
            if in_slab:
                z, z_row = slab_panel(phase, step, n, u) + r * z_row, stride * z_row
            # A tile prefetches one line a step of k; four tiles together the whole next panel.
            line = (tile & 3) * 64
            accumulate(
                phase, m, z, z_row, bias + u * slots(phase) * vector_bytes(phase), 0,
                table_row(tables, v.B, Table.X, i), v.I, wx + u * x_width * v.I, wx + following * x_width * v.I + line * v.I,
                table_row(tables, v.B, operands, i), v.H, wh + u * h_width * v.H, wh + following * h_width * v.H + line * v.H,
            )  # fmt: skip
            if is_last(phase):
                activate(phase, gates, a, m, z, z_row, tables, i, u, gate_step, n, r, stride)
            else:
                activate_gates(phase, a, m, z, z_row, tables, i, u)
            i += m


@helper
def advance_zones(full, tail, gates, tail_gates, a, tables, scratch, s, first, stride, rows, u_first, u_last):
    """One phase of step s over a thread's hidden units, in both zones."""
    end = full_units(full, read(Layer, a).U)
    advance(full, gates, a, tables, scratch, s, first, stride, rows, u_first, min(u_last, end))
    if units(full) > 1:
        advance(tail, tail_gates, a, tables, scratch, s, first, stride, rows, max(u_first, end), u_last)


@helper
def clear_padding(like, a, base, time_stride, batch_stride, width, w, n):
    """Zeros in a (T, B, width) array past every row's length."""
    v = read(Layer, a)
    zero = fill(like, 0.0)
    for r in range(w, v.B, n):
        b = read_int(v.order + r * 8)
        for t in range(read_int(v.lengths + r * 8), v.T):
            row = base + t * time_stride + b * batch_stride
            for k in range(0, width, lanes(like)):
                store_part(zero, row + k // lanes(like) * vector_bytes(like), min(lanes(like), width - k))


@helper
def forward_share(cell, a, w, n):
    """Thread w of n: all steps, for its rows or its hidden units."""
    v = read(Layer, a)
    tables = v.scratch + w * v.scratch_stride
    scratch = tables + (TABLE_BYTES * v.B + 63) // 64 * 64
    first, stride, parties = 0, 1, n
    grain = 1
    if units(panel(cell, 0, 1)) > 1:
        grain = GROUP
    u_first, u_last = unit_share(v.U, grain, w, n)
    if v.by_rows:
        first, stride, parties = w, n, 1
        u_first, u_last = 0, v.U
    if v.y != 0:
        clear_padding(cell, a, v.y, v.y_time, v.y_batch, v.H, w, n)
    arrivals = 0
    for s in range(v.steps):
        rows = own_rows(read_int(v.active + s * 8), first, stride)
        fill_state_tables(a, tables, s, first, stride, rows)
        fill_table(a, table_row(tables, v.B, Table.X, 0), v.x, v.x_time, v.x_batch, s, first, stride, rows)
        if v.y != 0:
            fill_table(a, table_row(tables, v.B, Table.Y, 0), v.y, v.y_time, v.y_batch, s, first, stride, rows)
        if two_phases(cell):
            advance_zones(
                panel(cell, 0, 1), panel(cell, 0, 0), panel(cell, 0, 1), panel(cell, 0, 0),
                a, tables, scratch, s, first, stride, rows, u_first, u_last,
            )  # fmt: skip
            if parties > 1:
                arrivals += parties
                arrive(v.barrier)
                await_all(v.barrier, arrivals)
        advance_zones(
            panel(cell, 1, 1), panel(cell, 1, 0), panel(cell, 0, 1), panel(cell, 0, 0),
            a, tables, scratch, s, first, stride, rows, u_first, u_last,
        )  # fmt: skip
        if parties > 1:
            arrivals += parties
            arrive(v.barrier)
            await_all(v.barrier, arrivals)


forward_job = job(forward_share)


@kernel
def forward(cell, a, pool, threads):
    """Run one layer in one direction; ``a``: address of its argument block."""
    run_job(forward_job(cell), a, pool, threads)
