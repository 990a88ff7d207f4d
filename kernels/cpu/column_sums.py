"""Backward products: the sums over slots that give dh and dx, for a group of columns and some rows.

The weights of a group are read once per tile of rows. Where they exceed the L2 cache they are taken in blocks of
panels, each for many rows, whose sums wait in a scratch: the order of a sum is the same, and so are its bits.
"""

from __future__ import annotations

from .jit import helper, inlined
from .layout import Layer, alive_rows, full_units, h_slots, panel_row, share, slab_panel, slab_row, x_slots
from .memory import read
from .simd import fill, lanes, store
from .tags import GROUP, tile_rows, units, vector_bytes
from .tiles import project

__all__ = [
    "BLOCK_ROWS", "GROUP_ROWS", "blocks_of", "clear", "column_bytes", "most_rows", "rows_at_once", "sum_columns",
]  # fmt: skip

GROUP_ROWS, _VECTOR_ROWS = tile_rows(GROUP), tile_rows(1)
# A group's weights up to this size stay in the L2 cache from tile to tile; larger ones are taken in blocks, for many
# rows each, whose sums then wait in the scratch.
_CACHED_WEIGHTS, _BLOCK_WEIGHTS = 640 * 1024, 384 * 1024
BLOCK_ROWS = 96


@inlined
def fed_slots(phase, inputs):
    """First and one past last of the slots that fed the input product, or the recurrent one."""
    if inputs:
        return x_slots(phase)
    return h_slots(phase)


@inlined
def column_bytes(phase, inputs, U):
    """Bytes of the packed weights of one vector of columns: a row of a vector for every slot value."""
    begin, end = fed_slots(phase, inputs)
    return U * (end - begin) * lanes(phase) * vector_bytes(phase)


@inlined
def blocks_of(phase, inputs, a, tiles, vectors):
    """In how many blocks of panels the slots are summed: more than one if the weights of a group exceed the cache."""
    size = column_bytes(phase, inputs, read(Layer, a).U) * vectors
    if tiles < 3 or size <= _CACHED_WEIGHTS:
        return 1
    return (size + _BLOCK_WEIGHTS - 1) // _BLOCK_WEIGHTS


@helper
def project_panels(full, tail, inputs, like, a, vectors, m, out, out_row, step, n, r, r_stride, weights, tile, p0, p1):
    """out += dz W over the slots of one phase that fed the recurrent (or the input) product.

    out: m rows of ``vectors`` vectors; dz: the phase's slab at a step with n rows, rows r, r + r_stride, ...; the
    panels p0 <= p < p1 of the full zone, and with the last of them the tail zone.
    """
    v = read(Layer, a)
    alive = alive_rows(v.ahead, n)
    begin, end = fed_slots(full, inputs)
    bounds = full_units(full, v.U)
    depth = (end - begin) * lanes(full)
    row_bytes = packed_together(vectors) * vector_bytes(full)
    group_bytes = column_bytes(full, inputs, v.U) * packed_together(vectors)
    line = (tile & 3) * 64
    if p0 < p1:
        inner = depth * units(full)
        row = slab_row(full, v.ahead, v.U)
        here = step + r * row + begin * units(full) * vector_bytes(full) + p0 * alive * panel_row(full)
        first, block = weights + p0 * inner * row_bytes, (p1 - p0) * inner
        project(
            like, vectors, m, out, out_row, here, r_stride * row, alive * panel_row(full), inner, p1 - p0,
            first, first + block * (row_bytes + line), group_bytes,
        )  # fmt: skip
    if bounds < v.U and p1 == bounds // units(full):
        row = slab_row(tail, v.ahead, v.U)
        here = slab_panel(tail, step, alive, bounds) + r * row + begin * vector_bytes(tail)
        first = weights + bounds * depth * row_bytes
        project(
            like, vectors, m, out, out_row, here, r_stride * row, alive * panel_row(tail), depth, v.U - bounds,
            first, first + group_bytes, group_bytes,
        )  # fmt: skip


@helper
def sum_block(full, tail, inputs, like, a, vectors, rows, out, step, n, r, stride, weights, block, blocks):
    """Add one block of panels to the sums of some rows, tile by tile."""
    d_row = vectors * vector_bytes(like)
    limit = most_rows(vectors)
    tiles = (rows + limit - 1) // limit
    p0, p1 = share(full_units(full, read(Layer, a).U) // units(full), block, blocks)
    for tile in range(tiles):
        i, last = share(rows, tile, tiles)
        project_panels(
            full, tail, inputs, like, a, vectors, last - i, out + i * d_row, d_row, step, n, r + i * stride, stride,
            weights, tile, p0, p1,
        )  # fmt: skip


@inlined
def packed_together(vectors):
    """How many of so many vectors of columns lie side by side in the packed weights."""
    if vectors < GROUP:
        return 1
    return GROUP


@inlined
def most_rows(vectors):
    """Rows of a tile of so many vectors."""
    if vectors == GROUP:
        return GROUP_ROWS
    if vectors == 1:
        return _VECTOR_ROWS
    return 1


@helper
def sum_columns(full, tail, inputs, like, a, vectors, rows, out, step, n, r, stride, weights, blocks):
    """out += dz W for a group of columns of some rows: all panels, block after block."""
    for block in range(blocks):
        sum_block(full, tail, inputs, like, a, vectors, rows, out, step, n, r, stride, weights, block, blocks)


@helper
def clear(like, out, count):
    """Zero ``count`` vectors."""
    zero = fill(like, 0.0)
    for k in range(count):
        store(zero, out + k * vector_bytes(like))


@inlined
def rows_at_once(rows, tiles, blocks, i):
    """How many rows from i on are summed before they are differentiated: a tile's, or many where blocks return."""
    limit = (rows + tiles - 1) // tiles
    if blocks > 1:
        limit = BLOCK_ROWS
    return min(limit, rows - i)
