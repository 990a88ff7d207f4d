"""Numbers at the ends: huge, infinite, subnormal, NaN in one row; states that explode; drift over 100,000 steps."""

from __future__ import annotations

import numpy as np
import pytest

import fastrnn
from tests.cases import DTYPES, LAYERS, TOLERANCE, Case
from tests.checks import as_public, as_tuple, layer_results, make_layer, reference_results, relative_error
from tests.reference import CELLS

STRANGE = {
    "1e4": 1e4, "-1e4": -1e4, "inf": np.inf, "-inf": -np.inf, "NaN": np.nan, "subnormal": 1e-40, "largest": 3e38,
}  # fmt: skip


@pytest.mark.parametrize("number", STRANGE)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cell", LAYERS)
def test_a_row_of_strange_numbers_is_its_own_affair(cell, dtype, number):
    """Whole steps of it, in both directions and layers: every other row keeps its bits, in whatever way it is run."""
    row = 2
    case = Case(cell, T=5, B=7, H=35, dtype=dtype, num_layers=2, bidirectional=True, ragged=True, resets=True)
    problem = case.problem()
    problem.lengths[row], problem.resets[:, row] = case.T, False
    problem.dy[:, row] = 1
    layer = make_layer(problem)

    def results():
        got = layer_results(problem, layer)
        per_row = {"y": got.y, "grads.x": got.dx, "state": np.stack(got.state), "grads.state": np.stack(got.dstate)}
        options = {"lengths": problem.lengths, "resets": problem.resets}
        per_row["inference"], _ = layer(problem.x, as_public(problem.state), **options)
        _, _, tape = layer.forward(problem.x, as_public(problem.state), **options, recompute=2)
        grads = layer.backward(tape, problem.dy, as_public(problem.dstate))
        return per_row | {"recomputed grads.x": grads.x, "recomputed grads.state": np.stack(as_tuple(grads.state))}

    want = results()
    problem.x[1:3, row] = number_of(number, dtype)
    others = np.arange(case.B) != row
    with np.errstate(all="ignore"):
        got = results()
    for name, array in got.items():
        rows = array.take(np.flatnonzero(others), axis=-2)
        np.testing.assert_array_equal(rows, want[name].take(np.flatnonzero(others), axis=-2), err_msg=name)
    shown = got["y"][:, row]
    if number == "NaN":
        assert np.isnan(shown).any()
    elif cell != "rnn_relu" and "inf" not in number:  # inf meets weights of either sign: inf - inf
        assert np.isfinite(shown).all()


def number_of(name, dtype):
    """In the dtype; the smallest and the largest are its own."""
    if dtype == "float64" and name in ("subnormal", "largest"):
        return {"subnormal": 1e-310, "largest": 1e308}[name]
    return STRANGE[name]


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cell", [cell for cell in LAYERS if cell != "rnn_relu"])
def test_inputs_of_ten_thousand(cell, dtype, sign):
    """One input feature, so that z is known to the dtype's rounding: outputs and states as the reference has them."""
    problem = Case(cell, T=6, I=1, H=35, dtype=dtype).problem()
    problem.x = np.sign(problem.x) * problem.x.dtype.type(sign * 1e4)
    got, want = layer_results(problem), reference_results(problem)
    for mine, theirs in zip((got.y, *got.state), (want.y, *want.state), strict=True):
        assert relative_error(mine, theirs) <= TOLERANCE[dtype]
    assert all(np.isfinite(array).all() for array in got.named().values())


@pytest.mark.parametrize("number", [np.inf, -np.inf])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cell", [cell for cell in LAYERS if cell != "rnn_relu"])
def test_one_infinite_input_saturates(cell, dtype, number):
    """Nothing of infinity times the zeros past the last hidden unit comes back: gradients are the reference's, too."""
    problem = Case(cell, T=3, B=4, H=17, dtype=dtype).problem()
    problem.x[1, 2, 0] = number
    with np.errstate(all="ignore"):
        want, got = reference_results(problem).named(), layer_results(problem).named()
    names = [name for name in want if "params" not in name]  # in those infinity meets slopes of zero
    assert all(np.isfinite(want[name]).all() for name in names)
    assert {
        name: error for name in names if not (error := relative_error(got[name], want[name])) <= TOLERANCE[dtype]
    } == {}


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_relu_network_that_explodes(dtype):
    """To inf, and no further: as the reference does step by step, with a calm row beside it; gradients too."""
    T = 400 if dtype == "float32" else 2100
    problem = Case("rnn_relu", T=T, B=3, I=2, H=20, dtype=dtype, bias=False).problem()
    problem.params["weight_hh_l0"][...] = 0.1  # rows of the state grow to their sum: twice as large at every step
    problem.params["weight_ih_l0"][...] = 1
    problem.x[...] = 0
    problem.x[0, :2] = 1
    problem.x[0, 1] = -1
    problem.state[0][...] = 0
    problem.state[0][0, 2] = 1e-3
    problem.dy[...] = 0
    problem.dstate[0][...] = 0
    problem.dstate[0][0, 1] = 1
    with np.errstate(all="ignore"):
        got, want = layer_results(problem), reference_results(problem, dtype=np.dtype(dtype))
    assert np.isinf(got.y[-1, 0]).all() and np.isfinite(got.y[T // 4, 0]).all()
    assert not got.y[:, 1].any()
    finite = np.isfinite(want.y)
    np.testing.assert_array_equal(np.isfinite(got.y), finite)
    np.testing.assert_allclose(got.y[finite], want.y[finite], rtol=T * 1e-7)
    assert not np.isnan(got.y).any() and not np.isnan(got.dx).any()
    assert not got.dx[:, 1].any() and not got.dstate[0][:, 1].any()


CARRIED = {
    "lstm": {"f": 60, "i": -200, "o": 0},
    "lstm_peephole": {"f": 60, "i": -200, "o": 0},
    "lstm_coupled": {"f": 60, "o": 0},
    "gru_reset_before": {"z": 60},
    "gru_reset_after": {"z": 60},
}


@pytest.mark.parametrize("cell", CARRIED)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_gate_held_open_carries_a_state_bit_for_bit(cell, dtype):
    """3,000 steps, whatever comes in meanwhile."""
    gates, H = CELLS[cell].gates, 35
    problem = Case(cell, T=3000, B=3, I=4, H=H, dtype=dtype).problem()
    for gate, bias in CARRIED[cell].items():
        rows = slice(gates.index(gate) * H, (gates.index(gate) + 1) * H)
        problem.params["bias_ih_l0"][rows] = bias
        problem.params["weight_ih_l0"][rows] *= 0.1
    if "weight_peephole_l0" in problem.params:
        problem.params["weight_peephole_l0"][...] = 0
    _, final = make_layer(problem)(problem.x, as_public(problem.state))
    np.testing.assert_array_equal(as_tuple(final)[-1], problem.state[-1])


# Largest difference of a float32 run's h from that of a float64 run, weights as PyTorch draws them.
DRIFT = dict.fromkeys(("rnn_tanh", "rnn_sigmoid", *CARRIED), 1e-6)


def drift(cell, T):
    """Of h and, relative to its size, of c: largest differences of float32 from float64 in ten stretches of T steps."""
    problem = Case(cell, T=T, B=2, I=5, H=33, dtype="float32").problem()
    precise = Case(cell, T=T, B=2, I=5, H=33, dtype="float64").problem()
    precise.params = {name: p.astype(np.float64) for name, p in problem.params.items()}
    state = wide = None
    runs, stretches = [make_layer(problem), make_layer(precise)], []
    for x in np.split(problem.x, 10):
        y, state = runs[0](x, state)
        y64, wide = runs[1](x.astype(np.float64), wide)
        c = max(relative_error(a, b) for a, b in zip(as_tuple(state), as_tuple(wide), strict=True))
        stretches.append((float(np.abs(y - y64).max()), c))
    return np.array(stretches)


@pytest.mark.long
@pytest.mark.parametrize("cell", DRIFT)
def test_no_drift_in_100000_steps(cell):
    """The last stretch is no worse than the first: errors of a step die away, and do not add up."""
    found = drift(cell, 100_000)
    print(f"\n{cell}: h {found[0, 0]:.1e} at first, {found[-1, 0]:.1e} at last; states {found[:, 1].max():.1e}")
    assert found[:, 0].max() <= DRIFT[cell] and found[:, 1].max() <= 2 * DRIFT[cell]
    assert found[5:, 0].max() <= 2 * found[:5, 0].max()


@pytest.mark.parametrize("cell", ["lstm", "gru_reset_after", "rnn_tanh"])
def test_no_drift(cell):
    assert drift(cell, 2000)[:, 0].max() <= DRIFT[cell]


def test_subnormal_numbers_are_numbers():
    """Nothing is flushed to zero: a relu network that halves its state passes through all of them, exactly."""
    layer = fastrnn.RNN(1, 1, nonlinearity="relu", bias=False)
    layer.params["weight_hh_l0"][...] = 0.5
    layer.params["weight_ih_l0"][...] = 1
    x = np.zeros((160, 1, 1), np.float32)
    x[0] = 1
    y, _ = layer(x)
    np.testing.assert_array_equal(y[:, 0, 0], np.float32(0.5) ** np.arange(160, dtype=np.float32))
    assert 0 < y[149, 0, 0] < np.finfo(np.float32).tiny
