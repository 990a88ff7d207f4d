"""Dropout masks on a GPU: those of the CPU, element for element."""

from __future__ import annotations

from typing import Any

from fastrnn.dropout import generator

from . import compiler, devices, units
from .layout import mask_arguments

__all__ = ["apply_mask"]

_NUMBERS_A_COUNTER = 8  # as in dropout.cuh


def apply_mask(array: Any, p: float, seed: int, boundary: int, first: int = 0) -> None:
    """Zero each element with probability p and scale the rest by 1 / (1 - p), in place.

    array is C-contiguous, and begins with that element of a larger one whose mask is ``fastrnn.dropout.apply_mask``'s.
    """
    if not array.size:
        return
    dtype = array.dtype.name
    args = mask_arguments(dtype)
    args["key0"], args["key1"] = generator(seed, boundary).state["state"]["key"]
    args["elements"], args["count"], args["first"], args["p"] = array.data.ptr, array.size, first, p
    args["scale"] = array.dtype.type(1 / (1 - p))  # rounded as the CPU's is
    threads = -(-(first % _NUMBERS_A_COUNTER + array.size) // _NUMBERS_A_COUNTER)
    function = compiler.load(units.dropout(dtype)).functions["apply_mask"]
    stream = devices.require().cuda.get_current_stream()
    function((-(-threads // units.STEP_THREADS),), (units.STEP_THREADS,), (args,), 0, stream)
