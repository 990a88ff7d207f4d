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


DTYPES = [("float32", "exact"), ("float32", "tf32"), ("bfloat16", "exact")]


@pytest.mark.parametrize("policy", ["persistent", "cluster"])
@pytest.mark.parametrize("dtype, precision", DTYPES)
@pytest.mark.parametrize("cell", LAYERS)
def test_any_schedule(cell, dtype, precision, policy, monkeypatch):
    check_any_schedule(cell, dtype, precision, policy, {}, monkeypatch)


# Blocks of 16 units: two clusters, of which one block has no units, and two tiles of rows. By fours, one cluster.
SPLITS = [(cell, "float32", "exact", 2) for cell in LAYERS]
SPLITS += [(cell, *dtype, 2) for cell in ("lstm", "gru_reset_before") for dtype in DTYPES[1:]]
SPLITS += [(cell, "float32", "exact", 4) for cell in ("lstm", "gru_reset_before")]


@pytest.mark.parametrize("cell, dtype, precision, split", SPLITS)
def test_any_schedule_of_products_that_are_split(cell, dtype, precision, split, monkeypatch):
    check_any_schedule(cell, dtype, precision, "split", {"units": 16, "split": split}, monkeypatch)


def check_any_schedule(cell, dtype, precision, policy, shape, monkeypatch):
    monkeypatch.setattr(checks, "WHERE", f"emulated {policy}")
    case = Case(cell, T=4, B=21, H=40, dtype=dtype, bidirectional=True, ragged=True, resets=True)
    problem = case.problem()
    calls: list[stand_in.Call] = []
    want = whole_layers.results(problem, policy, precision, calls, members=1, shape=shape.items(), schedule="in order")
    grids = {call.details["grid"] for call in calls if call.name == "backward"}
    ((blocks, columns, _),) = grids
    assert blocks > 1 and problem.case.B / columns > 8, "several blocks, and more rows of a column than a tile has"
    if (dtype, precision) == ("float32", "exact"):
        assert_close(want, reference_results(problem), problem)
    for schedule, seed in SCHEDULES:
        options = {"schedule": schedule, "seed": seed, "members": 1, "shape": shape.items()}
        got = whole_layers.results(problem, policy, precision, **options)
        for name, array in got.named().items():
            assert array.tobytes() == want.named()[name].tobytes(), f"{name}, {schedule}, seed {seed}"
