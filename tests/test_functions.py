"""tanh and sigmoid of the CPU's kernels, value by value against float64: every float32 there is, with ``-m long``."""

import functools
import importlib

import numpy as np
import pytest
from llvmlite import ir
from numba import types

cpu = {name: importlib.import_module(f"fastrnn.kernels.cpu.{name}") for name in ("jit", "memory", "simd", "tags")}
load, store, tanh, sigmoid = (getattr(cpu["simd"], name) for name in ("load", "store", "tanh", "sigmoid"))
vector_bytes = cpu["tags"].vector_bytes


@cpu["jit"].kernel
def tanh_of(like, source, target, count):
    for k in range(count):
        store(tanh(load(like, source + k * vector_bytes(like))), target + k * vector_bytes(like))


@cpu["jit"].kernel
def sigmoid_of(like, source, target, count):
    for k in range(count):
        store(sigmoid(load(like, source + k * vector_bytes(like))), target + k * vector_bytes(like))


@functools.cache
def entry(kernel, dtype):
    tag = cpu["tags"].Tag(cpu["tags"].CellType("lstm", cpu["tags"].DTYPES[dtype], False))
    return functools.partial(kernel.entry_point(tag.type, types.intp, types.intp, types.intp), tag)


def evaluate(kernel, x):
    """The kernel's function of a contiguous array, a multiple of a vector long."""
    result = np.empty_like(x)
    size = cpu["simd"].VECTOR_BYTES // x.itemsize
    assert len(x) % size == 0 and x.flags.c_contiguous
    entry(kernel, x.dtype.name)(x.ctypes.data, result.ctypes.data, len(x) // size)
    return result


def exact_tanh(x):
    return np.tanh(x.astype(np.float64))


def exact_sigmoid(x):
    with np.errstate(over="ignore"):
        return 1 / (1 + np.exp(-x.astype(np.float64)))


def ulps(found, exact):
    """Error in units of the last place of the exact result, rounded to float32."""
    rounded = np.abs(exact).astype(np.float32)
    return np.abs(found - exact) / np.spacing(np.maximum(rounded, np.finfo(np.float32).tiny))


def largest_drop(found):
    """By how much the function falls, at most, from one argument to the next."""
    return float(np.max(found[:-1].astype(np.float64) - found[1:], initial=0))


def check_tanh(x):
    """x ascending, not NaN. Returns the largest error in ulp."""
    found, exact = evaluate(tanh_of, x), exact_tanh(x)
    error = ulps(found, exact)
    worst = int(np.argmax(error))
    assert error[worst] <= 4, (x[worst], found[worst], exact[worst])
    assert largest_drop(found) <= 4 * 2.0**-24
    assert np.all(np.abs(found) <= 1)
    assert np.array_equal(np.sign(found), np.sign(x))
    return float(error[worst])


def check_sigmoid(x):
    """x ascending, not NaN. Returns the largest absolute and the largest relative error."""
    found, exact = evaluate(sigmoid_of, x), exact_sigmoid(x)
    error = np.abs(found - exact)
    normal = exact >= np.finfo(np.float32).tiny
    relative = error[normal] / exact[normal]
    assert error.max() <= 1.2e-7, x[np.argmax(error)]
    assert relative.size == 0 or relative.max() <= 1e-5, x[normal][np.argmax(relative)]
    assert largest_drop(found) <= 1.2e-7
    assert np.all((found >= 0) & (found <= 1))
    return float(error.max()), float(relative.max(initial=0))


def ascending(first, last, step=1):
    """The float32 numbers with the bit patterns first, first + step, ... below last, in ascending order."""
    patterns = np.arange(first, last, step, dtype=np.uint32)
    numbers = patterns.view(np.float32)
    return np.ascontiguousarray(numbers if first < 1 << 31 else numbers[::-1])


INFINITY = 0x7F800001  # the pattern after infinity's
SIGN = 1 << 31
CHECKS = {"tanh": check_tanh, "sigmoid": check_sigmoid}


@pytest.mark.parametrize("name", CHECKS)
def test_one_in_a_thousand_numbers(name):
    for sign in (0, SIGN):
        x = ascending(sign, sign + INFINITY, 997)
        CHECKS[name](x[: len(x) // 16 * 16])


@pytest.mark.parametrize("name", CHECKS)
def test_all_numbers_where_the_functions_bend(name):
    """Between 2^-2 and 2^-1, where the reduction goes over from no power of two to one; and the ends of the range."""
    for first, last in ((0x3E800000, 0x3F000000), (0x41900000, 0x41910000), (0x42AE0000, 0x42B20000)):
        for sign in (0, SIGN):
            CHECKS[name](ascending(sign + first, sign + last, 16 if last - first > 1 << 20 else 1))


@pytest.mark.long
@pytest.mark.parametrize("name", CHECKS)
def test_every_number(name):
    """All 2^32 but the NaNs: six minutes."""
    chunk, largest = 1 << 22, []
    for sign in (0, SIGN):
        for first in range(0, INFINITY, chunk):
            x = ascending(sign + first, sign + min(first + chunk, INFINITY))
            padding = np.repeat(x[-1:], -len(x) % 16)
            largest.append(CHECKS[name](np.concatenate([x, padding])))
    print(f"\n{name}: largest errors {np.max(largest, axis=0)}")


@pytest.mark.parametrize("function", [tanh_of, sigmoid_of])
def test_nan_stays_nan(function):
    for dtype in (np.float32, np.float64):
        kinds = np.array([0x7FC00000, 0x7F800001, 0xFFC00000, 0xFFFFFFFF], np.uint32).view(np.float32)
        with np.errstate(invalid="ignore"):
            x = np.resize(kinds, 16).astype(dtype)
        assert np.isnan(evaluate(function, x)).all()


def test_the_ends_in_both_dtypes():
    for dtype in (np.float32, np.float64):
        huge = np.finfo(dtype).max
        x = np.array([-np.inf, -huge, -1e4, -0.0, 0.0, 1e4, huge, np.inf] * 2, dtype)
        assert np.array_equal(evaluate(tanh_of, x), np.resize(np.array([-1, -1, -1, 0, 0, 1, 1, 1], dtype), 16))
        found = evaluate(sigmoid_of, x)[:8]
        assert np.array_equal(found[3:], np.array([0.5, 0.5, 1, 1, 1], dtype)) and np.all(found[:3] < 1e-37)


@pytest.mark.parametrize(
    "element, name", [(ir.FloatType(), "v8f32"), (ir.DoubleType(), "v8f64"), (ir.IntType(16), "v8i16")]
)
def test_vectors_as_llvm_spells_them(element, name):
    """It mends a wrong name of an intrinsic by the types of its arguments, so results alone would not tell."""
    assert cpu["simd"].suffix(ir.VectorType(element, 8)) == name
