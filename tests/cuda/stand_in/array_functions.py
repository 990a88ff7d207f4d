"""The functions of the module cupy."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tests.cuda.stand_in import device
from tests.cuda.stand_in.arrays import calculated, from_host, ndarray, operand, produced


def empty(shape: Any, dtype: Any = float, order: str = "C") -> ndarray:
    return ndarray(shape, dtype, order=order)


def full(shape: Any, fill_value: Any, dtype: Any = None, order: str = "C") -> ndarray:
    result = empty(shape, np.array(fill_value).dtype if dtype is None else dtype, order)
    result.fill(fill_value)
    return result


def zeros(shape: Any, dtype: Any = float, order: str = "C") -> ndarray:
    return full(shape, 0, dtype, order)


def ones(shape: Any, dtype: Any = float, order: str = "C") -> ndarray:
    return full(shape, 1, dtype, order)


def empty_like(prototype: Any, dtype: Any = None, order: str = "K", subok: Any = None, shape: Any = None) -> ndarray:
    return empty(prototype.shape if shape is None else shape, prototype.dtype if dtype is None else dtype)


def zeros_like(a: Any, dtype: Any = None, order: str = "K", subok: Any = None, shape: Any = None) -> ndarray:
    return zeros(a.shape if shape is None else shape, a.dtype if dtype is None else dtype)


def ones_like(a: Any, dtype: Any = None, order: str = "K", subok: Any = None, shape: Any = None) -> ndarray:
    return ones(a.shape if shape is None else shape, a.dtype if dtype is None else dtype)


def full_like(
    a: Any, fill_value: Any, dtype: Any = None, order: str = "K", subok: Any = None, shape: Any = None
) -> ndarray:
    return full(a.shape if shape is None else shape, fill_value, a.dtype if dtype is None else dtype)


def array(
    obj: Any,
    dtype: Any = None,
    copy: Any = True,
    order: str = "K",
    subok: bool = False,
    ndmin: int = 0,
    *,
    blocking: bool = False,
) -> ndarray:
    if not isinstance(obj, ndarray) and hasattr(obj, "__cuda_array_interface__"):
        raise TypeError("the stand-in reads other libraries' arrays by from_dlpack only")
    if isinstance(obj, ndarray):
        if not copy and dtype in (None, obj.dtype) and (order != "C" or obj.flags.c_contiguous):
            return obj
        return produced(lambda: obj._host if dtype is None else obj._host.astype(dtype), "copy", order)
    return from_host(np.array(obj, dtype, ndmin=ndmin), order)


def asarray(a: Any, dtype: Any = None, order: Any = None, *, copy: Any = None, blocking: bool = False) -> ndarray:
    return array(a, dtype, bool(copy), order or "K")


def ascontiguousarray(a: Any, dtype: Any = None) -> ndarray:
    return array(a, dtype, False, "C", ndmin=1)


def asnumpy(a: Any, stream: Any = None, order: str = "C", out: Any = None, *, blocking: bool = True) -> np.ndarray:
    if isinstance(a, ndarray):
        return a.get(stream, order, out, blocking)
    return np.asarray(a, order=order)


def arange(start: Any, stop: Any = None, step: Any = 1, dtype: Any = None) -> ndarray:
    return produced(lambda: np.arange(*((start,) if stop is None else (start, stop, step)), dtype=dtype), "arange")


def copyto(dst: ndarray, src: Any, casting: str = "same_kind", where: Any = None) -> None:
    if isinstance(src, np.ndarray):
        raise ValueError("non-scalar numpy.ndarray cannot be used for copyto")
    if not isinstance(dst, ndarray):
        raise AttributeError("'memoryview' object has no attribute 'copy_from_async'")
    given, mask = operand(src), True if where is None else operand(where)
    target = dst._host
    device.perform(lambda: np.copyto(target, given, casting, where=mask), "arithmetic", "copyto")


def concatenate(
    tup: Sequence[Any], axis: Any = 0, out: Any = None, *, dtype: Any = None, casting: str = "same_kind"
) -> ndarray:
    parts = [operand(part) for part in tup]
    return calculated(lambda: np.concatenate(parts, axis, dtype=dtype, casting=casting), out=out)


def stack(
    tup: Sequence[Any], axis: int = 0, out: Any = None, *, dtype: Any = None, casting: str = "same_kind"
) -> ndarray:
    parts = [operand(part) for part in tup]
    return calculated(lambda: np.stack(parts, axis, dtype=dtype, casting=casting), out=out)


def where(condition: Any, x: Any = None, y: Any = None) -> ndarray:
    return calculated(np.where, condition, x, y)


def take(a: Any, indices: Any, axis: Any = None, out: Any = None) -> ndarray:
    return calculated(np.take, a, indices, axis=axis, out=out)


def matmul(x1: Any, x2: Any, /, out: Any = None, **kwargs: Any) -> ndarray:
    return calculated(np.matmul, x1, x2, out=out, **kwargs)


def sum(a: Any, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: bool = False) -> ndarray:
    return a.sum(axis, dtype, out, keepdims)


def may_share_memory(a: Any, b: Any, max_work: Any = None) -> bool:
    return np.may_share_memory(a._host, b._host)


def shares_memory(a: Any, b: Any, max_work: Any = None) -> bool:
    return np.shares_memory(a._host, b._host)


def moveaxis(a: Any, source: Any, destination: Any) -> ndarray:
    return a._view(np.moveaxis(a._host, source, destination))


def broadcast_to(array: Any, shape: Any) -> ndarray:
    return array._view(np.broadcast_to(array._host, shape))


def expand_dims(a: Any, axis: Any) -> ndarray:
    return a._view(np.expand_dims(a._host, axis))


def get_array_module(*args: Any) -> Any:
    return sys.modules["cupy"] if any(isinstance(arg, ndarray) for arg in args) else np


def from_dlpack(array: Any, *, device: Any = None, copy: Any = None) -> ndarray:
    if array.__dlpack_device__()[0] != 2:
        raise TypeError(
            "CPU arrays cannot be directly imported to CuPy. Use `cupy.array(numpy.from_dlpack(input))` instead."
        )
    source = array.__dlpack__().array
    return source.copy() if copy else source._view(source._host.view())


def is_available() -> bool:
    return device.getDeviceCount() > 0


def _ufunc(name: str) -> Callable[..., ndarray]:
    function = getattr(np, name)

    def call(*operands: Any, out: Any = None, **options: Any) -> ndarray:
        return calculated(function, *operands, out=out, **options)

    call.__name__ = name
    return call


UFUNCS = {
    name: _ufunc(name)
    for name in (
        "abs add divide equal exp isfinite isinf isnan log log1p maximum minimum multiply negative sign sqrt square "
        "subtract tanh"
    ).split()
}
