"""What is compared: a library's outputs and a layer's, for a cell and an option. Tests and a benchmark run the list."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tests.cases import Case, Problem
from tests.checks import as_public, as_tuple

# Largest difference, relative to the largest entry of each array.
TOLERANCE = {"float32": 1e-6, "float64": 1e-13}

# What a case of each option is; the libraries add some of their own.
OPTIONS = {
    "forward": {},
    "bidirectional": {"bidirectional": True},
    "stacked": {"num_layers": 3},
    "stacked, bidirectional": {"num_layers": 2, "bidirectional": True},
    "ragged": {"ragged": True},
    "ragged, bidirectional": {"ragged": True, "bidirectional": True},
    "no bias": {"bias": False},
    "batch first": {"batch_first": True},
}


@dataclass(frozen=True)
class Agreement:
    """One comparison; ``difference`` runs it."""

    library: str
    cell: str
    option: str
    difference: Callable[[], float]
    dtype: str = "float32"
    steep: bool = False  # large weights and kinks, where two runtimes' rounding is magnified

    def __str__(self):
        return f"{self.cell}-{self.option}".replace(", ", "-").replace(" ", "_")

    @property
    def tolerance(self):
        return TOLERANCE[self.dtype] * (20 if self.steep else 1)


def problem_of(cell: str, option: str, dtype: str = "float32", **options) -> Problem:
    """The case of an option; rows of length 0, of which libraries know nothing or think otherwise, get length 1."""
    case = Case(cell, T=12, B=5, I=6, H=19, dtype=dtype, **{**OPTIONS.get(option, {}), **options})
    problem = case.problem()
    if problem.lengths is not None:
        problem.lengths = np.maximum(problem.lengths, 1)
    return problem


def layer_outputs(layer, problem: Problem, state: bool = True):
    """y, time-major, and the final states of a layer for a problem."""
    x = problem.x.swapaxes(0, 1) if layer.batch_first else problem.x
    y, final = layer(x, as_public(problem.state) if state else None, lengths=problem.lengths)
    return y.swapaxes(0, 1) if layer.batch_first else y, *as_tuple(final)


def largest(got, want) -> float:
    """Largest difference between two lists of arrays, relative to the largest entry of each."""
    worst = 0.0
    assert len(got) == len(want)
    for mine, other in zip(got, want, strict=True):
        assert mine.shape == other.shape and mine.dtype == other.dtype
        difference = np.abs(mine - other).max()
        worst = max(worst, float(difference / np.abs(other).max())) if difference else worst
        assert np.isfinite(difference)
    return worst
