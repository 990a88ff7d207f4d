"""fastrnn.nn on the stand-in: CuPy in, CuPy out, the host's numbers, and nothing that waits without need."""

from __future__ import annotations

import copy

import numpy as np
import pytest

import fastrnn
from fastrnn import nn
from tests.cuda import emulator, stand_in
from tests.cuda.stand_in import watch
from tests.cuda.whole_layers import few_multiprocessors

pytestmark = pytest.mark.skipif(bool(emulator.available()), reason=emulator.available() or "-")

V, E, H, T, B = 7, 4, 16, 4, 3
LENGTHS = [2, 0, 4]


@pytest.fixture
def cupy():
    with few_multiprocessors(), stand_in.installed(devices=2) as module:
        yield module


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def symbols(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, V, shape)


def language_model():
    return nn.Model(
        embedding=nn.Embedding(V, E, seed=0), layer=fastrnn.GRU(E, H, seed=1), output=nn.Linear(H, V, seed=2)
    )


def step(model, optimizer, x, t):
    """One step of training: loss and gradients."""
    e, tape_e = model.embedding.forward(x)
    h, _, tape_h = model.layer.forward(e, lengths=LENGTHS)
    o, tape_o = model.output.forward(h)
    loss, do = nn.softmax_cross_entropy(o, t, lengths=LENGTHS, label_smoothing=0.1)
    of_output = model.output.backward(tape_o, do)
    of_layer = model.layer.backward(tape_h, of_output.x)
    grads = model.gradients(embedding=model.embedding.backward(tape_e, of_layer.x), layer=of_layer, output=of_output)
    norm = nn.clip_grad_norm(grads, 0.5)
    optimizer.step(grads)
    return loss, norm, grads


def on_host(value):
    return value.get() if hasattr(value, "get") else np.asarray(value)


@pytest.mark.parametrize("where", ["host", "device"])
@pytest.mark.parametrize("make", [lambda m: nn.Adam(m, 0.01, weight_decay=0.1), lambda m: nn.SGD(m, 0.1, momentum=0.9)])
def test_training_is_that_of_the_host(cupy, make, where):
    """Two steps there and here, symbols and targets on either side; the optimiser's state moves along."""
    x, t = symbols(T, B), symbols(T, B, seed=1)
    here, there = language_model(), language_model().to("cuda")
    ours, theirs = make(here), make(there)
    moved = (cupy.asarray(x), cupy.asarray(t)) if where == "device" else (x, t)
    for _ in range(2):
        want = step(here, ours, x, t)
        got = step(there, theirs, *moved)
        assert type(got[0]) is cupy.ndarray and got[0].shape == () and type(got[1]) is cupy.ndarray
        for a, b in zip(got[:2], want[:2], strict=True):
            np.testing.assert_allclose(on_host(a), b, rtol=1e-5)
        for name, array in want[2].params.items():
            assert type(got[2].params[name]) is cupy.ndarray
            np.testing.assert_allclose(on_host(got[2].params[name]), array, rtol=1e-4, atol=1e-6, err_msg=name)
    there.to("cpu")
    step(here, ours, x, t), step(there, theirs, x, t)
    for name, array in here.params.items():
        assert type(there.params[name]) is np.ndarray
        # Adam's first steps divide a gradient by its own size, so that rounding is magnified
        np.testing.assert_allclose(there.params[name], array, atol=2e-3, err_msg=name)


@pytest.mark.parametrize("options", [{}, {"lengths": LENGTHS}, {"reduction": "batchmean"}, {"reduction": "none"}])
def test_losses_are_those_of_the_host(cupy, options):
    o, t = numbers(T, B, V), symbols(T, B)
    unit = np.random.default_rng(2).random((T, B, V)).astype(np.float32)
    mask = np.random.default_rng(3).random((T, B)) < 0.5
    for loss, targets, more in (
        (nn.softmax_cross_entropy, t, {"ignore_index": 2}),
        (nn.softmax_cross_entropy, t, {"mask": mask, "label_smoothing": 0.1}),
        (nn.sigmoid_cross_entropy, unit, {}),
        (nn.mean_squared_error, unit, {"mask": mask}),
    ):
        want = loss(o, targets, **options, **more)
        there = {name: cupy.asarray(value) if name == "mask" else value for name, value in more.items()}
        got = loss(cupy.asarray(o), cupy.asarray(targets), **options, **there)
        for a, b in zip(got, want, strict=True):
            assert type(a) is cupy.ndarray
            np.testing.assert_allclose(on_host(a), b, rtol=1e-5, atol=1e-6)
        assert loss(cupy.asarray(o), cupy.asarray(targets), gradient=False, **options)[1] is None
    for function in (nn.softmax, nn.log_softmax, nn.sigmoid):
        np.testing.assert_allclose(on_host(function(cupy.asarray(o))), function(o), rtol=1e-5, atol=1e-6)


def test_nothing_waits_with_symbols_of_the_host(cupy):
    """From embedding to the optimiser's step, no copy to the host."""
    model, x, t = language_model().to("cuda"), symbols(T, B), symbols(T, B, seed=1)
    optimizer = nn.Adam(model)
    step(model, optimizer, x, t)
    with watch() as calls:
        step(model, optimizer, x, t)
    assert not [call for call in calls if call.kind == "to host"]


def test_bad_symbols_are_named_there_too(cupy):
    model = language_model().to("cuda")
    x, o = symbols(T, B), cupy.asarray(numbers(T, B, V))
    x[2, 1] = V
    for given in (x, cupy.asarray(x)):
        with pytest.raises(ValueError, match=r"x must lie in 0..6 \(count - 1\), got x\[2, 1\] = 7"):
            model.embedding(given)
        with pytest.raises(ValueError, match=r"targets must lie in 0..6 \(V - 1\), got targets\[2, 1\] = 7"):
            nn.softmax_cross_entropy(o, given)
    with pytest.raises(TypeError, match="x is a NumPy array"):
        model.output(numbers(T, H))
    with pytest.raises(TypeError, match="targets is a NumPy array"):
        nn.mean_squared_error(o, numbers(T, B, V))
    with pytest.raises(TypeError, match="x is a CuPy array"):
        nn.Linear(H, V)(cupy.asarray(numbers(T, H)))


def test_moving_saving_and_copies(cupy, tmp_path):
    pytest.importorskip("safetensors")
    model = language_model().to("cuda")
    _, tape = model.output.forward(cupy.asarray(numbers(T, H)))
    model.output.to("cpu")
    with pytest.raises(ValueError, match="tape must be of a forward"):
        model.output.backward(tape, numbers(T, V))
    model.to("cuda")
    nn.save(tmp_path / "f", model)
    again, twin = nn.load(tmp_path / "f", device="cuda"), copy.deepcopy(model)
    for name, array in model.params.items():
        assert type(again.params[name]) is cupy.ndarray
        assert on_host(again.params[name]).tobytes() == on_host(array).tobytes() == on_host(twin.params[name]).tobytes()


def test_flow_and_windows(cupy):
    here = fastrnn.LSTM(E, H, seed=0)
    there = copy.deepcopy(here).to("cuda")
    x, dy = numbers(T, B, E), numbers(T, B, H, seed=1)
    want = nn.gradient_flow(here, x, dy, lengths=LENGTHS)
    got = nn.gradient_flow(there, cupy.asarray(x), cupy.asarray(dy), lengths=LENGTHS)
    np.testing.assert_allclose(got.terms, want.terms, rtol=1e-4)
    for name in ("h", "c"):
        np.testing.assert_allclose(got.states[name], want.states[name], rtol=1e-4, atol=1e-6)
    near, far = nn.jacobian_flow(here, x[:, 0]), nn.jacobian_flow(there, cupy.asarray(x[:, 0]))
    np.testing.assert_allclose(far.log10_norms, near.log10_norms, atol=1e-4)
    far = cupy.asarray(x)
    pieces = list(nn.truncated_bptt(there, far, lambda y, s: nn.mean_squared_error(y, 0 * y), 3))
    host = list(nn.truncated_bptt(here, x, lambda y, s: nn.mean_squared_error(y, 0 * y), 3))
    for a, b in zip(pieces, host, strict=True):
        np.testing.assert_allclose(on_host(a.grads.flat), b.grads.flat, rtol=1e-4, atol=1e-6)
