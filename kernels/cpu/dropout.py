"""Dropout masks on the CPU: those of ``fastrnn.dropout``, element for element, a quarter of the time.

Philox4x64-10 as ``numpy.random.Philox`` draws float32 from it: every counter yields eight numbers of 24 bits, so any
thread can make any part of a mask. Drawing by NumPy and multiplying took 8 % of a training step of an encoder-decoder.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from fastrnn.dropout import generator

from .jit import helper, kernel
from .layout import share
from .memory import address_of, aligned, read
from .simd import Vector, lanes, llvm_vector, load, load_part, pointer, splat, store, store_part
from .tags import element_bytes, for_elements
from .threads import get_num_threads, job, mailboxes, run_whole

__all__ = ["apply_mask"]

_NUMBERS = 8  # that a counter yields
_BLOCK = 1024  # numbers that exist at a time
_SMALLEST_SHARED = 1 << 14
_ROUNDS, _MULTIPLIERS = 10, (0xD2E7470EE14C6C93, 0xCA5A826395121157)
_WEYL = 0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B
_I32, _I64, _I128 = ir.IntType(32), ir.IntType(64), ir.IntType(128)


class Mask(NamedTuple):
    """Argument block."""

    elements: int
    count: int
    key0: int
    key1: int
    least: int  # number of 24 bits from which on an element is kept
    scale: int  # address of the factor of those
    scratch: int  # a block of numbers for each thread


def _philox(builder: ir.IRBuilder, keys: tuple[ir.Value, ...], counter: ir.Value) -> list[ir.Value]:
    """Four words of 64 bits."""
    words = [counter, *[ir.Constant(_I64, 0)] * 3]
    for number in range(_ROUNDS):
        steps = [ir.Constant(_I64, number * weyl % (1 << 64)) for weyl in _WEYL]
        key0, key1 = (builder.add(key, step) for key, step in zip(keys, steps, strict=True))
        halves = []
        for word, multiplier in zip((words[0], words[2]), _MULTIPLIERS, strict=True):
            product = builder.mul(builder.zext(word, _I128), ir.Constant(_I128, multiplier))
            high = builder.trunc(builder.lshr(product, ir.Constant(_I128, 64)), _I64)
            halves.append((high, builder.trunc(product, _I64)))
        (high0, low0), (high1, low1) = halves
        first, third = builder.xor(high1, words[1]), builder.xor(high0, words[3])
        words = [builder.xor(first, key0), low1, builder.xor(third, key1), low0]
    return words


@intrinsic
def _draw(_typing, key0, key1, counter, target):
    """The eight numbers of a counter, of 32 bits each, at ``target``."""

    def codegen(context, builder, sig, args):
        words = _philox(builder, tuple(args[:2]), args[2])
        for k, word in enumerate(words):
            builder.store(word, pointer(builder, builder.add(args[3], ir.Constant(_I64, 8 * k)), _I64))
        return context.get_dummy_value()

    return types.void(*[types.intp] * 4), codegen


@intrinsic
def _factors(_typing, like, numbers, least, scale):
    """A vector of factors: ``scale`` where the upper 24 bits of a number are at least ``least``, else 0."""
    vector = llvm_vector(like.dtype)

    def codegen(context, builder, sig, args):
        _, numbers, least, scale = args
        words = ir.VectorType(_I32, vector.count)
        loaded = builder.load(pointer(builder, numbers, words))
        loaded.align = 4
        upper = builder.lshr(loaded, ir.Constant(words, [8] * vector.count))
        kept = builder.icmp_unsigned(">=", upper, splat(builder, builder.trunc(least, _I32), words))
        factor = splat(builder, builder.load(pointer(builder, scale, vector.element)), vector)
        return builder.select(kept, factor, ir.Constant(vector, [0.0] * vector.count))

    return Vector(like.dtype)(like, *[types.intp] * 3), codegen


@helper
def _mask_share(like, a, w, n):
    """Thread w of n: its blocks of the elements."""
    v = read(Mask, a)
    first, last = share((v.count + _BLOCK - 1) // _BLOCK, w, n)
    numbers = v.scratch + w * _BLOCK * 4
    for block in range(first, last):
        begin = block * _BLOCK
        count = min(_BLOCK, v.count - begin)
        for k in range(0, count, _NUMBERS):
            # NumPy counts before it draws.
            _draw(v.key0, v.key1, (begin + k) // _NUMBERS + 1, numbers + k * 4)
        here = v.elements + begin * element_bytes(like)
        whole = count // lanes(like) * lanes(like)
        for k in range(0, whole, lanes(like)):
            place = here + k * element_bytes(like)
            store(load(like, place) * _factors(like, numbers + k * 4, v.least, v.scale), place)
        if whole < count:
            place = here + whole * element_bytes(like)
            product = load_part(like, place, count - whole) * _factors(like, numbers + whole * 4, v.least, v.scale)
            store_part(product, place, count - whole)


_job = job(_mask_share)


@kernel
def multiply_by_mask(like, a, pool, threads, brief):
    """Apply a mask; ``a``: address of its argument block. brief: too short to give up the GIL."""
    run_whole(_job(like), a, pool, threads, brief)


def apply_mask(array: np.ndarray, p: float, seed: int, boundary: int) -> None:
    """Zero each element with probability p and scale the rest by 1 / (1 - p), in place.

    array is C-contiguous, float32 or float64. The mask is that of ``fastrnn.dropout.apply_mask``.
    """
    key = generator(seed, boundary).state["state"]["key"]
    brief = array.size < _SMALLEST_SHARED
    threads = 1 if brief else get_num_threads()
    head = 64 + 8 * len(Mask._fields)
    memory, base = aligned(head + threads * _BLOCK * 4 + 64)
    start = base - address_of(memory)
    memory[start : start + array.itemsize].view(array.dtype)[0] = 1 / (1 - p)
    least = math.ceil(float(np.float32(p)) * (1 << 24))
    keys = [int(word) - (1 << 64) * (int(word) >> 63) for word in key]
    fields = memory[start + 64 :][: 8 * len(Mask._fields)].view(np.int64)
    fields[:] = address_of(array), array.size, *keys, least, base, base + (head + 63) // 64 * 64
    entry, tag = for_elements(multiply_by_mask, array.dtype.name, 4)
    entry(tag, base + 64, mailboxes(threads), threads, brief)
