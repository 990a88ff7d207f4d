"""Persistent kernels in any order of threads and blocks: the same bits, with several blocks, columns and tiles.

One direction after the other; side by side: test_directions.py.
"""

from __future__ import annotations

import pytest

from tests import checks
from tests.cases import LAYERS, Case
from tests.checks import reference_results, relative_error
from tests.cuda import bridge, emulator, stand_in, whole_layers

pytest.importorskip("ml_dtypes", reason="bfloat16 needs ml_dtypes")
pytestmark = pytest.mark.skipif(bool(emulator.available()), reason=emulator.available() or "-")

SCHEDULES = [("last first", 1)]
SCHEDULES += [(name, seed) for name in ("random", "one block ahead") for seed in (1, 2, 3)]


# What finds wrong products; what rounding may cost of 10 bits or 7 is test_low_precision.py's to ask. 3xtf32 is as good
# as float32.
LARGEST_ERROR = {
    ("float32", "exact"): 1e-5,
    ("float32", "tf32"): 2e-3,
    ("float32", "3xtf32"): 1e-5,
    ("bfloat16", "exact"): 2e-2,
}
DTYPES = list(LARGEST_ERROR)


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


# Columns have their own flags and their own rows, and some have less to do than others.
@pytest.mark.parametrize("policy", ["persistent", "cluster"])
@pytest.mark.parametrize("cell", ["lstm", "gru_reset_before"])
def test_any_schedule_of_two_columns(cell, policy, monkeypatch):
    check_any_schedule(cell, "float32", "exact", policy, {"units": 16}, monkeypatch, columns=2)


def check_any_schedule(cell, dtype, precision, policy, shape, monkeypatch, columns=1):
    monkeypatch.setattr(checks, "WHERE", f"emulated {policy}")
    monkeypatch.setattr(whole_layers, "MULTIPROCESSORS", 4 * columns)
    monkeypatch.setattr(bridge, "MULTIPROCESSORS", (4 * columns,))
    case = Case(cell, T=4, B=21 * columns, H=40, dtype=dtype, bidirectional=True, ragged=True, resets=True)
    problem = case.problem()
    calls: list[stand_in.Call] = []
    want = whole_layers.results(problem, policy, precision, calls, members=1, shape=shape.items(), schedule="in order")
    ((blocks, found, _),) = {call.details["grid"] for call in calls if call.name == "backward"}
    assert blocks > 1 and found == columns, "several blocks; and of a column more rows than the 16 of a tile"
    reference = reference_results(problem).named()
    errors = {name: relative_error(array.astype("float64"), reference[name]) for name, array in want.named().items()}
    checks.note_errors(case, errors.values(), dtype if precision == "exact" else precision)
    assert max(errors.values()) <= LARGEST_ERROR[dtype, precision], errors
    for schedule, seed in SCHEDULES if precision != "3xtf32" else SCHEDULES[:1]:  # threads meet as those of tf32
        options = {"schedule": schedule, "seed": seed, "members": 1, "shape": shape.items()}
        got = whole_layers.results(problem, policy, precision, **options)
        for name, array in got.named().items():
            assert array.tobytes() == want.named()[name].tobytes(), f"{name}, {schedule}, seed {seed}"
