"""Inverted dropout whose mask is a pure function of (seed, boundary): never stored, drawn again in backward.

Philox is a counter-based generator (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011): a key
made of the seed and the boundary gives each gap between two layers a stream of its own, so calls share no state.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["apply_mask", "fresh_seed", "generator"]

# Elements of the mask that exist at a time: random numbers, comparison and product stay in the cache.
_BLOCK = 1 << 16


def fresh_seed() -> int:
    """A seed that no other call has drawn."""
    return int.from_bytes(os.urandom(8))


def generator(seed: int, boundary: int) -> np.random.Philox:
    """Where a mask's numbers come from, on every device."""
    return np.random.Philox(np.random.SeedSequence(seed, spawn_key=(boundary,)))


def apply_mask(array: NDArray[Any], p: float, seed: int, boundary: int) -> None:
    """Zero each element with probability p and scale the rest by 1 / (1 - p), in place.

    array is C-contiguous (T, B, D*H): the output of layer ``boundary``, or its gradient.
    """
    rng = np.random.Generator(generator(seed, boundary))
    scale = array.dtype.type(1 / (1 - p))
    elements = array.reshape(-1)
    for start in range(0, elements.size, _BLOCK):
        block = elements[start : start + _BLOCK]
        kept = rng.random(block.size, dtype=np.float32) >= p
        block *= kept * scale
