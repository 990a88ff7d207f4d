"""Gradients by finite differences, in float64: the judge of everything in fastrnn.nn."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

STEP = 1e-6
TOLERANCE = 1e-7


def numerical(loss: Callable[[], float], array: np.ndarray, most: int = 40, seed: int = 0) -> dict[int, float]:
    """d loss / d array by flat position, of up to ``most`` positions drawn at random; array is changed and restored."""
    flat = array.reshape(-1)
    assert np.shares_memory(flat, array) or not array.size
    found = {}
    for k in np.random.default_rng(seed).permutation(flat.size)[:most]:
        kept = flat[k]
        flat[k] = kept + STEP
        above = loss()
        flat[k] = kept - STEP
        below = loss()
        flat[k] = kept
        found[int(k)] = (above - below) / (2 * STEP)
    return found


def check(loss: Callable[[], float], array: np.ndarray, gradient: np.ndarray, name: str = "", most: int = 40) -> None:
    """Assert that gradient is that of loss() with respect to array, within TOLERANCE of the largest entry or of 1."""
    assert gradient.shape == array.shape, (name, gradient.shape, array.shape)
    assert array.dtype == np.float64
    scale = max(1.0, float(np.abs(gradient).max())) if gradient.size else 1.0
    for k, want in numerical(loss, array, most).items():
        got = gradient.reshape(-1)[k]
        assert abs(got - want) <= TOLERANCE * scale, f"{name}[{k}]: {got}, by differences {want}"
