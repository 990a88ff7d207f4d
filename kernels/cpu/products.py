"""Plain products of matrices, for what stands beside the recurrences: out = a b, or a b + bias.

The same register tiles as the layers', where NumPy's BLAS may know nothing of this CPU (OpenBLAS takes its Haswell path
on AVX-512: half the speed), on the kernels' own threads, which no others' spinning disturbs. Each sum over k is taken
in chunks of ``_DEPTH``, one after the other, so an output's bits depend neither on the number of threads nor on the
rows and columns around it.

A panel of b, ``_DEPTH`` deep and up to 4 vectors wide, is copied or transposed into each thread's own scratch: 32 KB.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from fastrnn import guards

from .jit import helper, kernel
from .layout import share
from .memory import address_of, aligned, read
from .packing import transpose
from .simd import VECTOR_BYTES, fill, lanes, llvm_vector, load_part, load_part_at, store, store_part_at
from .tags import GROUP, element_bytes, for_elements, tile_rows, vector_bytes
from .threads import get_num_threads, job, mailboxes, run_whole
from .tiles import Emitter, by_number, by_row_count

__all__ = ["product", "suits"]

_DEPTH = 128  # of a panel: with its rows of a it stays in the L1 cache
_ROWS = 768  # of a at a time: 384 KB of them stay in the L2 cache while all panels pass
_TILE = tile_rows(GROUP)
_SCRATCH = (_DEPTH + 1) * GROUP * VECTOR_BYTES  # a panel, and its part of the bias
# Multiply-adds below which a second thread costs more than it brings, and below which NumPy is faster.
_SMALLEST_SHARED, _SMALLEST = 500_000, 200_000
_LEAST_COLUMNS = 16


class Product(NamedTuple):
    """Argument block; strides in bytes. Either the strides of b's rows or those of its columns are an element's."""

    out: int
    out_row: int
    a: int
    a_row: int
    a_k: int
    b: int
    b_k: int
    b_column: int
    bias: int  # 0: none
    M: int
    N: int
    K: int
    scratch: int  # _SCRATCH bytes a thread


_FIELDS = len(Product._fields)


def _emit_tile(e: Emitter, width: int, rows: int, arguments: list[ir.Value]) -> None:
    out, out_row, last, a, a_row, a_k, depth, panel, bias, first = arguments
    row_of_panel = width * VECTOR_BYTES
    zero = ir.Constant(llvm_vector(e.dtype), [0.0] * llvm_vector(e.dtype).count)

    def add_products(k: ir.Value, sums: list[ir.Value]) -> list[ir.Value]:
        here, column = e.offset(panel, k, row_of_panel), e.offset(a, k, a_k)
        weights = [e.load(e.offset(here, v, VECTOR_BYTES)) for v in range(width)]
        return e.multiply_add([e.offset(column, m, a_row) for m in range(rows)], weights, sums)

    sums = e.loop(depth, [zero] * (rows * width), add_products)
    begins = e.builder.icmp_signed("!=", first, ir.Constant(first.type, 0))
    whole = ir.Constant(last.type, llvm_vector(e.dtype).count)
    for m in range(rows):
        for v in range(width):
            target = e.offset(e.offset(out, m, out_row), v, VECTOR_BYTES)
            valid = last if v == width - 1 else whole
            before = load_part_at(e.builder, target, valid, e.dtype)
            start = e.load(e.offset(bias, v, VECTOR_BYTES))
            total = e.builder.fadd(e.builder.select(begins, start, before), sums[m * width + v])
            store_part_at(e.builder, total, target, valid)


@intrinsic
def _tile(_typing, like, width, rows, out, out_row, last, a, a_row, a_k, depth, panel, bias, first):
    """``rows`` rows and ``width`` vectors of out, the last of ``last`` elements: += a b; ``first``: = bias + a b."""

    def codegen(context, builder, sig, args):
        e = Emitter(builder, like.dtype)

        def emit(count):
            by_row_count(builder, args[2], _TILE, lambda m: _emit_tile(e, count, m, list(args[3:])))

        by_number(builder, args[1], {count: partial(emit, count) for count in range(1, GROUP + 1)})
        return context.get_dummy_value()

    return types.void(like, *[types.intp] * 12), codegen


@helper
def _pack(like, a, scratch, column, columns, k_first, depth):
    """Rows [k_first, k_first + depth) of ``columns`` columns of b into a panel, zeros beyond the last; and the bias."""
    v = read(Product, a)
    width = (columns + lanes(like) - 1) // lanes(like)
    row = width * vector_bytes(like)
    source = v.b + k_first * v.b_k + column * v.b_column
    for j in range(width):
        valid = min(lanes(like), columns - j * lanes(like))
        target = scratch + (GROUP + j) * vector_bytes(like)
        if v.b_column == element_bytes(like):
            for k in range(depth):
                store(load_part(like, source + k * v.b_k + j * vector_bytes(like), valid), target + k * row)
        else:
            here = source + j * lanes(like) * v.b_column
            for k in range(0, depth, lanes(like)):
                count = min(lanes(like), depth - k)
                begin = here + k * element_bytes(like)
                transpose(like, 0, 0, begin, v.b_column, valid, count, target + k * row, row, count, lanes(like))
        if v.bias == 0:
            store(fill(like, 0.0), scratch + j * vector_bytes(like))
        else:
            bias = v.bias + column * element_bytes(like) + j * vector_bytes(like)
            store(load_part(like, bias, valid), scratch + j * vector_bytes(like))


@helper
def _block(like, a, scratch, row_first, row_last, column_first, column_last):
    """The outputs of a block of rows and of columns; these begin at a panel."""
    v = read(Product, a)
    wide = GROUP * lanes(like)
    tiles = (row_last - row_first + _TILE - 1) // _TILE
    for k in range(0, v.K, _DEPTH):
        depth = min(_DEPTH, v.K - k)
        for column in range(column_first, column_last, wide):
            columns = min(wide, column_last - column)
            width = (columns + lanes(like) - 1) // lanes(like)
            _pack(like, a, scratch, column, columns, k, depth)
            first = 0
            if k == 0:
                first = 1
            i = row_first
            for tile in range(tiles):
                m = (row_last - i + tiles - tile - 1) // (tiles - tile)
                _tile(
                    like, width, m, v.out + i * v.out_row + column * element_bytes(like), v.out_row,
                    columns - (width - 1) * lanes(like), v.a + i * v.a_row + k * v.a_k, v.a_row, v.a_k, depth,
                    scratch + GROUP * vector_bytes(like), scratch, first,
                )  # fmt: skip
                i += m


@helper
def _product_share(like, a, w, n):
    """Thread w of n: some of the rows, or of the panels of columns where there are more of these."""
    v = read(Product, a)
    wide = GROUP * lanes(like)
    row_first, row_last, column_first, column_last = 0, v.M, 0, v.N
    if v.M >= v.N:
        row_first, row_last = share((v.M + _TILE - 1) // _TILE, w, n)
        row_first, row_last = row_first * _TILE, min(row_last * _TILE, v.M)
    else:
        column_first, column_last = share((v.N + wide - 1) // wide, w, n)
        column_first, column_last = column_first * wide, min(column_last * wide, v.N)
    for row in range(row_first, row_last, _ROWS):
        _block(like, a, v.scratch + w * _SCRATCH, row, min(row + _ROWS, row_last), column_first, column_last)


_job = job(_product_share)


@kernel
def multiply(like, a, pool, threads, brief):
    """A product; ``a``: address of its argument block. brief: too short to give up the GIL."""
    run_whole(_job(like), a, pool, threads, brief)


def suits(a: np.ndarray, b: np.ndarray, out: np.ndarray) -> bool:
    """Whether ``product`` takes these matrices, and is faster than NumPy."""
    if a.dtype.char not in "fd" or not a.dtype == b.dtype == out.dtype:
        return False
    (M, K), N, itemsize = a.shape, b.shape[1], a.itemsize
    if M < _TILE or N < _LEAST_COLUMNS or M * N * K < _SMALLEST:
        return False
    return itemsize in b.strides and out.strides[1] == itemsize and a.flags.aligned and b.flags.aligned


def product(a: np.ndarray, b: np.ndarray, out: np.ndarray, bias: np.ndarray | None = None) -> None:
    """out (M, N) = a (M, K) b (K, N) + bias (N,), K >= 1: aligned arrays of one dtype, of which out overlaps none.

    a with any strides, b with its rows or its columns contiguous, out with its rows, bias contiguous.
    """
    (M, K), N, itemsize = a.shape, b.shape[1], a.itemsize
    work = M * N * K
    brief = work < _SMALLEST_SHARED
    threads = 1 if brief else get_num_threads()
    memory, base = aligned(8 * _FIELDS + 64 + threads * _SCRATCH)
    b_k, b_column = b.strides
    if N == 1 or (b_column != itemsize and b_k != itemsize):
        b_column = itemsize
    scratch = base + (8 * _FIELDS + 63) // 64 * 64
    values = (
        address_of(out), out.strides[0], address_of(a), *a.strides, address_of(b), b_k, b_column,
        0 if bias is None else address_of(bias), M, N, K, scratch,
    )  # fmt: skip
    start = base - address_of(memory)
    memory[start : start + 8 * _FIELDS].view(np.int64)[:] = values
    entry, tag = for_elements(multiply, "float32" if itemsize == 4 else "float64", 4)
    entry(tag, base, mailboxes(threads), threads, brief)
    if guards.ENABLED:
        guards.check("a product")
