"""Persistent kernels in any order of threads and blocks: the same bits, with several blocks, columns and tiles.

One direction after the other; side by side: test_directions.py.
"""

from __future__ import annotations

import pytest

from tests import checks
from tests.cases import LAYERS, Case
from tests.checks import assert_close, reference_results
from tests.cuda import emulator, stand_in, whole_layers

pytest.importorskip("ml_dtypes", reason="bfloat16 needs ml_dtypes")
pytestmark = pytest.mark.skipif(bool(emulator.available()), reason=emulator.available() or "-")

SCHEDULES = [("last first", 1)]
SCHEDULES += [(name, seed) for name in ("random", "one block ahead") for seed in (1, 2, 3)]


@pytest.mark.parametrize("policy", ["persistent", "cluster"])
@pytest.mark.parametrize("dtype, precision", [("float32", "exact"), ("float32", "tf32"), ("bfloat16", "exact")])
@pytest.mark.parametrize("cell", LAYERS)
def test_any_schedule(cell, dtype, precision, policy, monkeypatch):
    monkeypatch.setattr(checks, "WHERE", f"emulated {policy}")
    case = Case(cell, T=4, B=21, H=40, dtype=dtype, bidirectional=True, ragged=True, resets=True)
    problem = case.problem()
    calls: list[stand_in.Call] = []
    want = whole_layers.results(problem, policy, precision, calls, members=1, schedule="in order")
    grids = {call.details["grid"] for call in calls if call.name == "backward"}
    ((blocks, columns, _),) = grids
    assert blocks > 1 and problem.case.B / columns > 8, "several blocks, and more rows of a column than a tile has"
    if (dtype, precision) == ("float32", "exact"):
        assert_close(want, reference_results(problem), problem)
    for schedule, seed in SCHEDULES:
        got = whole_layers.results(problem, policy, precision, members=1, schedule=schedule, seed=seed)
        for name, array in got.named().items():
            assert array.tobytes() == want.named()[name].tobytes(), f"{name}, {schedule}, seed {seed}"
