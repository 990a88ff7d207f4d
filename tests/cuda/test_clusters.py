"""How many clusters the driver says run at once, and that no more are planned; layers whose products clusters split."""

from __future__ import annotations

import pytest

from fastrnn.cell_table import CELLS
from fastrnn.kernels.cuda.cuts import Chip, Problem
from fastrnn.kernels.cuda.plan import candidates, current_chip
from tests import checks
from tests.cases import Case
from tests.checks import assert_close, reference_results
from tests.cuda import bridge, emulator, stand_in, whole_layers
from tests.cuda.stand_in import device, libraries

pytestmark = pytest.mark.skipif(bool(emulator.available()), reason=emulator.available() or "-")


def backward_policies(chip):
    for cell in CELLS:
        for dtype in ("float32", "bfloat16", "float64"):
            for H in (17, 40, 512, 1024):
                for B, walks in ((1, 1), (16, 2), (64, 1), (64, 2)):
                    problem = Problem(cell, dtype, "exact", H, B, True, walks)
                    yield from (policy for _, policy in candidates(problem, chip) if policy.kernel == "split")


def test_the_driver_is_asked():
    with stand_in.installed():
        chip = current_chip()
    assert chip.clusters == tuple((size, device.MULTIPROCESSORS // size) for size in (2, 4, 8, 16))
    assert chip.cooperative_clusters and any(backward_policies(chip))


def test_a_driver_that_refuses_cooperative_clusters(monkeypatch):
    monkeypatch.setattr(libraries._Driver, "cuLaunchCooperativeKernel", lambda *_: 1)
    with stand_in.installed():
        chip = current_chip()
    assert chip.clusters and not chip.cooperative_clusters
    assert not any(backward_policies(chip))


def test_a_driver_that_knows_no_occupancy(monkeypatch):
    monkeypatch.setattr(libraries._Driver, "cuOccupancyMaxActiveClusters", lambda *_: 1)
    with stand_in.installed():
        chip = current_chip()
    assert chip.clusters == () and not any(backward_policies(chip))


def test_an_older_device_is_not_asked(monkeypatch):
    monkeypatch.delattr(libraries._Driver, "cuOccupancyMaxActiveClusters")
    with stand_in.installed(capability="89"):
        assert not any(backward_policies(current_chip()))


def test_no_more_clusters_than_run_at_once():
    chip = Chip(132, 227 * 1024, 90, ((2, 60), (4, 25)))
    found = list(backward_policies(chip))
    assert {policy.shape.split for policy in found} == {2, 4}, "of 8 blocks none runs"
    most = dict(chip.clusters)
    for policy in found:
        split = policy.shape.split
        assert policy.blocks % split == 0 and policy.blocks * policy.columns * policy.members <= split * most[split]


# Several clusters in each of two columns. An H of which nothing is a multiple; units without a block, and blocks of no
# units; sums of 8 bytes. An H whose halves are as deep as registers hold.
@pytest.mark.parametrize(
    ("cell", "dtype", "H", "units", "split"),
    [
        ("lstm_peephole", "float32", 24, 8, 2),
        ("gru_reset_before", "float32", 17, 8, 2),
        ("gru_reset_after", "float64", 9, 4, 4),
        ("rnn_tanh", "float64", 40, 16, 4),
        ("lstm", "float32", 64, 16, 2),
    ],
)
def test_split_products(cell, dtype, H, units, split, monkeypatch):
    monkeypatch.setattr(whole_layers, "MULTIPROCESSORS", 8)
    monkeypatch.setattr(bridge, "MULTIPROCESSORS", (8,))
    problem = Case(cell, T=3, B=19, H=H, dtype=dtype, bidirectional=True, ragged=True, resets=True).problem()
    calls: list[stand_in.Call] = []
    shape = {"units": units, "split": split}.items()
    got = whole_layers.results(problem, "split", "exact", calls, members=1, shape=shape)
    assert_close(got, reference_results(problem), problem)
    (grid,) = {call.details["grid"] for call in calls if call.name == "backward"}
    assert grid == (-(-H // (units * split)) * split, 8 // grid[0], 1) and grid[0] * grid[1] == 8


@pytest.mark.parametrize("cell", ["lstm", "gru_reset_before"])
def test_blocks_that_no_unit_is_left_for(cell, monkeypatch):
    """H is three blocks', a cluster has four: the last neither sends nor waits."""
    monkeypatch.setattr(checks, "WHERE", "emulated cluster")
    problem = Case(cell, T=3, B=5, H=48, dtype="float32", resets=True).problem()
    calls: list[stand_in.Call] = []
    got = whole_layers.results(problem, "cluster", calls=calls, shape={"units": 16, "cluster": 4}.items())
    assert_close(got, reference_results(problem), problem)
    assert {call.details["grid"] for call in calls if call.name in ("forward", "backward")} == {(4, 1, 1)}
