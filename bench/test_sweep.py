"""The cliff finder on invented costs, and what the sweeps hold."""

from __future__ import annotations

import pytest

from bench.cases import Case
from bench.machine_kernels import vector_bytes
from bench.sweep import SWEEPS, Cliff, cliffs_among, padded_flops


def found(costs, levels=None, judged=None):
    cliffs = cliffs_among(costs, levels or ["L2"] * len(costs), judged or [True] * len(costs))
    return [(cliff.index, cliff.kind, round(cliff.ratio, 3)) for cliff in cliffs]


def test_a_flat_or_gently_falling_curve_has_none():
    assert found([1.0] * 8) == []
    assert found([1.5, 1.4, 1.3, 1.25, 1.2, 1.2, 1.15]) == []
    assert found([]) == found([1.0]) == []


def test_one_dear_point_is_a_spike_wherever_it_stands():
    assert found([1.0, 1.0, 1.0, 1.4, 1.0, 1.0]) == [(3, "spike", 1.4)]
    assert found([1.0, 1.0, 1.4]) == [(2, "spike", 1.4)]
    assert found([1.0, 1.0, 1.29, 1.0, 1.0]) == []


def test_a_rise_that_stays_is_a_step_at_its_first_point():
    assert found([1.0, 1.0, 1.0, 1.4, 1.5, 1.4]) == [(3, "step", 1.4)]
    assert found([1.0, 1.1, 1.4, 1.4, 1.4]) == []


def test_small_sizes_that_cost_more_are_a_slope():
    assert found([2.0, 1.9, 1.0, 1.0, 1.0]) == [(0, "slope", 1.379), (1, "slope", 1.9)]


def test_another_level_of_cache_is_not_compared_with():
    costs = [1.0, 1.0, 1.5, 1.5]
    assert found(costs, ["L2", "L2", "L3", "L3"]) == []
    assert found(costs) == [(2, "step", 1.5)]


def test_points_with_little_work_neither_count_nor_judge():
    assert found([9.0, 5.0, 1.0, 1.0, 1.4, 1.0], judged=[False, False, True, True, True, True]) == [(4, "spike", 1.4)]
    assert found([9.0, 1.0, 1.0], judged=[False, True, True]) == []


def test_a_bump_of_two_is_a_step_up_and_a_slope_down():
    cliffs = cliffs_among([1.0, 1.0, 2.0, 1.4, 1.0, 1.0], ["L1"] * 6, [True] * 6)
    assert cliffs == [Cliff(2, "step", 1.4), Cliff(3, "slope", 1.4)]


def test_padding_counts_whole_vectors():
    lanes = vector_bytes() // 4
    assert padded_flops(Case("lstm", 2, 3, 1, 1)) == Case("lstm", 2, 3, lanes, lanes).flops
    whole = Case("lstm", 2, 3, 2 * lanes, 3 * lanes, mode="training")
    assert padded_flops(whole) == whole.flops


@pytest.mark.parametrize("sweep", SWEEPS)
def test_sizes_rise(sweep):
    sizes, others = SWEEPS[sweep]
    assert list(sizes) == sorted(set(sizes)) and sweep not in others
