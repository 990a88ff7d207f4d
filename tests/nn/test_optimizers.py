"""SGD, Adam and clipping against the equations written out, and against PyTorch."""

from __future__ import annotations

import math

import numpy as np
import pytest

import fastrnn
from fastrnn import nn


def model(**options):
    return nn.Model(
        lstm=fastrnn.LSTM(3, 60, seed=0, **options),
        inner=nn.Model(output=nn.Linear(150, 150, seed=1, **options)),
    )


def random_gradients(of, seed):
    """Gradients of a model as backward gives them, but random."""
    rng = np.random.default_rng(seed)

    def leaf(part):
        grads = fastrnn.Gradients(part.layout, np.empty_like(part.flat_params), None, None)
        grads.flat[...] = rng.standard_normal(grads.flat.shape)
        return grads

    inner = of.inner.gradients(output=leaf(of.inner.output))
    return of.gradients(lstm=leaf(of.lstm), inner=inner)


def sgd(p, g, state, step, rate=0.1, momentum=0.0, nesterov=False, weight_decay=0.0):
    g = g + weight_decay * p
    state["v"] = momentum * state.get("v", 0) + g
    return p - rate * (g + momentum * state["v"] if nesterov else state["v"])


def adam(p, g, state, step, rate=1e-3, betas=(0.9, 0.999), epsilon=1e-8, weight_decay=0.0):
    state["m"] = betas[0] * state.get("m", 0) + (1 - betas[0]) * g
    state["v"] = betas[1] * state.get("v", 0) + (1 - betas[1]) * g * g
    m, v = state["m"] / (1 - betas[0] ** step), state["v"] / (1 - betas[1] ** step)
    return p * (1 - rate * weight_decay) - rate * m / (np.sqrt(v) + epsilon)


CASES = [
    (nn.SGD, sgd, {"rate": 0.1}),
    (nn.SGD, sgd, {"rate": 0.1, "weight_decay": 0.01}),
    (nn.SGD, sgd, {"rate": 0.1, "momentum": 0.9}),
    (nn.SGD, sgd, {"rate": 0.1, "momentum": 0.9, "nesterov": True}),
    (nn.SGD, sgd, {"rate": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
    (nn.Adam, adam, {"rate": 0.01}),
    (nn.Adam, adam, {"rate": 0.01, "betas": (0.5, 0.9), "epsilon": 1e-3, "weight_decay": 0.1}),
]
cases = pytest.mark.parametrize(
    "kind, equation, options", CASES, ids=[f"{k.__name__} {' '.join(o)}" for k, _, o in CASES]
)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@cases
def test_steps_are_the_equations(kind, equation, options, dtype):
    trained = model(dtype=dtype)
    optimizer = kind(trained, **options)
    want = {name: array.astype(np.float64) for name, array in trained.params.items()}
    states = {name: {} for name in want}
    for step in range(1, 5):
        grads = random_gradients(trained, step)
        kept = [g.copy() for g in grads.flats]
        for name, p in want.items():
            want[name] = equation(p, grads.params[name].astype(np.float64), states[name], step, **options)
        optimizer.step(grads)
        assert all(np.array_equal(a, b) for a, b in zip(grads.flats, kept, strict=True))
    tolerance = 1e-13 if dtype == "float64" else 2e-6
    for name, array in trained.params.items():
        assert array.dtype == dtype
        np.testing.assert_allclose(array, want[name], rtol=0, atol=tolerance, err_msg=name)
    assert optimizer.steps == 4


@cases
def test_steps_are_pytorchs(kind, equation, options):
    torch = pytest.importorskip("torch")
    trained = nn.Linear(200, 100, seed=0, dtype="float64")
    theirs = torch.nn.Parameter(torch.from_numpy(trained.flat_params.copy()))
    renamed = {{"rate": "lr", "epsilon": "eps"}.get(name, name): value for name, value in options.items()}
    rival = (torch.optim.AdamW if kind is nn.Adam else torch.optim.SGD)([theirs], **{"weight_decay": 0} | renamed)
    optimizer = kind(trained, **options)
    rng = np.random.default_rng(0)
    for _ in range(3):
        g = rng.standard_normal(trained.flat_params.shape)
        optimizer.step(g)
        theirs.grad = torch.from_numpy(g.copy())
        rival.step()
    np.testing.assert_allclose(trained.flat_params, theirs.detach().numpy(), rtol=0, atol=1e-12)


def test_the_rate_may_change_between_steps():
    trained = nn.Linear(2, 1, bias=False, dtype="float64")
    optimizer = nn.SGD(trained, 1.0)
    before = trained.flat_params.copy()
    optimizer.step(np.ones(2))
    optimizer.rate = 0.25
    optimizer.step(np.ones(2))
    np.testing.assert_allclose(before - trained.flat_params, 1.25)
    for bad, error in ((-1, ValueError), (math.nan, ValueError), ("1", TypeError), (True, TypeError)):
        with pytest.raises(error, match="rate must be a number"):
            optimizer.rate = bad


def test_lists_and_single_parts():
    parts = [nn.Linear(3, 2, seed=0), fastrnn.GRU(2, 3, seed=0)]
    before = [p.flat_params.copy() for p in parts]
    nn.SGD(parts, 1.0).step([np.ones_like(b) for b in before])
    for part, b in zip(parts, before, strict=True):
        np.testing.assert_allclose(b - part.flat_params, 1, rtol=1e-6)


def test_bad_gradients_change_nothing():
    trained = model()
    optimizer = nn.Adam(trained)
    grads = random_gradients(trained, 0)
    before = [p.copy() for p in trained.params.values()]
    with pytest.raises(ValueError, match="those of 2 layers and parts, got 1"):
        optimizer.step([grads.parts["lstm"]])
    with pytest.raises(ValueError, match=r"grads of inner.output must be \(22650,\), float32, got \(3,\)"):
        optimizer.step([grads.parts["lstm"], np.ones(3, np.float32)])
    with pytest.raises(ValueError, match="float64"):
        optimizer.step([g.astype(np.float64) for g in grads.flats])
    with pytest.raises(TypeError, match="grads must be gradients"):
        optimizer.step({"lstm": 1})
    trained.lstm.freeze()
    with pytest.raises(RuntimeError, match="lstm is frozen"):
        optimizer.step(grads)
    assert optimizer.steps == 0
    assert all(np.array_equal(a, b) for a, b in zip(trained.params.values(), before, strict=True))
    with pytest.raises(TypeError, match="parts must be layers"):
        nn.SGD(3, 1.0)


def test_bad_options():
    part = nn.Linear(1, 1)
    for options, error, words in (
        ({"momentum": 1.0}, ValueError, "momentum must be a number with 0 <= momentum < 1"),
        ({"nesterov": True}, ValueError, "nesterov needs a momentum"),
        ({"weight_decay": -1}, ValueError, "weight_decay"),
    ):
        with pytest.raises(error, match=words):
            nn.SGD(part, 0.1, **options)
    for options, error, words in (
        ({"betas": (0.9, 1.0)}, ValueError, r"betas\[1\]"),
        ({"betas": 0.9}, TypeError, "betas must be two numbers"),
        ({"epsilon": math.nan}, ValueError, "epsilon"),
    ):
        with pytest.raises(error, match=words):
            nn.Adam(part, **options)


def test_clipping_joins_all_buffers():
    grads = random_gradients(model(), 0)
    before = [g.astype(np.float64) for g in grads.flats]
    want = math.sqrt(sum((g * g).sum() for g in before))
    assert nn.clip_grad_norm(grads, math.inf) == pytest.approx(want, rel=1e-5)
    assert nn.clip_grad_norm(grads, want + 1) == pytest.approx(want, rel=1e-5)
    assert all(np.array_equal(a, b) for a, b in zip(grads.flats, before, strict=True))
    assert nn.clip_grad_norm(grads, 2.0) == pytest.approx(want, rel=1e-5)
    for g, b in zip(grads.flats, before, strict=True):
        np.testing.assert_allclose(g, b * 2 / want, rtol=1e-5)
    assert nn.clip_grad_norm(list(grads.flats), math.inf) == pytest.approx(2.0, rel=1e-5)


def test_clipping_of_exploded_gradients():
    """Squares of float32 overflow long before the gradients do."""
    g = np.full(100, 1e30, np.float32)
    assert nn.clip_grad_norm([g], 1.0) == pytest.approx(1e31, rel=1e-6)
    np.testing.assert_allclose(g, 0.1, rtol=1e-5)
    bad = np.array([1, np.nan], np.float32)
    assert math.isnan(nn.clip_grad_norm([bad], 1.0)) and bad[0] == 1
    assert nn.clip_grad_norm([], 1.0) == 0.0
    for most in (-1.0, math.nan):
        with pytest.raises(ValueError, match="most must be a number"):
            nn.clip_grad_norm([g], most)


@pytest.mark.parametrize("odd", ["ab", b"ab", ["ab"]])
def test_text_is_no_sequence_of_parts_or_gradients(odd):
    with pytest.raises(TypeError, match="parts must be"):
        nn.Adam(odd)
    with pytest.raises(TypeError, match="grads must be"):
        nn.clip_grad_norm(odd, 1.0)
