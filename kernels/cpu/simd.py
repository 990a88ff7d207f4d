"""A SIMD vector as a Numba type, memory access by address, and the elementary functions that cells need.

Arrays are handled by address here: kernels compute thousands of row addresses, and Numba's array objects would
carry shape and strides through every call. An address is an ``intp`` in bytes. Every function that needs to know
the element type takes it from a vector, or from ``like``: a tag type with a ``dtype`` (see ``tags``).

The width follows the host (AVX-512 64 bytes, AVX2 32, else 16), or ``NUMBA_CPU_FEATURES`` where that is set.

Plain multiply and add never contract into an FMA behind our back: which of two contractions LLVM picks may differ
from one caller to the next, and with it the last bit of a row's result. ``fma`` is explicit.
"""

from __future__ import annotations

import math
import operator

import llvmlite.binding
import numba
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, models, register_model

from .jit import inlined

__all__ = [
    "REGISTERS", "VECTOR_BYTES", "fill", "fma", "lanes", "load", "load_part", "processor", "sigmoid",
    "store", "store_part", "tanh", "where_less",
]  # fmt: skip


def _features() -> set[str]:
    forced = numba.config.CPU_FEATURES
    if forced is not None:
        return {f[1:] for f in forced.split(",") if f.startswith("+")}
    return {name for name, on in llvmlite.binding.get_host_cpu_features().items() if on}


_FEATURES = _features()
VECTOR_BYTES = 64 if "avx512f" in _FEATURES else 32 if "avx2" in _FEATURES else 16
# Architectural vector registers: what a register tile may fill.
REGISTERS = 16 if VECTOR_BYTES == 32 or ("sse2" in _FEATURES and VECTOR_BYTES == 16) else 32

_I32, _I64 = ir.IntType(32), ir.IntType(64)
_FLOATS = {types.float32: ir.FloatType(), types.float64: ir.DoubleType()}


def processor() -> str:
    """The processor that code is made for, and what of it the kernels use."""
    known = [name for name in ("sse2", "avx2", "fma", "avx512f", "avx512bf16", "neon", "sve") if name in _FEATURES]
    return f"{llvmlite.binding.get_host_cpu_name()} ({', '.join(known)}), vectors of {VECTOR_BYTES} bytes"


class Vector(types.Type):
    """``VECTOR_BYTES`` of one dtype, held in a register."""

    def __init__(self, dtype: types.Float) -> None:
        self.dtype = dtype
        self.lanes = VECTOR_BYTES * 8 // dtype.bitwidth
        super().__init__(name=f"Vector({dtype}, {self.lanes})")


def llvm_vector(dtype: types.Float) -> ir.VectorType:
    """LLVM's type for a vector of ``dtype``."""
    return ir.VectorType(_FLOATS[dtype], VECTOR_BYTES * 8 // dtype.bitwidth)


def llvm_scalar(dtype: types.Float) -> ir.Type:
    """LLVM's type for one element."""
    return _FLOATS[dtype]


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager, vector):
        super().__init__(manager, vector, llvm_vector(vector.dtype))


# ---------------------------------------------------------------- instructions


def pointer(builder: ir.IRBuilder, address: ir.Value, to: ir.Type) -> ir.Value:
    """An address as a typed LLVM pointer."""
    return builder.inttoptr(address, to.as_pointer())


def load_at(builder: ir.IRBuilder, address: ir.Value, dtype: types.Float) -> ir.Value:
    """One vector; any alignment of its elements."""
    value = builder.load(pointer(builder, address, llvm_vector(dtype)))
    value.align = dtype.bitwidth // 8
    return value


def store_at(builder: ir.IRBuilder, value: ir.Value, address: ir.Value, dtype: types.Float) -> None:
    """Store one vector; any alignment of its elements."""
    builder.store(value, pointer(builder, address, llvm_vector(dtype))).align = dtype.bitwidth // 8


def splat(builder: ir.IRBuilder, scalar: ir.Value, vector: ir.VectorType) -> ir.Value:
    """A scalar in every lane."""
    undefined = ir.Constant(vector, ir.Undefined)
    first = builder.insert_element(undefined, scalar, ir.Constant(_I32, 0))
    lanes_of_zero = ir.Constant(ir.VectorType(_I32, vector.count), [0] * vector.count)
    return builder.shuffle_vector(first, undefined, lanes_of_zero)


def prefetch_at(builder: ir.IRBuilder, address: ir.Value) -> None:
    """Ask for the cache line at ``address``; any address is allowed."""
    line = pointer(builder, address, ir.IntType(8))
    read, keep, data = (ir.Constant(_I32, n) for n in (0, 3, 1))
    call(builder, "llvm.prefetch.p0", [line, read, keep, data], ir.VoidType())


def call(builder: ir.IRBuilder, name: str, arguments: list[ir.Value], result: ir.Type | None = None) -> ir.Value:
    """Call an LLVM intrinsic or a C function by name."""
    signature = ir.FunctionType(result or arguments[0].type, [a.type for a in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, signature, name), arguments)


def suffix(vector: ir.VectorType) -> str:
    """How LLVM spells a vector type in the names of its intrinsics, for instance ``v16f32``."""
    letter = "i" if isinstance(vector.element, ir.IntType) else "f"
    return f"v{vector.count}{letter}{_element_bits(vector)}"


def _element_bits(vector: ir.VectorType) -> int:
    if isinstance(vector.element, ir.IntType):
        return vector.element.width
    return 32 if isinstance(vector.element, ir.FloatType) else 64


def fma_at(builder: ir.IRBuilder, a: ir.Value, b: ir.Value, c: ir.Value) -> ir.Value:
    """a * b + c, rounded once."""
    return call(builder, f"llvm.fma.{suffix(a.type)}", [a, b, c])


def _tail_mask(builder: ir.IRBuilder, valid: ir.Value, vector: ir.VectorType) -> ir.Value:
    index = ir.Constant(ir.VectorType(_I64, vector.count), list(range(vector.count)))
    return builder.icmp_signed("<", index, splat(builder, valid, ir.VectorType(_I64, vector.count)))


def load_part_at(builder: ir.IRBuilder, address: ir.Value, valid: ir.Value, dtype: types.Float) -> ir.Value:
    """The first ``valid`` lanes at ``address``, zeros beyond: reads nothing past them."""
    vector = llvm_vector(dtype)
    arguments = [
        pointer(builder, address, vector),
        ir.Constant(_I32, dtype.bitwidth // 8),
        _tail_mask(builder, valid, vector),
        ir.Constant(vector, [0.0] * vector.count),
    ]
    return call(builder, f"llvm.masked.load.{suffix(vector)}.p0", arguments, vector)


def store_part_at(builder: ir.IRBuilder, value: ir.Value, address: ir.Value, valid: ir.Value) -> None:
    """Store the first ``valid`` lanes at ``address``; writes nothing past them."""
    arguments = [
        value,
        pointer(builder, address, value.type),
        ir.Constant(_I32, _element_bits(value.type) // 8),
        _tail_mask(builder, valid, value.type),
    ]
    call(builder, f"llvm.masked.store.{suffix(value.type)}.p0", arguments, ir.VoidType())


# ---------------------------------------------------------------- access


@intrinsic
def lanes(_typing, like):
    """Elements in a vector, a compile-time constant."""
    count = VECTOR_BYTES * 8 // like.dtype.bitwidth
    return types.intp(like), lambda context, builder, sig, args: ir.Constant(_I64, count)


@intrinsic
def load(_typing, like, address):
    """The vector at ``address``."""
    dtype = like.dtype
    return Vector(dtype)(like, types.intp), lambda context, builder, sig, args: load_at(builder, args[1], dtype)


@intrinsic
def store(_typing, vector, address):
    """Store a vector at ``address``."""

    def codegen(context, builder, sig, args):
        store_at(builder, *args, vector.dtype)
        return context.get_dummy_value()

    return types.void(vector, types.intp), codegen


@intrinsic
def load_part(_typing, like, address, valid):
    """The first ``valid`` lanes at ``address``, zeros beyond: reads nothing past them."""
    dtype = like.dtype

    def codegen(context, builder, sig, args):
        return load_part_at(builder, args[1], args[2], dtype)

    return Vector(dtype)(like, types.intp, types.intp), codegen


@intrinsic
def store_part(_typing, vector, address, valid):
    """Store the first ``valid`` lanes at ``address``; writes nothing past them."""

    def codegen(context, builder, sig, args):
        store_part_at(builder, *args)
        return context.get_dummy_value()

    return types.void(vector, types.intp, types.intp), codegen


@intrinsic
def fill(_typing, like, value):
    """``value`` in every lane, rounded to the dtype."""
    dtype = like.dtype

    def codegen(context, builder, sig, args):
        scalar = context.cast(builder, args[1], sig.args[1], dtype)
        return splat(builder, scalar, llvm_vector(dtype))

    return Vector(dtype)(like, value), codegen


# ---------------------------------------------------------------- arithmetic


class _VectorArithmetic(AbstractTemplate):
    """Vector with vector, or with a number that fills every lane."""

    def generic(self, args, kws):
        a, b = args
        vector = a if isinstance(a, Vector) else b
        if isinstance(vector, Vector) and all(isinstance(arg, types.Float) or arg == vector for arg in args):
            return signature(vector, a, b)
        return None


def _binary(python_operator, instruction: str) -> None:
    infer_global(python_operator)(type(f"Vector_{instruction}", (_VectorArithmetic,), {"key": python_operator}))

    def lower(context, builder, sig, args):
        vector = llvm_vector(sig.return_type.dtype)
        filled = [
            value if isinstance(kind, Vector)
            else splat(builder, context.cast(builder, value, kind, sig.return_type.dtype), vector)
            for kind, value in zip(sig.args, args, strict=True)
        ]  # fmt: skip
        return getattr(builder, instruction)(*filled)

    for operands in ((Vector, Vector), (Vector, types.Float), (types.Float, Vector)):
        lower_builtin(python_operator, *operands)(lower)


for _operator, _instruction in (
    (operator.add, "fadd"),
    (operator.sub, "fsub"),
    (operator.mul, "fmul"),
    (operator.truediv, "fdiv"),
):
    _binary(_operator, _instruction)


@intrinsic
def fma(_typing, a, b, c):
    """a * b + c, rounded once; a, b, c vectors."""
    return a(a, b, c), lambda context, builder, sig, args: fma_at(builder, *args)


@intrinsic
def where_less(_typing, a, b, then, otherwise):
    """Lane by lane: ``then`` where a < b, else ``otherwise`` (also where a or b is NaN)."""

    def codegen(context, builder, sig, args):
        return builder.select(builder.fcmp_ordered("<", args[0], args[1]), args[2], args[3])

    return then(a, b, then, otherwise), codegen


@intrinsic
def _power_of_two(_typing, shifted):
    """2**n from n + 1.5 * 2**(mantissa bits): n then stands in the lowest bits, and a NaN needs no conversion."""
    wide = shifted.dtype == types.float64
    mantissa, bias = (52, 1023) if wide else (23, 127)

    def codegen(context, builder, sig, args):
        integer = ir.VectorType(_I64 if wide else _I32, args[0].type.count)
        constant = lambda value: ir.Constant(integer, [value] * integer.count)  # noqa: E731
        n_in_exponent = builder.shl(builder.bitcast(args[0], integer), constant(mantissa))
        return builder.bitcast(builder.add(n_in_exponent, constant(bias << mantissa)), args[0].type)

    return shifted(shifted), codegen


# ---------------------------------------------------------------- elementary functions

# expm1(r) on |r| <= ln(2)/2 as r + r^2 P(r), the coefficients of P from the constant up. The float32 ones are the
# minimax fit (relative error 1.7e-8 once rounded); in float64 the Taylor series to r^13 leaves 1e-17.
_EXPM1_TERMS = {
    types.float32: (
        0.4999999701976776,
        0.1666654348373413,
        0.041667211800813675,
        0.008366593159735203,
        0.0013882052153348923,
    ),
    types.float64: tuple(1.0 / math.factorial(n) for n in range(2, 14)),
}
# ln(2) in two parts: n times the first is exact for every n that can occur.
_LN2_HIGH = {types.float32: 0.693145751953125, types.float64: 6.93147180369123816490e-01}
_LN2_LOW = {types.float32: 1.428606765330187045e-06, types.float64: 1.90821492927058770002e-10}
# sigmoid(x) underflows past the first; tanh(x) rounds to 1 past half the second.
_LARGEST_EXPONENT = {types.float32: 88.0, types.float64: 708.0}
_TANH_SATURATES = {types.float32: 18.1, types.float64: 38.2}


def _by_dtype(table):
    """A function of a vector that returns its dtype's entry as a compile-time constant."""

    @intrinsic
    def constant(_typing, v):
        entry = table[v.dtype]
        return types.float64(v), lambda context, builder, sig, args: ir.Constant(ir.DoubleType(), entry)

    return constant


_round_shift = _by_dtype({types.float32: 1.5 * 2.0**23, types.float64: 1.5 * 2.0**52})
_ln2_high, _ln2_low = _by_dtype(_LN2_HIGH), _by_dtype(_LN2_LOW)
_largest_exponent, _tanh_saturates = _by_dtype(_LARGEST_EXPONENT), _by_dtype(_TANH_SATURATES)


@intrinsic
def _expm1_series(_typing, r):
    terms = _EXPM1_TERMS[r.dtype]

    def codegen(context, builder, sig, args):
        vector = llvm_vector(r.dtype)
        constant = lambda term: ir.Constant(vector, [term] * vector.count)  # noqa: E731
        total = constant(terms[-1])
        for term in terms[-2::-1]:
            total = fma_at(builder, total, args[0], constant(term))
        return fma_at(builder, builder.fmul(total, args[0]), args[0], args[0])

    return r(r), codegen


@inlined
def _reduced(x):
    """x = n ln 2 + r with |r| <= ln(2)/2: returns 2**n and expm1(r)."""
    shifted = fma(x, fill(x, 1.4426950408889634), fill(x, _round_shift(x)))
    n = shifted - _round_shift(x)
    r = fma(n, fill(x, -_ln2_high(x)), x)
    r = fma(n, fill(x, -_ln2_low(x)), r)
    return _power_of_two(shifted), _expm1_series(r)


@inlined
def _clamped(x, limit):
    # The comparisons are written so that a NaN stays: min and max instructions would return the limit.
    high, low = fill(x, limit), fill(x, -limit)
    x = where_less(high, x, high, x)
    return where_less(x, low, low, x)


@inlined
def sigmoid(x):
    """1 / (1 + exp(-x)), relative error below 3e-7 in float32 down to x = -87; NaN stays NaN."""
    scale, small = _reduced(0.0 - _clamped(x, _largest_exponent(x)))
    return 1.0 / (1.0 + fma(scale, small, scale))


@inlined
def tanh(x):
    """expm1(2x) / (expm1(2x) + 2), within 4 ulp everywhere; NaN stays NaN."""
    scale, small = _reduced(_clamped(x + x, _tanh_saturates(x)))
    grown = fma(scale, small, scale - 1.0)
    return grown / (grown + 2.0)
