"""Two loops that show what the machine can do at most: FMA from registers, and loads from one level of cache.

Both are LLVM IR through a Numba intrinsic, so that the compiler keeps every accumulator in a register: written
as a Python loop the same arithmetic reaches about a third. They share nothing with fastrnn's kernels.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import llvmlite.binding as llvm
import numba
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

__all__ = ["fma_burst", "load_burst", "vector_bytes"]

_I64 = ir.IntType(64)
_LOADS = 8  # independent accumulators of the load loop: enough to cover the latency of an add


def _features() -> set[str]:
    """The host's, or those that ``NUMBA_CPU_FEATURES`` forces upon all that Numba compiles."""
    forced = numba.config.CPU_FEATURES
    if forced is not None:
        return {feature[1:] for feature in forced.split(",") if feature.startswith("+")}
    return {name for name, present in llvm.get_host_cpu_features().items() if present}


def vector_bytes() -> int:
    """Bytes of the widest vector register."""
    features = _features()
    if "avx512f" in features:
        return 64
    return 32 if "avx" in features else 16


def fma_accumulators() -> int:
    """How many accumulators: 32 vector registers hold 24 and the operands, 16 hold 12."""
    return 24 if _features() & {"avx512f", "neon"} else 12


def _const(value: int) -> ir.Constant:
    return ir.Constant(_I64, value)


def _loop(builder: ir.IRBuilder, trips: ir.Value, start: list[ir.Value]) -> tuple[ir.Value, list, Callable]:
    """Open a loop of ``trips`` >= 1 turns carrying ``start``; the third result closes it with the new values."""
    before = builder.block
    body = builder.append_basic_block("turn")
    builder.branch(body)
    builder.position_at_end(body)
    index = builder.phi(_I64)
    index.add_incoming(_const(0), before)
    carried = []
    for value in start:
        phi = builder.phi(value.type)
        phi.add_incoming(value, before)
        carried.append(phi)

    def close(new: list[ir.Value]) -> list[ir.Value]:
        following = builder.add(index, _const(1))
        index.add_incoming(following, builder.block)
        for phi, value in zip(carried, new, strict=True):
            phi.add_incoming(value, builder.block)
        done = builder.append_basic_block("done")
        builder.cbranch(builder.icmp_signed("<", following, trips), body, done)
        builder.position_at_end(done)
        return new

    return index, carried, close


def _splat(builder: ir.IRBuilder, scalar: ir.Value, vector: ir.VectorType) -> ir.Value:
    undefined = ir.Constant(vector, ir.Undefined)
    first = builder.insert_element(undefined, scalar, ir.Constant(ir.IntType(32), 0))
    lanes = ir.VectorType(ir.IntType(32), vector.count)
    return builder.shuffle_vector(first, undefined, ir.Constant(lanes, [0] * vector.count))


@functools.cache
def fma_burst(dtype: str) -> tuple[Callable[[int, float], float], int]:
    """Compile ``burst(turns, x) -> float`` and return it with the floating-point operations of one turn.

    A turn does one fused multiply-add on each accumulator, all independent. The GIL is released.
    """
    scalar = ir.FloatType() if dtype == "float32" else ir.DoubleType()
    number = types.float32 if dtype == "float32" else types.float64
    lanes = vector_bytes() // (4 if dtype == "float32" else 8)
    vector, count = ir.VectorType(scalar, lanes), fma_accumulators()
    name = f"llvm.fma.v{lanes}f{32 if dtype == 'float32' else 64}"

    @intrinsic
    def registers(context, turns, x):
        def codegen(ctx, builder, signature, args):
            fma = builder.module.globals.get(name) or ir.Function(
                builder.module, ir.FunctionType(vector, [vector] * 3), name
            )
            factor = _splat(builder, args[1], vector)
            _, carried, close = _loop(builder, args[0], [factor] * count)
            # acc = acc * x + x: every accumulator waits only for itself
            sums = close([builder.call(fma, [value, factor, factor]) for value in carried])
            total = sums[0]
            for value in sums[1:]:
                total = builder.fadd(total, value)
            return builder.extract_element(total, ir.Constant(ir.IntType(32), 0))

        return number(types.int64, number), codegen

    @numba.njit(number(types.int64, number), nogil=True)
    def burst(turns, x):
        return registers(turns, x)

    return burst, 2 * lanes * count


@functools.cache
def load_burst() -> tuple[Callable[[int, int, int], int], int]:
    """Compile ``burst(address, chunks, passes) -> int`` and return it with the bytes of one chunk.

    It loads ``chunks`` consecutive chunks from a 64-byte aligned address, ``passes`` times, and returns their
    sum so that no load can be left out. The GIL is released.
    """
    lanes = vector_bytes() // 8
    vector = ir.VectorType(_I64, lanes)
    step = lanes * 8

    @intrinsic
    def stream(context, address, chunks, passes):
        def codegen(ctx, builder, signature, args):
            address, chunks, passes = args
            zero = ir.Constant(vector, [0] * lanes)
            _, outer, close_outer = _loop(builder, passes, [zero] * _LOADS)
            index, inner, close_inner = _loop(builder, chunks, outer)
            base = builder.add(address, builder.mul(index, _const(step * _LOADS)))
            sums = []
            for i, value in enumerate(inner):
                pointer = builder.inttoptr(builder.add(base, _const(step * i)), vector.as_pointer())
                loaded = builder.load(pointer)
                loaded.align = step
                sums.append(builder.add(value, loaded))
            sums = close_outer(close_inner(sums))
            total = sums[0]
            for value in sums[1:]:
                total = builder.add(total, value)
            return builder.extract_element(total, ir.Constant(ir.IntType(32), 0))

        return types.int64(types.int64, types.int64, types.int64), codegen

    @numba.njit(types.int64(types.int64, types.int64, types.int64), nogil=True)
    def burst(address, chunks, passes):
        return stream(address, chunks, passes)

    return burst, step * _LOADS
