"""What the papers teach: gates held open or shut, and what backpropagation through time sums up."""

from __future__ import annotations

import numpy as np
import pytest

from tests.cases import DTYPES, LAYERS, Case
from tests.checks import as_public, as_tuple, make_layer, relative_error
from tests.reference import CELLS

OPEN, SHUT = 1e4, -1e4  # a gate's bias that makes its sigmoid exactly 1 or 0 in either precision


def hold(layer, case, **gates):
    """Fix gates whatever the input: weights 0, and a bias that saturates them."""
    for name, p in layer.params.items():
        if "peephole" in name:
            p[...] = 0
            continue
        for gate, block in zip(CELLS[case.cell].gates, np.split(p, len(CELLS[case.cell].gates)), strict=True):
            if gate in gates:
                block[...] = gates[gate] if name.startswith("bias_ih") else 0


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cell", ["gru_reset_before", "gru_reset_after"])
def test_a_gru_with_r_1_and_z_0_is_the_plain_rnn(cell, dtype):
    """Forward and backward: n's weights are the RNN's."""
    case = Case(cell, dtype=dtype)
    problem = case.problem()
    gru = make_layer(problem)
    hold(gru, case, r=OPEN, z=SHUT)
    plain = Case("rnn_tanh", dtype=dtype).problem()
    rnn = make_layer(plain)
    for name, p in rnn.params.items():
        p[...] = np.split(gru.params[name], 3)[2]
    runs = []
    for layer in (gru, rnn):
        y, h, tape = layer.forward(problem.x, problem.state[0])
        grads = layer.backward(tape, problem.dy, problem.dstate[0])
        of_n = [np.split(g, 3)[2] if layer is gru else g for g in grads.params.values()]
        runs.append([y, h, grads.x, grads.state, *of_n])
    for mine, theirs in zip(*runs, strict=True):
        assert relative_error(mine, theirs) <= (1e-6 if dtype == "float32" else 1e-14)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cell", ["gru_reset_before", "gru_reset_after"])
def test_a_gru_with_z_1_skips_the_step(cell, dtype):
    """h is copied bit for bit, and so is its gradient; the input gets none."""
    case = Case(cell, T=50, dtype=dtype)
    problem = case.problem()
    layer = make_layer(problem)
    hold(layer, case, z=OPEN)
    y, h, tape = layer.forward(problem.x, problem.state[0])
    np.testing.assert_array_equal(y, np.broadcast_to(problem.state[0], y.shape))
    np.testing.assert_array_equal(h, problem.state[0])
    grads = layer.backward(tape, dstate=problem.dstate[0])
    np.testing.assert_array_equal(grads.state, problem.dstate[0])
    assert not grads.x.any()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cell", ["lstm", "lstm_peephole", "lstm_coupled", "lstm_peephole_coupled"])
def test_an_lstm_with_f_1_and_i_0_carries_c_untouched(cell, dtype):
    """The constant error carousel (Hochreiter and Schmidhuber 1997): c and its gradient pass bit for bit."""
    case = Case(cell, T=200, dtype=dtype)
    problem = case.problem()
    layer = make_layer(problem)
    hold(layer, case, f=OPEN, i=SHUT)
    _, (_, c), tape = layer.forward(problem.x, as_public(problem.state))
    np.testing.assert_array_equal(c, problem.state[1])
    grads = layer.backward(tape, dstate=(None, problem.dstate[1]))
    np.testing.assert_array_equal(grads.state[1], problem.dstate[1])


@pytest.mark.parametrize("cell", ["lstm", "lstm_peephole"])
def test_an_lstm_with_f_0_forgets(cell):
    """Then c' = i g: the old c has no influence (the peepholes are held at 0 too)."""
    case = Case(cell)
    problem = case.problem()
    layer = make_layer(problem)
    hold(layer, case, f=SHUT)
    h, c = problem.state
    y, _ = layer(problem.x, (h, c))
    np.testing.assert_array_equal(layer(problem.x, (h, 3 * c))[0], y)


def test_a_coupled_lstm_is_the_lstm_with_i_tied_to_f():
    """σ(-z) = 1 - σ(z): an LSTM whose i has f's weights with the sign turned."""
    problem = Case("lstm_coupled").problem()
    coupled = make_layer(problem)
    plain = make_layer(Case("lstm").problem())
    for name, p in plain.params.items():
        f, g, o = np.split(coupled.params[name], 3)
        p[...] = np.concatenate([-f, f, g, o])
    want, _ = coupled(problem.x, as_public(problem.state))
    got, _ = plain(problem.x, as_public(problem.state))
    assert relative_error(got, want) <= 1e-14


@pytest.mark.parametrize("cell", LAYERS)
def test_the_order_of_the_input_matters(cell):
    """The same inputs in another order end elsewhere; without recurrent weights a plain RNN forgets them."""
    case = Case(cell, T=12)
    problem = case.problem()
    layer = make_layer(problem)
    mixed = problem.x.copy()
    mixed[:-1] = problem.x[-2::-1]
    _, state = layer(problem.x)
    _, other = layer(mixed)
    assert np.abs(as_tuple(state)[0] - as_tuple(other)[0]).max() > 1e-3


@pytest.mark.parametrize("cell", LAYERS)
def test_the_reverse_direction_is_the_layer_on_reversed_time(cell):
    case = Case(cell, bidirectional=True)
    problem = case.problem()
    both = make_layer(problem)
    single = make_layer(problem_of_direction(problem, "_reverse"))
    y, state = both(problem.x, as_public(problem.state))
    mirrored, final = single(problem.x[::-1], as_public([s[1:] for s in problem.state]))
    np.testing.assert_array_equal(y[:, :, case.H :], mirrored[::-1])
    for s, f in zip(as_tuple(state), as_tuple(final), strict=True):
        np.testing.assert_array_equal(s[1:], f)


def problem_of_direction(problem, suffix):
    """A one-directional problem with the parameters of one direction of layer 0."""
    case = problem.case
    single = Case(case.cell, T=case.T, B=case.B, I=case.I, H=case.H, dtype=case.dtype).problem()
    for name in single.params:
        single.params[name] = problem.params[name + suffix]
    return single


def test_the_gradient_is_the_sum_of_products_of_jacobians():
    """For h_t = tanh(W h_{t-1} + U x_t): dL/dW = Σ_t Σ_{k≤t} dL_t/dh_t (Π_{k<j≤t} diag(1-h_j²) W) ∂⁺h_k/∂W.

    Each term (t, k), how the loss at t blames step k, is written out (Bengio et al. 1994; Pascanu et al.
    2013), with ∂⁺h_k/∂W the derivative of step k alone, h_{k-1} held fixed.
    """
    T, H = 5, 3
    problem = Case("rnn_tanh", T=T, B=1, I=2, H=H).problem()
    layer = make_layer(problem)
    y, _, tape = layer.forward(problem.x, problem.state[0])
    grads = layer.backward(tape, problem.dy)
    W, U = problem.params["weight_hh_l0"], problem.params["weight_ih_l0"]
    h = np.concatenate([problem.state[0][:, 0], y[:, 0]])  # h[t + 1] is the output of step t
    slope = 1 - h**2
    dW, dU, db = np.zeros_like(W), np.zeros_like(U), np.zeros(H)
    dx, dh0 = np.zeros((T, 2)), np.zeros(H)
    for t in range(T):
        for k in range(t + 1):
            jacobian = np.eye(H)  # dh_t / dh_k
            for j in range(k + 1, t + 1):
                jacobian = np.diag(slope[j + 1]) @ W @ jacobian
            dz = (problem.dy[t, 0] @ jacobian) * slope[k + 1]
            dW += np.outer(dz, h[k])
            dU += np.outer(dz, problem.x[k, 0])
            db += dz
            dx[k] += dz @ U
            if k == 0:
                dh0 += dz @ W
    pairs = [
        (grads.params["weight_hh_l0"], dW),
        (grads.params["weight_ih_l0"], dU),
        (grads.params["bias_ih_l0"], db),
        (grads.params["bias_hh_l0"], db),
        (grads.x[:, 0], dx),
        (grads.state[0, 0], dh0),
    ]
    for got, want in pairs:
        assert relative_error(got, want) <= 1e-13


@pytest.mark.parametrize("scale, grows", [(0.5, False), (2.0, True)])
def test_gradients_vanish_and_explode_with_the_recurrent_weight(scale, grows):
    """With W = a·1 and linear units the gradient over k steps is a^k (Pascanu et al. 2013)."""
    case = Case("rnn_relu", T=30, B=1, I=1, H=3)
    layer = make_layer(case.problem())
    layer.flat_params[...] = 0
    layer.params["weight_hh_l0"][...] = scale * np.eye(3)
    layer.params["weight_ih_l0"][...] = 1
    _, _, tape = layer.forward(np.ones((30, 1, 1)))
    grads = layer.backward(tape, dstate=np.ones((1, 1, 3)))
    np.testing.assert_allclose(grads.x[:, 0, 0], 3 * scale ** np.arange(29, -1, -1), rtol=1e-13)
    assert (grads.x[0, 0, 0] > 1) == grows
