"""Dropout: inverted, between layers, only in forward(), its mask a pure function of the seed."""

from __future__ import annotations

import numpy as np
import pytest

from tests.cases import DTYPES, LAYERS, Case
from tests.checks import (
    Results,
    as_public,
    as_tuple,
    assert_close,
    layer_results,
    make_layer,
    reference_results,
)
from tests.reference import CELLS


def mask_of(layer, case, seed):
    """The mask between two layers, seen from outside: parameters that let the second show which inputs are 0.

    Recurrent weights and biases are 0 and every step is reset, so it depends on its input alone. The first layer
    gives random numbers, none of them 0; in the second only one gate of each direction sees its input, by the
    identity, and its h is 0 just where the input is.
    """
    H, width = case.H, case.directions * case.H
    kept = layer.flat_params.copy()
    layer.flat_params[...] = 0
    rng = np.random.default_rng(0)
    for name, p in layer.params.items():
        if name.startswith("weight_ih_l0"):
            p[...] = rng.uniform(0.5, 1, p.shape)
    shows = {"RNN": "h", "LSTM": "g", "GRU": "n"}[type(layer).__name__]
    block = CELLS[case.cell].gates.index(shows) * H
    for d, direction in enumerate(("", "_reverse")[: case.directions]):
        layer.params[f"weight_ih_l1{direction}"][block : block + H, d * H : (d + 1) * H] = np.eye(H)
    x = np.ones((case.T, case.B, case.I), case.dtype)
    y, _, _ = layer.forward(x, resets=np.ones((case.T, case.B), bool), seed=seed)
    at_zero = 0.5 if case.cell == "rnn_sigmoid" else 0.0
    assert y.shape[2] == width
    layer.flat_params[...] = kept
    return y != at_zero


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("cell", LAYERS)
def test_gradients_go_through_the_mask(cell, bidirectional, dtype):
    """With the mask read off the layer, forward and backward are the reference's with that mask."""
    case = Case(cell, num_layers=2, bidirectional=bidirectional, dtype=dtype, T=7, B=3)
    problem = case.problem()
    layer = make_layer(problem, dropout=0.4)
    mask = mask_of(layer, case, seed=5)
    assert 0.4 < mask.mean() < 0.8
    y, final, tape = layer.forward(problem.x, as_public(problem.state), seed=5)
    grads = layer.backward(tape, problem.dy, as_public(problem.dstate))
    got = Results(y, as_tuple(final), grads.x, as_tuple(grads.state), grads.params)
    assert_close(got, reference_results(problem, masks=[mask / 0.6]), problem)


@pytest.mark.parametrize("num_layers", [2, 3])
@pytest.mark.parametrize("cell", ["rnn_tanh", "lstm", "gru_reset_before"])
def test_a_pure_function_of_the_seed(cell, num_layers):
    """Equal seeds, equal results, whatever ran between and whatever the layer's own seed; others differ."""
    problem = Case(cell, num_layers=num_layers).problem()
    layer, twin = (make_layer(problem, dropout=0.5, seed=s) for s in (1, 2))

    def run(layer, seed):
        y, _, tape = layer.forward(problem.x, seed=seed)
        first = layer.backward(tape, problem.dy, keep_tape=True).flat
        np.testing.assert_array_equal(layer.backward(tape, problem.dy).flat, first)
        return np.concatenate([y.ravel(), first])

    once = run(layer, 7)
    assert (run(layer, 8) != once).any()
    np.random.seed(3)
    drawn = run(layer, None)
    np.random.seed(3)
    assert (run(layer, None) != drawn).any()
    np.testing.assert_array_equal(run(layer, 7), once)
    np.testing.assert_array_equal(run(twin, 7), once)


def test_each_boundary_has_its_own_mask():
    """Three layers, two masks: they are not the same one."""
    case = Case("rnn_relu", T=20, B=5, H=16, num_layers=3)
    layer = make_layer(case.problem(), dropout=0.5)
    layer.flat_params[...] = 0
    for k in range(3):
        layer.params[f"weight_ih_l{k}"][...] = 1 if k == 0 else np.eye(16)
    y, _, _ = layer.forward(np.ones((20, 5, 4)), seed=0)
    assert 0.2 < (y != 0).mean() < 0.3
    np.testing.assert_allclose(y[y != 0], 4 / 0.5**2)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_the_share_and_the_scale(p):
    """A share p is zeroed (five standard deviations), independently; the rest is scaled to keep the mean."""
    case = Case("rnn_relu", T=60, B=40, H=50, num_layers=2, dtype="float32")
    layer = make_layer(case.problem(), dropout=p)
    mask = mask_of(layer, case, seed=11)
    deviation = np.sqrt(p * (1 - p) / mask.size)
    assert abs(mask.mean() - (1 - p)) < 5 * deviation
    for axis, n in enumerate(mask.shape):
        assert np.abs(mask.mean(axis=axis) - (1 - p)).max() < 6 * np.sqrt(p * (1 - p) / n)
        neighbours = np.corrcoef(mask.take(range(n - 1), axis).ravel(), mask.take(range(1, n), axis).ravel())
        assert abs(neighbours[0, 1]) < 5 / np.sqrt(mask.size)


@pytest.mark.parametrize("cell", ["rnn_tanh", "lstm", "gru_reset_before"])
def test_not_in_inference_nor_after_the_last_layer(cell):
    deep, single = Case(cell, num_layers=2).problem(), Case(cell).problem()
    for problem in (deep, single):
        plain, dropping = make_layer(problem), make_layer(problem, dropout=0.5)
        np.testing.assert_array_equal(dropping(problem.x)[0], plain(problem.x)[0])
    dropped, _, _ = make_layer(single, dropout=0.5).forward(single.x, seed=1)
    np.testing.assert_array_equal(dropped, make_layer(single)(single.x)[0])
    deep_dropped, _, _ = make_layer(deep, dropout=0.5).forward(deep.x, seed=1)
    assert (deep_dropped != make_layer(deep)(deep.x)[0]).any()


def test_without_dropout_the_seed_says_nothing():
    problem = Case("gru_reset_after", num_layers=2).problem()
    layer = make_layer(problem)
    y, _, _ = layer.forward(problem.x, as_public(problem.state), seed=3)
    np.testing.assert_array_equal(y, layer_results(problem, layer).y)


def test_ragged_batches_drop_alike():
    """The mask does not depend on lengths: a row's valid part is that of the full batch."""
    problem = Case("lstm", num_layers=2, T=6, B=3).problem()
    layer = make_layer(problem, dropout=0.5)
    full, _, _ = layer.forward(problem.x, seed=2)
    ragged, _, _ = layer.forward(problem.x, lengths=[6, 2, 4], seed=2)
    for row, n in enumerate([6, 2, 4]):
        np.testing.assert_array_equal(ragged[:n, row], full[:n, row])


@pytest.mark.parametrize("seed", [1.5, "1", -1])
def test_bad_seeds(seed):
    problem = Case("lstm", num_layers=2).problem()
    layer = make_layer(problem, dropout=0.5)
    with pytest.raises((TypeError, ValueError), match="seed"):
        layer.forward(problem.x, seed=seed)
