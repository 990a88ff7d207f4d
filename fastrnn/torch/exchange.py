"""Tensors as arrays and arrays as tensors, on one memory: NumPy's buffers on the CPU, DLPack on a GPU."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from fastrnn.places import HOST, Place, place_of
from fastrnn.torch.openmp import team

__all__ = ["Exchange", "exchange_for", "numpy_dtype"]

DTYPES = {torch.float32: "float32", torch.float64: "float64", torch.float16: "float16", torch.bfloat16: "bfloat16"}


class Exchange(Protocol):
    """What changes hands on one device."""

    place: Place

    def array(self, tensor: torch.Tensor) -> NDArray[Any]:
        """The tensor's memory; nothing of its history."""

    def tensor(self, array: NDArray[Any]) -> torch.Tensor:
        """The array's memory."""

    def entered(self) -> contextlib.AbstractContextManager[Any]:
        """Within it, work is queued where PyTorch queues its own, and new arrays are of this device."""


class _OnHost:
    place: Place = HOST

    def array(self, tensor: torch.Tensor) -> NDArray[Any]:
        found: NDArray[Any] = tensor.detach().numpy()
        return found

    def tensor(self, array: NDArray[Any]) -> torch.Tensor:
        return torch.from_numpy(array)

    def entered(self) -> contextlib.AbstractContextManager[Any]:
        return team()


class _OnGPU:
    def __init__(self, index: int) -> None:
        with torch.cuda.device(index):
            self.place = place_of("cuda")
        cupy = self.place.arrays
        self.cuda, self.from_dlpack, self.index = cupy.cuda, cupy.from_dlpack, index

    def array(self, tensor: torch.Tensor) -> NDArray[Any]:
        found: NDArray[Any] = self.from_dlpack(tensor.detach())
        return found

    def tensor(self, array: NDArray[Any]) -> torch.Tensor:
        return torch.from_dlpack(array)

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        # One stream for both libraries: each frees memory to its own pool in the order of that stream.
        stream = self.cuda.ExternalStream(torch.cuda.current_stream(self.index).cuda_stream, self.index)
        with self.cuda.Device(self.index), stream:
            yield


_HOST = _OnHost()
_gpus: dict[int, Exchange] = {}


def exchange_for(device: torch.device) -> Exchange:
    """How tensors of a device change hands.

    Raises ``fastrnn.GPUUnavailable`` where its GPU can't be used, and ValueError for other devices than these two.
    """
    if device.type == "cpu":
        return _HOST
    if device.type != "cuda":
        raise ValueError(f'fastrnn.torch runs on "cpu" and "cuda", got tensors on {str(device)!r}')
    index = torch.cuda.current_device() if device.index is None else device.index
    if index not in _gpus:
        _gpus[index] = _OnGPU(index)
    return _gpus[index]


def numpy_dtype(dtype: torch.dtype, place: Place) -> np.dtype[Any]:
    """The dtype of arrays; raises TypeError for one that layers don't have there."""
    name = DTYPES.get(dtype)
    if name not in place.dtypes:
        where = "the CPU" if place is HOST else "a GPU"
        raise TypeError(f"fastrnn.torch runs {', '.join(place.dtypes)} on {where}, got parameters of {dtype}")
    if name == "bfloat16":
        import ml_dtypes

        name = ml_dtypes.bfloat16
    return np.dtype(name)
