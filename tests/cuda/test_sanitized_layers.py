"""Whole layers under ThreadSanitizer and AddressSanitizer: every cell, both directions, several blocks, columns, tiles.

That the sanitizers would see a mistake, test_planted_bugs.py shows.
"""

from __future__ import annotations

import pytest

from tests.cases import LAYERS
from tests.cuda import emulator

SCRIPT = """
from tests.cases import Case
from tests.cuda import whole_layers
for cell in {cells!r}:
    for policy, precision, members, sizes, shape in {layers!r}:
        if (precision == "tf32" and cell != {cells!r}[-1]) or (policy == "split" and cell not in {split!r}):
            continue  # products are the same
        if "peephole" in cell:
            sizes = {{**sizes, "B": min(sizes["B"], 18)}}  # whose sums over rows take a block a row, too
        case = Case(cell, **sizes, dtype="float32", bidirectional=True, resets=True)
        calls = []
        options = {{"multiprocessors": 8, "members": members, "sanitizer": {sanitizer!r}, "shape": shape.items()}}
        whole_layers.results(case.problem(), policy, precision, calls, **options)
        grids = [call.details["grid"] for call in calls if call.name == "backward"]
        print(cell, policy, precision, *shape.values(), max(grids))
"""
# Without biases where there are many rows: their sums take a block a row, and ThreadSanitizer 8128 threads.
LAYERS_OF_EACH = [
    ("stepwise", "exact", 2, {"T": 2, "B": 5, "H": 17, "ragged": True}, {}),
    ("persistent", "exact", 2, {"T": 2, "B": 34, "H": 8, "bias": False}, {}),
    ("persistent", "tf32", 1, {"T": 2, "B": 10, "H": 12, "bias": False}, {}),
    ("persistent", "tf32", 1, {"T": 2, "B": 10, "H": 36, "bias": False}, {"units": 32}),  # nothing is loaded ahead
    ("cluster", "exact", 2, {"T": 3, "B": 6, "H": 40, "bias": False}, {}),
    ("split", "exact", 2, {"T": 3, "B": 17, "H": 40, "bias": False}, {"units": 16, "split": 2}),
]
SPLIT = ("lstm", "gru_reset_before")
FAMILIES = {kind: [cell for cell, (name, _) in LAYERS.items() if name == kind] for kind in ("RNN", "LSTM", "GRU")}
# These differ from others of their family in arithmetic alone: who meets whom is the same.
SAME_MEETINGS = {"rnn_relu", "rnn_sigmoid", "lstm_coupled", "lstm_peephole_coupled"}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("sanitizer", ["thread", "address"])
def test_no_report(sanitizer, family):
    reason = emulator.sanitizer_available(sanitizer)
    if reason:
        pytest.skip(reason)
    cells = [cell for cell in FAMILIES[family] if sanitizer == "address" or cell not in SAME_MEETINGS]
    script = SCRIPT.format(cells=cells, layers=LAYERS_OF_EACH, split=SPLIT, sanitizer=sanitizer)
    printed, reports = emulator.run_sanitized(sanitizer, script, timeout=300)
    assert not reports, reports
    # Two blocks for each of both directions, with more tiles than one; by tensor cores two blocks by two columns, one
    # direction after the other; two clusters of four; two of two for each direction
    grids = {"stepwise exact": "(1, 1, 1)", "persistent exact": "(2, 1, 2)", "persistent tf32": "(2, 2, 1)"}
    grids |= {"persistent tf32 32": "(2, 2, 1)", "cluster exact": "(4, 1, 2)", "split exact 16 2": "(4, 1, 2)"}
    expected = [f"{cell} {how} {grid}" for cell in cells for how, grid in grids.items()]
    assert printed.splitlines() == [
        line
        for line in expected
        if ("tf32" not in line or line.startswith(f"{cells[-1]} "))
        and ("split" not in line or line.split()[0] in SPLIT)
    ]
