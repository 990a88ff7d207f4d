"""The reference is held to finite differences, and to sums that can be written down by hand."""

from __future__ import annotations

import numpy as np
import pytest

from tests.cases import LAYERS, Case
from tests.reference import CELLS, Network, Weights, scan
from tests.reference.cells import sigmoid

STRUCTURES = [
    {},
    {"bias": False, "T": 3},
    {"ragged": True, "resets": True},
    {"bidirectional": True, "ragged": True, "resets": True},
    {"num_layers": 2, "resets": True},
    {"num_layers": 2, "bidirectional": True, "ragged": True, "resets": True, "H": 2},
]


def derivative(f, array, step=1e-4):
    """The gradient of f() by array, entry by entry, with the five-point stencil: error O(step⁴)."""
    slope = np.zeros_like(array)
    for k in np.ndindex(array.shape):
        kept = array[k]
        values = []
        for offset in (-2, -1, 1, 2):
            array[k] = kept + offset * step
            values.append(f())
        array[k] = kept
        slope[k] = np.dot((1, -8, 8, -1), values) / (12 * step)
    return slope


def case_id(structure):
    return "-".join(f"{name}={value}" for name, value in structure.items()) or "plain"


@pytest.mark.parametrize("structure", STRUCTURES, ids=case_id)
@pytest.mark.parametrize("cell", LAYERS)
def test_gradients_are_the_finite_differences(cell, structure):
    problem = Case(cell, **{"T": 5, "B": 4, "I": 2, "H": 3} | structure).problem()
    network = problem.network()
    rng = np.random.default_rng(0)
    last = problem.case.num_layers - 1
    masks = [rng.integers(0, 2, problem.dy.shape) * 2.0 for _ in range(last)]

    def forward():
        return network.forward(problem.x, problem.state, problem.lengths, problem.resets, masks)

    def loss():
        y, final, _ = forward()
        total = np.sum(y * np.nan_to_num(problem.dy))
        return total + sum(np.sum(s * d) for s, d in zip(final, problem.dstate, strict=True))

    dx, dstate, dparams = network.backward(forward()[2], problem.dy, problem.dstate)
    gradients = {"x": dx} | {f"state[{k}]": d for k, d in enumerate(dstate)} | dparams
    arrays = {"x": problem.x} | {f"state[{k}]": s for k, s in enumerate(problem.state)} | network.params
    for name, array in arrays.items():
        want = derivative(loss, array)
        scale = np.abs(want).max()
        assert scale > 1e-6, f"{name} has no influence: the case tests nothing"
        np.testing.assert_allclose(gradients[name], want, rtol=0, atol=1e-9 * scale, err_msg=name)


@pytest.mark.parametrize("cell", LAYERS)
def test_float32_runs_in_float32(cell):
    problem = Case(cell, dtype="float32", num_layers=2, bidirectional=True).problem()
    network = problem.network(np.float32)
    y, state, tape = network.forward(problem.x, problem.state)
    dx, dstate, dparams = network.backward(tape, problem.dy, problem.dstate)
    for array in (y, *state, dx, *dstate, *dparams.values()):
        assert array.dtype == np.float32


def test_sigmoid_is_exact_at_both_ends():
    z = np.array([-1000.0, -700.0, -1.0, 0.0, 1.0, 1000.0, np.nan])
    want = [0.0, np.exp(-700.0), 1 / (1 + np.e), 0.5, np.e / (1 + np.e), 1.0, np.nan]
    np.testing.assert_allclose(sigmoid(z), want, rtol=1e-14)


def counting_scan(lengths, resets, reverse):
    """y of the cell h' = relu(h + x) over x = 1, 2, 4, ...: each y tells which times were read since zero."""
    one, zero = np.ones((1, 1)), np.zeros(1)
    weights = Weights(one, one, zero, zero, np.zeros(0))
    T, B = resets.shape
    x = np.broadcast_to(2.0 ** np.arange(T)[:, None, None], (T, B, 1))
    initial = (np.full((B, 1), 0.5),)
    y, final, _ = scan(CELLS["rnn_relu"], weights, x, initial, np.array(lengths), resets, reverse)
    return y[:, :, 0].T.tolist(), final[0][:, 0].tolist()


def test_lengths_by_hand():
    none = np.zeros((3, 3), bool)
    y, final = counting_scan([3, 0, 2], none, reverse=False)
    assert y == [[1.5, 3.5, 7.5], [0, 0, 0], [1.5, 3.5, 0]]
    assert final == [7.5, 0.5, 3.5]
    y, final = counting_scan([3, 0, 2], none, reverse=True)
    assert y == [[7.5, 6.5, 4.5], [0, 0, 0], [3.5, 2.5, 0]]
    assert final == [7.5, 0.5, 3.5]


def test_resets_by_hand():
    resets = np.array([[0, 1, 0], [1, 0, 0], [0, 0, 1]], bool)
    y, final = counting_scan([3, 3, 2], resets, reverse=False)
    assert y == [[1.5, 2, 6], [1, 3, 7], [1.5, 3.5, 0]]
    assert final == [6, 7, 3.5]
    y, final = counting_scan([3, 3, 2], resets, reverse=True)
    assert y == [[3, 2, 4.5], [1, 6.5, 4.5], [3.5, 2.5, 0]]
    assert final == [3, 1, 3.5]


def test_layers_and_directions_are_wired_in_order():
    """Each layer and direction adds a digit of its own, so the sums show who fed whom."""
    params = {}
    for layer, width in ((0, 1), (1, 2)):
        for direction, digit in (("", 1), ("_reverse", 2)):
            suffix = f"l{layer}{direction}"
            params[f"weight_ih_{suffix}"] = np.ones((1, width))
            params[f"weight_hh_{suffix}"] = np.zeros((1, 1))
            params[f"bias_ih_{suffix}"] = np.array([digit * 10.0**layer])
            params[f"bias_hh_{suffix}"] = np.zeros(1)
    y, (h,), _ = Network("rnn_relu", params).forward(np.full((1, 1, 1), 100.0))
    assert y.tolist() == [[[213.0, 223.0]]]
    assert h[:, 0, 0].tolist() == [101.0, 102.0, 213.0, 223.0]


@pytest.mark.parametrize("cell", LAYERS)
def test_the_cases_force_what_they_are_named_for(cell):
    problem = Case(cell, T=6, B=5, ragged=True, resets=True).problem()
    lengths, resets = problem.lengths, problem.resets
    assert 0 in lengths and 6 in lengths and lengths[0] < lengths[-1]
    valid = ~problem.padding
    assert resets[0][lengths > 0].any()
    assert (resets & valid)[1:-1].any()
    assert any(resets[n - 1, row] for row, n in enumerate(lengths) if n)
    assert (resets & problem.padding).any()
    assert np.isnan(problem.dy[problem.padding]).all()
