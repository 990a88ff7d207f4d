"""Register tiles: the inner products, emitted as LLVM IR so that every accumulator stays in a register.

Every tile sums its products one after the other in the order of k, whatever its number of rows: an output's bits
depend on neither the batch nor the number of threads. Rows come as a table of addresses, or at a constant stride.

Three shapes of product occur:

``accumulate``   z = init + x Wx + h Wh      rows of the batch against one panel of packed weights, forward
``project``      out += dz W                 rows of dz against a group of columns, backward: dh and dx
``outer``        dW += a^T dz                columns of a against one panel of dz, over many rows: dWx and dWh

A 6 x 4 tile runs at 98 % of the FMA peak with its operands in L1; unrolling over k, blocking k into L1 and huge
pages gained nothing; prefetching one line of the next panel a step of k gains 10 to 20 % where the weights exceed
the L2 cache.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .jit import helper
from .simd import VECTOR_BYTES, fma_at, llvm_scalar, llvm_vector, load_at, pointer, prefetch_at, splat, store_at
from .tags import GROUP, MOST_AT_ONCE, Panel, tile_rows

__all__ = [
    "Emitter", "accumulate", "accumulate_wide", "by_number", "by_row_count", "outer_all", "outer_h", "outer_x",
    "project",
]  # fmt: skip

_I64 = ir.IntType(64)


def _integer(value: int) -> ir.Constant:
    return ir.Constant(_I64, value)


class Emitter:
    """An IR builder with addresses in bytes and vectors of one dtype."""

    def __init__(self, builder: ir.IRBuilder, dtype: types.Float) -> None:
        self.builder, self.dtype = builder, dtype
        self.element_bytes = dtype.bitwidth // 8

    def offset(self, base: ir.Value, count: ir.Value | int, size: int | ir.Value = 1) -> ir.Value:
        count, size = (_integer(n) if isinstance(n, int) else n for n in (count, size))
        return self.builder.add(base, self.builder.mul(count, size))

    def load(self, address: ir.Value) -> ir.Value:
        return load_at(self.builder, address, self.dtype)

    def load_weights(self, address: ir.Value, count: int, bf16: bool) -> list[ir.Value]:
        """A row of ``count`` vectors of packed weights."""
        if not bf16:
            return [self.load(self.offset(address, v, VECTOR_BYTES)) for v in range(count)]
        # A bfloat16 is the upper half of a float32. Two vectors come as one of words: to widen 16 bits takes a port
        # that there is only one of, and shifts and masks do not.
        pairs = [self.load_pair(self.offset(address, p, VECTOR_BYTES)) for p in range(count // 2)]
        single = [self.load_halves(self.offset(address, count // 2, VECTOR_BYTES))] if count % 2 else []
        return [vector for pair in pairs for vector in pair] + single

    def load_pair(self, address: ir.Value) -> tuple[ir.Value, ir.Value]:
        """Two vectors of bfloat16, one in the lower halves of words and one in the upper ones."""
        b, vector = self.builder, llvm_vector(self.dtype)
        words = ir.VectorType(ir.IntType(32), vector.count)
        loaded = b.load(pointer(b, address, words))
        loaded.align = 4
        shift, mask = (ir.Constant(words, [value] * vector.count) for value in (16, 0xFFFF0000))
        return b.bitcast(b.shl(loaded, shift), vector), b.bitcast(b.and_(loaded, mask), vector)

    def load_halves(self, address: ir.Value) -> ir.Value:
        """A vector of bfloat16, one after the other."""
        b, vector = self.builder, llvm_vector(self.dtype)
        halves, words = (ir.VectorType(ir.IntType(bits), vector.count) for bits in (16, 32))
        loaded = b.load(pointer(b, address, halves))
        loaded.align = 2
        return b.bitcast(b.shl(b.zext(loaded, words), ir.Constant(words, [16] * vector.count)), vector)

    def store(self, value: ir.Value, address: ir.Value) -> None:
        store_at(self.builder, value, address, self.dtype)

    def integer_at(self, address: ir.Value) -> ir.Value:
        return self.builder.load(pointer(self.builder, address, _I64))

    def broadcast(self, address: ir.Value) -> ir.Value:
        scalar = self.builder.load(pointer(self.builder, address, llvm_scalar(self.dtype)))
        return splat(self.builder, scalar, llvm_vector(self.dtype))

    def prefetch(self, address: ir.Value) -> None:
        prefetch_at(self.builder, address)

    def loop(
        self, count: ir.Value, carried: list[ir.Value], body: Callable[[ir.Value, list[ir.Value]], list[ir.Value]]
    ) -> list[ir.Value]:
        """``for k in range(count): carried = body(k, carried)``; returns what the last pass leaves."""
        b = self.builder
        before, inside, after = b.block, b.append_basic_block("k"), b.append_basic_block("summed")
        b.cbranch(b.icmp_signed(">", count, _integer(0)), inside, after)
        b.position_at_end(inside)
        k = b.phi(_I64)
        k.add_incoming(_integer(0), before)
        heads = [b.phi(value.type) for value in carried]
        results = body(k, list(heads))
        following, last = b.add(k, _integer(1)), b.block
        k.add_incoming(following, last)
        for head, first, result in zip(heads, carried, results, strict=True):
            head.add_incoming(first, before)
            head.add_incoming(result, last)
        b.cbranch(b.icmp_signed("<", following, count), inside, after)
        b.position_at_end(after)
        finals = []
        for first, result in zip(carried, results, strict=True):
            final = b.phi(first.type)
            final.add_incoming(first, before)
            final.add_incoming(result, last)
            finals.append(final)
        return finals

    def multiply_add(self, columns: list[ir.Value], weights: list[ir.Value], sums: list[ir.Value]) -> list[ir.Value]:
        """sums[m][v] + a[m] * weights[v], a[m] read at ``columns[m]``."""
        if len(columns) >= len(weights):
            result = []
            for m, column in enumerate(columns):
                a = self.broadcast(column)
                for v, weight in enumerate(weights):
                    result.append(fma_at(self.builder, a, weight, sums[m * len(weights) + v]))
            return result
        held = [self.broadcast(column) for column in columns]
        by_place = {}
        for v, weight in enumerate(weights):
            for m, a in enumerate(held):
                by_place[m, v] = fma_at(self.builder, a, weight, sums[m * len(weights) + v])
        return [by_place[m, v] for m in range(len(columns)) for v in range(len(weights))]


def by_number(builder: ir.IRBuilder, number: ir.Value, emit: dict[int, Callable[[], None]]) -> None:
    """Emit every entry, a block of code each, and run that of the run-time ``number``, which must be there."""
    if len(emit) == 1:
        next(iter(emit.values()))()
        return
    end = builder.append_basic_block("chosen")
    impossible = builder.append_basic_block("impossible")
    switch = builder.switch(number, impossible)
    builder.position_at_end(impossible)
    builder.unreachable()
    for value, emit_one in emit.items():
        case = builder.append_basic_block(f"case.{value}")
        switch.add_case(_integer(value), case)
        builder.position_at_end(case)
        emit_one()
        builder.branch(end)
    builder.position_at_end(end)


def by_row_count(builder: ir.IRBuilder, rows: ir.Value, limit: int, emit: Callable[[int], None]) -> None:
    """``emit(rows)`` for the run-time ``rows`` in 1..limit."""
    by_number(builder, rows, {count: partial(emit, count) for count in range(1, limit + 1)})


def _emit_accumulate(e: Emitter, panel: Panel, rows: int, arguments: list[ir.Value], panels: int = 1) -> None:
    """z[p][m][v] = init[p][m][v] + sum_k x[m][k] Wx[p][k][v] + sum_k h[m][k] Wh[p][k][v] for a few panels at once.

    A slot that only one product feeds is read or written beside the other's loop, so that it holds no register.
    """
    (z, z_stride, z_panel, init, init_stride, init_panel, *operands) = arguments
    x_range, h_range = (range(*(s * panel.units for s in fed)) for fed in (panel.phase.x_range, panel.phase.h_range))
    places = [(p, m) for p in range(panels) for m in range(rows)]

    def at(base, stride, between, place, vector):
        p, m = place
        return e.offset(e.offset(e.offset(base, m, stride), p, between), vector, VECTOR_BYTES)

    sums: dict[tuple, ir.Value] = {}
    for (table, depth, weights, ahead), fed in ((operands[:4], x_range), (operands[4:], h_range)):
        keys = [(place, v) for place in places for v in fed]
        for place, v in keys:
            if (place, v) not in sums:
                sums[place, v] = e.load(at(init, init_stride, init_panel, place, v))
        addresses = [e.integer_at(e.offset(table, m, 8)) for m in range(rows)]
        row_of_weights = len(fed) * panel.weight_bytes
        panel_of_weights = e.builder.mul(depth, _integer(row_of_weights))

        def add_products(k, carried, addresses=addresses, weights=weights, ahead=ahead, fed=fed,
                         row_of_weights=row_of_weights, panel_of_weights=panel_of_weights):  # fmt: skip
            e.prefetch(e.offset(ahead, k, 64))
            columns = [e.offset(address, k, e.element_bytes) for address in addresses]
            result = []
            for p in range(panels):
                here = e.offset(e.offset(weights, p, panel_of_weights), k, row_of_weights)
                loaded = e.load_weights(here, len(fed), panel.weight_bytes < VECTOR_BYTES)
                part = rows * len(fed)
                result += e.multiply_add(columns, loaded, carried[p * part : (p + 1) * part])
            return result

        done = e.loop(depth, [sums[key] for key in keys], add_products)
        sums.update(zip(keys, done, strict=True))
        for place, v in keys:
            if fed is h_range or v not in h_range:
                e.store(sums[place, v], at(z, z_stride, z_panel, place, v))


@intrinsic
def _accumulate(_typing, panel, rows, z, z_stride, init, init_stride, x_rows, I, wx, next_x, h_rows, H, wh, next_h):
    def codegen(context, builder, sig, args):
        number, count, z, z_stride, init, init_stride, *operands = args
        e = Emitter(builder, panel.dtype)
        none = _integer(0)
        arguments = [z, z_stride, none, init, init_stride, none, *operands]

        def emit(kind):
            by_row_count(builder, count, kind.rows, lambda m: _emit_accumulate(e, kind, m, arguments))

        by_number(builder, number, {n: partial(emit, kind) for n, kind in enumerate(panel.panels)})
        return context.get_dummy_value()

    return types.void(panel, *[types.intp] * 13), codegen


@helper
def accumulate(panel, rows, z, z_stride, init, init_stride, x_rows, I, wx, next_x, h_rows, H, wh, next_h):
    """z[m] = init[m] + x[m] Wx + h[m] Wh for 1..row_limit rows and one panel.

    z, init: rows of slots x units vectors at a byte stride (0: one row of init for all); x_rows, h_rows: tables of
    row addresses; I, H: depth of the products, 0 leaves one out; wx, wh: packed panels; next_x, next_h: where to
    prefetch, one line a step of k.
    """
    _accumulate(panel, rows, z, z_stride, init, init_stride, x_rows, I, wx, next_x, h_rows, H, wh, next_h)


@intrinsic
def _accumulate_wide(_typing, panel, panels, z, z_panel, init, init_panel, x_row, I, wx, next_x, h_row, H, wh, next_h):
    def codegen(context, builder, sig, args):
        number, count, z, z_panel, init, init_panel, *operands = args
        e = Emitter(builder, panel.dtype)
        none = _integer(0)
        arguments = [z, none, z_panel, init, none, init_panel, *operands]

        def emit(kind):
            several = range(2, MOST_AT_ONCE + 1)
            by_number(builder, count, {n: partial(_emit_accumulate, e, kind, 1, arguments, n) for n in several})

        by_number(builder, number, {n: partial(emit, kind) for n, kind in enumerate(panel.panels)})
        return context.get_dummy_value()

    return types.void(panel, *[types.intp] * 13), codegen


@helper
def accumulate_wide(panel, panels, z, z_panel, init, init_panel, x_row, I, wx, next_x, h_row, H, wh, next_h):
    """``accumulate`` for one row and two or three neighbouring panels: more sums in flight hide the FMA's latency.

    z_panel, init_panel: bytes between panels of z and init; packed panels are contiguous.
    """
    _accumulate_wide(panel, panels, z, z_panel, init, init_panel, x_row, I, wx, next_x, h_row, H, wh, next_h)


def _emit_project(e: Emitter, vectors: int, rows: int, arguments: list[ir.Value], groups: int = 1) -> None:
    out, out_stride, a, a_stride, a_panel, inner, panels, weights, ahead, between = arguments
    width = vectors * groups
    targets = [e.offset(e.offset(out, m, out_stride), v, VECTOR_BYTES) for m in range(rows) for v in range(width)]
    row_of_weights = vectors * VECTOR_BYTES

    line = 64 // e.element_bytes

    def over_panels(p, sums):
        start = e.offset(a, p, a_panel)
        first = e.builder.mul(p, inner)

        def over_lines(i, sums):
            rows_here = [e.offset(e.offset(start, m, a_stride), i, 64) for m in range(rows)]
            # Panels of one row lie too far apart for the hardware to guess the next.
            for here in rows_here:
                e.prefetch(e.builder.add(here, a_panel))
            before = e.builder.add(first, e.builder.mul(i, _integer(line)))

            def over_slots(k, sums):
                depth = e.builder.add(before, k)
                e.prefetch(e.offset(ahead, depth, 64))
                here = e.offset(weights, depth, row_of_weights)
                places = [
                    e.offset(e.offset(here, g, between), v, VECTOR_BYTES) for g in range(groups) for v in range(vectors)
                ]
                columns = [e.offset(row, k, e.element_bytes) for row in rows_here]
                return e.multiply_add(columns, [e.load(place) for place in places], sums)

            return e.loop(_integer(line), sums, over_slots)

        return e.loop(e.builder.sdiv(inner, _integer(line)), sums, over_lines)

    for total, target in zip(e.loop(panels, [e.load(t) for t in targets], over_panels), targets, strict=True):
        e.store(total, target)


@intrinsic(prefer_literal=True)
def _project(_typing, like, vectors, rows, out, out_stride, a, a_stride, a_panel, inner, panels, weights, ahead):
    width = vectors.literal_value

    def codegen(context, builder, sig, args):
        e = Emitter(builder, like.dtype)
        arguments = [*args[3:], _integer(0)]
        by_row_count(builder, args[2], tile_rows(width), lambda m: _emit_project(e, width, m, arguments))
        return context.get_dummy_value()

    return types.void(like, vectors, *[types.intp] * 10), codegen


@intrinsic(prefer_literal=True)
def _project_wide(_typing, like, vectors, groups, out, a, a_panel, inner, panels, weights, ahead, between):
    width, count = vectors.literal_value, groups.literal_value

    def codegen(context, builder, sig, args):
        out, a, a_panel, *operands = args[3:]
        none = _integer(0)
        _emit_project(Emitter(builder, like.dtype), width, 1, [out, none, a, none, a_panel, *operands], groups=count)
        return context.get_dummy_value()

    return types.void(like, vectors, groups, *[types.intp] * 8), codegen


@helper
def project_group(like, rows, out, out_stride, a, a_stride, a_panel, inner, panels, weights, ahead):
    """``project`` for GROUP vectors of columns."""
    _project(like, GROUP, rows, out, out_stride, a, a_stride, a_panel, inner, panels, weights, ahead)


@helper
def project_vector(like, rows, out, out_stride, a, a_stride, a_panel, inner, panels, weights, ahead):
    """``project`` for one vector of columns."""
    _project(like, 1, rows, out, out_stride, a, a_stride, a_panel, inner, panels, weights, ahead)


@helper
def project(like, vectors, rows, out, out_stride, a, a_stride, a_panel, inner, panels, weights, ahead, between):
    """out[m][v] += sum_p sum_k a[m][p][k] W[p][k][v] for GROUP vectors of columns, for 1 to 3, or for two groups.

    out: rows of vectors at a byte stride. a: address of slot values of panel 0, ``a_stride`` bytes between rows,
    ``a_panel`` between panels, ``inner`` contiguous elements a panel. weights: [panels][inner][vectors], or vector by
    vector, ``between`` bytes apart, for 2 and 3. These, and two groups at once, likewise apart, are for a single
    row: more sums in flight to hide the FMA's latency.
    """
    if vectors == GROUP:
        project_group(like, rows, out, out_stride, a, a_stride, a_panel, inner, panels, weights, ahead)
    elif vectors == 1:
        project_vector(like, rows, out, out_stride, a, a_stride, a_panel, inner, panels, weights, ahead)
    elif vectors == 2:
        _project_wide(like, 1, 2, out, a, a_panel, inner, panels, weights, ahead, between)
    elif vectors == 3:
        _project_wide(like, 1, 3, out, a, a_panel, inner, panels, weights, ahead, between)
    else:
        _project_wide(like, GROUP, 2, out, a, a_panel, inner, panels, weights, ahead, between)


def _emit_outer(e: Emitter, vectors: int, columns: int, arguments: list[ir.Value]) -> None:
    out, a_rows, a_offset, z_rows, z_offset, depth, add = arguments
    row_of_out = vectors * VECTOR_BYTES
    targets = [e.offset(e.offset(out, m, row_of_out), v, VECTOR_BYTES) for m in range(columns) for v in range(vectors)]
    for target in targets:
        e.prefetch(target)

    def over_rows(k, sums):
        a = e.builder.add(e.integer_at(e.offset(a_rows, k, 8)), a_offset)
        z = e.builder.add(e.integer_at(e.offset(z_rows, k, 8)), z_offset)
        loaded = [e.load(e.offset(z, v, VECTOR_BYTES)) for v in range(vectors)]
        return e.multiply_add([e.offset(a, m, e.element_bytes) for m in range(columns)], loaded, sums)

    zero = ir.Constant(llvm_vector(e.dtype), [0.0] * llvm_vector(e.dtype).count)
    adding = e.builder.icmp_signed("!=", add, _integer(0))
    for total, target in zip(e.loop(depth, [zero] * len(targets), over_rows), targets, strict=True):
        e.store(e.builder.fadd(e.builder.select(adding, e.load(target), zero), total), target)


_FED_BY_X, _FED_BY_H, _ALL_SLOTS = range(3)


@intrinsic(prefer_literal=True)
def _outer(_typing, panel, fed, most, columns, out, a_rows, a_offset, z_rows, z_offset, depth, add):
    def codegen(context, builder, sig, args):
        e = Emitter(builder, panel.dtype)

        def emit(kind):
            begin, end = (kind.phase.x_range, kind.phase.h_range, (0, len(kind.phase.slots)))[fed.literal_value]
            width = (end - begin) * kind.units
            limit = min(most.literal_value, tile_rows(width))
            z_start = builder.add(args[8], _integer(begin * kind.units * VECTOR_BYTES))
            arguments = [*args[4:8], z_start, *args[9:]]
            by_row_count(builder, args[3], limit, lambda m: _emit_outer(e, width, m, arguments))

        by_number(builder, args[0], {n: partial(emit, kind) for n, kind in enumerate(panel.panels)})
        return context.get_dummy_value()

    return types.void(panel, fed, most, *[types.intp] * 8), codegen


@helper
def outer_x(panel, columns, out, a_rows, a_offset, z_rows, z_offset, depth, add):
    """out[m][v] += sum_r a[r][m] dz[r][v], dz over the slots that the input feeds.

    columns: 1..tile_rows(vectors) neighbouring columns of a, the first ``a_offset`` bytes into each row; a_rows,
    z_rows: tables of ``depth`` row addresses; out: [columns][vectors]. The sum over these rows starts from zero and
    is then added: many rows summed in blocks lose less than in one chain. Without ``add`` it is the first.
    """
    _outer(panel, _FED_BY_X, 8, columns, out, a_rows, a_offset, z_rows, z_offset, depth, add)


@helper
def outer_h(panel, columns, out, a_rows, a_offset, z_rows, z_offset, depth, add):
    """As ``outer_x``, over the slots that the recurrent product feeds."""
    _outer(panel, _FED_BY_H, 8, columns, out, a_rows, a_offset, z_rows, z_offset, depth, add)


@helper
def outer_all(panel, out, a_rows, z_rows, depth, add):
    """As ``outer_x``, over all slots, for one column of a."""
    _outer(panel, _ALL_SLOTS, 1, 1, out, a_rows, 0, z_rows, 0, depth, add)
