"""States on their way in and out: between the caller's (B, H) arrays and the padded rows, sorted by length."""

from __future__ import annotations

from .jit import helper
from .layout import Layer, state_row, valid_lanes
from .memory import read, read_int
from .simd import fill, lanes, load, load_part, store, store_part
from .tags import vector_bytes

__all__ = ["enter_rows", "leave_rows"]


@helper
def enter_rows(like, a, rows, source, source_row):
    """Copy a (B, H) array into the first B padded rows; zeros where there is none."""
    v = read(Layer, a)
    for r in range(v.B):
        here = source + read_int(v.order + r * 8) * source_row
        for u in range(v.U):
            value = fill(like, 0.0)
            if source != 0:
                value = load_part(like, here + u * vector_bytes(like), valid_lanes(like, v.H, u))
            store(value, rows + r * v.state_stride + u * vector_bytes(like))


@helper
def leave_rows(like, a, rows, target, target_row, after_steps):
    """Copy padded rows to a (B, H) array: the first B rows, or what each row's last valid step left."""
    v = read(Layer, a)
    for r in range(v.B):
        place = r
        if after_steps:
            place = state_row(v.keep, v.first, v.offset, v.B, read_int(v.lengths + r * 8) - 1) + r
        here, there = rows + place * v.state_stride, target + read_int(v.order + r * 8) * target_row
        for u in range(v.U):
            value, valid = load(like, here + u * vector_bytes(like)), valid_lanes(like, v.H, u)
            if valid == lanes(like):
                store(value, there + u * vector_bytes(like))
            else:
                store_part(value, there + u * vector_bytes(like), valid)
