"""What goes along time: truncated BPTT, gradient flow, and a training loop that stops in time."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest

import fastrnn
from fastrnn import nn
from tests.cases import LAYERS
from tests.checks import as_tuple
from tests.nn.finite_differences import check

T, B, I, H = 7, 3, 2, 4
LENGTHS = [7, 0, 4]
CELLS = ("rnn_tanh", "lstm_peephole", "gru_reset_before")
cells = pytest.mark.parametrize("cell", CELLS)


def layer_of(cell, **options):
    kind, cell_options = LAYERS[cell]
    return getattr(fastrnn, kind)(I, H, **{"dtype": "float64", "seed": 0} | cell_options | options)


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def squared(targets):
    return lambda y, steps: nn.mean_squared_error(y, targets[steps], reduction="sum")


# ---- truncated BPTT ----


@pytest.mark.parametrize("window", [T, T + 5, 100])
@cells
def test_one_window_is_full_bptt(cell, window):
    layer, x, targets = layer_of(cell, num_layers=2), numbers(T, B, I), numbers(T, B, H, seed=1)
    y, state, tape = layer.forward(x, lengths=LENGTHS)
    loss, dy = nn.mean_squared_error(y, targets, reduction="sum")
    want = layer.backward(tape, dy)
    (piece,) = nn.truncated_bptt(layer, x, squared(targets), window, lengths=LENGTHS)
    assert piece.loss == loss and piece.steps == slice(0, T)
    assert piece.grads.flat.tobytes() == want.flat.tobytes() and piece.grads.x.tobytes() == want.x.tobytes()
    for got, expected in zip(as_tuple(piece.state), as_tuple(state), strict=True):
        assert got.tobytes() == expected.tobytes()


@pytest.mark.parametrize("window", [1, 3, 6])
@cells
def test_windows_carry_the_state_and_stop_the_gradient(cell, window):
    """The loss is that of the whole sequence; the gradient that with each window's first state held fixed."""
    layer, x, targets = layer_of(cell), numbers(T, B, I), numbers(T, B, H, seed=1)
    pieces = list(nn.truncated_bptt(layer, x, squared(targets), window, lengths=LENGTHS))
    assert [p.steps.start for p in pieces] == list(range(0, T, window)) and pieces[-1].steps.stop == T
    y, state = layer(x, lengths=LENGTHS)
    assert sum(p.loss for p in pieces) == pytest.approx(
        nn.mean_squared_error(y, targets, reduction="sum")[0], rel=1e-13
    )
    for got, expected in zip(as_tuple(pieces[-1].state), as_tuple(state), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-13)
    fixed = [None, *(p.state for p in pieces[:-1])]

    def with_fixed_states():
        total = 0.0
        for piece, start in zip(pieces, fixed, strict=True):
            inside = np.clip(np.array(LENGTHS) - piece.steps.start, 0, piece.steps.stop - piece.steps.start)
            y, _ = layer(x[piece.steps], start, lengths=inside)
            total += squared(targets)(y, piece.steps)[0]
        return total

    summed = sum(p.grads.flat for p in pieces)
    check(with_fixed_states, layer.flat_params, summed, most=30)


def test_parameters_may_change_between_windows():
    layer, x = layer_of("lstm", batch_first=True), numbers(B, T, I)
    targets = numbers(B, T, H, seed=1)

    def loss(y, steps):
        return nn.mean_squared_error(y, targets[:, steps], reduction="sum")

    optimizer = nn.SGD(layer, 0.01)
    losses = [0.0] * 3
    for epoch in range(3):
        for piece in nn.truncated_bptt(layer, x, loss, 3):
            losses[epoch] += piece.loss
            optimizer.step(piece.grads)
    assert losses[0] > losses[1] > losses[2] and optimizer.steps == 9


def test_windows_of_ragged_rows():
    found = [(s.start, s.stop, inside.tolist()) for s, inside in nn.windows(T, 3, LENGTHS)]
    assert found == [(0, 3, [3, 0, 3]), (3, 6, [3, 0, 1]), (6, 7, [1, 0, 0])]
    assert [inside for _, inside in nn.windows(4, 2)] == [None, None] and list(nn.windows(0, 3)) == []
    for bad, error in ((0, ValueError), (2.0, TypeError)):
        with pytest.raises(error, match="window must be"):
            list(nn.windows(T, bad))
    with pytest.raises(ValueError, match=r"lengths must lie in 0..7 \(T\)"):
        list(nn.windows(T, 3, [8]))
    with pytest.raises(ValueError, match="in one direction"):
        list(nn.truncated_bptt(layer_of("lstm", bidirectional=True), numbers(T, B, I), squared(0), 2))


# ---- gradient flow ----


@cells
def test_gradient_flow_is_that_of_a_backward_cut_in_two(cell):
    """∂L/∂s_k is grads.state of the steps after k; the terms add up to the whole gradient."""
    layer = layer_of(cell, num_layers=2, dropout=0.5)
    x, dy = numbers(T, B, I), numbers(T, B, H, seed=1)
    plain = layer_of(cell, num_layers=2)
    dstate = as_public([numbers(2, B, H, seed=2 + k) for k in range(len(layer.cell.states))])
    flow = nn.gradient_flow(layer, x, dy, dstate, lengths=LENGTHS)
    for k in (0, 1, 4):
        _, state = plain(x[:k], lengths=np.minimum(LENGTHS, k))
        _, _, tape = plain.forward(x[k:], state, lengths=np.clip(np.array(LENGTHS) - k, 0, None))
        parts = [np.array(p) for p in as_tuple(plain.backward(tape, dy[k:], dstate).state)]
        if k:
            parts[0][-1] += np.where(np.array(LENGTHS)[:, None] >= k, dy[k - 1], 0)
        for name, part in zip(layer.cell.states, parts, strict=True):
            np.testing.assert_allclose(flow.states[name][k], np.linalg.norm(part, axis=-1), rtol=1e-12)
    assert flow.terms.shape == (T,) and (flow.terms > 0).all()


def as_public(parts):
    return parts[0] if len(parts) == 1 else tuple(parts)


def test_terms_are_those_of_the_sum():
    """One step's loss: its term at k is the gradient of the parameters where only step k may use changed ones."""
    layer, x = layer_of("rnn_tanh"), numbers(T, I)
    dy = np.zeros((T, H))
    dy[4] = numbers(H, seed=1)
    flow = nn.gradient_flow(layer, x, dy)
    assert not flow.terms[5:].any() and not flow.states["h"][6:].any()
    assert flow.states["h"].shape == (T + 1, 1, 1)
    (one,) = nn.truncated_bptt(layer, x[4:5], lambda y, _: (0.0, dy[4:5]), 1, layer(x[:4])[1])
    assert flow.terms[4] == pytest.approx(np.linalg.norm(one.grads.flat), rel=1e-12)


@pytest.mark.parametrize("cell", LAYERS)
def test_jacobians_by_finite_differences(cell):
    """Π ∂s_t/∂s_{t-1} of every cell, two layers: the whole matrix, its spectral norm, and probes of it."""
    layer, x = layer_of(cell, num_layers=2), numbers(T, I)
    rng = np.random.default_rng(3)
    count = len(layer.cell.states)
    state = as_public([rng.uniform(-0.5, 0.5, (2, H)) for _ in range(count)])
    flow = nn.jacobian_flow(layer, x, state=state, full=True)
    S = count * 2 * H
    assert flow.matrices.shape == (T + 1, S, S)
    np.testing.assert_array_equal(flow.matrices[T], np.eye(S))
    k, step = 4, 1e-6
    flat = np.concatenate([p.reshape(-1) for p in as_tuple(layer(x[:k], state)[1])])

    def final(values):
        parts = [p.reshape(2, H) for p in np.split(values, count)]
        return np.concatenate([p.reshape(-1) for p in as_tuple(layer(x[k:], as_public(parts))[1])])

    eye = np.eye(S) * step
    want = np.stack([(final(flat + e) - final(flat - e)) / (2 * step) for e in eye], axis=1)
    np.testing.assert_allclose(flow.matrices[k], want, atol=1e-8)
    np.testing.assert_allclose(10 ** flow.log10_norms[k], np.linalg.norm(flow.matrices[k], 2), rtol=1e-10)
    probes = nn.jacobian_flow(layer, x, state=state, probes=400)
    assert probes.matrices is None and probes.log10_norms.shape == (T + 1, 400)
    frobenius = np.linalg.norm(flow.matrices[k]) / math.sqrt(S)
    mean_square = math.sqrt((10 ** (2 * probes.log10_norms[k])).mean())
    assert mean_square == pytest.approx(frobenius, rel=0.2)


def test_norms_outside_of_float_range():
    """Logarithms go on where float32, and float64, have ended; nothing that comes through is -inf."""
    layer = fastrnn.RNN(1, 3, nonlinearity="relu", bias=False)
    x = np.zeros((400, 1), np.float32)
    x[0] = 1
    for scale, want in ((1e3, 3.0), (1e-3, -3.0)):
        layer.params["weight_hh_l0"][...] = scale * np.eye(3)
        layer.params["weight_ih_l0"][...] = 1 if scale < 1 else 1e-38
        flow = nn.jacobian_flow(layer, x[: 8 if scale > 1 else 12], full=True)
        assert flow.decades_per_step == pytest.approx(want, rel=1e-5)
    layer.params["weight_hh_l0"][...] = 0
    flow = nn.jacobian_flow(layer, x[:5])
    assert np.isneginf(flow.log10_norms[:-1]).all()


def test_bad_input_to_flow():
    layer = layer_of("lstm")
    with pytest.raises(ValueError, match="x must be one sequence"):
        nn.jacobian_flow(layer, numbers(T, B, I))
    for function in (nn.jacobian_flow, nn.gradient_flow):
        with pytest.raises(ValueError, match="in one direction"):
            function(layer_of("lstm", bidirectional=True), numbers(T, I))
        with pytest.raises(TypeError, match="x must have the layer's dtype"):
            function(layer, numbers(T, I).astype(np.float32))
    with pytest.raises(ValueError, match="dy must have shape"):
        nn.gradient_flow(layer, numbers(T, B, I), numbers(T, B, H + 1))


# ---- the loop ----


def test_a_lost_training_says_where_and_keeps_what_was_good():
    part = nn.Linear(2, 2, dtype="float64", seed=0)
    seen = []

    def step(k):
        seen.append(part.flat_params.copy())
        loss = math.nan if k == 4 else float(10 - k)
        part.flat_params[...] += 1 if k < 3 else math.inf
        return loss

    with pytest.raises(nn.Diverged, match=r"the loss of step 4 is nan: .*step 3 had loss 7") as caught:
        nn.fit(part, step, 10)
    assert caught.value.step == 4 and caught.value.losses == [10.0, 9.0, 8.0, 7.0]
    np.testing.assert_array_equal(part.flat_params, seen[3])
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


@pytest.mark.parametrize("every, kept", [(1, 4), (2, 4), (3, 3), (100, 0)])
def test_parameters_are_kept_as_often_as_asked(every, kept):
    part = nn.Linear(1, 1, bias=False, dtype="float64")

    def step(k):
        loss = math.inf if k == 5 else part.flat_params[0]
        part.flat_params += 1
        return loss

    part.flat_params[...] = 0
    with pytest.raises(nn.Diverged, match=f"step 5 is inf.*step {kept}"):
        nn.fit(part, step, 10, keep_every=every)
    assert part.flat_params[0] == kept


def test_lost_at_once():
    part = nn.Linear(1, 1)
    before = part.flat_params.copy()

    def step(k):
        part.flat_params[...] = 3
        return math.nan

    with pytest.raises(nn.Diverged, match=r"step 0 is nan.*the initial ones"):
        nn.fit([part], step, 2)
    np.testing.assert_array_equal(part.flat_params, before)
    assert nn.fit(part, lambda k: k, 3) == [0.0, 1.0, 2.0] and nn.fit(part, lambda k: k, 0) == []
