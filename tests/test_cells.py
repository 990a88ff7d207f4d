"""Every cell through the public layers against the reference: outputs, states and all gradients."""

from __future__ import annotations

import importlib

import numpy as np
import pytest

import fastrnn
from fastrnn.cell_table import CELLS as CELL_TABLE
from tests.cases import DTYPES, LAYERS, TOLERANCE, Case, sizes, structures
from tests.checks import (
    as_public,
    as_tuple,
    assert_close,
    layer_results,
    make_layer,
    reference_results,
    relative_error,
)
from tests.reference import CELLS


@pytest.mark.parametrize("case", structures(), ids=str)
def test_structures(case):
    problem = case.problem()
    assert_close(layer_results(problem), reference_results(problem), problem)


@pytest.mark.parametrize("case", sizes(), ids=str)
def test_sizes(case):
    problem = case.problem()
    assert_close(layer_results(problem), reference_results(problem), problem)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cell", LAYERS)
def test_a_thousand_steps(cell, dtype, bidirectional):
    case = Case(cell, T=1000, B=3, I=5, H=33, dtype=dtype, bidirectional=bidirectional, ragged=bidirectional)
    problem = case.problem()
    assert_close(layer_results(problem), reference_results(problem), problem)


@pytest.mark.parametrize(
    "T, B, I, H", [(3, 70, 9, 48), (40, 33, 50, 20), (2, 1, 700, 5), (9, 6, 2, 300), (3, 260, 3, 80)]
)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cell", LAYERS)
def test_larger_than_a_tile(cell, dtype, T, B, I, H):
    problem = Case(cell, T=T, B=B, I=I, H=H, dtype=dtype, ragged=True, num_layers=2).problem()
    problem.x *= min(1, (H / I) ** 0.5)  # a wide input must not saturate every gate: no gradient would be left
    assert_close(layer_results(problem), reference_results(problem), problem)


@pytest.mark.parametrize("cell", ["lstm", "gru_reset_before", "rnn_tanh"])
def test_weights_beyond_the_cache(cell):
    """Backward takes them in blocks, each for many rows; H is no multiple of four vectors."""
    sums, simd = (importlib.import_module(f"fastrnn.kernels.cpu.{name}") for name in ("column_sums", "simd"))
    if simd.VECTOR_BYTES < 32:
        pytest.skip("with vectors this short it takes weights of 100 MB")
    unit = len(CELL_TABLE[cell].phases[0].slots) * 4 * simd.VECTOR_BYTES  # bytes for four vectors of columns
    H = sums._CACHED_WEIGHTS // unit + 20
    problem = Case(cell, T=2, B=20, I=70, H=H, dtype="float32").problem()
    assert_close(layer_results(problem), reference_results(problem), problem)


@pytest.mark.parametrize("cell", LAYERS)
def test_float32_gradients_gate_by_gate(cell):
    """Each gate's block against its own largest entry: a wrong small gate can't hide behind a large one."""
    problem = Case(cell, T=30, B=8, I=40, H=256, dtype="float32").problem()
    got, want = layer_results(problem).dparams, reference_results(problem).dparams
    blocks = dict.fromkeys(want, CELLS[cell].gates) | {"weight_peephole_l0": CELLS[cell].peepholes}
    errors = {}
    for name, array in want.items():
        pieces = zip(np.split(got[name], len(blocks[name])), np.split(array, len(blocks[name])), strict=True)
        for gate, (mine, theirs) in zip(blocks[name], pieces, strict=True):
            errors[name, gate] = relative_error(mine, theirs)
    bad = {key: f"{error:.1e}" for key, error in errors.items() if not error <= TOLERANCE["float32"]}
    assert not bad


@pytest.mark.parametrize("size", [1e2, 1e6, 1e30])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cell", LAYERS)
def test_saturated_gates(cell, dtype, size):
    """Pre-activations where exp over- and underflows: gates end at 0 or 1, and no gradient is NaN.

    One input feature keeps z = w x free of cancellation, so float32 still knows every gate.
    """
    problem = Case(cell, I=1, dtype=dtype).problem()
    problem.x *= problem.x.dtype.type(size if cell != "rnn_relu" else 1)
    got, want = layer_results(problem), reference_results(problem)
    for mine, theirs in zip((got.y, *got.state), (want.y, *want.state), strict=True):
        assert relative_error(mine, theirs) <= TOLERANCE[dtype]
    for name, array in got.named().items():
        assert np.isfinite(array).all(), name


@pytest.mark.parametrize("dtype, tolerance", [("float32", 5e-7), ("float64", 2e-15)])
@pytest.mark.parametrize("nonlinearity", ["tanh", "sigmoid"])
def test_the_ends_of_the_activations(nonlinearity, dtype, tolerance):
    """Small values keep their digits: a gate that is nearly shut, and tanh near 0, entry by entry."""
    largest = 80 if dtype == "float32" else 700
    sizes = np.geomspace(1e-30, largest, 3000)
    x = np.concatenate([-sizes, [0.0], sizes]).astype(dtype)
    layer = fastrnn.RNN(1, 1, nonlinearity=nonlinearity, bias=False, dtype=dtype)
    layer.params["weight_ih_l0"][...] = 1
    y, _ = layer(x[None, :, None])
    exact = x.astype(np.longdouble)
    want = np.tanh(exact) if nonlinearity == "tanh" else 1 / (1 + np.exp(-exact))
    assert y[0, x == 0] == want[x == 0]
    nonzero = x != 0
    assert np.abs(y[0, nonzero, 0] / want[nonzero] - 1).max() <= tolerance


@pytest.mark.parametrize("cell", LAYERS)
def test_uninitialised_memory_reaches_no_result(cell, monkeypatch):
    """Buffers and results come unfilled: whatever lies in them, NaN here, the bits are the same."""
    memory = importlib.import_module("fastrnn.kernels.cpu.memory")
    problems = [
        Case(cell, dtype=dtype, num_layers=2, bidirectional=True, ragged=True, resets=True, **size).problem()
        for dtype in DTYPES
        for size in ({}, {"B": 37, "I": 60, "H": 80}, {"I": 60, "H": 260})
    ]
    want = [layer_results(problem).named() for problem in problems]

    poisonings = []

    def poisoned(size, zero=False):
        raw, address = memory.aligned(size, zero)
        if not zero:
            raw[...] = 255  # of floats: NaN
            poisonings.append(size)
        return raw, address

    empty = np.empty

    def poisoned_result(shape, dtype=float, **options):
        array = empty(shape, dtype, **options)
        if array.dtype.kind == "f":
            array.fill(np.nan)
        return array

    monkeypatch.setattr(np, "empty", poisoned_result)
    for name in ("arguments", "packed"):
        monkeypatch.setattr(importlib.import_module(f"fastrnn.kernels.cpu.{name}"), "aligned", poisoned)
    for problem, arrays in zip(problems, want, strict=True):
        for name, array in layer_results(problem).named().items():
            np.testing.assert_array_equal(array, arrays[name], err_msg=name)
    assert poisonings


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cell", LAYERS)
def test_inference_is_the_forward_pass(cell, dtype):
    """The call that keeps nothing gives bitwise what forward() gives, and the last outputs when asked."""
    structure = {"num_layers": 2, "bidirectional": True, "ragged": True, "resets": True}
    for case in (
        Case(cell, dtype=dtype),
        Case(cell, dtype=dtype, **structure),
        Case(cell, T=1, B=1, H=64, dtype=dtype),
    ):
        problem = case.problem()
        layer = make_layer(problem)
        state = as_public(problem.state)
        options = {"lengths": problem.lengths, "resets": problem.resets}
        y, final, _ = layer.forward(problem.x, state, **options)
        y_kept_nothing, final_kept_nothing = layer(problem.x, state, **options)
        last, final_of_last = layer(problem.x, state, **options, return_sequences=False)
        np.testing.assert_array_equal(y_kept_nothing, y)
        for other in (final_kept_nothing, final_of_last):
            np.testing.assert_array_equal(as_tuple(other), as_tuple(final))
        np.testing.assert_array_equal(last, problem.network().last_output(as_tuple(final)))


@pytest.mark.parametrize("cell", LAYERS)
def test_no_state_is_a_zero_state(cell):
    problem = Case(cell, num_layers=2, bidirectional=True, ragged=True, resets=True).problem()
    layer = make_layer(problem)
    for s in problem.state:
        s[...] = 0
    runs = []
    for state in (None, as_public(problem.state)):
        y, final, tape = layer.forward(problem.x, state, lengths=problem.lengths, resets=problem.resets)
        grads = layer.backward(tape, problem.dy, as_public(problem.dstate))
        runs.append([y, *as_tuple(final), grads.x, *as_tuple(grads.state), *grads.params.values()])
    for without, with_zeros in zip(*runs, strict=True):
        np.testing.assert_array_equal(without, with_zeros)
