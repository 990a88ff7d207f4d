"""Many callers beside one: every way of calling is timed, and the command prints a row for each."""

from __future__ import annotations

import pytest

from bench.callers import MODES, compared, programs
from bench.cases import Case
from bench.cli import main


@pytest.mark.parametrize("mode", MODES)
def test_each_round_has_a_ratio(mode):
    seconds, ratios = compared(programs(Case("lstm", 2, 1, 4, 8), mode, callers=3), rounds=2, seconds=0.001)
    assert seconds > 0 and len(ratios) == 2 and min(ratios) > 0


def test_the_command_prints_a_row_for_each_call(capsys):
    pytest.importorskip("rich")
    options = ["--shapes", "2,1,4,8;1,2,4,8", "--callers", "2", "--rounds", "1", "--seconds", "0.001"]
    assert main(["callers", "--modes", ",".join(MODES), *options]) == 0
    printed = capsys.readouterr().out
    rows = [f"| lstm {shape} | {mode} |" for shape in ("2,1,4,8", "1,2,4,8") for mode in MODES]
    assert [printed.count(row) for row in rows] == [1] * len(rows)
