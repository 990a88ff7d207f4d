"""stream(): the layer one step at a time, on a snapshot of its parameters."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

import fastrnn
from tests.cases import DTYPES, LAYERS, Case
from tests.checks import as_public, as_tuple, make_layer


@pytest.mark.parametrize("B, H, num_layers", [(1, 17, 1), (1, 64, 2), (5, 17, 3), (7, 130, 1)])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cell", LAYERS)
def test_step_by_step_is_the_layer(cell, dtype, B, H, num_layers):
    """Bitwise: the order of summation depends on the cell, H, I and dtype alone."""
    problem = Case(cell, T=9, B=B, H=H, num_layers=num_layers, dtype=dtype).problem()
    layer = make_layer(problem)
    for state in (None, as_public(problem.state)):
        y, final = layer(problem.x, state)
        stream = layer.stream(batch_size=B, state=state)
        for t, x_t in enumerate(problem.x):
            y_t = stream(x_t)
            assert y_t.shape == (B, H) and y_t.dtype == dtype
            np.testing.assert_array_equal(y_t, y[t])
        assert isinstance(stream.state, tuple) == (len(problem.state) == 2)
        np.testing.assert_array_equal(as_tuple(stream.state), as_tuple(final))


@pytest.mark.parametrize("cell", LAYERS)
def test_one_row_without_its_axis(cell):
    """x_t (I,) gives y_t (H,); the state keeps its shape."""
    problem = Case(cell, B=1, num_layers=2).problem()
    layer = make_layer(problem)
    y, _ = layer(problem.x)
    stream = layer.stream()
    for t in range(problem.case.T):
        y_t = stream(problem.x[t, 0])
        assert y_t.shape == (problem.case.H,)
        np.testing.assert_array_equal(y_t, y[t, 0])
    assert as_tuple(stream.state)[0].shape == (2, 1, problem.case.H)


def test_batch_first_streams_alike():
    problem = Case("gru_reset_before").problem()
    plain, layer = make_layer(problem), make_layer(problem, batch_first=True)
    np.testing.assert_array_equal(layer.stream(5)(problem.x[0]), plain.stream(5)(problem.x[0]))


def test_the_output_is_reused_unless_out_is_given():
    problem = Case("lstm", B=2).problem()
    stream = make_layer(problem).stream(2)
    first = stream(problem.x[0])
    kept = first.copy()
    second = stream(problem.x[1])
    assert np.shares_memory(first, second)
    assert (second != kept).any()
    out = np.full_like(kept, np.nan)
    assert stream(problem.x[2], out=out) is out
    third = out.copy()
    stream(problem.x[3])
    np.testing.assert_array_equal(out, third)
    want, _ = make_layer(problem)(problem.x)
    np.testing.assert_array_equal(third, want[2])


@pytest.mark.parametrize("num_layers", [1, 2])
def test_out_may_have_any_strides(num_layers):
    """The columns of a larger array, as when outputs are collected batch-first."""
    problem = Case("lstm", B=3, num_layers=num_layers).problem()
    layer = make_layer(problem)
    want, _ = layer(problem.x)
    collected = np.empty((3, 17, 6))
    stream = layer.stream(3)
    for t in range(6):
        stream(np.asfortranarray(problem.x[t]), out=collected[:, :, t])
    np.testing.assert_array_equal(collected.transpose(2, 0, 1), want)


@pytest.mark.parametrize("cell", LAYERS)
def test_out_may_be_the_input(cell):
    """Writing y_t over x_t, and over the state's own h, gives the same numbers."""
    problem = Case(cell, B=2, I=17, H=17).problem()
    layer = make_layer(problem)
    want, _ = layer(problem.x)
    stream = layer.stream(2)
    for t in range(3):
        buffer = problem.x[t].copy()
        stream(buffer, out=buffer)
        np.testing.assert_array_equal(buffer, want[t])


@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize("cell", LAYERS)
def test_reset(cell, num_layers):
    """Rows start again from zeros; the others go on."""
    problem = Case(cell, B=4, num_layers=num_layers).problem()
    layer = make_layer(problem)
    stream = layer.stream(4, state=as_public(problem.state))
    for rows, which in (
        ([1, 3], [1, 3]),
        (np.array([True, False, False, False]), [0]),
        (2, [2]),
        (None, [0, 1, 2, 3]),
    ):
        stream(problem.x[0])
        before = [s.copy() for s in as_tuple(stream.state)]
        stream.reset(rows)
        for now, then in zip(as_tuple(stream.state), before, strict=True):
            then[:, which] = 0
            np.testing.assert_array_equal(now, then)
    y, _ = layer(problem.x[:1])
    np.testing.assert_array_equal(stream(problem.x[0]), y[0])


@pytest.mark.parametrize(
    "rows, error", [([4], ValueError), ([-1], ValueError), ([0.5], TypeError), ([True], ValueError)]
)
def test_reset_of_rows_that_are_not_there(rows, error):
    stream = fastrnn.GRU(3, 4).stream(4)
    with pytest.raises(error, match="rows"):
        stream.reset(rows)


@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize("cell", LAYERS)
def test_state_can_be_kept_and_put_back(cell, num_layers):
    """What is read does not change by going on; putting it back repeats the steps."""
    problem = Case(cell, B=3, num_layers=num_layers).problem()
    stream = make_layer(problem).stream(3)
    stream(problem.x[0])
    checkpoint = stream.state
    frozen = [s.copy() for s in as_tuple(checkpoint)]
    first = [stream(x_t).copy() for x_t in problem.x[1:]]
    np.testing.assert_array_equal(as_tuple(checkpoint), frozen)
    stream.state = checkpoint
    np.testing.assert_array_equal([stream(x_t).copy() for x_t in problem.x[1:]], first)
    np.testing.assert_array_equal(as_tuple(checkpoint), frozen)


def test_the_given_state_is_copied():
    problem = Case("lstm").problem()
    layer = make_layer(problem)
    before = [s.copy() for s in problem.state]
    stream = layer.stream(5, state=as_public(problem.state))
    stream(problem.x[0])
    np.testing.assert_array_equal(problem.state, before)


@pytest.mark.parametrize("frozen", [False, True])
def test_a_snapshot_of_the_parameters(frozen):
    """Later changes of the layer don't reach the stream; a new stream has them."""
    problem = Case("gru_reset_after", B=1).problem()
    layer = make_layer(problem)
    if frozen:
        layer.freeze()
    want, _ = layer(problem.x)
    stream = layer.stream()
    stream(problem.x[0])
    layer.unfreeze()
    layer.flat_params[...] = 0
    np.testing.assert_array_equal(stream(problem.x[1]), want[1])
    assert not layer.stream()(problem.x[0]).any()


def test_streams_are_apart():
    problem = Case("lstm", B=1).problem()
    layer = make_layer(problem)
    want, _ = layer(problem.x)
    one, two = layer.stream(), layer.stream()
    for t in range(5):
        one(problem.x[t])
    np.testing.assert_array_equal(two(problem.x[0]), want[0])
    np.testing.assert_array_equal(one(problem.x[5]), want[5])


def test_no_dropout_in_a_stream():
    problem = Case("lstm", num_layers=2).problem()
    layer = make_layer(problem, dropout=0.5)
    np.testing.assert_array_equal(layer.stream(5)(problem.x[0]), layer(problem.x[:1])[0][0])


def test_nan_stays_in_its_row():
    problem = Case("gru_reset_before", B=5, num_layers=2).problem()
    layer = make_layer(problem)
    want, _ = layer(problem.x)
    problem.x[1, 3] = np.nan
    stream = layer.stream(5)
    for t in range(4):
        y = stream(problem.x[t])
        others = [0, 1, 2, 4]
        np.testing.assert_array_equal(y[others], want[t][others])
    assert np.isnan(y[3]).all()
    stream.reset([3])
    assert np.isfinite(stream(problem.x[4])).all()


@pytest.mark.parametrize("num_layers", [1, 2])
def test_input_and_out_may_overlap(num_layers):
    """Whole, in part, or with the stream's own output fed back."""
    layer = fastrnn.GRU(8, 8, num_layers, seed=1)
    memory = np.random.default_rng(0).standard_normal(13).astype(np.float32)
    expected, stream = layer.stream(), layer.stream()
    for start in (0, 5, 2):
        x, out = memory[2:10], memory[start : start + 8]
        wanted = expected(x.copy()).copy()
        np.testing.assert_array_equal(stream(x, out), wanted)
        np.testing.assert_array_equal(out, wanted)
    y = stream(memory[:8])
    wanted = expected(memory[:8]).copy()
    for _ in range(3):
        wanted, y = expected(wanted.copy()).copy(), stream(y)
        np.testing.assert_array_equal(y, wanted)


def test_a_reset_touches_its_rows_alone():
    stream = fastrnn.LSTM(3, 5, seed=0).stream(batch_size=4)
    stream(np.ones((4, 3), np.float32))
    h, c = stream.state
    for part in (h, c):
        part[:, [1, 2]] = 0
    stream.reset([2, 1])
    for part, expected in zip(stream.state, (h, c), strict=True):
        np.testing.assert_array_equal(part, expected)


@pytest.mark.parametrize("num_layers", [1, 2])
def test_an_array_whose_dtype_is_a_copy(num_layers):
    """As pickled arrays and copied layers have it: equal to numpy.float32, but another object."""
    layer = fastrnn.LSTM(3, 5, num_layers, seed=0)
    x = np.ones((2, 3), np.float32)
    pickled = pickle.loads(pickle.dumps(x))
    assert pickled.dtype is not x.dtype
    want = layer.stream(2)(x)
    assert want.any()
    copied = copy.deepcopy(layer)
    assert copied.dtype is not layer.dtype
    for stream, step in ((layer.stream(2), pickled), (copied.stream(2), x), (copied.stream(2), pickled)):
        out = pickle.loads(pickle.dumps(np.zeros((2, 5), np.float32)))
        np.testing.assert_array_equal(stream(step), want)
        stream.reset()
        np.testing.assert_array_equal(stream(step, out=out), want)
