"""The contract on shapes: layouts of x, y and state, lengths, resets, and batches without rows or steps."""

from __future__ import annotations

import numpy as np
import pytest

import fastrnn
from tests.cases import LAYERS, Case
from tests.checks import (
    as_public,
    as_tuple,
    assert_close,
    layer_results,
    make_layer,
    reference_results,
    relative_error,
)

KINDS = ("rnn_tanh", "lstm", "gru_reset_before")


@pytest.mark.parametrize("num_layers, bidirectional", [(1, False), (1, True), (3, False), (2, True)])
@pytest.mark.parametrize("cell", KINDS)
def test_shapes(cell, num_layers, bidirectional):
    case = Case(cell, T=6, B=5, I=4, H=7, num_layers=num_layers, bidirectional=bidirectional)
    problem = case.problem()
    layer = make_layer(problem)
    D = case.directions
    y, state, tape = layer.forward(problem.x)
    assert y.shape == (6, 5, D * 7)
    assert isinstance(state, tuple) == (cell == "lstm")
    assert [s.shape for s in as_tuple(state)] == [(num_layers * D, 5, 7)] * len(problem.state)
    grads = layer.backward(tape, problem.dy)
    assert grads.x.shape == problem.x.shape
    assert isinstance(grads.state, tuple) == (cell == "lstm")
    assert [s.shape for s in as_tuple(grads.state)] == [s.shape for s in problem.state]
    assert {name: g.shape for name, g in grads.params.items()} == case.parameter_shapes()
    y, state = layer(problem.x)
    assert y.shape == (6, 5, D * 7)
    last, _ = layer(problem.x, return_sequences=False)
    assert last.shape == (5, D * 7)


@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("cell", LAYERS)
def test_batch_first(cell, num_layers, bidirectional):
    options = {"num_layers": num_layers, "bidirectional": bidirectional, "ragged": True, "resets": True}
    problem = Case(cell, batch_first=True, **options).problem()
    layer = make_layer(problem)
    assert_close(layer_results(problem, layer), reference_results(problem), problem)
    x = np.ascontiguousarray(problem.x.swapaxes(0, 1))
    last, state = layer(x, lengths=problem.lengths, return_sequences=False)
    assert last.shape == (problem.case.B, problem.case.directions * problem.case.H)
    assert as_tuple(state)[0].shape == problem.state[0].shape


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("cell", LAYERS)
def test_one_unbatched_sequence(cell, bidirectional, batch_first):
    """(T, I) is the batch of one with that axis left out, everywhere; batch_first says nothing about it."""
    problem = Case(cell, B=1, num_layers=2, bidirectional=bidirectional).problem()
    batched = make_layer(problem)
    layer = make_layer(problem, batch_first=batch_first)
    want_y, want_state, want_tape = batched.forward(problem.x, as_public(problem.state))
    want = batched.backward(want_tape, problem.dy, as_public(problem.dstate))

    x, dy = problem.x[:, 0], problem.dy[:, 0]
    state, dstate = (as_public([s[:, 0] for s in states]) for states in (problem.state, problem.dstate))
    y, final, tape = layer.forward(x, state)
    grads = layer.backward(tape, dy, dstate)
    assert [s.shape for s in as_tuple(final)] == [s.shape for s in as_tuple(state)]
    pairs = [(y, want_y[:, 0]), (grads.x, want.x[:, 0]), (grads.flat, want.flat)]
    for got_states, want_states in ((final, want_state), (grads.state, want.state)):
        pairs += zip(as_tuple(got_states), (s[:, 0] for s in as_tuple(want_states)), strict=True)
    y_kept_nothing, final_kept_nothing = layer(x, state)
    pairs += [(y_kept_nothing, y), *zip(as_tuple(final_kept_nothing), as_tuple(final), strict=True)]
    last, _ = layer(x, state, return_sequences=False)
    assert last.shape == (problem.case.directions * problem.case.H,)
    for mine, theirs in pairs:
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("cell", LAYERS)
def test_lengths_in_any_form_and_order(cell):
    """Ascending, descending, mixed, with zeros, none as long as T; as an array of any integers or a list."""
    case = Case(cell, T=7, B=5, bidirectional=True, num_layers=2)
    problem = case.problem()
    dy = problem.dy
    layer = make_layer(problem)
    for lengths in (
        [1, 2, 4, 6, 7],
        [7, 6, 4, 2, 1],
        [3, 0, 7, 0, 5],
        [2, 4, 0, 4, 1],
        [0, 0, 0, 0, 0],
        [7] * 5,
    ):
        problem.lengths = np.array(lengths)
        problem.dy = np.where(problem.padding[..., None], np.nan, dy)
        want = reference_results(problem)
        forms = [lengths, tuple(lengths), np.array(lengths)]
        forms += [np.array(lengths, dtype) for dtype in ("uint8", "int16", "int32", "uint64")]
        forms += [np.repeat(lengths, 3)[::3]]
        for form in forms:
            problem.lengths = form
            assert_close(layer_results(problem, layer), want, problem)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("cell", LAYERS)
def test_past_a_length(cell, bidirectional):
    """y and grads.x are exactly 0 there; x and dy there are never read; an empty row passes its state on."""
    problem = Case(cell, ragged=True, num_layers=2, bidirectional=bidirectional).problem()
    layer = make_layer(problem)
    clean = layer_results(problem, layer)
    assert np.isnan(problem.dy[problem.padding]).all()
    problem.x[problem.padding] = np.nan
    got = layer_results(problem, layer)
    for name, array in got.named().items():
        np.testing.assert_array_equal(array, clean.named()[name], err_msg=name)
        assert np.isfinite(array).all(), name
    assert (got.y[problem.padding] == 0).all()
    assert (got.dx[problem.padding] == 0).all()
    (empty,) = np.flatnonzero(problem.lengths == 0)
    for k, (initial, dfinal) in enumerate(zip(problem.state, problem.dstate, strict=True)):
        np.testing.assert_array_equal(got.state[k][:, empty], initial[:, empty])
        np.testing.assert_array_equal(got.dstate[k][:, empty], dfinal[:, empty])


@pytest.mark.parametrize("cell", LAYERS)
def test_a_length_is_a_shorter_sequence(cell):
    """A row of length n gives what the first n steps alone give, in both directions."""
    problem = Case(cell, T=8, B=3, bidirectional=True).problem()
    layer = make_layer(problem)
    y, state = layer(problem.x, lengths=[8, 3, 5])
    for row, n in enumerate([8, 3, 5]):
        alone, final = layer(problem.x[:n, row : row + 1])
        np.testing.assert_array_equal(y[:n, row], alone[:, 0])
        for mine, theirs in zip(as_tuple(state), as_tuple(final), strict=True):
            np.testing.assert_array_equal(mine[:, row], theirs[:, 0])


@pytest.mark.parametrize("cell", LAYERS)
def test_a_reset_starts_a_new_sequence(cell):
    """After a reset nothing of the past remains, not even NaN; and no gradient passes it, not even NaN."""
    case = Case(cell, T=8, B=2)
    problem = case.problem()
    layer = make_layer(problem)
    resets = np.zeros((8, 2), bool)
    resets[5, 0] = True
    y, _, tape = layer.forward(problem.x, as_public(problem.state), resets=resets)
    fresh, _ = layer(problem.x[5:, :1])
    np.testing.assert_array_equal(y[5:, 0], fresh[:, 0])
    dy = problem.dy.copy()
    dy[5:, 0] = np.nan
    grads = layer.backward(tape, dy)
    assert np.isnan(grads.x[5:, 0]).all()
    assert np.isfinite(grads.x[:5, 0]).all()
    assert np.isfinite(grads.x[:, 1]).all()
    assert all(np.isfinite(s).all() for s in as_tuple(grads.state))

    spoilt = problem.x.copy()
    spoilt[2, 0] = np.nan
    y_spoilt, _ = layer(spoilt, as_public(problem.state), resets=resets)
    assert np.isnan(y_spoilt[2:5, 0]).all()
    np.testing.assert_array_equal(y_spoilt[5:], y[5:])


def test_resets_of_an_unbatched_sequence():
    problem = Case("lstm", B=1, resets=True, bidirectional=True).problem()
    layer = make_layer(problem)
    y, _ = layer(problem.x, resets=problem.resets)
    alone, _ = layer(problem.x[:, 0], resets=problem.resets[:, 0])
    np.testing.assert_array_equal(alone, y[:, 0])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("T, B", [(0, 4), (5, 0), (0, 0)])
@pytest.mark.parametrize("cell", LAYERS)
def test_no_steps_or_no_rows(cell, T, B, dtype):
    case = Case(cell, T=T, B=B, num_layers=2, bidirectional=True, dtype=dtype)
    problem = case.problem()
    layer = make_layer(problem)
    for lengths in (None, [0] * B):
        problem.lengths = lengths
        got = layer_results(problem, layer)
        assert got.y.shape == (T, B, 2 * case.H)
        assert got.dx.shape == (T, B, case.I)
        for k in range(len(problem.state)):
            np.testing.assert_array_equal(got.state[k], problem.state[k])
            np.testing.assert_array_equal(got.dstate[k], problem.dstate[k])
        assert all((g == 0).all() for g in got.dparams.values())
        assert {name: g.shape for name, g in got.dparams.items()} == case.parameter_shapes()
        y, state = layer(problem.x, as_public(problem.state), lengths=lengths)
        assert y.shape == (T, B, 2 * case.H)
        last, state = layer(problem.x, as_public(problem.state), lengths=lengths, return_sequences=False)
        np.testing.assert_array_equal(last, problem.network().last_output(problem.state))
        np.testing.assert_array_equal(as_tuple(state), problem.state)
        for mine, given in zip(as_tuple(state), problem.state, strict=True):
            assert not np.shares_memory(mine, given)


def test_unbatched_without_steps():
    layer = fastrnn.GRU(3, 4)
    y, h, tape = layer.forward(np.zeros((0, 3), np.float32))
    assert y.shape == (0, 4) and h.shape == (1, 4)
    grads = layer.backward(tape, dstate=np.ones((1, 4), np.float32))
    assert grads.x.shape == (0, 3)
    np.testing.assert_array_equal(grads.state, np.ones((1, 4)))


@pytest.mark.parametrize("cell", KINDS)
def test_either_gradient_may_be_missing(cell):
    """dy alone, dstate alone and dstate with None parts are the sum's terms: backward is linear in both."""
    problem = Case(cell, num_layers=2, bidirectional=True, ragged=True).problem()
    problem.dy = np.nan_to_num(problem.dy)
    layer = make_layer(problem)
    _, _, tape = layer.forward(problem.x, as_public(problem.state), lengths=problem.lengths)

    def gradient(dy, dstate):
        grads = layer.backward(tape, dy, dstate, keep_tape=True)
        return np.concatenate([g.ravel() for g in (grads.x, *as_tuple(grads.state), grads.flat)])

    terms = [gradient(problem.dy, None)]
    for k, d in enumerate(problem.dstate):
        parts = [None] * len(problem.dstate)
        parts[k] = d
        terms.append(gradient(None, as_public(parts)))
    both = gradient(problem.dy, as_public(problem.dstate))
    assert relative_error(sum(terms), both) <= 1e-13
    if cell == "lstm":
        both = gradient(problem.dy, (problem.dstate[0], None))
        assert relative_error(terms[0] + terms[1], both) <= 1e-13


@pytest.mark.parametrize("dstate", [None, (None, None)])
def test_no_gradient_at_all_is_an_error(dstate):
    layer = fastrnn.LSTM(3, 4)
    _, _, tape = layer.forward(np.zeros((2, 1, 3), np.float32))
    with pytest.raises(ValueError, match=r"dy.*dstate"):
        layer.backward(tape, None, dstate)
