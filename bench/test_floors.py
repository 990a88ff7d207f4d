"""The table of predicted steps: every policy where it can run, and the least of them chosen."""

from __future__ import annotations

import pytest

from bench.cli import main
from bench.floors import floors
from fastrnn.cells import CELLS
from fastrnn.kernels.cuda.cuts import Chip, Problem
from fastrnn.kernels.cuda.plan import candidates

HOPPER, TURING = Chip(132, 227 * 1024, 90), Chip(68, 64 * 1024, 75)


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("cell", CELLS)
def test_the_least_is_chosen(cell, backward):
    table = floors(cell, "bfloat16", "exact", backward, HOPPER)
    for row in table.rows:
        times = dict(zip(table.columns[1:5], row[1:5], strict=True))
        chosen = row[5].split(",")[0]
        assert float(times[chosen]) == min(float(t) for t in times.values() if t != "-")
    kernels = {row[5].split(",")[0] for row in table.rows}
    assert kernels == {"cluster", "persistent", "stepwise"} | ({"split"} if backward else set()), "each has its region"


def test_more_work_never_costs_less():
    def seconds(H, B):
        return candidates(Problem("lstm", "float32", "exact", H, B, False), HOPPER)[0][0]

    for H in (64, 128, 256, 512, 1024):
        for B in (1, 8, 32, 128):
            assert seconds(H, B) <= seconds(2 * H, B) and seconds(H, B) <= seconds(H, 2 * B)


def test_an_older_chip_has_no_clusters_and_no_tensor_cores():
    for H in (64, 512):
        problem = Problem("gru_reset_before", "float16", "exact", H, 4, True)
        found = [policy for _, policy in candidates(problem, TURING)]
        assert {policy.kernel for policy in found} <= {"persistent", "stepwise"}
        assert all(policy.shape is None or not policy.shape.tensor for policy in found)


def test_the_command(capsys):
    pytest.importorskip("rich")
    assert main(["floors", "--cells", "lstm,rnn_tanh", "--dtypes", "float64", "--backward"]) == 0
    printed = capsys.readouterr().out
    assert "lstm float64 backward" in printed and "rnn_tanh float64 backward" in printed
    with pytest.raises(SystemExit):
        main(["floors", "--cells", "gru"])
