"""Running one problem through the reference and through a layer, and comparing the two."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

import fastrnn
from tests.cases import LAYERS, TOLERANCE, Problem

# The largest errors seen this session by (cell, direction, dtype), then by WHERE; the run's summary prints them.
LARGEST_ERRORS: dict[tuple[str, str, str], dict[str, float]] = {}
# What runs the layers, by which the errors are kept apart.
WHERE = "CPU"
# What found each bug that was planted, this session; printed as well.
FOUND_BUGS: dict[str, set[str]] = {}


class Results(NamedTuple):
    """What a forward and a backward pass give, time-major, every state in a tuple."""

    y: np.ndarray
    state: tuple[np.ndarray, ...]
    dx: np.ndarray
    dstate: tuple[np.ndarray, ...]
    dparams: dict[str, np.ndarray]

    def named(self):
        """All arrays by a name for messages."""
        arrays = {"y": self.y, "grads.x": self.dx}
        arrays |= {f"state[{k}]": s for k, s in enumerate(self.state)}
        arrays |= {f"grads.state[{k}]": s for k, s in enumerate(self.dstate)}
        return arrays | {f"grads.params[{name!r}]": p for name, p in self.dparams.items()}


def as_tuple(state):
    """The states of a layer as a tuple, whether it carries one or two."""
    return state if isinstance(state, tuple) else (state,)


def as_public(states):
    """The inverse of as_tuple: h for one state, (h, c) for two."""
    return states[0] if len(states) == 1 else tuple(states)


def make_layer(problem: Problem, **options):
    """The public layer for a problem, with its parameters loaded; options override those of the case."""
    case = problem.case
    name, cell_options = LAYERS[case.cell]
    of_case = {option: getattr(case, option) for option in ("bias", "batch_first", "bidirectional", "dtype")}
    layer = getattr(fastrnn, name)(case.I, case.H, case.num_layers, **cell_options | of_case | options)
    layer.load_params(problem.params)
    return layer


def layer_results(problem: Problem, layer=None) -> Results:
    """Forward and backward of the public layer."""
    layer = make_layer(problem) if layer is None else layer

    def swap(a):
        return np.ascontiguousarray(a.swapaxes(0, 1)) if problem.case.batch_first else a

    y, state, tape = layer.forward(
        swap(problem.x), as_public(problem.state), lengths=problem.lengths, resets=problem.resets
    )
    grads = layer.backward(tape, swap(problem.dy), as_public(problem.dstate))
    return Results(swap(y), as_tuple(state), swap(grads.x), as_tuple(grads.state), grads.params)


def reference_results(problem: Problem, masks=None, dtype=np.float64) -> Results:
    """Forward and backward of the reference in dtype, from the problem's own (rounded) numbers."""

    def cast(arrays):
        return tuple(a.astype(dtype) for a in arrays)

    network = problem.network(dtype)
    y, state, tape = network.forward(
        problem.x.astype(dtype), cast(problem.state), problem.lengths, problem.resets, masks
    )
    dx, dstate, dparams = network.backward(tape, problem.dy.astype(dtype), cast(problem.dstate))
    return Results(y, state, dx, dstate, dparams)


def relative_error(got, want) -> float:
    """Largest difference over the largest entry of want; NaN in one and not in the other is infinite."""
    assert got.shape == want.shape, f"shape {got.shape}, expected {want.shape}"
    if not got.size:
        return 0.0
    difference = np.abs(got - want).max()
    scale = np.abs(want).max()
    if not difference:
        return 0.0
    return float(difference / scale) if scale and np.isfinite(difference) else np.inf


def note_errors(case, errors, precision=None) -> None:
    """Add to LARGEST_ERRORS, under the case's dtype or another name of its precision."""
    key = case.cell, "bidirectional" if case.bidirectional else "unidirectional", precision or str(case.dtype)
    keep_largest(key, {WHERE: max(errors)})


def keep_largest(key: tuple[str, str, str], errors: dict[str, float]) -> None:
    """Add to LARGEST_ERRORS what was seen under a key, by where."""
    seen = LARGEST_ERRORS.setdefault(key, {})
    for where, error in errors.items():
        seen[where] = max(seen.get(where, 0.0), error)


def assert_close(got: Results, want: Results, problem: Problem, tolerance: float | None = None) -> None:
    """Every array of got is within the tolerance of the case's dtype."""
    case = problem.case
    tolerance = TOLERANCE[case.dtype] if tolerance is None else tolerance
    expected = want.named()
    assert sorted(got.named()) == sorted(expected)
    errors = {}
    for name, array in got.named().items():
        assert array.dtype == case.dtype, f"{name} is {array.dtype}, expected {case.dtype}"
        errors[name] = relative_error(array, expected[name])
    note_errors(case, errors.values())
    bad = {name: f"{error:.1e}" for name, error in errors.items() if not error <= tolerance}
    assert not bad, f"{case}: errors above {tolerance}: {bad}"
