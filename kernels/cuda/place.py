"""One GPU as the public side sees it; see ``fastrnn.places.Place``."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastrnn.places import type_name

from . import devices
from .dropout import apply_mask
from .layout import ELEMENTS

__all__ = ["Gpu", "place"]

_DLPACK_CUDA = (2, 13)  # kDLCUDA, kDLCUDAManaged


class Gpu:
    """CuPy arrays of one device."""

    device = "cuda"
    dtypes = tuple(ELEMENTS)
    plain = None  # ``own`` looks at every array: it may be another GPU's
    side_by_side = True

    def __init__(self, index: int) -> None:
        self.index = index
        self.arrays = devices.require()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Gpu) and other.index == self.index

    def __hash__(self) -> int:
        return hash((Gpu, self.index))

    def own(self, name: str, value: Any) -> Any:
        """A CuPy array of this GPU, or what another CUDA library shows of its own by DLPack."""
        array = value if isinstance(value, self.arrays.ndarray) else self._imported(name, value)
        if array.device.id != self.index:
            raise ValueError(
                f"{name} is on GPU {array.device.id}, but the layer is on GPU {self.index}: copy it with "
                f"cupy.asarray({name}) under cupy.cuda.Device({self.index})"
            )
        return array

    def _imported(self, name: str, value: Any) -> Any:
        if isinstance(value, np.ndarray):
            raise TypeError(
                f"{name} is a NumPy array, but the layer is on a GPU: "
                f'move the array with cupy.asarray({name}), or the layer with layer.to("cpu")'
            )
        where = getattr(value, "__dlpack_device__", None)
        if where is not None and where()[0] in _DLPACK_CUDA:
            return self.arrays.from_dlpack(value)
        if where is not None:
            raise TypeError(f"{name} must be on a GPU, as the layer is, got {type_name(value)} of another device")
        raise TypeError(f"{name} must be a CuPy array, or one of a CUDA library with DLPack, got {type_name(value)}")

    def kernel_ready(self, values: Any) -> bool:
        return values.flags.c_contiguous or values.strides[-1] == values.itemsize

    def gradient_dtype(self, dtype: np.dtype[Any]) -> np.dtype[Any]:
        """That of sums: float32 for float16 and bfloat16."""
        return np.dtype(ELEMENTS[dtype.name].sums)

    def current(self) -> contextlib.AbstractContextManager[Any]:
        return self.arrays.cuda.Device(self.index)

    def from_host(self, array: NDArray[Any]) -> Any:
        with self.current():
            return self.arrays.asarray(array)

    def to_host(self, array: Any) -> NDArray[Any]:
        return array.get()

    def synchronize(self) -> None:
        self.arrays.cuda.get_current_stream().synchronize()

    def apply_mask(self, array: Any, p: float, seed: int, boundary: int) -> None:
        apply_mask(array, p, seed, boundary)

    def product(self, a: Any, b: Any, out: Any = None, bias: Any = None) -> Any:
        found = self.arrays.matmul(a, b, out=out)
        if bias is not None:
            found += bias
        return found

    def writeable(self, array: Any) -> bool:
        return True

    def set_writeable(self, array: Any, writeable: bool) -> None:
        """Nothing: a CuPy array can't be locked."""


def place() -> Gpu:
    """The current GPU."""
    return Gpu(devices.require().cuda.runtime.getDevice())
