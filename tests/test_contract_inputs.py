"""The contract on arrays that come in: any layout, none of them written, NaN stays in its row."""

from __future__ import annotations

import numpy as np
import pytest

import fastrnn
from tests.cases import DTYPES, LAYERS, Case
from tests.checks import as_public, assert_close, layer_results, make_layer, reference_results, relative_error

WHOLE = {"num_layers": 2, "bidirectional": True, "ragged": True, "resets": True}
ARRAYS = ("x", "state", "resets", "dy", "dstate")


def strided(a):
    """Every axis strided: every second entry of a larger array full of NaN."""
    big = np.full([3 * n + 1 for n in a.shape], np.nan).astype(a.dtype)
    view = big[tuple(slice(1, 3 * n + 1, 3) for n in a.shape)]
    view[...] = a
    return view


def negative(a):
    """Every axis backwards in memory."""
    back = (slice(None, None, -1),) * a.ndim
    return np.ascontiguousarray(a[back])[back]


def unaligned(a):
    """Starting at an odd byte."""
    view = np.empty(a.nbytes + 1, np.uint8)[1:].view(a.dtype).reshape(a.shape)
    view[...] = a
    return view


def sliced(a):
    """The last axis contiguous, the rows apart."""
    big = np.full((*a.shape[:-1], a.shape[-1] + 3), np.nan).astype(a.dtype)
    big[..., : a.shape[-1]] = a
    return big[..., : a.shape[-1]]


def read_only(a):
    a = a.copy()
    a.flags.writeable = False
    return a


def batch_in_front(a):
    """(T, B, ·) in the memory order of (B, T, ·)."""
    return np.ascontiguousarray(a.swapaxes(0, 1)).swapaxes(0, 1)


LAYOUTS = {f.__name__: f for f in (strided, negative, unaligned, sliced, read_only, batch_in_front)}
LAYOUTS["fortran"] = np.asfortranarray


def relaid(problem, how):
    """Put every array of the problem into another layout."""
    for name in ARRAYS:
        value = getattr(problem, name)
        setattr(problem, name, tuple(map(how, value)) if isinstance(value, tuple) else how(value))
    return problem


def assert_identical(got, want):
    for name, array in got.named().items():
        np.testing.assert_array_equal(array, want.named()[name], err_msg=name)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cell", LAYERS)
def test_any_layout(cell, dtype, layout):
    """The same bits whatever the strides."""
    want = layer_results(Case(cell, dtype=dtype, **WHOLE).problem())
    problem = relaid(Case(cell, dtype=dtype, **WHOLE).problem(), LAYOUTS[layout])
    assert not problem.x.flags.c_contiguous or layout in ("read_only", "unaligned")
    assert_identical(layer_results(problem), want)


@pytest.mark.parametrize("cell", LAYERS)
def test_a_repeated_input(cell):
    """Strides of 0: one row shown to the whole batch, one step to all of time."""
    problem = Case(cell).problem()
    for narrow in (problem.x[:, :1], problem.x[:1]):
        broadcast = np.broadcast_to(narrow, problem.x.shape)
        problem.x = broadcast
        assert_close(layer_results(problem), reference_results(problem), problem)


@pytest.mark.parametrize("batch_first", [False, True])
def test_memory_mapped_files(tmp_path, batch_first):
    problem = Case("lstm", batch_first=batch_first, dtype="float32").problem()
    layer = make_layer(problem)
    x = np.ascontiguousarray(problem.x.swapaxes(0, 1)) if batch_first else problem.x
    np.save(tmp_path / "x.npy", x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    want, _, _ = layer.forward(x)
    y, _, tape = layer.forward(mapped)
    assert type(y) is np.ndarray
    np.testing.assert_array_equal(y, want)
    assert type(layer.backward(tape, np.ones_like(y)).x) is np.ndarray
    layer.load_params({name: np.load(_saved(tmp_path, p), mmap_mode="r") for name, p in problem.params.items()})
    np.testing.assert_array_equal(layer(mapped)[0], want)


def _saved(folder, array):
    path = folder / f"{array.ctypes.data}.npy"
    np.save(path, array)
    return path


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("cell", LAYERS)
def test_nothing_is_written_to_the_arguments(cell, frozen):
    """Inference, forward and backward leave inputs and parameters bit for bit as they were."""
    problem = Case(cell, **WHOLE).problem()
    layer = make_layer(problem)
    if frozen:
        layer.freeze()
    lengths = problem.lengths
    given = [
        problem.x,
        *problem.state,
        lengths,
        problem.resets,
        problem.dy,
        *problem.dstate,
        layer.flat_params,
    ]
    before = [a.tobytes() for a in given]
    layer_results(problem, layer)
    layer(problem.x, as_public(problem.state), lengths=lengths, resets=problem.resets)
    layer(problem.x, as_public(problem.state), lengths=lengths, return_sequences=False)
    _, _, tape = layer.forward(problem.x, as_public(problem.state))
    dy = np.nan_to_num(problem.dy)
    layer.backward(tape, dy, as_public(problem.dstate), keep_tape=True)
    layer.backward(tape, dy)
    assert [a.tobytes() for a in given] == before
    numbers = lengths.tolist()
    layer(problem.x, lengths=numbers)
    assert numbers == lengths.tolist()


@pytest.mark.parametrize("where", ["x", "state", "dy", "dstate"])
@pytest.mark.parametrize("H", [17, 64])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cell", LAYERS)
def test_nan_stays_nan_and_in_its_row(cell, dtype, H, where):
    """One NaN in row 2: that row shows it, and every other row keeps its bits."""
    problem = Case(cell, T=5, B=7, H=H, dtype=dtype).problem()
    clean = layer_results(problem)
    value = getattr(problem, where)
    (value[0][0] if isinstance(value, tuple) else value[2])[2, 0] = np.nan
    got = layer_results(problem)
    row = 2
    by_row = {"y": (got.y, clean.y), "x": (got.dx, clean.dx)}
    for k in range(len(problem.state)):
        by_row[f"state[{k}]"] = (got.state[k], clean.state[k])
        by_row[f"grads.state[{k}]"] = (got.dstate[k], clean.dstate[k])
    for name, (spoilt, want) in by_row.items():
        others = np.arange(7) != row
        np.testing.assert_array_equal(spoilt[:, others], want[:, others], err_msg=name)
    seen_from = {"x": 2, "state": 0}
    if where in seen_from:
        first = seen_from[where]
        np.testing.assert_array_equal(got.y[:first, row], clean.y[:first, row])
        assert np.isnan(got.y[first:, row]).all()
        assert np.isnan(got.state[0][:, row]).all()
    else:
        assert np.isfinite(got.y).all()
        if cell != "rnn_relu":  # whose gradient is 0 at a unit at rest, whatever comes in
            last = 2 if where == "dy" else 4
            assert np.isnan(got.dx[: last + 1, row]).all()
    if cell != "rnn_relu":
        assert any(np.isnan(g).any() for g in got.dparams.values())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cell", LAYERS)
def test_infinite_inputs(cell, dtype):
    """An infinite input drives gates to their ends as in the equations, NaN where they say so."""
    problem = Case(cell, I=1, dtype=dtype).problem()
    problem.x[1, 1], problem.x[1, 2] = np.inf, -np.inf
    with np.errstate(invalid="ignore"):
        want = reference_results(problem)
    y, state = make_layer(problem)(problem.x, as_public(problem.state))
    tolerance = 1e-5 if dtype == "float32" else 1e-12
    np.testing.assert_allclose(y, want.y, rtol=0, atol=tolerance * np.abs(want.y[np.isfinite(want.y)]).max())
    assert np.isfinite(state[0] if isinstance(state, tuple) else state)[:, [0, 3, 4]].all()


@pytest.mark.parametrize("cell", LAYERS)
def test_tiny_numbers(cell):
    """Subnormal inputs neither trap nor turn into something else."""
    problem = Case(cell, dtype="float32").problem()
    for array in (problem.x, *problem.state):
        array *= np.float32(1e-40)
    assert problem.x.any()
    got, want = layer_results(problem), reference_results(problem)
    for mine, theirs in zip((got.y, *got.state, got.dx), (want.y, *want.state, want.dx), strict=True):
        assert relative_error(mine, theirs) <= 1e-5


@pytest.mark.parametrize("cell", ["rnn_tanh", "lstm", "gru_reset_before", "gru_reset_after"])
def test_an_infinite_input_saturates_and_harms_no_gradient_of_the_state(cell):
    """H = 17 leaves lanes without a unit, whose weights are 0: 0 · inf is NaN there, and must not leak."""
    problem = Case(cell, T=3, B=2, H=17).problem()
    layer = make_layer(problem)
    x = problem.x.copy()
    x[1, 0, 2] = np.inf
    y, _, tape = layer.forward(x)
    assert np.isfinite(y).all()
    grads = layer.backward(tape, np.ones_like(y), input_grad=False)
    for part in grads.state if isinstance(grads.state, tuple) else (grads.state,):
        assert np.isfinite(part).all()


def test_large_buffers_are_not_shared_by_calls_that_overlap():
    """Tapes above the size at which memory is reused: one call's must not be another's while both live."""
    layer = fastrnn.LSTM(32, 128, seed=0)
    xs = [np.random.default_rng(n).standard_normal((64, 48, 32)).astype(np.float32) for n in range(3)]
    alone = []
    for x in xs:
        y, _, tape = layer.forward(x)
        alone.append((y, layer.backward(tape, np.ones_like(y)).flat))
    tapes = [layer.forward(x) for x in xs]
    for (y, _, tape), (y_alone, flat) in zip(tapes, alone, strict=True):
        np.testing.assert_array_equal(y, y_alone)
        np.testing.assert_array_equal(layer.backward(tape, np.ones_like(y), keep_tape=True).flat, flat)
        np.testing.assert_array_equal(layer.backward(tape, np.ones_like(y)).flat, flat)
