"""Products and masks on the CPU kernels: against NumPy, and the same bits whatever the threads and the rows around."""

from __future__ import annotations

import numpy as np
import pytest

import fastrnn
from fastrnn import dropout
from fastrnn.backend import load
from fastrnn.places import HOST

cpu = load("cpu")
TOLERANCE = {"float32": 1e-5, "float64": 1e-13}
# M, N, K: one of everything; tails of rows, vectors and depth; more rows than a block; more columns than rows.
SIZES = [
    (1, 1, 1),
    (7, 17, 3),
    (6, 64, 128),
    (13, 65, 129),
    (100, 42, 256),
    (42, 130, 300),
    (1000, 1, 20),
    (800, 70, 9),
]


@pytest.fixture(autouse=True)
def threads():
    before = fastrnn.get_num_threads()
    yield
    fastrnn.set_num_threads(before)


def matrices(M, N, K, dtype, a_by_columns, b_by_columns):
    rng = np.random.default_rng(M + N + K)
    a = rng.standard_normal((K, M)).T if a_by_columns else rng.standard_normal((M, K))
    b = rng.standard_normal((N, K)).T if b_by_columns else rng.standard_normal((K, N))
    return a.astype(dtype), b.astype(dtype), rng.standard_normal(N).astype(dtype)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("by_columns", [(0, 0), (0, 1), (1, 0), (1, 1)])
@pytest.mark.parametrize("sizes", SIZES)
def test_products(sizes, by_columns, dtype):
    a, b, bias = matrices(*sizes, dtype, *by_columns)
    exact = a.astype(np.float64) @ b.astype(np.float64)
    for added in (None, bias):
        out = np.full(exact.shape, np.nan, dtype)
        cpu.multiply(a, b, out, added)
        expected = exact if added is None else exact + added
        assert np.abs(out - expected).max() <= TOLERANCE[dtype] * np.abs(expected).max()


@pytest.mark.parametrize("sizes", [(300, 42, 256), (42, 300, 400)])
def test_bits_depend_on_neither_threads_nor_other_rows_and_columns(sizes):
    a, b, bias = matrices(*sizes, "float32", 0, 1)
    outputs = []
    for n in (1, 2, 3):
        fastrnn.set_num_threads(n)
        outputs.append(np.empty(sizes[:2], np.float32))
        cpu.multiply(a, b, outputs[-1], bias)
    assert all((out == outputs[0]).all() for out in outputs)
    part = np.empty((20, 18), np.float32)
    cpu.multiply(a[10:30], b[:, 3:21], part, bias[3:21])
    assert (part == outputs[0][10:30, 3:21]).all()


def test_strided_operands_and_results():
    a, b, _ = matrices(60, 80, 100, "float32", 0, 0)
    wide = np.full((60, 200), 7, np.float32)
    cpu.multiply(np.repeat(a, 2, axis=1)[::1, ::2], np.repeat(b, 3, axis=0)[::3], wide[:, 50:130])
    assert np.allclose(wide[:, 50:130], a @ b, rtol=0, atol=1e-4)
    assert (wide[:, :50] == 7).all() and (wide[:, 130:] == 7).all()


def test_what_is_not_finite_stays_in_its_row():
    a, b, _ = matrices(64, 64, 64, "float32", 0, 0)
    whole = HOST.product(a, b)
    a[5, 3] = np.nan
    found = HOST.product(a, b)
    assert np.isnan(found[5]).all()
    assert (np.delete(found, 5, axis=0) == np.delete(whole, 5, axis=0)).all()


@pytest.mark.parametrize("a, b", [(np.ones((99, 99)), np.ones((99, 99), np.float32)), (np.ones((99, 99), int),) * 2])
def test_numpy_takes_what_the_kernels_do_not(a, b):
    assert not cpu.suits(a, b, np.empty((99, 99)))
    assert (HOST.product(a, b, np.empty((99, 99))) == 99).all()


@pytest.mark.parametrize("shape", [(64, 0, 70), (0, 64, 70), (64, 70, 0), (1, 300, 1000), (300, 1000, 1)])
def test_empty_and_narrow_products(shape):
    M, K, N = shape
    a, b = np.ones((M, K), np.float32), np.ones((K, N), np.float32)
    assert np.allclose(HOST.product(a, b, bias=np.ones(N, np.float32)), K + 1)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 0.999])
@pytest.mark.parametrize("count", [0, 1, 7, 9, 1023, 1025, 70_001])
def test_masks_are_those_of_numpys_generator(count, p, dtype):
    values = np.random.default_rng(count).standard_normal(count).astype(dtype)
    expected = values.copy()
    dropout.apply_mask(expected, p, 11, 3)
    for n in (1, 2, 3):
        fastrnn.set_num_threads(n)
        found = values.copy()
        cpu.apply_mask(found, p, 11, 3)
        assert (found == expected).all()
