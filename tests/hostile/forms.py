"""Forms in which an argument may come: those that mean the same, those that must be refused, and whatever else.

A form is a function of a good value and a number, which chooses among variants. ``SAME`` forms must be accepted, and
give what the good value gives; ``REFUSED`` ones must raise; of ``ANY`` both are right, but what is accepted must be
treated as the plain array of the same numbers.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fastrnn import Gradients
from fastrnn.nn import AttentionGradients

__all__ = ["FORMS", "Form", "plain"]

SAME, REFUSED, ANY = "same", "refused", "any"


class Form(NamedTuple):
    """``applies``: whether the form can be made of a value."""

    make: Callable[[Any, int], Any]
    expected: str
    applies: Callable[[Any], bool] = lambda value: True

    @property
    def name(self) -> str:
        return self.make.__name__


def plain(value: Any) -> Any:
    """The same numbers in a plain array of their own; of a tuple, each part."""
    if isinstance(value, (tuple, list)) and any(isinstance(part, np.ndarray) for part in value):
        return type(value)(map(plain, value))
    if isinstance(value, Gradients):
        return _gradients(value, plain)
    if isinstance(value, np.ndarray) and value.size < 1 << 30:
        return np.array(np.asarray(value), order="C")
    return value


def _gradients(value, changed: Callable[[Any], Any]) -> Any:
    """Gradients whose flat array, x and state, or x and memory, are changed ones."""
    if isinstance(value, AttentionGradients):
        return AttentionGradients(value.parameters.layout, *map(changed, (value.flat, value.x, value.memory)))
    return Gradients(value.parameters.layout, *map(changed, (value.flat, value.x, value.state)))


class Subclass(np.ndarray):
    """Of no meaning of its own."""


# ---- arrays: the same numbers elsewhere in memory ----


def strided(a, k):
    big = np.zeros([(2 + k % 2) * n + 1 for n in a.shape], a.dtype)
    view = big[tuple(slice(1, (2 + k % 2) * n + 1, 2 + k % 2) for n in a.shape)]
    view[...] = a
    return view


def reversed_in_memory(a, k):
    """One axis or all of them."""
    back = tuple(slice(None, None, -1 if k % (a.ndim + 1) in (axis, a.ndim) else 1) for axis in range(a.ndim))
    return np.ascontiguousarray(a[back])[back]


def other_axis_order(a, k):
    order = np.roll(np.arange(a.ndim), k % a.ndim)
    return np.ascontiguousarray(a.transpose(order)).transpose(np.argsort(order))


def unaligned(a, k):
    view = np.empty(a.nbytes + 1 + k % 3, np.uint8)[1 + k % 3 :].view(a.dtype).reshape(a.shape)
    view[...] = a
    return view


def read_only(a, k):
    a = a.copy()
    a.flags.writeable = False
    return a


def subclass(a, k):
    return a.view(Subclass)


def memory_map(a, k):
    with tempfile.TemporaryFile() as file:
        mapped = np.memmap(file, a.dtype, "w+", shape=a.shape)
    mapped[...] = a
    return mapped


def within_a_larger_one(a, k):
    big = np.full([n + 2 for n in a.shape], 1, a.dtype)
    view = big[tuple(slice(1, n + 1) for n in a.shape)]
    view[...] = a
    return view


def repeated(a, k):
    """Strides of 0 along an axis: other numbers, but an array as good as any."""
    axis = k % a.ndim
    return np.broadcast_to(a[tuple(slice(0, 1) if n == axis else slice(None) for n in range(a.ndim))], a.shape)


def matrix(a, k):
    return a.view(np.matrix)


# ---- arrays: of another kind ----


def other_byte_order(a, k):
    return a.astype(a.dtype.newbyteorder())


def other_float(a, k):
    return a.astype([np.float16, np.longdouble, np.complex64, np.complex128][k % 4])


def integers(a, k):
    with np.errstate(invalid="ignore"):
        return a.astype([np.int64, np.uint8, np.int32][k % 3])


def booleans(a, k):
    return a.astype(bool)


def objects(a, k):
    return a.astype(object)


def text(a, k):
    return a.astype(["U8", "S8", "V4"][k % 3]) if k % 3 < 2 else np.zeros(a.shape, "V4")


def times(a, k):
    return np.zeros(a.shape, ["M8[s]", "m8[s]"][k % 2])


def structured(a, k):
    return np.zeros(a.shape, [("re", a.dtype), ("im", a.dtype)])


def masked(a, k):
    return np.ma.masked_array(a, mask=bool(k % 2))


def as_list(a, k):
    return a.tolist()


def as_bytes(a, k):
    return [a.tobytes(), bytearray(a.tobytes()), memoryview(a.tobytes())][k % 3]


class Pretender:
    """Has NumPy's protocols, and is no array."""

    def __init__(self, array):
        self.__array_interface__ = array.__array_interface__
        self._array = array

    def __array__(self, *_, **__):
        return self._array


def pretender(a, k):
    return Pretender(a)


def no_array(a, k):
    return [3.5, "x", b"x", {}, {1, 2}, object(), np.float32(1), Ellipsis, range(3), lambda: a][k % 10]


# ---- arrays: of other shapes ----


def longer(a, k):
    axis = k % a.ndim
    return np.concatenate([a, a[tuple(slice(0, 1) if n == axis else slice(None) for n in range(a.ndim))]], axis)


def shorter(a, k):
    axis = k % a.ndim
    return a[tuple(slice(0, -1) if n == axis else slice(None) for n in range(a.ndim))]


def one_axis_more(a, k):
    return np.expand_dims(a, k % (a.ndim + 1))


def one_axis_less(a, k):
    return a.reshape(-1) if a.ndim > 1 and k % 2 else a.sum(axis=k % a.ndim, dtype=a.dtype)


def no_axis(a, k):
    return np.zeros((), a.dtype)


def empty(a, k):
    return np.zeros([0 if n == k % a.ndim else size for n, size in enumerate(a.shape)], a.dtype)


def huge(a, k):
    """More than any memory has, of one number."""
    shape = [1 << (40 + k % 8) if n == k % a.ndim else size for n, size in enumerate(a.shape)]
    return np.lib.stride_tricks.as_strided(np.ones(1, a.dtype), shape, (0,) * a.ndim)


def many_axes(a, k):
    return a.reshape((1,) * (20 + k % 12) + a.shape)


# ---- arrays: of other numbers ----


def strange_numbers(a, k):
    a = a.copy()
    numbers = [np.nan, np.inf, -np.inf, np.finfo(a.dtype).max, np.finfo(a.dtype).tiny / 4, -0.0, 1e4, -1e4]
    if a.size:
        a.reshape(-1)[k % a.size :: 1 + k % 5] = numbers[k % 8]
    return a


def _array(value):
    return isinstance(value, np.ndarray) and value.ndim > 0


def _two(value):
    return _array(value) and value.ndim == 2


def _filled(value):
    return _array(value) and value.size > 0


_SAME_NUMBERS = [
    Form(strided, SAME, _array), Form(reversed_in_memory, SAME, _array), Form(other_axis_order, SAME, _array),
    Form(unaligned, SAME, _array), Form(read_only, SAME, _array), Form(subclass, SAME, _array),
    Form(memory_map, SAME, _filled), Form(within_a_larger_one, SAME, _array), Form(matrix, SAME, _two),
]  # fmt: skip
_OTHER_KINDS = [
    Form(other_byte_order, REFUSED, _array), Form(other_float, REFUSED, _array), Form(integers, REFUSED, _array),
    Form(booleans, REFUSED, _array), Form(objects, REFUSED, _array), Form(text, REFUSED, _array),
    Form(times, REFUSED, _array), Form(structured, REFUSED, _array), Form(masked, REFUSED, _array),
    Form(as_list, REFUSED, _array), Form(as_bytes, REFUSED, _array), Form(pretender, REFUSED, _array),
    Form(no_array, REFUSED),
]  # fmt: skip
_OTHER_SHAPES = [
    Form(longer, ANY, _filled), Form(shorter, ANY, _filled), Form(one_axis_more, ANY, _array),
    Form(one_axis_less, ANY, _array), Form(no_axis, ANY, _array), Form(empty, ANY, _array), Form(huge, ANY, _filled),
    Form(many_axes, ANY, _array), Form(repeated, ANY, _filled),
]  # fmt: skip
_FLOATS = [*_SAME_NUMBERS, *_OTHER_KINDS, *_OTHER_SHAPES, Form(strange_numbers, ANY, _array)]


# ---- lengths, indices, options ----


def as_tuple(a, k):
    return tuple(a.tolist())


def other_integers(a, k):
    return a.astype([np.int8, np.uint8, np.int32, np.uint64, ">i4", "<i2"][k % 6])


def not_numbers(a, k):
    return np.where(np.arange(a.size).reshape(a.shape) % (1 + k % 2) == 0, np.nan, a)


def list_of_nothing(a, k):
    return [[None] * a.size, ["3"] * a.size, [np.nan] * a.size, [[1], [1, 2]], [2**70] * a.size, "3" * a.size][k % 6]


def out_of_range(a, k):
    a = a.astype(np.int64)
    a.reshape(-1)[k % a.size] = [-1, 1000, np.iinfo(np.int64).max, np.iinfo(np.int64).min][k % 4]
    return a


def floating(a, k):
    return a.astype([np.float32, np.float64, np.float16][k % 3])


_INTEGERS = [
    *[form for form in _SAME_NUMBERS if form.make is not matrix], Form(other_integers, SAME, _array),
    Form(not_numbers, REFUSED, _filled), Form(list_of_nothing, REFUSED, _filled), Form(out_of_range, REFUSED, _filled),
    Form(floating, REFUSED, _filled), Form(booleans, REFUSED, _filled), Form(objects, REFUSED, _filled),
    Form(text, REFUSED, _filled), Form(masked, REFUSED, _array), Form(structured, REFUSED, _array),
    Form(no_array, ANY), *[form for form in _OTHER_SHAPES if form.make is not repeated],
]  # fmt: skip
_LENGTHS = [*_INTEGERS, Form(as_list, SAME, _filled), Form(as_tuple, SAME, _filled)]
_FLAGS = [
    *_SAME_NUMBERS, *[form for form in _OTHER_KINDS if form.make not in (booleans, other_byte_order)], *_OTHER_SHAPES
]  # fmt: skip

_ODD = [
    True, None, 1.5, "3", b"3", np.nan, np.inf, -np.inf, -1, 0, 1, 2, 2**31, 2**63, 2**70, -(2**70), 3 + 0j, [3], (3,),
    {}, np.int64(3), np.uint8(2), np.float64(3), np.array(3), np.array([1, 2]), np.bool_(True), object(), Ellipsis,
    "mean", "tanh", slice(3), type, np.timedelta64(3), 1e-320, 10**400,
]  # fmt: skip


def odd_value(value, k):
    return _ODD[k % len(_ODD)]


# ---- states: h, or (h, c) ----


def _of_a_part(form: Form) -> Form:
    """A form of one array of a tuple."""

    def changed(value, k):
        if not isinstance(value, tuple):
            return form.make(value, k)
        at = k % len(value)
        return tuple(form.make(part, k // 2) if n == at else part for n, part in enumerate(value))

    changed.__name__ = form.name

    def applies(value):
        return all(map(form.applies, value)) if isinstance(value, tuple) else form.applies(value)

    return Form(changed, form.expected, applies)


def other_parts(value, k):
    """Of a tuple too few, too many, none; of an array a tuple of it."""
    if isinstance(value, tuple):
        return [value[:1], value * 2, (), {}, value[0], (None, None), 5][k % 7]
    return [(value, value), (), (value,), {"h": value}, [value]][k % 5]


_STATES = [*map(_of_a_part, _FLOATS), Form(other_parts, ANY)]


# ---- gradients that others are to be added to ----


def other_gradients(value, k):
    """Those of another call: one of the arrays in another form, or none."""
    form, k = _FLOATS[k % len(_FLOATS)], k // len(_FLOATS)
    kept = [value.flat, value.x, value.memory if isinstance(value, AttentionGradients) else value.state]
    at, k = k % 3, k // 3

    def changed(part):
        if part is not kept[at]:
            return part
        part = part[k % len(part)] if isinstance(part, tuple) else part
        if k % 5 == 4 and at:
            return None
        return form.make(part, k) if form.applies(part) and (at or form.make is read_only) else part

    return _gradients(value, changed)


_GRADIENTS = [Form(other_gradients, ANY, lambda value: isinstance(value, Gradients)), Form(odd_value, ANY)]


# ---- names of files, symbols ----

_PATHS = [
    "a\0b",
    "",
    ".",
    "/",
    "/nowhere/file",
    "x" * 5000,
    b"a\xff",
    b"a\0b",
    "ä ö",
    "\ud800",
    Path("p"),
    Path("."),
    0,
    -1,
    1,
]
_SYMBOLS = [
    "", "aba", b"abc", ["a", 1], ["a", "a"], [["a"]], [None], {"a": 1}, ("a",), ["<bos>", "<eos>"], ["<eos>"], [[]],
    np.array(["a", "b"]), range(3), "xyz", [b"a"], [("a",)], {"a"}, ["\ud800"], frozenset("c"), [np.str_("a")],
]  # fmt: skip


def odd_path(value, k):
    return _PATHS[k % len(_PATHS)]


def odd_symbols(value, k):
    return _SYMBOLS[k % len(_SYMBOLS)]


def odd_sequences(value, k):
    found = odd_symbols(value, k // 3)
    return [[found], [found, "a"], found][k % 3]


_OPTION = Form(odd_value, ANY)
FORMS = {
    "floats": _FLOATS,
    "states": _STATES,
    "lengths": _LENGTHS,
    "integers": _INTEGERS,
    "flags": _FLAGS,
    "option": [_OPTION],
    "gradients": _GRADIENTS,
    "paths": [_OPTION, Form(odd_path, ANY)],
    "symbols": [_OPTION, Form(odd_symbols, ANY)],
    "sequences": [_OPTION, Form(odd_sequences, ANY)],
}
