"""Blocks of H rows, one for each gate, from one library's order into another's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["blocks", "reordered"]


def blocks(array: NDArray[Any], names: Sequence[str]) -> dict[str, NDArray[Any]]:
    """The blocks of an array (len(names)*H, ...), by name."""
    return dict(zip(names, np.split(array, len(names)), strict=True))


def reordered(array: NDArray[Any], names: Sequence[str], order: Sequence[str]) -> NDArray[Any]:
    """The blocks of an array, which stand in the order of ``names``, in another order."""
    found = blocks(array, names)
    return np.concatenate([found[name] for name in order])
