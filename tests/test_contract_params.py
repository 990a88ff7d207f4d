"""The contract on parameters: names, order, initial values, in-place writes, loading, freezing, copies."""

from __future__ import annotations

import copy
import itertools
import pickle

import numpy as np
import pytest

import fastrnn
from tests.cases import DTYPES, LAYERS, Case
from tests.checks import as_public, assert_close, layer_results, make_layer, reference_results

WHOLE = {"num_layers": 2, "bidirectional": True}


def layer_and_problem(cell="lstm_peephole", **options):
    problem = Case(cell, **WHOLE | options).problem()
    return make_layer(problem), problem


def outputs(layer, x):
    y, state = layer(x)
    return np.concatenate([y.ravel(), np.ravel(state)])


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("cell", LAYERS)
def test_names_shapes_and_order(cell, bias):
    layer, problem = layer_and_problem(cell, bias=bias)
    shapes = {name: p.shape for name, p in layer.params.items()}
    assert shapes == problem.case.parameter_shapes()
    assert layer.flat_params.ndim == 1
    np.testing.assert_array_equal(np.concatenate([p.ravel() for p in layer.params.values()]), layer.flat_params)
    assert list(layer.params)[:2] == ["weight_ih_l0", "weight_hh_l0"]


@pytest.mark.parametrize("cell", LAYERS)
def test_params_are_views_that_may_be_written(cell):
    layer, problem = layer_and_problem(cell)
    for name, p in layer.params.items():
        assert np.shares_memory(p, layer.flat_params), name
    for name, p in layer.params.items():
        p[...] = problem.params[name] = problem.params[name] * 0.5
    assert_close(layer_results(problem, layer), reference_results(problem), problem)
    layer.flat_params *= 2
    for name in problem.params:
        problem.params[name] *= 2
        np.testing.assert_array_equal(layer.params[name], problem.params[name])
    assert_close(layer_results(problem, layer), reference_results(problem), problem)


@pytest.mark.parametrize("cell", LAYERS)
def test_grads_have_the_layout_of_the_parameters(cell):
    layer, problem = layer_and_problem(cell)
    _, _, tape = layer.forward(problem.x)
    grads = layer.backward(tape, problem.dy)
    assert list(grads.params) == list(layer.params)
    assert grads.flat.shape == layer.flat_params.shape and grads.flat.dtype == layer.flat_params.dtype
    np.testing.assert_array_equal(np.concatenate([g.ravel() for g in grads.params.values()]), grads.flat)
    for g in grads.params.values():
        assert np.shares_memory(g, grads.flat)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cell", LAYERS)
def test_initial_values(cell, dtype):
    """U(-1/√H, 1/√H) for every parameter (Kolmogorov's test at 1e-4), a function of the seed alone."""
    kind, options = LAYERS[cell]

    def fresh(seed):
        return getattr(fastrnn, kind)(30, 25, **options, dtype=dtype, seed=seed)

    layer = fresh(1)
    assert layer.flat_params.dtype == dtype
    for name, p in layer.params.items():
        uniform = np.sort(p.ravel()) * 5 / 2 + 0.5
        assert 0 <= uniform[0] and uniform[-1] <= 1, name
        distance = np.abs(uniform - (np.arange(p.size) + 0.5) / p.size).max()
        assert distance < 2.23 / np.sqrt(p.size), name
    np.testing.assert_array_equal(fresh(1).flat_params, layer.flat_params)
    assert (fresh(2).flat_params != layer.flat_params).mean() > 0.9
    assert (fresh(None).flat_params != fresh(None).flat_params).mean() > 0.9


def test_loading_casts_floats_and_copies():
    layer, problem = layer_and_problem(dtype="float32")
    for dtype in ("float64", "float16", "float32"):
        values = {name: p.astype(dtype) for name, p in problem.params.items()}
        layer.load_params(values)
        for name, p in layer.params.items():
            assert p.dtype == np.float32
            np.testing.assert_array_equal(p, values[name].astype(np.float32))
            assert not np.shares_memory(p, values[name])
            assert np.shares_memory(p, layer.flat_params)


def test_loading_from_another_layer_and_from_a_file(tmp_path):
    layer, problem = layer_and_problem()
    np.savez(tmp_path / "params.npz", **layer.params)
    other = make_layer(problem)
    other.flat_params[...] = 0
    with np.load(tmp_path / "params.npz") as file:
        other.load_params(file)
    np.testing.assert_array_equal(other.flat_params, layer.flat_params)
    other.load_params(layer.params)
    np.testing.assert_array_equal(other.flat_params, layer.flat_params)


def without(params, name):
    return {key: p for key, p in params.items() if key != name}


BAD = [
    (lambda p: without(p, "bias_hh_l1"), ValueError, ["missing", "bias_hh_l1"]),
    (lambda p: p | {"weight_hr_l0": np.zeros(3)}, ValueError, ["unexpected", "weight_hr_l0"]),
    (lambda p: p | {"bias_ih_l0": np.zeros((68, 1))}, ValueError, ["bias_ih_l0", "(68,)", "(68, 1)"]),
    (lambda p: p | {"weight_ih_l0": p["weight_ih_l0"].T}, ValueError, ["weight_ih_l0", "(68, 4)", "(4, 68)"]),
    (lambda p: without(p, "weight_ih_l0") | {"w": np.zeros(1)}, ValueError, ["weight_ih_l0", "w"]),
    (lambda p: p | {"bias_ih_l0": np.zeros(68, int)}, TypeError, ["bias_ih_l0", "int64"]),
    (lambda p: p | {"bias_ih_l0": np.zeros(68, complex)}, TypeError, ["bias_ih_l0", "complex128"]),
    (lambda p: p | {"bias_ih_l0": None}, TypeError, ["bias_ih_l0", "None"]),
    (lambda p: list(p.values()), TypeError, ["list"]),
]


@pytest.mark.parametrize("spoil, error, words", BAD)
def test_loading_is_strict_and_all_or_nothing(spoil, error, words):
    layer, problem = layer_and_problem()
    before = layer.flat_params.copy()
    with pytest.raises(error) as caught:
        layer.load_params(spoil({name: p + 1 for name, p in problem.params.items()}))
    assert all(word in str(caught.value) for word in words), str(caught.value)
    np.testing.assert_array_equal(layer.flat_params, before)


@pytest.mark.parametrize("cell", LAYERS)
def test_frozen_is_read_only_and_the_same(cell):
    layer, problem = layer_and_problem(cell, ragged=True)
    want = layer_results(problem, layer)
    layer.freeze()
    for _ in range(2):
        for name, array in layer_results(problem, layer).named().items():
            np.testing.assert_array_equal(array, want.named()[name], err_msg=name)
    for array in (layer.flat_params, *layer.params.values()):
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0
    layer.unfreeze()
    layer.flat_params *= 0.5
    for p in problem.params.values():
        p *= 0.5
    want = reference_results(problem)
    assert_close(layer_results(problem, layer), want, problem)
    layer.freeze()
    assert_close(layer_results(problem, layer), want, problem)


def test_freezing_twice_is_freezing_once():
    layer, problem = layer_and_problem()
    layer.freeze()
    layer.freeze()
    layer.unfreeze()
    layer.flat_params[...] = 0
    layer.unfreeze()
    assert not outputs(layer, problem.x).any()


COPIES = {"pickle": lambda layer: pickle.loads(pickle.dumps(layer)), "deepcopy": copy.deepcopy}


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("cell", LAYERS)
def test_copies_stand_alone(cell, how, frozen):
    layer, problem = layer_and_problem(cell)
    want = outputs(layer, problem.x)
    if frozen:
        layer.freeze()
    twin = COPIES[how](layer)
    np.testing.assert_array_equal(outputs(twin, problem.x), want)
    assert repr(twin) == repr(layer)
    assert twin.flat_params.flags.writeable == layer.flat_params.flags.writeable
    layer.unfreeze()
    twin.unfreeze()
    for name, p in twin.params.items():
        assert np.shares_memory(p, twin.flat_params), name
        assert not np.shares_memory(p, layer.params[name]), name
    twin.flat_params[...] = 0
    assert not (outputs(twin, problem.x) == want).all()
    np.testing.assert_array_equal(outputs(layer, problem.x), want)


def test_a_shallow_copy_is_no_trap():
    """copy.copy gives a layer whose parameters still are views of its own flat_params."""
    layer, problem = layer_and_problem()
    twin = copy.copy(layer)
    twin.flat_params *= 0.5
    np.testing.assert_array_equal(np.concatenate([p.ravel() for p in twin.params.values()]), twin.flat_params)
    for name in problem.params:
        problem.params[name] = twin.params[name].copy()
    assert_close(layer_results(problem, twin), reference_results(problem), problem)


def test_entries_cannot_be_swapped_for_other_arrays():
    """Replacing an entry would cut it off from flat_params in silence; writing in place works, also by -=."""
    layer, _ = layer_and_problem()
    p = layer.params["bias_ih_l0"]
    with pytest.raises(TypeError, match="bias_ih_l0"):
        layer.params["bias_ih_l0"] = np.zeros_like(p)
    layer.params["bias_ih_l0"] -= p
    assert layer.params["bias_ih_l0"] is p and not p.any()


@pytest.mark.parametrize("cell", LAYERS)
def test_repr_names_what_differs_from_the_defaults(cell):
    kind, options = LAYERS[cell]
    layer = getattr(fastrnn, kind)(4, 17, 2, **options, bidirectional=True, dropout=0.25, dtype="float64", bias=False)
    text = repr(layer)
    assert text.startswith(kind)
    for word in ("4", "17", "2", "bidirectional", "0.25", "float64", "bias=False", *options):
        assert word in text, f"{word} not in {text}"
    evaluated = eval(text, vars(fastrnn).copy())
    assert repr(evaluated) == text


def test_a_training_step_lowers_the_loss():
    """The quick start's line: flat_params -= rate * grads.flat."""
    layer, problem = layer_and_problem("lstm")
    target = np.zeros_like(problem.dy)
    losses = []
    for _ in range(20):
        y, _, tape = layer.forward(problem.x, as_public(problem.state))
        losses.append(np.sum((y - target) ** 2) / 2)
        layer.flat_params[...] -= 0.01 * layer.backward(tape, y - target).flat
    assert all(later < earlier for earlier, later in itertools.pairwise(losses))
    assert losses[-1] < 0.9 * losses[0]
