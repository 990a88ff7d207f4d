"""cupy.ndarray, on the host's memory.

No subclass of NumPy's, as CuPy's is none: what CuPy's arrays lack is missing here too, NumPy's functions refuse them,
and arrays of the two kinds do not mix. Where CuPy would copy from or to the host, the watchers are told.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from tests.cuda.stand_in import device, memory

_NO_CONVERSION = (
    "Implicit conversion to a NumPy array is not allowed. Please use `.get()` to construct a NumPy array explicitly."
)


class Flags:
    """As the flags of a CuPy array."""

    def __init__(self, host: np.ndarray, owns: bool):
        self.c_contiguous, self.f_contiguous = host.flags.c_contiguous, host.flags.f_contiguous
        self.owndata, self.forc, self.fnc = owns, host.flags.forc, host.flags.fnc

    def __getitem__(self, name: str) -> bool:
        return {"C_CONTIGUOUS": self.c_contiguous, "F_CONTIGUOUS": self.f_contiguous, "OWNDATA": self.owndata}[name]


class ndarray:
    """As cupy.ndarray."""

    __module__ = "cupy"  # by which CuPy's arrays are told from others
    __array_priority__ = 100
    __slots__ = ("__weakref__", "_base", "_host", "_memory")

    def __init__(
        self, shape: Any, dtype: Any = float, memptr: Any = None, strides: Any = None, order: str = "C"
    ) -> None:
        dtype, shape = np.dtype(dtype), (shape,) if isinstance(shape, int) else tuple(shape)
        pointer = memory.alloc(int(np.prod(shape, dtype=np.int64)) * dtype.itemsize) if memptr is None else memptr
        self._memory, self._base = pointer.mem, None
        raw = pointer.mem._bytes
        self._host = np.ndarray(shape, dtype, raw, pointer.ptr - pointer.mem.ptr, strides, order)

    # What it is

    dtype = property(lambda self: self._host.dtype)
    strides = property(lambda self: self._host.strides)
    ndim = property(lambda self: self._host.ndim)
    size = property(lambda self: self._host.size)
    nbytes = property(lambda self: self._host.nbytes)
    itemsize = property(lambda self: self._host.itemsize)
    base = property(lambda self: self._base)
    T = property(lambda self: self.transpose())
    device = property(lambda self: device.Device(self._memory.device_id))
    flags = property(lambda self: Flags(self._host, self._base is None))

    @property
    def shape(self) -> tuple[int, ...]:
        return self._host.shape

    @shape.setter
    def shape(self, value: Any) -> None:
        self._host.shape = value

    @property
    def data(self) -> memory.MemoryPointer:
        return memory.MemoryPointer(self._memory, self._host.__array_interface__["data"][0] - self._memory.ptr)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        strides = None if self._host.flags.c_contiguous else self.strides
        found = {"shape": self.shape, "typestr": self.dtype.str, "descr": self.dtype.descr, "version": 3}
        return found | {"strides": strides, "data": (self.data.ptr, False), "stream": 1}

    def __len__(self) -> int:
        return len(self._host)

    def __repr__(self) -> str:
        return repr(self._host)

    # To and from the host

    def __array__(self, dtype: Any = None) -> np.ndarray:
        raise TypeError(_NO_CONVERSION)

    def get(self, stream: Any = None, order: str = "C", out: Any = None, blocking: bool = True) -> np.ndarray:
        device.host_waits("to host", "get()")
        if out is None:
            return self._host.copy(order)
        out[...] = self._host
        return out

    def set(self, arr: Any, stream: Any = None) -> None:
        device.host_waits("from host", "set()")
        self._host[...] = arr

    def item(self) -> Any:
        return self.get().item()

    def tolist(self) -> Any:
        return self.get().tolist()

    def __bool__(self) -> bool:
        return bool(self.get())

    def __int__(self) -> int:
        return int(self.get())

    def __float__(self) -> float:
        return float(self.get())

    def __reduce__(self) -> Any:
        return from_host, (self.get(),)

    def __copy__(self) -> ndarray:
        return self.copy()

    def __deepcopy__(self, memo: Any) -> ndarray:
        with self.device:
            return self.copy()

    # Other libraries

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, self._memory.device_id

    def __dlpack__(
        self, *, stream: Any = None, max_version: Any = None, dl_device: Any = None, copy: Any = None
    ) -> Any:
        return _Capsule(self)

    # Views and copies

    def _view(self, host: np.ndarray) -> ndarray:
        """The same memory, seen otherwise."""
        view = object.__new__(ndarray)
        view._host, view._memory, view._base = host, self._memory, self if self._base is None else self._base
        return view

    def _either(self, function: Callable[[], np.ndarray]) -> ndarray:
        """A view, or a copy where NumPy has to make one."""
        host = function()
        return self._view(host) if np.may_share_memory(host, self._host) else produced(function, "copy")

    def reshape(self, *shape: Any, order: str = "C", copy: Any = None) -> ndarray:
        return self._either(lambda: self._host.reshape(*shape, order=order))

    def view(self, dtype: Any = None, type: Any = None) -> ndarray:
        return self._view(self._host.view() if dtype is None else self._host.view(dtype))

    def ravel(self, order: str = "C") -> ndarray:
        return self._either(lambda: self._host.ravel(order))

    def transpose(self, *axes: Any) -> ndarray:
        return self._view(self._host.transpose(*axes))

    def squeeze(self, axis: Any = None) -> ndarray:
        return self._view(self._host.squeeze(axis))

    def swapaxes(self, axis1: int, axis2: int) -> ndarray:
        return self._view(self._host.swapaxes(axis1, axis2))

    def copy(self, order: str = "C") -> ndarray:
        return produced(lambda: self._host, "copy", order)

    def astype(
        self, dtype: Any, order: str = "K", casting: Any = None, subok: Any = None, copy: bool = True
    ) -> ndarray:
        if not copy and self.dtype == dtype:
            return self
        return produced(lambda: self._host.astype(dtype), "astype")

    def __getitem__(self, slices: Any) -> ndarray:
        index = _index(slices)
        picked = self._host[index]
        if isinstance(picked, np.ndarray) and np.may_share_memory(picked, self._host):
            return self._view(picked)
        if not _is_fancy(index):
            return self._view(self._host[(*index, ...)] if isinstance(index, tuple) else self._host[index, ...])
        return produced(lambda: self._host[index], "getitem")

    def __setitem__(self, slices: Any, value: Any) -> None:
        if isinstance(value, np.ndarray):
            raise ValueError("non-scalar numpy.ndarray cannot be used for fill")
        index, given = _index(slices), operand(value)
        device.perform(lambda: operator.setitem(self._host, index, given), "arithmetic", "setitem")

    def fill(self, value: Any) -> None:
        device.perform(lambda: self._host.fill(value), "fill", "fill")

    def scatter_add(self, slices: Any, value: Any) -> None:
        index, given = _index(slices), operand(value)
        device.perform(lambda: np.add.at(self._host, index, given), "arithmetic", "scatter_add")

    # Reductions

    def sum(self, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: bool = False) -> ndarray:
        return calculated(np.sum, self, axis=axis, dtype=dtype, out=out, keepdims=keepdims)

    def all(self, axis: Any = None, out: Any = None, keepdims: bool = False) -> ndarray:
        return calculated(np.all, self, axis=axis, out=out, keepdims=keepdims)

    def any(self, axis: Any = None, out: Any = None, keepdims: bool = False) -> ndarray:
        return calculated(np.any, self, axis=axis, out=out, keepdims=keepdims)

    def max(self, axis: Any = None, out: Any = None, keepdims: bool = False) -> ndarray:
        return calculated(np.max, self, axis=axis, out=out, keepdims=keepdims)

    def min(self, axis: Any = None, out: Any = None, keepdims: bool = False) -> ndarray:
        return calculated(np.min, self, axis=axis, out=out, keepdims=keepdims)

    def argmax(self, axis: Any = None, out: Any = None, dtype: Any = None, keepdims: bool = False) -> ndarray:
        return calculated(np.argmax, self, axis=axis, out=out, keepdims=keepdims)

    # NumPy's functions, where CuPy has one of the same name

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        (out,) = kwargs.pop("out", None) or (None,)
        return calculated(getattr(ufunc, method), *inputs, out=out, **kwargs)

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        if func.__name__ in ("shape", "ndim", "size"):
            return getattr(args[0], func.__name__)
        ours = getattr(sys.modules["cupy"], func.__name__, None)
        if ours is None:
            raise TypeError(f"the stand-in has nothing for numpy.{func.__name__}")
        return ours(*args, **kwargs)


def _operators() -> None:
    """Arithmetic and comparisons; those in place keep the array."""

    def define(name: str, method: Callable[..., Any]) -> None:
        setattr(ndarray, f"__{name}__", method)

    for name in "add sub mul truediv floordiv mod pow matmul and or xor lshift rshift".split():
        plain, in_place = getattr(operator, f"__{name}__"), getattr(operator, f"__i{name}__")
        define(name, lambda a, b, f=plain: calculated(f, a, b))
        define(f"r{name}", lambda a, b, f=plain: calculated(f, b, a))
        if name != "matmul":
            define(f"i{name}", lambda a, b, f=in_place: _in_place(f, a, b))
    for name in "eq ne lt le gt ge".split():
        compare = getattr(operator, name)
        define(name, lambda a, b, f=compare: calculated(f, a, b))
    for name in "neg pos abs invert".split():
        unary = getattr(operator, name)
        define(name, lambda a, f=unary: calculated(f, a))
    ndarray.__hash__ = None  # type: ignore[assignment]


class _Capsule:
    """In a DLPack capsule's place."""

    def __init__(self, array: ndarray):
        self.array = array


class ForeignArray:
    """What another CUDA library would hand over: DLPack, and nothing else."""

    def __init__(self, array: ndarray):
        self._array = array

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._array.__dlpack_device__()

    def __dlpack__(self, **options: Any) -> Any:
        return self._array.__dlpack__(**options)


# ---- how arrays come about ----


def from_host(host: np.ndarray, order: str = "C") -> ndarray:
    """A copy on the device."""
    device.host_waits("from host", "an array")
    result = ndarray(host.shape, host.dtype, order="F" if order == "F" else "C")
    result._host[...] = host
    return result


def operand(value: Any) -> Any:
    """What NumPy may calculate with; raises TypeError for its own arrays, as CuPy does."""
    if isinstance(value, ndarray):
        current = device.getDevice()
        if value._memory.device_id != current:
            raise ValueError(
                "Array device must be same as the current device: "
                f"array device = {value._memory.device_id} while current = {current}"
            )
        return value._host
    if isinstance(value, np.ndarray | list):
        raise TypeError(f"Unsupported type {type(value)}")
    return value


def _index(slices: Any) -> Any:
    """An index for NumPy. One from the host is allowed, and copied there by CuPy."""
    if isinstance(slices, tuple):
        return tuple(_index(part) for part in slices)
    if isinstance(slices, np.ndarray | list):
        device.host_waits("from host", "an index")
        return np.asarray(slices)
    if isinstance(slices, ndarray) and slices.dtype == bool:
        device.host_waits("to host", "an index of bool")
    return slices._host if isinstance(slices, ndarray) else slices


def _is_fancy(index: Any) -> bool:
    return any(isinstance(part, np.ndarray) for part in (index if isinstance(index, tuple) else (index,)))


def produced(function: Callable[[], Any], name: str, order: str = "C") -> ndarray:
    """A new array of what a function returns, which is asked again whenever a graph with it is launched."""
    first = np.asarray(function())
    result = ndarray(first.shape, first.dtype, order="F" if order == "F" else "C")
    device.perform(lambda: np.copyto(result._host, function()), "arithmetic", name)
    return result


def calculated(function: Callable[..., Any], *operands: Any, out: ndarray | None = None, **options: Any) -> ndarray:
    hosts = [operand(value) for value in operands]
    name = getattr(function, "__name__", "")
    if out is None:
        return produced(lambda: function(*hosts, **options), name)
    target = operand(out)
    device.perform(lambda: np.copyto(target, function(*hosts, **options), casting="same_kind"), "arithmetic", name)
    return out


def _in_place(function: Callable[[Any, Any], Any], a: ndarray, b: Any) -> ndarray:
    target, other = operand(a), operand(b)
    device.perform(lambda: function(target, other), "arithmetic", function.__name__)
    return a


_operators()
