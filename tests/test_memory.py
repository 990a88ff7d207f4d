"""Large buffers are kept for the next call, within limits; and what a training step takes at its peak."""

import importlib
import tracemalloc

import numpy as np
import pytest

from tests.cases import Case
from tests.checks import make_layer

memory = importlib.import_module("fastrnn.kernels.cpu.memory")


def shelf(**sizes):
    return memory._Shelf(**{"smallest": 10, "limit": 100, "largest": 1000} | sizes)


def buffers(*sizes):
    return [np.empty(size, np.uint8) for size in sizes]


def test_a_buffer_is_taken_again_if_it_fits_and_is_not_twice_too_large():
    kept = shelf()
    (buffer,) = buffers(60)
    kept.give(buffer)
    assert kept.take(61) is None and kept.take(29) is None
    assert kept.take(30) is buffer
    assert kept.take(30) is None


def test_the_oldest_go_first_where_too_much_is_idle():
    kept = shelf()
    first, second, third = buffers(40, 30, 55)
    for buffer in (first, second, third):
        kept.give(buffer)
    assert list(kept.free) == [id(second), id(third)]


def test_the_newest_stays_beyond_the_limit_but_not_beyond_the_largest():
    kept = shelf()
    small, large, huge = buffers(50, 400, 1001)
    kept.give(small)
    kept.give(large)
    assert list(kept.free) == [id(large)]
    kept.give(huge)
    assert not kept.free
    kept.give(small)
    assert list(kept.free) == [id(small)]


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("cell, slots", [("lstm", 4), ("gru_reset_before", 4), ("gru_reset_after", 4), ("rnn_tanh", 1)])
def test_the_peak_of_a_training_step(cell, slots, frozen, set_threads):
    """The tape (slots and states), y, dx, the gradients, and the weights packed for both directions: no third copy."""
    T, B, H = 30, 16, 160
    set_threads(1)  # each has a scratch of its own
    problem = Case(cell, T=T, B=B, I=H, H=H, dtype="float32").problem()
    layer = make_layer(problem)
    if frozen:
        layer.freeze()
    layer.backward(layer.forward(problem.x)[2], problem.dy)  # schedules, compiled code
    tracemalloc.start()
    try:
        y, _, tape = layer.forward(problem.x)
        grads = layer.backward(tape, problem.dy)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    sequences = (slots + len(problem.state) + 2) * problem.x.nbytes
    weights = layer.flat_params.nbytes
    # Gradients, and packed weights: the sums take the place of those for forward, unless a frozen layer keeps them.
    bound = sequences + (2 if frozen else 3) * weights + 8 * B * H * 4 + (48 << 10)
    assert y.any() and grads.flat.any()  # both were there, too
    assert sequences < 4 << 20  # a larger buffer would be kept for the next call
    assert peak <= bound
