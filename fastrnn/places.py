"""Where a layer's arrays live: NumPy's on the host, or CuPy's on one GPU, behind one set of questions.

The public side is written once, against a ``Place``; the CUDA backend brings its own, so that nothing here imports
CuPy.
"""

from __future__ import annotations

import contextlib
from typing import Any, NamedTuple, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from fastrnn import dropout, guards
from fastrnn.backend import load

__all__ = ["HOST", "Kind", "Place", "place_of"]


class Place(Protocol):
    """What the public side asks of a device. Equal places share arrays."""

    device: str  # "cpu" or "cuda"
    dtypes: tuple[str, ...]  # that layers may have
    arrays: Any  # the module that makes arrays: numpy, cupy
    plain: type | None  # the type of arrays that ``own`` need not look at
    side_by_side: bool  # its backend walks directions at the same time, and layers: it is a ``LayeredBackend``

    def __hash__(self) -> int: ...

    def own(self, name: str, value: Any) -> Any:
        """Value as an array of this place, never a copy; TypeError or ValueError with the way out."""

    def kernel_ready(self, values: Any) -> bool:
        """Whether kernels can read an array: aligned, its last axis contiguous."""

    def gradient_dtype(self, dtype: np.dtype[Any]) -> np.dtype[Any]:
        """The dtype of gradients of parameters."""

    def current(self) -> contextlib.AbstractContextManager[Any]:
        """Within it, new arrays are of this place."""

    def from_host(self, array: NDArray[Any]) -> Any:
        """A NumPy array as one of this place, a copy unless it is the host."""

    def to_host(self, array: Any) -> NDArray[Any]:
        """The inverse of ``from_host``."""

    def synchronize(self) -> None:
        """Wait until all is computed."""

    def apply_mask(self, array: Any, p: float, seed: int, boundary: int) -> None:
        """See ``fastrnn.dropout.apply_mask``: the same mask everywhere."""

    def product(self, a: Any, b: Any, out: Any = None, bias: Any = None) -> Any:
        """The matrix a b, plus ``bias`` in every row: a new array, or in ``out``, which must overlap none of them."""

    def writeable(self, array: Any) -> bool:
        """Whether an array may be written to."""

    def set_writeable(self, array: Any, writeable: bool) -> None:
        """Make an array read-only or writeable, where its library knows such a thing."""


# Multiply-adds, and elements of a mask, below which NumPy is as fast as compiled code.
_LEAST_WORK, _LEAST_MASK = 200_000, 2_000


class _Host:
    """NumPy arrays."""

    device = "cpu"
    dtypes: tuple[str, ...] = ("float32", "float64")
    arrays: Any = guards.arrays
    plain: type | None = np.ndarray
    side_by_side: bool = False
    _nothing = contextlib.nullcontext()

    def own(self, name: str, value: Any) -> NDArray[Any]:
        """A plain ndarray of any subclass that has no meaning of its own."""
        if is_cupy(value):
            raise TypeError(
                f"{name} is a CuPy array, but the layer is on the CPU: "
                f'move the layer with layer.to("cuda"), or the array with cupy.asnumpy({name})'
            )
        if isinstance(value, np.ma.MaskedArray):
            raise TypeError(f"{name} must be a NumPy array without a mask, got a masked array: use {name}.filled(...)")
        if not isinstance(value, np.ndarray):
            raise TypeError(f"{name} must be a NumPy array, got {type_name(value)}")
        return np.asarray(value)

    def kernel_ready(self, values: NDArray[Any]) -> bool:
        flags = values.flags
        return flags.aligned and (flags.c_contiguous or values.strides[-1] == values.itemsize)

    def gradient_dtype(self, dtype: np.dtype[Any]) -> np.dtype[Any]:
        return dtype

    def current(self) -> contextlib.AbstractContextManager[Any]:
        return self._nothing

    def from_host(self, array: NDArray[Any]) -> NDArray[Any]:
        return array

    def to_host(self, array: NDArray[Any]) -> NDArray[Any]:
        return array

    def synchronize(self) -> None:
        pass

    def apply_mask(self, array: NDArray[Any], p: float, seed: int, boundary: int) -> None:
        # The same mask in a quarter of the time, where it is worth a call of compiled code.
        if array.size < _LEAST_MASK:
            dropout.apply_mask(array, p, seed, boundary)
        else:
            assert array.flags.c_contiguous
            cast(Any, load("cpu")).apply_mask(array, p, seed, boundary)

    def product(
        self, a: NDArray[Any], b: NDArray[Any], out: NDArray[Any] | None = None, bias: NDArray[Any] | None = None
    ) -> NDArray[Any]:
        if out is None:
            out = self.arrays.empty((len(a), b.shape[1]), a.dtype)
        if a.size * b.shape[1] >= _LEAST_WORK:
            cpu: Any = load("cpu")
            if cpu.suits(a, b, out):
                cpu.multiply(a, b, out, bias)
                return out
        np.matmul(a, b, out=out)
        if bias is not None:
            out += bias
        return out

    def writeable(self, array: NDArray[Any]) -> bool:
        return array.flags.writeable

    def set_writeable(self, array: NDArray[Any], writeable: bool) -> None:
        array.flags.writeable = writeable


HOST: Place = _Host()


class Kind(NamedTuple):
    """What arrays a layer takes."""

    place: Place
    dtype: np.dtype[Any]
    plain: type | None  # the place's

    @staticmethod
    def of(place: Place, dtype: np.dtype[Any]) -> Kind:
        """The arrays of this dtype at that place."""
        return Kind(place, dtype, place.plain)


def place_of(device: str) -> Place:
    """The host, or the current GPU; imports CuPy for the latter.

    Raises ``fastrnn.GPUUnavailable`` (a RuntimeError) where there is no GPU to be used, saying what is missing.
    """
    return HOST if device == "cpu" else cast(Place, cast(Any, load(device)).place())


def is_cupy(value: Any) -> bool:
    """Whether value is an array of CuPy, which need not be imported."""
    return type(value).__module__.partition(".")[0] == "cupy"


def type_name(value: Any) -> str:
    """How to call value's type in a message."""
    kind = type(value)
    where = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
    return f"{where}{kind.__qualname__}"
