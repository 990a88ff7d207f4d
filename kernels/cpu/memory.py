"""Memory as kernels see it: aligned arrays, scalars by address, and argument blocks.

A kernel gets all its arguments as the address of an ``int64`` block, described field by field by a NamedTuple: one
integer to unbox a call, and a block that a stream prepares once and uses at every step.
"""

from __future__ import annotations

import os
import weakref
from ctypes import c_size_t
from typing import NoReturn

import numpy as np
from llvmlite import ir
from numba import types
from numba.core.imputils import lower_getattr_generic
from numba.core.typing.templates import AttributeTemplate, infer_getattr
from numba.extending import intrinsic, models, register_model

from fastrnn import guards

from .jit import inlined
from .simd import pointer, prefetch_at

__all__ = [
    "Addressed", "address_of", "aligned", "aligned_zeros", "elements", "prefetch", "read", "read_byte",
    "read_int", "stride", "write_int",
]  # fmt: skip

_ALIGNMENT = 64
_I64 = ir.IntType(64)


class _Shelf:
    """Large buffers that calls have finished with, for the next call.

    Memory fresh from the operating system costs a page fault every 4 KB when it is first written: for the tape of
    (T, B, H) = (100, 64, 512) as much time as the forward pass itself. Every operation is one dictionary call, so
    that threads and finalizers need no lock.
    """

    def __init__(self, smallest: int, limit: int, largest: int) -> None:
        self.smallest, self.limit, self.largest = smallest, limit, largest
        self.free: dict[int, np.ndarray] = {}

    def take(self, size: int) -> np.ndarray | None:
        """A free buffer of at least ``size`` bytes, at most twice that; or None."""
        fitting = [(b.nbytes, key) for key, b in list(self.free.items()) if size <= b.nbytes <= 2 * size]
        return self.free.pop(min(fitting)[1], None) if fitting else None

    def give(self, buffer: np.ndarray) -> None:
        """Put a buffer back; the oldest go where too much has come together.

        The newest stays even where it alone is more, unless it is a large part of the machine's memory: a training
        loop wants it again at once.
        """
        newest = id(buffer)
        self.free[newest] = buffer
        idle = sum(b.nbytes for b in list(self.free.values()))
        for key in list(self.free):
            if idle <= self.limit or (key == newest and buffer.nbytes <= self.largest):
                break
            dropped = self.free.pop(key, None)
            idle -= 0 if dropped is None else dropped.nbytes


def _physical_memory() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 0


# Smaller buffers come from the C library's heap, which keeps its pages. The limit is what a process may hold idle.
_shelf = _Shelf(smallest=4 << 20, limit=256 << 20, largest=_physical_memory() // 8)


def aligned(size: int, zero: bool = False) -> tuple[np.ndarray, int]:
    """Memory of ``size`` bytes: the array that owns it, and the address within it where a cache line starts.

    Keep the array itself as long as the memory is used, not only a view of it.
    """
    if guards.ENABLED:
        return _guarded(size, zero)
    size += _ALIGNMENT
    if size < _shelf.smallest:
        raw = (np.zeros if zero else np.empty)(size, np.uint8)
        owner = raw
    else:
        found = _shelf.take(size)
        raw = np.empty(size, np.uint8) if found is None else found
        if zero:
            raw.fill(0)
        owner = raw[:]
        weakref.finalize(owner, _shelf.give, raw).atexit = False
    address = address_of(raw)
    return owner, address + -address % _ALIGNMENT


def _guarded(size: int, zero: bool) -> tuple[np.ndarray, int]:
    memory = np.empty(size + 2 * guards.GAP + _ALIGNMENT, np.uint8)
    start = guards.GAP + -(address_of(memory) + guards.GAP) % _ALIGNMENT
    guards.watch(memory, (0, start), (start + size, memory.size))
    if zero:
        memory[start : start + size] = 0
    return memory, address_of(memory) + start


def aligned_zeros(count: int, dtype: np.dtype | type) -> np.ndarray:
    """A 1-D array of zeros whose first element starts a cache line."""
    dtype = np.dtype(dtype)
    raw = np.zeros(count * dtype.itemsize + _ALIGNMENT, np.uint8)
    start = -address_of(raw) % _ALIGNMENT
    return raw[start : start + count * dtype.itemsize].view(dtype)


class Addressed:
    """Base of objects that know their memory by address: copies would point at the original's."""

    __slots__ = ()

    def __reduce_ex__(self, protocol: int) -> NoReturn:
        raise TypeError(f"{type(self).__name__} refers to memory of this process: it cannot be copied or pickled")


# NumPy's binary interface: behind an object's head an array keeps the address of its elements, the number of its axes,
# the address of its lengths, and the address of its strides.
_DATA = object.__basicsize__
_STRIDES = _DATA + 24


def address_of(array: np.ndarray) -> int:
    """Address of an array's first element.

    Reading it from the object takes 0.15 us, ``__array_interface__`` 0.8: half the time of a small call.
    """
    return c_size_t.from_address(id(array) + _DATA).value


def _strides_address(array: np.ndarray) -> int:
    return c_size_t.from_address(id(array) + _STRIDES).value


_probe = np.empty((2, 3))
if (address_of(_probe), c_size_t.from_address(_strides_address(_probe)).value) != (_probe.ctypes.data, 24):
    raise ImportError("fastrnn's CPU kernels need CPython, and arrays with the binary interface of NumPy 1 and 2")


class BlockView(types.Type):
    """An argument block by its address: every field is an attribute, loaded where it is used.

    A tuple of all fields would be simpler, but copying dozens of them in and out of every helper doubled the time to
    compile.
    """

    def __init__(self, fields: type) -> None:
        self.fields = fields
        super().__init__(name=f"BlockView({fields.__name__})")


@register_model(BlockView)
class _BlockViewModel(models.PrimitiveModel):
    def __init__(self, manager, view):
        super().__init__(manager, view, _I64)


@infer_getattr
class _BlockViewFields(AttributeTemplate):
    key = BlockView

    def generic_resolve(self, view, name):
        return types.intp if name in view.fields._fields else None


@lower_getattr_generic(BlockView)
def _load_field(context, builder, view, value, name):
    offset = ir.Constant(_I64, 8 * view.fields._fields.index(name))
    loaded = builder.load(pointer(builder, builder.add(value, offset), _I64))
    # No kernel writes to its block, so a loop need not read it again after each store elsewhere.
    loaded.set_metadata("invariant.load", builder.module.add_metadata([]))
    return loaded


@intrinsic
def read(_typing, kind, address):
    """The argument block at ``address`` as a view with the fields of the NamedTuple class ``kind``."""
    view = BlockView(kind.instance_class)
    return view(kind, types.intp), lambda context, builder, sig, args: args[1]


@intrinsic
def read_int(_typing, address):
    """The int64 at ``address``."""
    return types.intp(types.intp), lambda context, builder, sig, args: builder.load(pointer(builder, args[0], _I64))


@intrinsic
def write_int(_typing, address, value):
    """Store an int64 at ``address``."""

    def codegen(context, builder, sig, args):
        builder.store(args[1], pointer(builder, args[0], _I64))
        return context.get_dummy_value()

    return types.void(types.intp, types.intp), codegen


@inlined
def elements(array):
    """Address of the first element of an array, given as ``id(array)``, of which the caller keeps hold; 0 for 0.

    Numba's own arrays bring a reference count and all their shape: 70 ns each, and a small call has a dozen.
    """
    if array == 0:
        return 0
    return read_int(array + _DATA)


@inlined
def stride(array, axis):
    """Bytes from one entry of an array to the next along an axis; 0 for 0."""
    if array == 0:
        return 0
    return read_int(read_int(array + _STRIDES) + axis * 8)


@intrinsic
def prefetch(_typing, address):
    """Ask for the cache line at ``address``; any address is allowed."""

    def codegen(context, builder, sig, args):
        prefetch_at(builder, args[0])
        return context.get_dummy_value()

    return types.void(types.intp), codegen


@intrinsic
def read_byte(_typing, address):
    """The byte at ``address`` as an integer."""

    def codegen(context, builder, sig, args):
        return builder.zext(builder.load(pointer(builder, args[0], ir.IntType(8))), _I64)

    return types.intp(types.intp), codegen
