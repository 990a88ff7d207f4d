"""fastrnn.cells: the layer's own steps, and plain products on weights as they are; states that the caller keeps."""

from __future__ import annotations

import threading
import tracemalloc

import numpy as np
import pytest

import fastrnn
from fastrnn import cells
from tests.cases import DTYPES, LAYERS, Case
from tests.checks import as_public, as_tuple, make_layer
from tests.reference import CELLS


def weights_of(problem):
    """The weights as arguments of the functions and classes: positional, and by keyword."""
    arrays = list(problem.params.values())
    options = dict(LAYERS[problem.case.cell][1])
    if CELLS[problem.case.cell].peepholes:
        options["peephole"] = arrays.pop()
    return arrays, options


def function_of(cell):
    return getattr(cells, f"{cell.partition('_')[0]}_cell")


def class_of(cell):
    return getattr(cells, f"{LAYERS[cell][0]}Cell")


def first(problem, rows=slice(None)):
    """The initial state of the only layer, (B, H) or rows of it."""
    return as_public(tuple(s[0][rows].copy() for s in problem.state))


@pytest.mark.parametrize("B, H", [(1, 17), (1, 64), (5, 17), (7, 130)])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cell", LAYERS)
def test_a_loop_is_the_layer(cell, dtype, B, H):
    """Bitwise by objects, whichever way they were made; to rounding by functions; both with new arrays and in place."""
    for bias in (True, False):
        problem = Case(cell, T=5, B=B, H=H, dtype=dtype, bias=bias).problem()
        layer = make_layer(problem)
        y, final = layer(problem.x, as_public(problem.state))
        arrays, options = weights_of(problem)
        step = class_of(cell)(*arrays, **options)
        assert (step.input_size, step.hidden_size) == (4, H)
        new, inplace, plain, owned = (first(problem) for _ in range(4))
        for t, x in enumerate(problem.x):
            new = step(x, new)
            assert cells.from_layer(layer)(x, inplace, out=inplace) is inplace
            plain = function_of(cell)(x, plain, *arrays, **options)
            assert function_of(cell)(x, owned, *arrays, **options, out=owned) is owned
            for state in (new, inplace):
                np.testing.assert_array_equal(as_tuple(state)[0], y[t])
            np.testing.assert_array_equal(as_tuple(plain), as_tuple(owned))
        np.testing.assert_array_equal(as_tuple(new), [s[0] for s in as_tuple(final)])
        for mine, want in zip(as_tuple(plain), as_tuple(final), strict=True):
            np.testing.assert_allclose(mine, want[0], rtol=0, atol=4e-6 if dtype == "float32" else 1e-14)


@pytest.mark.parametrize("cell", LAYERS)
def test_one_row_without_its_axis(cell):
    problem = Case(cell, B=1).problem()
    arrays, options = weights_of(problem)
    step, want = class_of(cell)(*arrays, **options), class_of(cell)(*arrays, **options)(problem.x[0], first(problem))
    row = first(problem, 0)
    for found in (step(problem.x[0, 0], row), function_of(cell)(problem.x[0, 0], row, *arrays, **options)):
        for mine, rows in zip(as_tuple(found), as_tuple(want), strict=True):
            assert mine.shape == (17,)
            np.testing.assert_allclose(mine, rows[0], rtol=0, atol=1e-14)


@pytest.mark.parametrize("cell", LAYERS)
def test_any_strides(cell):
    """Of x, state and out; nothing but out is written to. And zeros where no state is given."""
    problem = Case(cell, B=3).problem()
    arrays, options = weights_of(problem)
    arrays = [np.asfortranarray(a) for a in arrays]
    step = class_of(cell)(*arrays, **options)
    want = step(problem.x[0], first(problem))
    x, state = np.asfortranarray(problem.x[0]), as_public(tuple(np.asfortranarray(s[0]) for s in problem.state))
    for array in (x, *as_tuple(state), *arrays):
        array.flags.writeable = False
    for call in (step, lambda x, state, out: function_of(cell)(x, state, *arrays, **options, out=out)):
        out = as_public(tuple(np.full((17, 3), np.nan).T for _ in problem.state))
        assert call(x, state, out) is out
        for mine, theirs in zip(as_tuple(out), as_tuple(want), strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-14)
    zeros = as_public(tuple(np.zeros((3, 17)) for _ in problem.state))
    np.testing.assert_array_equal(as_tuple(step(problem.x[0])), as_tuple(step(problem.x[0], zeros)))


@pytest.mark.parametrize("cell", ["lstm", "gru_reset_before"])
def test_layers_of_a_stack(cell):
    problem = Case(cell, T=1, num_layers=2, bidirectional=True).problem()
    layer = make_layer(problem)
    y, _ = layer(problem.x)
    below = [as_tuple(cells.from_layer(layer, reverse=r)(problem.x[0]))[0] for r in (False, True)]
    above = [as_tuple(cells.from_layer(layer, 1, reverse=r)(np.hstack(below)))[0] for r in (False, True)]
    np.testing.assert_array_equal(np.hstack(above), y[0])


def test_a_snapshot():
    problem = Case("gru_reset_after", B=2).problem()
    layer, (arrays, options) = make_layer(problem), weights_of(problem)
    steps = [cells.from_layer(layer), cells.from_layer(layer.freeze()), cells.GRUCell(*arrays, **options)]
    want = [step(problem.x[0]) for step in steps]
    layer.unfreeze().flat_params[...] = 0
    for array in arrays:
        array[...] = 0
    for step, before in zip(steps, want, strict=True):
        np.testing.assert_array_equal(step(problem.x[0]), before)
    assert not cells.gru_cell(problem.x[0], np.zeros((2, 17)), *arrays, **options).any()


def test_bfloat16_as_the_layer_is_frozen():
    layer = fastrnn.LSTM(20, 40, seed=0).freeze(weights="bfloat16")
    x = np.random.default_rng(0).standard_normal((1, 2, 20)).astype(np.float32)
    np.testing.assert_array_equal(cells.from_layer(layer)(x[0])[0], layer(x)[0][0])


@pytest.mark.parametrize("cell", ["rnn_tanh", "lstm_peephole", "gru_reset_before", "gru_reset_after"])
def test_in_place_steps_allocate_nothing(cell):
    """Objects nothing at all; functions no array: NumPy's iterators have buffers of 64 KB, whatever the size."""
    problem = Case(cell, B=64, H=1024).problem()
    arrays, options = weights_of(problem)
    step, state, x = class_of(cell)(*arrays, **options), first(problem), problem.x[0]

    def plain(x, state, out):
        return function_of(cell)(x, state, *arrays, **options, out=out)

    for call, most in ((step, 1024), (plain, 300_000)):
        call(x, state, out=state)
        tracemalloc.start()
        try:
            call(x, state, out=state)
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            call(x, state, out=state)
            assert tracemalloc.get_traced_memory()[1] - before < most < state_bytes(state)
        finally:
            tracemalloc.stop()


def state_bytes(state):
    return as_tuple(state)[0].nbytes


def test_threads_share_a_step(set_threads):
    """Results are those of one thread; and any number of kernel threads gives the same."""
    layer = fastrnn.GRU(40, 130, seed=0)
    step, rng = cells.from_layer(layer), np.random.default_rng(0)
    xs = rng.standard_normal((4, 50, 6, 40)).astype(np.float32)

    def walk(k, found):
        h = np.zeros((6, 130), np.float32)
        for x in xs[k]:
            step(x, h, out=h)
        found[k] = h

    alone, together = {}, {}
    for k in range(4):
        set_threads(1 + k % 3)
        walk(k, alone)
    threads = [threading.Thread(target=walk, args=(k, together)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for k in range(4):
        np.testing.assert_array_equal(alone[k], together[k])


def test_nan_stays_in_its_row():
    problem = Case("lstm", B=3).problem()
    arrays, options = weights_of(problem)
    x = problem.x[0].copy()
    want = cells.LSTMCell(*arrays, **options)(x, first(problem))
    x[1] = np.nan
    step = cells.LSTMCell(*arrays, **options)
    for h, c in (step(x, first(problem)), cells.lstm_cell(x, first(problem), *arrays, **options)):
        assert np.isnan(h[1]).all() and np.isnan(c[1]).all()
        np.testing.assert_allclose(h[[0, 2]], want[0][[0, 2]], rtol=0, atol=1e-14)


A = np.zeros


@pytest.mark.parametrize(
    "make, error, message",
    [
        (lambda: cells.GRUCell(A((9, 2)), A((9, 4))), ValueError, r"w_hh must have shape \(G\*H, H\), 3 gates"),
        (lambda: cells.GRUCell(A((8, 2)), A((9, 3))), ValueError, r"w_ih must have shape \(G\*H, I\) = \(9, I\)"),
        (lambda: cells.GRUCell(A((9, 2)), A((9, 3)), A(8)), ValueError, "b_ih must have shape"),
        (lambda: cells.GRUCell(A((9, 2)), A((9, 3), "f4")), TypeError, "w_ih must have the layer's dtype float32"),
        (lambda: cells.GRUCell(A((9, 2)), A((9, 3), int)), ValueError, "the dtype of w_hh must be one of"),
        (lambda: cells.GRUCell(A((9, 2)), [[0.0]]), TypeError, "w_hh must be a NumPy array"),
        (lambda: cells.GRUCell(A((9, 2)), A((9, 3)), reset_after=1), TypeError, "reset_after"),
        (lambda: cells.LSTMCell(A((12, 2)), A((12, 3)), peephole=A(6)), ValueError, "peephole must have shape"),
        (lambda: cells.RNNCell(A((3, 2)), A((3, 3)), nonlinearity="gelu"), ValueError, "nonlinearity"),
        (lambda: cells.from_layer(fastrnn.GRU(2, 3), 1), ValueError, "index must be at most 0"),
        (lambda: cells.from_layer(fastrnn.GRU(2, 3), reverse=True), ValueError, "one direction"),
    ],
)
def test_errors_of_weights(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize(
    "x, state, out, error, message",
    [
        (A((2, 4)), None, None, ValueError, r"x must have shape \(B, I\) or \(I,\), I = 3, got \(2, 4\)"),
        (A((2, 3, 1)), None, None, ValueError, "x must have shape"),
        (A((2, 3), "f4"), None, None, TypeError, "x must have the layer's dtype float64"),
        ([[0.0] * 3], None, None, TypeError, "x must be a NumPy array"),
        (A((2, 3)), A((2, 5)), None, TypeError, r"state must be a tuple \(h, c\)"),
        (A((2, 3)), (A((2, 5)), A((3, 5))), None, ValueError, r"state\[1\] \(c\) must have shape \(B, H\) = \(2, 5\)"),
        (A((2, 3)), (A((2, 5)), A((2, 5), "f4")), None, TypeError, "dtype"),
        (A(3), (A((1, 5)), A((1, 5))), None, ValueError, r"must have shape \(H,\) = \(5,\)"),
        (A((2, 3)), None, A((2, 5)), TypeError, r"out must be a tuple \(h, c\)"),
        (A((2, 3)), None, (A((2, 5)), A((2, 4))), ValueError, r"out\[1\] \(c\) must have shape"),
        (A((2, 3)), None, (A((2, 5)), np.broadcast_to(0.0, (2, 5))), ValueError, "writeable"),
    ],
)
def test_errors_of_a_step(x, state, out, error, message):
    """The same from the object and from the function, before anything is written."""
    arrays = A((20, 3)), A((20, 5))
    given = out[0] if isinstance(out, tuple) else None
    for call in (cells.LSTMCell(*arrays), lambda x, state, out: cells.lstm_cell(x, state, *arrays, out=out)):
        with pytest.raises(error, match=message):
            call(x, state, out)
    assert given is None or not given.any()
