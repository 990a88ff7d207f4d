"""forward(recompute=K): in less memory, the bits of recompute=0, and for parameters the reference's gradients."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

import fastrnn
from fastrnn.sequences import Schedule
from tests.cases import DTYPES, Case
from tests.checks import Results, as_public, as_tuple, assert_close, make_layer, reference_results, relative_error

CELLS = ("rnn_tanh", "lstm", "lstm_peephole", "gru_reset_before", "gru_reset_after")
WHOLE = {"num_layers": 2, "bidirectional": True, "ragged": True, "resets": True}
T = 7
# 1 and T: a segment of one step, one segment; 2 and 3 leave a shorter last one; more than T is one segment, too.
EVERY = (1, 2, 3, T, T + 1, 10**30)


def start(problem, layer, recompute, **options):
    """forward() on all of the problem's arrays."""
    options |= {"lengths": problem.lengths, "resets": problem.resets, "recompute": recompute}
    return layer.forward(problem.x, as_public(problem.state), **options)


def results(problem, layer, recompute, **options):
    """Forward and backward."""
    y, state, tape = start(problem, layer, recompute, **options)
    grads = layer.backward(tape, problem.dy, as_public(problem.dstate))
    return Results(y, as_tuple(state), grads.x, as_tuple(grads.state), grads.params)


def assert_same_bits(got, want, skip="grads.params"):
    """All arrays but those whose name starts with ``skip`` are bitwise the same."""
    want = want.named()
    names = [name for name in want if not name.startswith(skip)]
    assert names
    assert [name for name in names if got.named()[name].tobytes() != want[name].tobytes()] == []


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("structure", [{}, {"resets": True}, {"ragged": True, "bidirectional": True}, WHOLE])
def test_as_if_every_step_were_kept(cell, dtype, structure):
    problem = Case(cell, T=T, dtype=dtype, **structure).problem()
    layer = make_layer(problem)
    want, kept = reference_results(problem), results(problem, layer, 0)
    for every in EVERY:
        got = results(problem, layer, every)
        assert_close(got, want, problem)
        assert_same_bits(got, kept)


# For each way in which kernels share the work, a shape that takes it.
SHARED = {
    "rows": {"T": 5, "B": 37, "I": 60, "H": 80},
    "units": {"T": 5, "B": 5, "I": 60, "H": 260},
    "ahead": {"T": 70, "B": 2, "I": 60, "H": 260},
}


@pytest.mark.parametrize("way", SHARED)
@pytest.mark.parametrize("cell", CELLS)
def test_any_number_of_threads(cell, way, set_threads):
    """Of a ragged batch, as its segments have fewer and fewer rows and may run another way."""
    case = Case(cell, dtype="float32", **SHARED[way], **WHOLE)
    problem = case.problem()
    layer = make_layer(problem)
    set_threads(3)
    assert fastrnn.explain(layer, case.T, case.B, training=True).parts[0].kernel == way
    set_threads(1)
    kept, want = results(problem, layer, 0), results(problem, layer, 3)
    assert_same_bits(want, kept)
    assert_close(want, reference_results(problem), problem)
    for n in (2, 3, 13):
        set_threads(n)
        assert_same_bits(results(problem, layer, 3), want, skip="nothing")


def test_a_long_sequence():
    """T = 1000 in float32: errors of the sums over segments do not grow beyond the tolerance."""
    problem = Case("lstm", T=1000, B=3, dtype="float32", ragged=True).problem()
    got = results(problem, make_layer(problem), 32)
    assert_close(got, reference_results(problem), problem)


@pytest.mark.parametrize("cell", CELLS)
def test_dropout_draws_the_same_mask(cell):
    problem = Case(cell, T=T, **WHOLE).problem()
    layer = make_layer(problem, dropout=0.4)
    kept, got = results(problem, layer, 0, seed=7), results(problem, layer, 2, seed=7)
    assert_same_bits(got, kept)
    for name, gradient in got.dparams.items():
        assert relative_error(gradient, kept.dparams[name]) <= 1e-12
    assert results(problem, layer, 2, seed=8).y.tobytes() != got.y.tobytes()


@pytest.mark.parametrize("cell", CELLS)
def test_layouts(cell):
    """batch_first and an unbatched sequence are the batch's transpose and its column."""
    problem = Case(cell, T=T, **WHOLE).problem()
    layer, turned = make_layer(problem), make_layer(problem, batch_first=True)
    want = results(problem, layer, 2)
    options = {"lengths": problem.lengths, "resets": problem.resets, "recompute": 2}
    y, _, tape = turned.forward(problem.x.swapaxes(0, 1), as_public(problem.state), **options)
    grads = turned.backward(tape, problem.dy.swapaxes(0, 1), as_public(problem.dstate))
    np.testing.assert_array_equal(y.swapaxes(0, 1), want.y)
    np.testing.assert_array_equal(grads.x.swapaxes(0, 1), want.dx)

    full = problem.case.B - 1  # the row that has all T steps
    state, dstate = (as_public([part[:, full] for part in states]) for states in (problem.state, problem.dstate))
    y, final, tape = layer.forward(problem.x[:, full], state, resets=problem.resets[:, full], recompute=2)
    grads = layer.backward(tape, problem.dy[:, full], dstate)
    np.testing.assert_array_equal(y, want.y[:, full])
    np.testing.assert_array_equal(grads.x, want.dx[:, full])
    for mine, theirs in zip(as_tuple(final) + as_tuple(grads.state), want.state + want.dstate, strict=True):
        np.testing.assert_array_equal(mine, theirs[:, full])


@pytest.mark.parametrize("shape", [{"T": 0}, {"B": 0}, {"T": 0, "B": 0}, {"T": 1}], ids=str)
@pytest.mark.parametrize("cell", CELLS)
def test_nothing_to_do(cell, shape):
    problem = Case(cell, num_layers=2, bidirectional=True, **shape).problem()
    layer = make_layer(problem)
    got = results(problem, layer, 2)
    assert_same_bits(got, results(problem, layer, 0), skip="nothing")
    assert_close(got, reference_results(problem), problem)


@pytest.mark.parametrize("cell", CELLS)
def test_rows_that_are_all_empty(cell):
    problem = Case(cell, bidirectional=True).problem()
    problem.lengths = np.zeros(problem.case.B, int)
    layer = make_layer(problem)
    got = results(problem, layer, 2)
    assert_same_bits(got, results(problem, layer, 0), skip="nothing")
    assert not got.y.any() and not got.dx.any()


@pytest.mark.parametrize("cell", CELLS)
def test_everything_is_written(cell, monkeypatch):
    """Memory that is handed out full of NaN leaves no trace: padding is cleared, by whomever."""
    problem = Case(cell, T=T, **WHOLE).problem()
    layer = make_layer(problem)
    want = results(problem, layer, 3)
    empty, filled = np.empty, []

    def poisoned(*arguments, **options):
        array = empty(*arguments, **options)
        if array.dtype.kind == "f":
            array.fill(np.nan)
            filled.append(array.shape)
        return array

    monkeypatch.setattr(np, "empty", poisoned)
    got = results(problem, layer, 3)
    assert want.y.shape in filled and want.dx.shape in filled
    assert_same_bits(got, want, skip="nothing")
    assert not got.y[problem.padding].any() and not got.dx[problem.padding].any()


def arrays_of(grads):
    return [grads.x, *as_tuple(grads.state), grads.flat]


@pytest.mark.parametrize("cell", CELLS)
def test_the_life_of_a_tape(cell):
    """Kept and consumed as any other; out= is added into, and nothing of the caller's is referred to but x."""
    problem = Case(cell, T=T, **WHOLE).problem()
    layer = make_layer(problem).freeze()
    y, final, tape = start(problem, layer, 3)
    dstate = as_public(problem.dstate)
    first = layer.backward(tape, problem.dy, dstate, keep_tape=True)
    for array in (y, *as_tuple(final), *problem.state):
        array[...] = np.nan
    again = layer.backward(tape, problem.dy, dstate, keep_tape=True)
    for mine, theirs in zip(arrays_of(again), arrays_of(first), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    total = layer.backward(tape, problem.dy, dstate, out=again)
    assert total is again
    for mine, theirs in zip(arrays_of(total), arrays_of(first), strict=True):
        assert relative_error(mine, 2 * theirs) <= 1e-13
    with pytest.raises(RuntimeError, match="tape"):
        layer.backward(tape, problem.dy)


@pytest.mark.parametrize("holes", ["dy", "dstate", "h", "c"])
@pytest.mark.parametrize("cell", CELLS)
def test_gradients_that_do_not_come_in(cell, holes):
    problem = Case(cell, T=T, **WHOLE).problem()
    layer = make_layer(problem)
    dy = None if holes == "dy" else problem.dy
    dstate = None if holes == "dstate" else as_public(problem.dstate)
    if holes in ("h", "c") and len(problem.dstate) == 2:
        dstate = (None, problem.dstate[1]) if holes == "h" else (problem.dstate[0], None)
    _, _, kept_tape = start(problem, layer, 0)
    _, _, tape = start(problem, layer, 3)
    want = layer.backward(kept_tape, dy, dstate)
    got = layer.backward(tape, dy, dstate, keep_tape=True)
    for mine, theirs in zip(arrays_of(got)[:-1], arrays_of(want)[:-1], strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert relative_error(got.flat, want.flat) <= 1e-12
    lean = layer.backward(tape, dy, dstate, input_grad=False)
    assert lean.x is None
    np.testing.assert_array_equal(lean.flat, got.flat)


@pytest.mark.parametrize("value, error", [(-1, ValueError), (2.0, TypeError), (True, TypeError), ("2", TypeError)])
def test_what_it_must_not_be(value, error):
    with pytest.raises(error, match="recompute"):
        fastrnn.LSTM(3, 4).forward(np.ones((5, 2, 3), np.float32), recompute=value)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("every", [1, 3, 4, 9])
def test_segments_walk_the_whole(every, reverse):
    """Together a schedule's segments visit its (time, batch entry) pairs, in its order."""
    whole = Schedule(9, 6, np.array([4, 0, 9, 1, 9, 5]), reverse)

    def pairs(schedule):
        direction = -1 if reverse else 1
        for s in range(schedule.steps):
            assert schedule.active[s] == np.count_nonzero(schedule.lengths > s)
            assert schedule.offset[s + 1] - schedule.offset[s] == schedule.active[s]
            rows = range(schedule.active[s])
            yield from ((schedule.start[r] + direction * s, schedule.order[r]) for r in rows)

    segments = whole.segments(every)
    assert [segment.steps for segment in segments] == [every] * (9 // every) + [9 % every] * (9 % every > 0)
    assert [pair for segment in segments for pair in pairs(segment)] == list(pairs(whole))
    assert sum(segment.total for segment in segments) == whole.total == 28
    assert whole.clears and not any(segment.clears for segment in segments)
    assert list(pairs(whole.reversed().reversed())) == list(pairs(whole))


def peak(layer, x, dy, recompute):
    """Most bytes that forward and backward held at a time, beside x, dy and the layer."""
    tracemalloc.start()
    try:
        y, _, tape = layer.forward(x, recompute=recompute)
        grads = layer.backward(tape, dy)
        assert y.any() and grads.flat.any()  # both were there, too
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("layers, directions", [(1, 1), (1, 2), (3, 1)])
@pytest.mark.parametrize("cell, slots", [("lstm", 6), ("gru_reset_after", 5)])
def test_memory(cell, slots, layers, directions, set_threads):
    """A stack's peak: what passes between layers, weights, T/K states a direction, and a single tape of K steps."""
    T, B, H, every = 240, 8, 64, 30
    set_threads(1)  # each has a scratch of its own
    structure = {"num_layers": layers, "bidirectional": directions == 2}
    problem = Case(cell, T=T, B=B, I=H, H=H, dtype="float32", **structure).problem()
    layer = make_layer(problem)
    step = 4 * B * H  # bytes of one state
    # Every layer's y, dx, and the gradients of two of the layers between.
    sequences = (layers * directions + 1 + min(layers - 1, 2)) * T * step
    units = layers * directions
    weights = (3 + 1 / units) * layer.flat_params.nbytes  # packed both ways, gradients, and one direction's packed
    tapes = units * len(problem.state) * T // every * step + slots * every * step
    bound = sequences + weights + tapes + (128 << 10)  # scratch, schedules, the states on their way
    assert slots * every * step > 2 * (128 << 10), "a second tape must not fit"
    # All smaller than what kernels/cpu/memory.py keeps for later calls: tracemalloc must see it come and go.
    assert slots * T * step < 4 << 20
    for recompute in (0, every):
        layer.backward(layer.forward(problem.x, recompute=recompute)[2], problem.dy)  # schedules, compiled code
    assert peak(layer, problem.x, problem.dy, every) <= bound
    assert peak(layer, problem.x, problem.dy, 0) > bound + slots * T * step // 2
