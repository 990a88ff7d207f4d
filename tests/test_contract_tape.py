"""The contract on forward() and backward(): the tape's life, accumulation, and whose memory is whose."""

from __future__ import annotations

import copy
import gc
import weakref

import numpy as np
import pytest

import fastrnn
from tests.cases import LAYERS, Case
from tests.checks import as_public, as_tuple, make_layer, reference_results, relative_error

WHOLE = {"num_layers": 2, "bidirectional": True, "ragged": True, "resets": True}


def start(cell, **options):
    """A problem, its layer, and what forward() gave."""
    problem = Case(cell, **WHOLE | options).problem()
    layer = make_layer(problem)
    state = as_public(problem.state)
    return problem, layer, layer.forward(problem.x, state, lengths=problem.lengths, resets=problem.resets)


def arrays_of(grads):
    return [grads.x, *as_tuple(grads.state), grads.flat, *grads.params.values()]


def assert_same(got, want):
    for mine, theirs in zip(arrays_of(got), arrays_of(want), strict=True):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("cell", LAYERS)
def test_a_tape_is_consumed(cell):
    problem, layer, (_, _, tape) = start(cell)
    dstate = as_public(problem.dstate)
    kept = layer.backward(tape, problem.dy, dstate, keep_tape=True)
    again = layer.backward(tape, problem.dy, dstate, keep_tape=True)
    last = layer.backward(tape, problem.dy, dstate)
    assert_same(again, kept)
    assert_same(last, kept)
    for keep in (False, True):
        with pytest.raises(RuntimeError, match=r"tape.*keep_tape|keep_tape.*tape"):
            layer.backward(tape, problem.dy, dstate, keep_tape=keep)


@pytest.mark.parametrize("cell", LAYERS)
def test_gradients_are_fresh_arrays(cell):
    problem, layer, (_, _, tape) = start(cell)
    first = layer.backward(tape, problem.dy, keep_tape=True)
    copies = [a.copy() for a in arrays_of(first)]
    second = layer.backward(tape, problem.dy)
    for a in arrays_of(second):
        a[...] = np.nan
    for mine, copied in zip(arrays_of(first), copies, strict=True):
        np.testing.assert_array_equal(mine, copied)


@pytest.mark.parametrize("cell", LAYERS)
def test_out_accumulates(cell):
    """out=grads is added into, x and state included, and comes back; two different gradients sum up."""
    problem, layer, (_, _, tape) = start(cell)
    other = np.ones_like(problem.dy)
    first = layer.backward(tape, problem.dy, keep_tape=True)
    second = layer.backward(tape, other, as_public(problem.dstate), keep_tape=True)
    total = layer.backward(tape, problem.dy, keep_tape=True)
    addresses = [a.ctypes.data for a in arrays_of(total)]
    returned = layer.backward(tape, other, as_public(problem.dstate), out=total)
    assert returned is total
    assert [a.ctypes.data for a in arrays_of(total)] == addresses
    for a, b, ab in zip(*map(arrays_of, (first, second, total)), strict=True):
        assert relative_error(ab, a + b) <= 1e-13


@pytest.mark.parametrize("cell", LAYERS)
def test_the_input_gradient_may_be_left_out(cell):
    problem, layer, (_, _, tape) = start(cell)
    full = layer.backward(tape, problem.dy, keep_tape=True)
    lean = layer.backward(tape, problem.dy, input_grad=False, keep_tape=True)
    assert lean.x is None
    np.testing.assert_array_equal(lean.flat, full.flat)
    np.testing.assert_array_equal(as_tuple(lean.state), as_tuple(full.state))
    summed = layer.backward(tape, problem.dy, input_grad=False, out=lean)
    assert summed.x is None
    assert relative_error(summed.flat, 2 * full.flat) <= 1e-13


@pytest.mark.parametrize("how", ["input_grad", "wrong"])
def test_an_out_that_does_not_fit(how):
    problem, layer, (_, _, tape) = start("lstm")
    lean = layer.backward(tape, problem.dy, input_grad=False, keep_tape=True)
    before = lean.flat.copy()
    out, error = (lean, ValueError) if how == "input_grad" else ({"flat": lean.flat}, TypeError)
    with pytest.raises(error, match="out"):
        layer.backward(tape, problem.dy, out=out)
    np.testing.assert_array_equal(lean.flat, before)
    layer.backward(tape, problem.dy)


@pytest.mark.parametrize("cell", LAYERS)
def test_outputs_belong_to_the_caller(cell):
    """Overwriting y, the final state and the given state after forward() changes no gradient."""
    problem, layer, (y, final, tape) = start(cell)
    want = layer.backward(tape, problem.dy, keep_tape=True)
    for array in (y, *as_tuple(final), *problem.state):
        assert array.flags.writeable
        array[...] = np.nan
    assert_same(layer.backward(tape, problem.dy), want)


@pytest.mark.parametrize("cell", LAYERS)
def test_calls_share_no_memory(cell):
    problem, layer, (y, final, _) = start(cell)
    given = [problem.x, *problem.state]
    results = [y, *as_tuple(final)]
    y, state, tape = layer.forward(problem.x, as_public(problem.state))
    results += [y, *as_tuple(state)]
    y, state = layer(problem.x, as_public(problem.state))
    results += [y, *as_tuple(state)]
    last, state = layer(problem.x, as_public(problem.state), return_sequences=False)
    results += [last, *as_tuple(state)]
    grads = layer.backward(tape, np.nan_to_num(problem.dy), as_public(problem.dstate))
    results += [grads.x, *as_tuple(grads.state), grads.flat]
    given += [problem.dy, *problem.dstate, layer.flat_params]
    for k, mine in enumerate(results):
        for other in results[:k] + given:
            assert not np.shares_memory(mine, other)


@pytest.mark.parametrize("cell", LAYERS)
def test_two_tapes_at_once(cell):
    """Tapes of one layer don't disturb each other, whatever the order of their backward passes."""
    first, layer, (_, _, tape_1) = start(cell)
    second = Case(cell, T=9, B=2, **{**WHOLE, "ragged": False}).problem()
    second.params = first.params
    options = {"lengths": second.lengths, "resets": second.resets}
    _, _, tape_2 = layer.forward(second.x, as_public(second.state), **options)
    for problem, tape in ((first, tape_1), (second, tape_2)):
        grads = layer.backward(tape, problem.dy, as_public(problem.dstate))
        want = reference_results(problem)
        assert relative_error(grads.x, want.dx) <= 1e-12
        for name, g in grads.params.items():
            assert relative_error(g, want.dparams[name]) <= 1e-12


def test_a_tape_belongs_to_one_layer():
    """Another layer's tape is refused where it can't fit, before anything is written."""
    _, _, (_, _, tape) = start("lstm")
    other = fastrnn.LSTM(4, 9, dtype="float64")
    with pytest.raises(ValueError, match="tape"):
        other.backward(tape, np.ones((6, 5, 9)))


def test_x_is_not_copied_and_let_go_of():
    """The tape holds x itself while it lives, and nothing holds it after the tape is consumed."""

    class Tracked(np.ndarray):
        pass

    layer = fastrnn.LSTM(4, 3)
    x = np.ones((6, 5, 4), np.float32).view(Tracked)
    gone = weakref.ref(x)
    _, _, tape = layer.forward(x)
    layer.backward(tape, np.ones((6, 5, 3), np.float32))
    del x
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("case", [Case("lstm"), Case("gru_reset_after", batch_first=True)], ids=str)
def test_accumulation_into_an_array_that_kernels_can_not_write_to(case):
    """Of other strides, or not aligned; what lies between its elements keeps its values."""
    problem = case.problem()
    layer = make_layer(problem)
    dy, x = problem.dy, problem.x
    _, _, tape = layer.forward(x)
    plain = layer.backward(tape, dy, keep_tape=True)
    expected = copy.deepcopy(plain)
    layer.backward(tape, dy, out=expected, keep_tape=True)
    between = np.full([2 * n + 1 for n in x.shape], 7, x.dtype)
    strided = between[tuple(slice(1, None, 2) for _ in x.shape)]
    unaligned = np.empty(x.nbytes + 1, np.uint8)[1:].view(x.dtype).reshape(x.shape)
    for total in (strided, unaligned):
        total[...] = plain.x
        out = fastrnn.Gradients(layer.layout, plain.flat.copy(), total, copy.deepcopy(plain.state))
        layer.backward(tape, dy, out=out, keep_tape=True)
        assert np.array_equal(total, expected.x) and np.array_equal(out.flat, expected.flat)
    strided[...] = 7
    assert (between == 7).all()


def test_accumulation_needs_every_part_of_the_state():
    layer = fastrnn.LSTM(3, 4, seed=0)
    _, _, tape = layer.forward(np.ones((2, 1, 3), np.float32))
    grads = layer.backward(tape, np.ones((2, 1, 4), np.float32), keep_tape=True)
    grads.state = grads.state * 2
    before = grads.flat.copy()
    with pytest.raises(ValueError, match=r"out.state must be a tuple \(h, c\), got 4 entries"):
        layer.backward(tape, np.ones((2, 1, 4), np.float32), out=grads)
    assert np.array_equal(grads.flat, before) and not tape.consumed
