"""Directions, and layers, side by side: the bits of one after the other, in any schedule, where it pays."""

from __future__ import annotations

import importlib

import numpy as np
import pytest

import fastrnn
from fastrnn.cell_table import CELLS
from fastrnn.kernels.cuda.cuts import Chip, Problem
from tests import checks
from tests.cases import LAYERS, Case
from tests.checks import assert_close, reference_results
from tests.cuda import bridge, emulator, stand_in, whole_layers
from tests.cuda.bridge import plan

pytestmark = pytest.mark.skipif(bool(emulator.available()), reason=emulator.available() or "-")

# By its full name: the package has functions of these names, too.
forward, backward, wavefront = (
    importlib.import_module(f"fastrnn.kernels.cuda.{name}") for name in ("forward", "backward", "wavefront")
)
explain = importlib.import_module("fastrnn.explain")

# So many that a cluster, or blocks of several columns, fit twice.
MULTIPROCESSORS = 8
HOPPER = Chip(132, 227 * 1024, 90)


@pytest.fixture
def in_turn(monkeypatch):
    """Has launches take one direction after the other, cut as for both: the order of sums depends on the cut."""
    launch = forward.launch_persistent

    def change():
        for module in (forward, backward, wavefront):
            one = lambda walks, policy, *steps: launch(walks, policy._replace(members=1), *steps)  # noqa: E731
            monkeypatch.setattr(module, "launch_persistent", one)

    return change


def results(problem, policy, calls, **options):
    return whole_layers.results(problem, policy, calls=calls, multiprocessors=MULTIPROCESSORS, members=2, **options)


def grids(calls):
    return {call.details["grid"] for call in calls if call.kind == "launch" and call.name in ("forward", "backward")}


@pytest.mark.parametrize("policy", ["persistent", "cluster"])
@pytest.mark.parametrize("cell", LAYERS)
def test_the_bits_of_one_after_the_other(cell, policy, monkeypatch, in_turn):
    """Ragged, with resets, with two layers; in schedules in which one direction is far ahead of the other."""
    monkeypatch.setattr(checks, "WHERE", f"emulated {policy}, side by side")
    problem = Case(
        cell, T=4, B=7, H=24, num_layers=2, dtype="float32", bidirectional=True, ragged=True, resets=True
    ).problem()
    found = []
    for schedule in ("one block ahead", "last first"):
        calls = []
        found.append(results(problem, policy, calls, schedule=schedule))
        assert {grid[2] for grid in grids(calls)} == {2} and all(grid[0] > 1 for grid in grids(calls))
    in_turn()
    calls = []
    want = results(problem, policy, calls)
    assert {grid[2] for grid in grids(calls)} == {1}
    assert_close(want, reference_results(problem), problem)
    for got in found:
        for name, array in got.named().items():
            assert array.tobytes() == want.named()[name].tobytes(), name


@pytest.mark.parametrize("policy", ["persistent", "cluster", "stepwise"])
def test_inference_in_pieces(policy, monkeypatch, in_turn):
    """Input products of a few steps at a time, for both directions: what the whole at once gives."""
    problem = Case("gru_reset_before", T=5, B=3, H=16, dtype="float32", bidirectional=True, ragged=True).problem()

    def outputs():
        with whole_layers.few_multiprocessors(MULTIPROCESSORS), stand_in.installed(), bridge.bridged():
            with bridge.only(policy, 2), stand_in.watch() as calls:
                y, _ = checks.make_layer(problem)(problem.x, lengths=problem.lengths)
        return y, [call.name for call in calls].count("forward_0" if policy == "stepwise" else "forward")

    whole, _ = outputs()
    monkeypatch.setattr(forward, "_SLAB_BYTES", 2 * 2 * problem.case.B * 4 * 16 * 4)
    got, launches = outputs()
    assert launches == (2 * problem.case.T if policy == "stepwise" else 3), "two steps at a time, of five"
    in_turn()
    np.testing.assert_array_equal(got, outputs()[0])
    np.testing.assert_allclose(got, whole, rtol=0, atol=1e-6)


def test_recomputing_both_directions():
    """Through each segment together; outputs and the gradient of x as if every step were kept."""
    problem = Case("lstm", T=5, B=3, H=16, dtype="float32", bidirectional=True, ragged=True, resets=True).problem()
    found, options = [], {"lengths": problem.lengths, "resets": problem.resets}
    for recompute in (0, 2):
        with whole_layers.few_multiprocessors(MULTIPROCESSORS), stand_in.installed(), bridge.bridged():
            with bridge.only("persistent", 2), stand_in.watch() as calls:
                layer = checks.make_layer(problem)
                y, _, tape = layer.forward(problem.x, recompute=recompute, **options)
                found.append((y, layer.backward(tape, problem.dy).x))
        assert {grid[2] for grid in grids(calls)} == {2}
    for got, want in zip(*found, strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-6)


def test_graphs_of_two_directions():
    """From the third call on both run, at the same time: what the first call gave."""
    with stand_in.installed() as cupy, bridge.only("stepwise"):
        layer = fastrnn.LSTM(5, 16, bidirectional=True, device="cuda", seed=1).freeze()
        x = cupy.asarray(np.random.default_rng(0).standard_normal((4, 3, 5)).astype("float32"))
        outputs = []
        for call in range(4):
            with stand_in.watch() as calls:
                y, _, tape = layer.forward(x)
                grads = layer.backward(tape, y)
            outputs.append([a.get().tobytes() for a in (y, grads.x, grads.flat)])
            streams = [c.stream for c in calls if c.kind == "graph"]
            assert len(streams) == (4 if call else 0), "one a direction, forward and back"
            assert len(set(streams)) == len(streams) - (len(streams) > 0), "of each pair one on the caller's stream"
        assert all(output == outputs[0] for output in outputs)


# ---- which way ----


def chosen(H, B, chip=HOPPER, dtype="float32", backward=False, **options):
    return plan.choose(CELLS["lstm"], dtype, "exact", H, B, 100, backward, chip, **options)


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_side_by_side_where_it_pays(dtype, backward):
    """Wherever both fit; the model takes a larger cut one after the other only where one alone fills the chip."""
    for H in (128, 256, 512):
        policy = chosen(H, 1, dtype=dtype, backward=backward, walks=2)
        assert policy.members == 2 and ", side by side;" in policy.why
    policy = chosen(1024, 1, backward=backward, walks=2)
    assert policy.members == 1 and ", one after the other;" in policy.why
    assert chosen(256, 1, dtype=dtype).members == 1 and "side by side" not in chosen(256, 1, dtype=dtype).why


@pytest.mark.parametrize("H, B", [(64, 1), (128, 16), (512, 16), (512, 64), (1024, 1)])
def test_both_fit_the_chip(H, B):
    """A cooperative launch has all blocks at once, clusters seven eighths of the chip; never slower than in turn."""
    for dtype in ("float32", "bfloat16"):
        alone, _ = plan.candidates(Problem("lstm", dtype, "exact", H, B, False), HOPPER)[0]
        for _, policy in plan.candidates(Problem("lstm", dtype, "exact", H, B, False, 2), HOPPER):
            blocks = policy.blocks * policy.columns * policy.members
            assert blocks <= 132 and (policy.kernel != "cluster" or blocks <= 115)
        (best, _), *_ = plan.candidates(Problem("lstm", dtype, "exact", H, B, False, 2), HOPPER)
        assert best <= 2 * alone


def test_forced():
    for count in (1, 2):
        with plan.forced("persistent", count):
            policy = chosen(128, 16, walks=2)
            assert (policy.kernel, policy.members) == ("persistent", count)
    with plan.forced(None, 1):
        assert chosen(128, 16, walks=2).members == 1
    with plan.forced("persistent", 2):
        assert chosen(1024, 1, walks=2).members == 1, "both do not fit"


def test_explain_says_so(monkeypatch):
    monkeypatch.setattr(explain, "measure_speed", lambda *arguments: explain.Speed(1e12, 1e12, 1e-6))
    with stand_in.installed():
        layer = fastrnn.LSTM(8, 128, bidirectional=True, device="cuda")
        for part in fastrnn.explain(layer, 100, 4).parts:
            assert ", side by side;" in part.why and "layers" not in part.why
        layer = fastrnn.LSTM(8, 128, 2, device="cuda")
        for part in fastrnn.explain(layer, 500, 4).parts:
            assert "2 layers at the same time, each " in part.why
