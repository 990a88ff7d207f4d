"""Layers a chunk of steps behind each other: the bits of one after the other, in any schedule, where it pays."""

from __future__ import annotations

import numpy as np
import pytest

import fastrnn
from fastrnn.cell_table import CELLS
from fastrnn.kernels.cuda.cuts import Chip
from tests import checks
from tests.cases import Case
from tests.checks import assert_close, reference_results
from tests.cuda import bridge, emulator, stand_in, whole_layers
from tests.cuda.bridge import plan
from tests.cuda.stand_in import libraries

pytestmark = pytest.mark.skipif(bool(emulator.available()), reason=emulator.available() or "-")

MULTIPROCESSORS = 8
HOPPER = Chip(132, 227 * 1024, 90)
NEVER = 1000


@pytest.fixture(autouse=True)
def products(monkeypatch):
    """Those outside the kernels give the same bits for any number of rows."""
    monkeypatch.setattr(libraries, "_unchanged", lambda operand: operand.astype(np.float64))


def launches(calls, name):
    """The sizes of the grids, in the third direction: members."""
    return [call.details["grid"][2] for call in calls if call.kind == "launch" and call.name == name]


def results(problem, policy, chunk, **options):
    calls = []
    shape = {"units": 8} | ({"split": 2} if policy == "split" else {})
    options |= {"multiprocessors": MULTIPROCESSORS, "members": problem.case.num_layers, "chunk": chunk}
    found = whole_layers.results(problem, policy, calls=calls, shape=shape.items(), **options)
    return found, calls


CASES = [("rnn_tanh", "persistent"), ("lstm_peephole", "persistent"), ("gru_reset_before", "persistent")]
CASES += [("lstm", "cluster"), ("gru_reset_before", "cluster"), ("lstm", "split"), ("gru_reset_before", "split")]


@pytest.mark.parametrize("cell, policy", CASES)
def test_layers_a_chunk_behind_each_other(cell, policy, monkeypatch):
    """Two steps of five a launch, ragged, with resets: the bits of one layer after the other, in any schedule."""
    monkeypatch.setattr(checks, "WHERE", f"emulated {policy}, layers side by side")
    problem = Case(cell, T=5, B=7, H=24, num_layers=2, dtype="float32", ragged=True, resets=True).problem()
    want, calls = results(problem, policy, NEVER)
    assert launches(calls, "forward") == launches(calls, "backward") == [1, 1]
    assert_close(want, reference_results(problem), problem)
    for schedule in ("one block ahead", "last first"):
        got, calls = results(problem, policy, 2, schedule=schedule)
        assert launches(calls, "backward") == [2] * 4
        for name, array in got.named().items():
            assert array.tobytes() == want.named()[name].tobytes(), name


def trained(layers, chunk, **options):
    """All that a layer with dropout gives, and the launches of it."""
    with whole_layers.few_multiprocessors(MULTIPROCESSORS), stand_in.installed() as cupy:
        with whole_layers.in_chunks(chunk), bridge.only("persistent", units=16), stand_in.watch() as calls:
            layer = fastrnn.LSTM(5, 12, layers, dropout=0.4, device="cuda", seed=1)
            x = cupy.asarray(np.random.default_rng(0).standard_normal((7, 3, 5)).astype("float32"))
            y, state, tape = layer.forward(x, seed=2, **options)
            grads = layer.backward(tape, y, state)
            return [a.get().tobytes() for a in (y, *state, grads.x, *grads.state, grads.flat)], calls


@pytest.mark.parametrize("options", [{}, {"lengths": [7, 0, 4]}], ids=str)
def test_masks_between_layers(options):
    """Of a part of an array, forward and back: that of the whole, whose elements are no multiple of eight."""
    want, calls = trained(3, NEVER, **options)
    assert launches(calls, "backward") == [1] * 3
    got, calls = trained(3, 3, **options)
    assert launches(calls, "forward") == launches(calls, "backward") == [3] * 5
    assert got == want


def test_more_layers_than_go_at_the_same_time():
    """Five: of forward the lowest four, of backward the uppermost."""
    want, _ = trained(5, NEVER)
    got, calls = trained(5, 4)
    assert launches(calls, "forward") == launches(calls, "backward") == [4] * 5 + [1]
    assert got == want


def test_inference_of_layers():
    """Without a tape, from a state, the last output alone, of three layers: what one after the other gives."""
    problem = Case("lstm", T=7, B=3, H=16, num_layers=3, dtype="float32", ragged=True).problem()
    found = []
    for chunk in (2, 100):
        with whole_layers.few_multiprocessors(MULTIPROCESSORS), stand_in.installed(), bridge.bridged():
            with whole_layers.in_chunks(chunk), bridge.only("persistent"), stand_in.watch() as calls:
                layer, options = checks.make_layer(problem), {"lengths": problem.lengths, "return_sequences": False}
                last, (h, c) = layer(problem.x, checks.as_public(problem.state), **options)
        found.append((last, h, c))
        depths = [call.details["grid"][2] for call in calls if call.name == "forward"]
        assert depths == ([3] * 6 if chunk == 2 else [1] * 3), "four chunks, and two more for the layers above"
    for got, want in zip(*found, strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-6)


@pytest.mark.parametrize("backward", [False, True])
def test_layers_side_by_side_where_it_pays(backward):
    """Where two layers leave half of the chip idle, and steps are enough; never with one of them all on the chip."""
    each = CELLS["lstm"], "float32", "exact"
    for H, B, steps in ((128, 1, 512), (256, 16, 512), (512, 1, 128)):
        wave = plan.wavefront(*each, H, B, steps, 2, backward, HOPPER)
        assert wave is not None and wave.policy.members == 2 and 16 <= wave.chunk < steps / 2
    for H, B, steps, layers in (
        (128, 1, 16, 2),
        (1024, 1, 512, 2),
        (512, 256, 512, 2),
        (128, 1, 512, 1),
        (128, 0, 9, 2),
    ):
        assert plan.wavefront(*each, H, B, steps, layers, backward, HOPPER) is None
    with plan.forced(None, 1):
        assert plan.wavefront(*each, 128, 1, 512, 2, backward, HOPPER) is None
