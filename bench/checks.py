"""Correct first, then timed: the reference's outputs for a case, and how far a contender's are from them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from bench.cases import Case
from tests.cases import TOLERANCE

__all__ = [
    "Reference",
    "error_and_place",
    "largest_error",
    "load_reference",
    "norm_error",
    "reference_outputs",
    "tolerance",
    "within",
]

Outputs = dict[str, np.ndarray]
"""Arrays by name: "y" (T, B, H), "state0", "state1"; in training also "dx", "dstate0", ... and "d<parameter>"."""

# Rivals may use coarser functions than fastrnn promises; a wrong gate shows as 1e-1, not as 1e-3.
_RIVALS_TOLERANCE = {"float32": 1e-3, "float64": 1e-9}

# For reduced precision, in norm: a plain implementation is off by up to 1.2e-2 in float16 and 3.6e-2 in bfloat16
# (T = 512, gradients of biases), and products in TF32 round like float16's; exchanged gates are off by 0.3 and more.
_REDUCED_TOLERANCE = {"tf32": 3e-2, "float16": 3e-2, "bfloat16": 1e-1}

# Products of 21 bits: ten times what float32's 24 may be off by.
_OUR_TOLERANCE = TOLERANCE | {"3xtf32": 1e-4}


def tolerance(precision: str, ours: bool) -> float:
    """Largest error, as ``error_and_place`` measures it, with which a contender is timed."""
    if precision in _REDUCED_TOLERANCE:
        return _REDUCED_TOLERANCE[precision]
    return _OUR_TOLERANCE[precision] if ours else _RIVALS_TOLERANCE[precision]


def reference_outputs(case: Case, dtype: str = "float64") -> Outputs:
    """What the naive reference computes from the case's own (rounded) numbers, in the window that is checked."""
    problem = case.problem()
    network = problem.network(np.dtype(dtype))
    steps, rows = case.window
    state = tuple(s[:, rows].astype(dtype) for s in problem.state)
    y, final, tape = network.forward(problem.x[:steps, rows].astype(dtype), state)
    outputs = {"y": y}
    if steps == case.T:
        outputs |= {f"state{k}": s for k, s in enumerate(final)}
    if case.mode == "training":
        dfinal = tuple(np.zeros_like(s) for s in state)
        dx, dstate, dparams = network.backward(tape, problem.dy[:steps, rows].astype(dtype), dfinal)
        outputs |= {"dx": dx} | {f"dstate{k}": s for k, s in enumerate(dstate)}
        outputs |= {f"d{name}": gradient for name, gradient in dparams.items()}
    return outputs


def within(case: Case, outputs: Outputs) -> Outputs:
    """A contender's outputs in the window that is checked; gradients of parameters are whole."""
    steps, rows = case.window
    if case.checking is case:
        return outputs
    cut = dict(outputs)
    for name, array in outputs.items():
        if name in ("y", "dx"):
            cut[name] = array[:steps, rows]
        elif name.startswith(("state", "dstate")):
            cut[name] = array[:, rows]
    return cut


def error_and_place(got: Outputs, want: Outputs, precision: str) -> tuple[float, str]:
    """The error of the worst output, and which one that is.

    In float32 and float64 the largest difference over the largest entry. In reduced precision the difference's norm
    over the norm: there the largest one is a matter of chance (a relu that another rounding switches on).
    """
    return (norm_error if precision in _REDUCED_TOLERANCE else largest_error)(got, want)


def largest_error(got: Outputs, want: Outputs) -> tuple[float, str]:
    """The largest difference over the largest entry, over all outputs, and the output that shows it.

    A missing output, a wrong shape or a NaN is an infinite error.
    """
    return _worst(got, want, lambda array: float(np.abs(array).max(initial=0.0)))


def norm_error(got: Outputs, want: Outputs) -> tuple[float, str]:
    """The difference's Euclidean norm over the expected one's; otherwise like ``largest_error``."""
    return _worst(got, want, lambda array: float(np.linalg.norm(array)))


def _worst(got: Outputs, want: Outputs, size: Callable[[np.ndarray], float]) -> tuple[float, str]:
    worst, where = 0.0, ""
    for name, expected in want.items():
        array = got.get(name)
        if array is None or array.shape != expected.shape:
            return float("inf"), f"{name}: shape {None if array is None else array.shape}, not {expected.shape}"
        difference, scale = size(array - expected), size(expected)
        error = difference / scale if scale else difference
        if not np.isfinite(error):
            return float("inf"), f"{name}: not finite"
        if error > worst:
            worst, where = error, name
    return worst, where


class Reference:
    """The reference in a process of its own: computes a case once, for every contender."""

    def save(self, case: dict[str, Any], path: str) -> None:
        """Leave the float64 outputs of a case in ``path``."""
        np.savez(path, **reference_outputs(Case(**case)))


def load_reference(path: str) -> Outputs:
    """Read what ``Reference.save`` left."""
    with np.load(path) as stored:
        return dict(stored)
