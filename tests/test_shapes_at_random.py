"""Any shape at all: hypothesis draws sizes, lengths and resets; forward and backward must equal the reference."""

from __future__ import annotations

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.cases import LAYERS, TOLERANCE, Case
from tests.checks import layer_results, reference_results

# A float32 unit whose z is within rounding of 0 may fall on either side of relu's kink.
CELLS_AND_DTYPES = [(cell, "float64") for cell in LAYERS]
CELLS_AND_DTYPES += [(cell, "float32") for cell in LAYERS if cell != "rnn_relu"]


@st.composite
def problems(draw):
    """A problem of any cell and shape, with lengths and resets of any pattern."""
    cell, dtype = draw(st.sampled_from(CELLS_AND_DTYPES))
    T, B = draw(st.integers(0, 6)), draw(st.integers(0, 9))
    case = Case(
        cell,
        T=T,
        B=B,
        I=draw(st.integers(1, 70)),
        H=draw(st.integers(1, 140)),
        num_layers=draw(st.integers(1, 3)),
        bidirectional=draw(st.booleans()),
        bias=draw(st.booleans()),
        batch_first=draw(st.booleans()),
        dtype=dtype,
    )
    problem = case.problem(draw(st.integers(0, 2**16)))
    if draw(st.booleans()):
        problem.lengths = np.array(draw(st.lists(st.integers(0, T), min_size=B, max_size=B)), int)
        problem.dy[problem.padding] = np.nan
    if draw(st.booleans()):
        flags = draw(st.lists(st.booleans(), min_size=T * B, max_size=T * B))
        problem.resets = np.array(flags, bool).reshape(T, B)
    return problem


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(problems())
def test_any_shape(problem):
    got, want = layer_results(problem).named(), reference_results(problem).named()
    for name, array in got.items():
        assert array.shape == want[name].shape, name
        if array.size:
            # Inputs are of size 1, and sums of few terms may cancel: errors are measured against 1 at least.
            scale = max(1.0, np.abs(want[name]).max())
            assert np.abs(array - want[name]).max() <= TOLERANCE[problem.case.dtype] * scale, name
