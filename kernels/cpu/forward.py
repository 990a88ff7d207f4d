"""The loop over time, forward: one for all cells, for inference and for training.

For every step, panel of hidden units and tile of rows: the register tile sums bias + x Wx + h Wh, and the cell's
math turns the sums, still in L1, into the new state. In training the sums' place is the slab that backward needs; in
inference it is a scratch of a tile's size, so that nothing of size B * 4H is ever written (2 MB of it cost 15 %).

Threads own hidden units, with one barrier a step and phase, or rows, with none.
"""

from __future__ import annotations

from .barrier import alone, meet, reconsider, reset, stopped
from .cell_math import forward as cell_forward
from .cell_math import gate as cell_gate
from .jit import helper, inlined, kernel
from .layout import (
    AHEAD_ROWS,
    TABLE_BYTES,
    Layer,
    Table,
    alive_rows,
    fill_state_tables,
    fill_table,
    full_units,
    load_gates,
    load_peepholes,
    load_slots,
    own_rows,
    panel,
    panel_row,
    row_share,
    slab_panel,
    slab_row,
    slab_step,
    store_gates,
    store_slots,
    table_row,
    unit_share,
    unit_slots,
    valid_lanes,
)
from .memory import prefetch, read, read_int
from .simd import fill, lanes, load, store, store_part
from .states import enter_rows, leave_rows
from .system import leave_gil, take_gil
from .tags import (
    GROUP,
    MOST_AT_ONCE,
    compiled_where,
    h_lines,
    h_width,
    has_c,
    is_last,
    row_limit,
    slots,
    two_phases,
    units,
    vector_bytes,
    weight_bytes,
    wide,
    x_lines,
    x_width,
)
from .threads import job, run_job
from .tiles import accumulate, accumulate_wide

__all__ = ["forward"]


@compiled_where(lambda phase: len(phase.cell.phases) == 2)
def activate_gates(phase, a, m, z, z_row, tables, i, u):
    """First phase of two: activate m rows of a panel, and write the operand of the second."""
    v = read(Layer, a)
    for e in range(m):
        h_in = read_int(table_row(tables, v.B, Table.H_IN, i + e))
        operand = read_int(table_row(tables, v.B, Table.OPERAND, i + e))
        for j in range(units(phase)):
            at = (u + j) * vector_bytes(phase)
            here = z + e * z_row + j * vector_bytes(phase)
            activated, product = cell_gate(phase, load_gates(phase, here), load(phase, h_in + at))
            store_gates(phase, activated, here)
            store(product, operand + at)


@inlined
def activate(phase, gates, a, m, z, z_row, tables, i, u, gate_step, alive, r, r_stride):
    """Last phase: turn the sums of m rows of a panel into the new state; write it to the state rows and to y.

    ``gates``: the first phase's panel in the same zone; its slots lie in ``gate_step``, for rows r, r + r_stride, ...
    """
    v = read(Layer, a)
    gate_row = slab_row(gates, v.ahead, v.U)
    for e in range(m):
        h_in = read_int(table_row(tables, v.B, Table.H_IN, i + e))
        c_in = read_int(table_row(tables, v.B, Table.C_IN, i + e))
        h_out = read_int(table_row(tables, v.B, Table.H_OUT, i + e))
        c_out = read_int(table_row(tables, v.B, Table.C_OUT, i + e))
        y = read_int(table_row(tables, v.B, Table.Y, i + e))
        for j in range(units(phase)):
            at = (u + j) * vector_bytes(phase)
            here = z + e * z_row + j * vector_bytes(phase)
            gate_here = unit_slots(gates, gate_step, alive, gate_row, r + e * r_stride, u + j)
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


@inlined
def finish(phase, gates, a, m, z, z_row, tables, i, u, gate_step, alive, r, r_stride):
    """What follows the sums of m rows of a panel, in either phase."""
    if is_last(phase):
        activate(phase, gates, a, m, z, z_row, tables, i, u, gate_step, alive, r, r_stride)
    else:
        activate_gates(phase, a, m, z, z_row, tables, i, u)


@inlined
def fetch(phase, m, z, z_row):
    """Ask for the lines of the tape that a tile will write: by then its product has hidden the way to memory."""
    for e in range(m):
        for k in range(units(phase) * slots(phase)):
            prefetch(z + e * z_row + k * vector_bytes(phase))


@helper
def packed_before(a, s, origin):
    """Packed rows before step s, as far as they have places in the slab; ``origin``: those before the chunk."""
    v = read(Layer, a)
    if v.keep:
        return read_int(v.offset + s * 8)
    if v.ahead:
        return read_int(v.offset + s * 8) - origin
    return 0


@inlined
def together(phase, count):
    """Of ``count`` panels, how many a tile of one row takes: none is left alone at the end."""
    if count <= MOST_AT_ONCE:
        return count
    if count == MOST_AT_ONCE + 1:
        return 2
    return wide(phase)


@inlined
def advance(phase, gates, a, tables, scratch, s, origin, first, stride, rows, u_first, u_last):
    """One phase of step s, for the rows first, first + stride, ... and the panels of one zone in [u_first, u_last).

    Panels are taken in opposite order at every other step: what the L2 cache still holds of the weights comes first.
    """
    v = read(Layer, a)
    before = packed_before(a, s, origin)
    # Without a tape one part of B rows serves every step: threads that own rows may be at different steps, so the
    # places of rows in it must not depend on how many are alive.
    alive = alive_rows(v.ahead, v.B)
    if v.keep:
        alive = alive_rows(v.ahead, read_int(v.active + s * 8))
    bias, wx, wh, slab, operands = v.bias, v.wx, v.wh, v.slab, Table.H_IN
    if two_phases(phase) and is_last(phase):
        bias, wx, wh, slab, operands = v.bias2, v.wx2, v.wh2, v.slab2, Table.OPERAND
    step, gate_step = slab_step(phase, slab, v.U, before), slab_step(gates, v.slab, v.U, before)
    in_slab = v.keep or v.ahead or not is_last(phase)
    depth = v.I
    if v.ahead:
        depth = 0
    wx_panel = x_width(phase) * weight_bytes(phase) * v.I
    wh_panel = h_width(phase) * weight_bytes(phase) * v.H
    bias_panel = panel_row(phase)
    count = (u_last - u_first + units(phase) - 1) // units(phase)
    tiles = (rows + row_limit(phase) - 1) // row_limit(phase)
    j = 0
    while j < count:
        taken = 1
        if rows == 1:
            taken = together(phase, count - j)
        number, following = j, min(j + taken, count - 1)
        if s & 1:
            number, following = count - j - taken, max(count - j - taken - 1, 0)
        u = u_first + number * units(phase)
        number, following = u // units(phase), u_first // units(phase) + following
        i = 0
        for tile in range(tiles):
            m = (rows - i + tiles - tile - 1) // (tiles - tile)
            r = first + i * stride
            z, z_row, z_panel = scratch, panel_row(phase), panel_row(phase)
            if in_slab:
                z_row = slab_row(phase, v.ahead, v.U)
                z, z_row, z_panel = slab_panel(phase, step, alive, u) + r * z_row, stride * z_row, z_panel * alive
            init, init_row, init_panel = bias + number * bias_panel, 0, bias_panel
            if v.ahead:
                init, init_row, init_panel = z, z_row, z_panel
            if v.keep:
                fetch(phase, m, z, z_row)
            # A tile prefetches one line a step of k; a few tiles together the whole next panel.
            x_line, h_line = tile % x_lines(phase) * 64, tile % h_lines(phase) * 64
            x_table, h_table = table_row(tables, v.B, Table.X, i), table_row(tables, v.B, operands, i)
            next_x, next_h = wx + following * wx_panel + x_line * v.I, wh + following * wh_panel + h_line * v.H
            if taken == 1:
                accumulate(
                    phase, m, z, z_row, init, init_row, x_table, depth, wx + number * wx_panel, next_x,
                    h_table, v.H, wh + number * wh_panel, next_h,
                )  # fmt: skip
            else:
                accumulate_wide(
                    phase, taken, z, z_panel, init, init_panel, x_table, depth, wx + number * wx_panel, next_x,
                    h_table, v.H, wh + number * wh_panel, next_h,
                )  # fmt: skip
            for p in range(taken):
                here = u + p * units(phase)
                finish(phase, gates, a, m, z + p * z_panel, z_row, tables, i, here, gate_step, alive, r, stride)
            i += m
        j += taken


@inlined
def advance_zones(full, tail, gates, tail_gates, a, tables, scratch, s, origin, first, stride, rows, u_first, u_last):
    """One phase of step s over a thread's hidden units, in both zones."""
    end = full_units(full, read(Layer, a).U)
    advance(full, gates, a, tables, scratch, s, origin, first, stride, rows, u_first, min(u_last, end))
    if units(full) > 1:
        advance(tail, tail_gates, a, tables, scratch, s, origin, first, stride, rows, max(u_first, end), u_last)


@helper
def input_product(phase, a, table, begin, end, origin, u_first, u_last):
    """Bias and input product of the steps [begin, end) for the panels of one zone, into the slab's rows.

    With few rows a step, rows of several steps fill a register tile together, and read the weights once.
    """
    v = read(Layer, a)
    bias, wx, slab = v.bias, v.wx, v.slab
    if two_phases(phase) and is_last(phase):
        bias, wx, slab = v.bias2, v.wx2, v.slab2
    row_bytes = slab_row(phase, 1, v.U)
    wx_panel = x_width(phase) * weight_bytes(phase) * v.I
    rows = read_int(v.offset + end * 8) - read_int(v.offset + begin * 8)
    start = slab_step(phase, slab, v.U, packed_before(a, begin, origin))
    tiles = (rows + row_limit(phase) - 1) // row_limit(phase)
    for u in range(u_first, u_last, units(phase)):
        number, i = u // units(phase), 0
        for tile in range(tiles):
            m = (rows - i + tiles - tile - 1) // (tiles - tile)
            accumulate(
                phase, m, slab_panel(phase, start, 1, u) + i * row_bytes, row_bytes,
                bias + number * panel_row(phase), 0,
                table + i * 8, v.I, wx + number * wx_panel, wx + number * wx_panel, table, 0, 0, 0,
            )  # fmt: skip
            i += m


@helper
def input_product_zones(full, tail, a, table, begin, end, origin, u_first, u_last):
    """``input_product`` over a thread's hidden units, in both zones."""
    bound = full_units(full, read(Layer, a).U)
    input_product(full, a, table, begin, end, origin, u_first, min(u_last, bound))
    if units(full) > 1:
        input_product(tail, a, table, begin, end, origin, max(u_first, bound), u_last)


@helper
def take_ahead(cell, a, table, begin, u_first, u_last):
    """The input product of a chunk of steps from ``begin`` on; returns where the chunk ends."""
    v = read(Layer, a)
    end = begin
    origin = read_int(v.offset + begin * 8)
    while end < v.steps and read_int(v.offset + (end + 1) * 8) - origin <= AHEAD_ROWS:
        rows = read_int(v.active + end * 8)
        place = read_int(v.offset + end * 8) - origin
        fill_table(a, table + place * 8, v.x, v.x_time, v.x_batch, end, 0, 1, rows)
        end += 1
    input_product_zones(panel(cell, 0, 1), panel(cell, 0, 0), a, table, begin, end, origin, u_first, u_last)
    if two_phases(cell):
        input_product_zones(panel(cell, 1, 1), panel(cell, 1, 0), a, table, begin, end, origin, u_first, u_last)
    return end


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
    ahead_table = tables + TABLE_BYTES * v.B
    scratch = (ahead_table + AHEAD_ROWS * 8 + 63) // 64 * 64
    (first, stride, most), parties = row_share(a, 0, 1), n
    grain = 1
    if units(panel(cell, 0, 1)) > 1:
        grain = GROUP
    u_first, u_last = unit_share(v.U, grain, w, n)
    if v.by_rows:
        (first, stride, most), parties = row_share(a, w, n), 1
        u_first, u_last = 0, v.U
    if v.y != 0:
        clear_padding(cell, a, v.y, v.y_time, v.y_batch, v.H, w, n)
    arrivals = origin = chunk_end = 0
    for s in range(v.steps):
        if stopped(v.barrier):
            return
        if v.ahead and s == chunk_end:
            origin = read_int(v.offset + s * 8)
            chunk_end = take_ahead(cell, a, ahead_table, s, u_first, u_last)
        rows = own_rows(read_int(v.active + s * 8), first, stride, most)
        fill_state_tables(a, tables, s, first, stride, rows)
        if not v.ahead:
            fill_table(a, table_row(tables, v.B, Table.X, 0), v.x, v.x_time, v.x_batch, s, first, stride, rows)
        if v.y != 0:
            fill_table(a, table_row(tables, v.B, Table.Y, 0), v.y, v.y_time, v.y_batch, s, first, stride, rows)
        if two_phases(cell):
            advance_zones(
                panel(cell, 0, 1), panel(cell, 0, 0), panel(cell, 0, 1), panel(cell, 0, 0),
                a, tables, scratch, s, origin, first, stride, rows, u_first, u_last,
            )  # fmt: skip
            arrivals = meet(v.barrier, parties, arrivals, w)
        advance_zones(
            panel(cell, 1, 1), panel(cell, 1, 0), panel(cell, 0, 1), panel(cell, 0, 0),
            a, tables, scratch, s, origin, first, stride, rows, u_first, u_last,
        )  # fmt: skip
        reconsider(v.barrier, parties, arrivals, w)
        arrivals = meet(v.barrier, parties, arrivals, w)
        if alone(v.barrier, arrivals):
            if w > 0:
                return
            parties, u_first, u_last = 1, 0, v.U


forward_job = job(forward_share)


@kernel
def forward(cell, a, pool, threads):
    """Run one layer in one direction; ``a``: address of its argument block.

    The initial state comes in and the final state goes out in the caller's order.
    """
    v = read(Layer, a)
    thread = leave_gil(v.brief)
    if not v.resume:
        enter_rows(cell, a, v.hs + v.first * v.B * v.state_stride, v.h_in, v.h_in_row)
        if has_c(cell):
            enter_rows(cell, a, v.cs + v.first * v.B * v.state_stride, v.c_in, v.c_in_row)
    reset(v.barrier, threads)
    run_job(forward_job(cell), a, pool, threads, v.barrier, v.short)
    if not v.resume:
        leave_rows(cell, a, v.hs, v.h_out, v.h_out_row, True)
        if has_c(cell):
            leave_rows(cell, a, v.cs, v.c_out, v.c_out_row, True)
    take_gil(thread)
