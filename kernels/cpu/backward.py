"""Backpropagation through time: the loop over steps from the last to the first, one for all cells.

A thread takes groups of hidden units (the columns of the recurrent product), or rows. For its columns it sums
dh = dz Whh over the slots of the step after, and at once turns them into dz of the step before, in place of the
activations: dh never leaves the cache. One barrier a step and phase; the gradient of the input, which nobody waits
for, is taken between a thread's arrival there and the wait.
"""

from __future__ import annotations

from .barrier import alone, arrive, meet, reconsider, reset, stopped, wait
from .cell_math import backward as cell_backward
from .cell_math import gate_backward
from .column_sums import (
    GROUP_ROWS,
    blocks_of,
    clear,
    column_bytes,
    most_rows,
    rows_at_once,
    sum_columns,
)
from .forward import clear_padding
from .jit import helper, inlined, kernel
from .layout import (
    AHEAD_ROWS,
    TABLE_BYTES,
    Layer,
    Table,
    alive_rows,
    fill_state_tables,
    fill_table,
    is_reset,
    load_gates,
    load_peepholes,
    load_slots,
    own_rows,
    panel,
    row_share,
    share,
    slab_row,
    slab_step,
    store_all_slots,
    store_gates,
    table_row,
    time_of,
    unit_share,
    unit_slots,
    valid_lanes,
)
from .memory import prefetch, read, read_int, write_int
from .simd import fill, lanes, load, load_part, store, store_part
from .states import enter_rows, leave_rows
from .system import leave_gil, take_gil
from .tags import GROUP, compiled_where, has_c, slots, two_phases, units, vector_bytes
from .threads import job, run_job

__all__ = ["backward"]


@inlined
def clear_lanes(like, base, stride, H, u):
    """Zero the lanes past the last hidden unit in ``slots`` vectors: the products over slots read whole vectors."""
    valid = valid_lanes(like, H, u)
    if valid < lanes(like):
        for slot in range(slots(like)):
            here = base + slot * stride
            store(load_part(like, here, valid), here)


@inlined
def slabs_of(phase, gates, a, s):
    """Where step s lies in the slabs: rows of a panel, then the step and the bytes of a row, in the last phase's slab
    and in the first's."""
    v = read(Layer, a)
    before = read_int(v.offset + s * 8)
    slab = v.slab
    if two_phases(phase):
        slab = v.slab2
    return (
        alive_rows(v.ahead, read_int(v.active + s * 8)),
        slab_step(phase, slab, v.U, before),
        slab_row(phase, v.ahead, v.U),
        slab_step(gates, v.slab, v.U, before),
        slab_row(gates, v.ahead, v.U),
    )


@helper
def fetch(phase, gates, a, tables, m, i, s, r, r_stride, u_first, u_last):
    """Ask for what ``differentiate`` will read: by then the product before it has hidden the way from memory."""
    v = read(Layer, a)
    alive, step, row_bytes, gate_step, gate_row = slabs_of(phase, gates, a, s)
    for e in range(m):
        h_in = read_int(table_row(tables, v.B, Table.H_IN, i + e))
        c_in = read_int(table_row(tables, v.B, Table.C_IN, i + e))
        dy = read_int(table_row(tables, v.B, Table.Y, i + e))
        for u in range(u_first, u_last):
            at = u * vector_bytes(phase)
            prefetch(h_in + at)
            prefetch(dy + at)
            if has_c(phase):
                prefetch(c_in + at)
            here = unit_slots(phase, step, alive, row_bytes, r + e * r_stride, u)
            for slot in range(slots(phase)):
                prefetch(here + slot * units(phase) * vector_bytes(phase))
            if two_phases(phase):
                here = unit_slots(gates, gate_step, alive, gate_row, r + e * r_stride, u)
                for slot in range(slots(gates)):
                    prefetch(here + slot * units(gates) * vector_bytes(gates))


@helper
def differentiate(phase, gates, a, tables, m, i, dh, dh_row, s, r, r_stride, u_first, u_last):
    """From the gradient of the state that leaves step s to dz of its last phase, for m rows and a few unit vectors.

    dh: m rows of u_last - u_first vectors, all but dy and the cell's own carry.
    """
    v = read(Layer, a)
    alive, step, row_bytes, gate_step, gate_row = slabs_of(phase, gates, a, s)
    for e in range(m):
        row = r + e * r_stride
        h_in = read_int(table_row(tables, v.B, Table.H_IN, i + e))
        c_in = read_int(table_row(tables, v.B, Table.C_IN, i + e))
        dy = read_int(table_row(tables, v.B, Table.Y, i + e))
        for u in range(u_first, u_last):
            at = u * vector_bytes(phase)
            here = unit_slots(phase, step, alive, row_bytes, row, u)
            gate_here = unit_slots(gates, gate_step, alive, gate_row, row, u)
            carry_here = v.carry + row * v.state_stride + at
            outer = load_part(phase, dy + at, valid_lanes(phase, v.H, u))
            total = load(phase, dh + e * dh_row + (u - u_first) * vector_bytes(phase))
            carried = load(phase, carry_here)
            if not has_c(phase):
                # Before dy: the order in which a sequence that is cut here sums them (see ``finish``).
                total = total + carried
            dz, carry = cell_backward(
                phase,
                load_slots(phase, gates, here, gate_here),
                total + outer,
                carried,
                load(phase, h_in + at),
                load(phase, c_in + at),
                load_peepholes(phase, v.peephole, v.state_stride, at),
            )
            store_all_slots(phase, gates, dz, here, gate_here)
            store(carry, carry_here)
            clear_lanes(phase, here, units(phase) * vector_bytes(phase), v.H, u)
            if two_phases(phase):
                clear_lanes(gates, gate_here, units(gates) * vector_bytes(gates), v.H, u)


@compiled_where(lambda gates: len(gates.cell.phases) == 2)
def differentiate_gates(gates, a, tables, m, i, d, d_row, s, r, r_stride, u_first, u_last):
    """From the gradient of a second phase's operand to dz of the first phase."""
    v = read(Layer, a)
    alive, before = alive_rows(v.ahead, read_int(v.active + s * 8)), read_int(v.offset + s * 8)
    step, row_bytes = slab_step(gates, v.slab, v.U, before), slab_row(gates, v.ahead, v.U)
    for e in range(m):
        row = r + e * r_stride
        h_in = read_int(table_row(tables, v.B, Table.H_IN, i + e))
        for u in range(u_first, u_last):
            at = u * vector_bytes(gates)
            here = unit_slots(gates, step, alive, row_bytes, row, u)
            carry_here = v.carry + row * v.state_stride + at
            dz, carry = gate_backward(
                gates,
                load_gates(gates, here),
                load(gates, d + e * d_row + (u - u_first) * vector_bytes(gates)),
                load(gates, carry_here),
                load(gates, h_in + at),
            )
            store_gates(gates, dz, here)
            store(carry, carry_here)
            clear_lanes(gates, here, units(gates) * vector_bytes(gates), v.H, u)


@helper
def cut_at_resets(like, a, m, d, d_row, vectors, s, r, r_stride, u):
    """No gradient passes a reset: zeros (not a product, which would keep a NaN) in dh and in the carry."""
    v = read(Layer, a)
    if v.resets == 0:
        return
    zero = fill(like, 0.0)
    for e in range(m):
        row = r + e * r_stride
        if is_reset(a, s, row):
            for k in range(vectors):
                store(zero, d + e * d_row + k * vector_bytes(like))
                store(zero, v.carry + row * v.state_stride + (u + k) * vector_bytes(like))


@helper
def finish(cell, a, m, d, d_row, vectors, r, r_stride, u):
    """The gradient of the initial state: what is left of dh before step 0, and the carry where it is part of dh."""
    v = read(Layer, a)
    for e in range(m):
        row = (r + e * r_stride) * v.state_stride
        for k in range(vectors):
            at = row + (u + k) * vector_bytes(cell)
            dh = load(cell, d + e * d_row + k * vector_bytes(cell))
            if not has_c(cell):
                dh = dh + load(cell, v.carry + at)
            store(dh, v.dh + at)


@helper
def step_columns(cell, second, zone, gate_zone, a, tables, scratch, s, first, stride, most, vectors, u):
    """A group of columns (unit vectors u, ...) at step s: sum what flows back into them, and differentiate.

    ``second``: the operand of the second phase, within step s; else h, into step s - 1 (or the initial state), with
    the rows whose last step s - 1 is. ``zone``, ``gate_zone``: panels of the last and first phase where u lies.
    """
    v = read(Layer, a)
    n = before = 0
    if s < v.steps:
        n, before = read_int(v.active + s * 8), read_int(v.offset + s * 8)
    rows = own_rows(n, first, stride, most)
    d_row = vectors * vector_bytes(cell)
    tiles = (rows + most_rows(vectors) - 1) // most_rows(vectors)
    blocks = blocks_of(panel(cell, 0, 1), False, a, tiles, vectors)
    i = 0
    while i < rows:
        m, r = rows_at_once(rows, tiles, blocks, i), first + i * stride
        clear(cell, scratch, m * vectors)
        if second:
            sum_columns(
                panel(cell, 1, 1), panel(cell, 1, 0), False, cell, a, vectors, m, scratch,
                slab_step(panel(cell, 1, 1), v.slab2, v.U, before), n, r, stride,
                v.back_wh2 + u * column_bytes(panel(cell, 1, 1), False, v.U), blocks,
            )  # fmt: skip
            differentiate_gates(gate_zone, a, tables, m, i, scratch, d_row, s, r, stride, u, u + vectors)
        else:
            if s > 0:
                fetch(zone, gate_zone, a, tables, m, i, s - 1, r, stride, u, u + vectors)
            sum_columns(
                panel(cell, 0, 1), panel(cell, 0, 0), False, cell, a, vectors, m, scratch,
                slab_step(panel(cell, 0, 1), v.slab, v.U, before), n, r, stride,
                v.back_wh + u * column_bytes(panel(cell, 0, 1), False, v.U), blocks,
            )  # fmt: skip
            cut_at_resets(cell, a, m, scratch, d_row, vectors, s, r, stride, u)
            if s == 0:
                finish(cell, a, m, scratch, d_row, vectors, r, stride, u)
            else:
                differentiate(zone, gate_zone, a, tables, m, i, scratch, d_row, s - 1, r, stride, u, u + vectors)
        i += m
    if s > 0 and not second:
        last = own_rows(read_int(v.active + (s - 1) * 8), first, stride, most)
        r = first + rows * stride
        differentiate(
            zone, gate_zone, a, tables, last - rows, rows, v.dh + r * v.state_stride + u * vector_bytes(cell),
            stride * v.state_stride, s - 1, r, stride, u, u + vectors,
        )  # fmt: skip


@helper
def step_share(cell, second, a, tables, scratch, s, first, stride, most, u_first, u_last):
    """``step_columns`` for all of a thread's hidden units: groups, then vectors; more at once for a single row."""
    v = read(Layer, a)
    full = min(u_last, v.U // GROUP * GROUP)
    zone, gate_zone = panel(cell, 1, 1), panel(cell, 0, 1)
    u = u_first
    while u < full:
        vectors = GROUP
        if v.B == 1 and u + 2 * GROUP <= full:
            vectors = 2 * GROUP
        step_columns(cell, second, zone, gate_zone, a, tables, scratch, s, first, stride, most, vectors, u)
        u += vectors
    u = max(u_first, v.U // GROUP * GROUP)
    while u < u_last:
        vectors = 1
        if v.B == 1:
            vectors = u_last - u
        step_columns(
            cell, second, panel(cell, 1, 0), panel(cell, 0, 0), a, tables, scratch, s, first, stride, most, vectors, u
        )
        u += vectors


@helper
def write_input_gradient(like, a, table, i, m, d, vectors, column):
    """dx rows i, ... of the table: store, or add, ``vectors`` vectors of columns."""
    v = read(Layer, a)
    for e in range(m):
        row = read_int(table + (i + e) * 8)
        for k in range(vectors):
            at = (column + k) * vector_bytes(like)
            valid = min(lanes(like), v.I - (column + k) * lanes(like))
            value = load(like, d + (e * vectors + k) * vector_bytes(like))
            if v.add_dx:
                value = value + load_part(like, row + at, valid)
            store_part(value, row + at, valid)


@helper
def input_columns(cell, a, table, scratch, s, first, stride, i, last, vectors, column):
    """dx of rows i, ..., last - 1 and a group of columns at step s: dz Wx over the slots of all phases."""
    v = read(Layer, a)
    n, before = read_int(v.active + s * 8), read_int(v.offset + s * 8)
    tiles = (last - i + most_rows(vectors) - 1) // most_rows(vectors)
    blocks = blocks_of(panel(cell, 0, 1), True, a, tiles, vectors)
    end = last - i
    done = 0
    while done < end:
        m, r = rows_at_once(end, tiles, blocks, done), first + (i + done) * stride
        clear(cell, scratch, m * vectors)
        for e in range(m):
            row = read_int(table + (i + done + e) * 8)
            for k in range(column, column + vectors):
                prefetch(row + k * vector_bytes(cell))
        sum_columns(
            panel(cell, 0, 1), panel(cell, 0, 0), True, cell, a, vectors, m, scratch,
            slab_step(panel(cell, 0, 1), v.slab, v.U, before), n, r, stride,
            v.back_wx + column * column_bytes(panel(cell, 0, 1), True, v.U), blocks,
        )  # fmt: skip
        if two_phases(cell):
            sum_columns(
                panel(cell, 1, 1), panel(cell, 1, 0), True, cell, a, vectors, m, scratch,
                slab_step(panel(cell, 1, 1), v.slab2, v.U, before), n, r, stride,
                v.back_wx2 + column * column_bytes(panel(cell, 1, 1), True, v.U), blocks,
            )  # fmt: skip
        write_input_gradient(cell, a, table, i + done, m, scratch, vectors, column)
        done += m


@helper
def input_gradient(cell, a, tables, scratch, s, first, stride, most, w, parties):
    """dx of step s. Threads that share the rows deal out column groups times row tiles."""
    v = read(Layer, a)
    rows = own_rows(read_int(v.active + s * 8), first, stride, most)
    table = table_row(tables, v.B, Table.X, 0)
    fill_table(a, table, v.dx, v.dx_time, v.dx_batch, s, first, stride, rows)
    count = (v.I + lanes(cell) - 1) // lanes(cell)
    groups = count // GROUP
    tiles = (rows + GROUP_ROWS - 1) // GROUP_ROWS
    task, end = share((groups + count % GROUP) * tiles, w, parties)
    while task < end:
        column, tile = task // tiles, task % tiles
        taken = min(tiles - tile, end - task)
        i, last = rows * tile // tiles, rows * (tile + taken) // tiles
        vectors, at = GROUP, column * GROUP
        if column >= groups:
            vectors, at = 1, column + groups * (GROUP - 1)
        input_columns(cell, a, table, scratch, s, first, stride, i, last, vectors, at)
        task += taken


@helper
def input_gradient_ahead(cell, a, table, scratch, w, n):
    """dx of all steps after the loop, for few rows a step: rows of many steps fill a tile. Threads own columns."""
    v = read(Layer, a)
    count = (v.I + lanes(cell) - 1) // lanes(cell)
    groups = count // GROUP
    first_group, last_group = share(groups + count % GROUP, w, n)
    s = r = 0
    for begin in range(0, v.total, AHEAD_ROWS):
        if stopped(v.barrier):
            return
        rows = min(AHEAD_ROWS, v.total - begin)
        for k in range(rows):
            while r >= read_int(v.active + s * 8):
                s, r = s + 1, 0
            t, b = time_of(a, s, r)
            write_int(table + k * 8, v.dx + t * v.dx_time + b * v.dx_batch)
            r += 1
        for group in range(first_group, last_group):
            vectors, column = GROUP, group * GROUP
            if group >= groups:
                vectors, column = 1, group + groups * (GROUP - 1)
            # In a row-major slab a packed row stands where row ``begin + i`` of step 0 would.
            input_columns(cell, a, table, scratch, 0, begin, 1, 0, rows, vectors, column)


@helper
def prepare_step(a, tables, s, first, stride, most):
    """Tables of step s: the states that entered it, and dy."""
    v = read(Layer, a)
    rows = own_rows(read_int(v.active + s * 8), first, stride, most)
    fill_state_tables(a, tables, s, first, stride, rows)
    fill_table(a, table_row(tables, v.B, Table.Y, 0), v.dy, v.dy_time, v.dy_batch, s, first, stride, rows)


@helper
def backward_share(cell, a, w, n):
    """Thread w of n: all steps from the last to the first, for its rows or its hidden units."""
    v = read(Layer, a)
    tables = v.scratch + w * v.scratch_stride
    ahead_table = tables + TABLE_BYTES * v.B
    scratch = (ahead_table + AHEAD_ROWS * 8 + 63) // 64 * 64
    (first, stride, most), parties = row_share(a, 0, 1), n
    u_first, u_last = unit_share(v.U, GROUP, w, n)
    if v.by_rows:
        (first, stride, most), parties = row_share(a, w, n), 1
        u_first, u_last = 0, v.U
    if v.dx != 0 and not v.add_dx:
        clear_padding(cell, a, v.dx, v.dx_time, v.dx_batch, v.I, w, n)
    arrivals = 0
    for s in range(v.steps, -1, -1):
        if stopped(v.barrier):
            return
        if two_phases(cell) and s < v.steps:
            # The tables still hold this step, from when its last phase was differentiated.
            step_share(cell, True, a, tables, scratch, s, first, stride, most, u_first, u_last)
            arrivals = meet(v.barrier, parties, arrivals, w)
        if s > 0:
            prepare_step(a, tables, s - 1, first, stride, most)
        step_share(cell, False, a, tables, scratch, s, first, stride, most, u_first, u_last)
        reconsider(v.barrier, parties, arrivals, w)
        if parties > 1:
            arrivals += parties
            arrive(v.barrier)
        if v.dx != 0 and s < v.steps and not v.ahead:
            w_here, n_here = w, parties
            if parties == 1:
                w_here = 0
            input_gradient(cell, a, tables, scratch, s, first, stride, most, w_here, n_here)
        if parties > 1:
            wait(v.barrier, arrivals, w)
        if alone(v.barrier, arrivals):
            if w > 0:
                return
            parties, n, u_first, u_last = 1, 1, 0, v.U
    if v.dx != 0 and v.ahead:
        input_gradient_ahead(cell, a, ahead_table, scratch, w, n)


backward_job = job(backward_share)


@kernel
def backward(cell, a, pool, threads):
    """Run one layer in one direction; ``a``: address of its argument block.

    The gradients of the final state come in and those of the initial state go out, in the caller's order.
    """
    v = read(Layer, a)
    thread = leave_gil(v.brief)
    enter_rows(cell, a, v.dh, v.h_in, v.h_in_row)
    enter_rows(cell, a, v.carry, v.c_in, v.c_in_row)
    reset(v.barrier, threads)
    run_job(backward_job(cell), a, pool, threads, v.barrier, v.short)
    leave_rows(cell, a, v.dh, v.h_out, v.h_out_row, False)
    if has_c(cell):
        leave_rows(cell, a, v.carry, v.c_out, v.c_out_row, False)
    take_gil(thread)
