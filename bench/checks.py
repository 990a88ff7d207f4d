"""Correct first, then timed: the reference's outputs for a case, and how far a contender's are from them."""

from __future__ import annotations

from typing import Any

import numpy as np

from bench.cases import Case
from tests.cases import TOLERANCE

__all__ = ["Reference", "largest_error", "load_reference", "reference_outputs", "tolerance"]

Outputs = dict[str, np.ndarray]
"""Arrays by name: "y" (T, B, H), "state0", "state1"; in training also "dx", "dstate0", ... and "d<parameter>"."""

# Rivals may use coarser functions than fastrnn promises; a wrong gate shows as 1e-1, not as 1e-3.
_RIVALS_TOLERANCE = {"float32": 1e-3, "float64": 1e-9}


def tolerance(case: Case, ours: bool) -> float:
    """Largest error, relative to the largest entry of an output, with which a contender is timed."""
    return TOLERANCE[case.dtype] if ours else _RIVALS_TOLERANCE[case.dtype]


def reference_outputs(case: Case, dtype: str = "float64") -> Outputs:
    """What the naive reference computes from the case's own (rounded) numbers."""
    problem = case.problem()
    network = problem.network(np.dtype(dtype))
    state = tuple(s.astype(dtype) for s in problem.state)
    y, final, tape = network.forward(problem.x.astype(dtype), state)
    outputs = {"y": y} | {f"state{k}": s for k, s in enumerate(final)}
    if case.mode == "training":
        dfinal = tuple(np.zeros_like(s) for s in state)
        dx, dstate, dparams = network.backward(tape, problem.dy.astype(dtype), dfinal)
        outputs |= {"dx": dx} | {f"dstate{k}": s for k, s in enumerate(dstate)}
        outputs |= {f"d{name}": gradient for name, gradient in dparams.items()}
    return outputs


def largest_error(got: Outputs, want: Outputs) -> tuple[float, str]:
    """The largest difference over the largest entry, over all outputs, and the output that shows it.

    A missing output, a wrong shape or a NaN is an infinite error.
    """
    worst, where = 0.0, ""
    for name, expected in want.items():
        array = got.get(name)
        if array is None or array.shape != expected.shape:
            return float("inf"), f"{name}: shape {None if array is None else array.shape}, not {expected.shape}"
        difference = float(np.abs(array - expected).max(initial=0.0))
        scale = float(np.abs(expected).max(initial=0.0))
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
