"""Large buffers are kept for the next call, within limits."""

import importlib

import numpy as np

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
