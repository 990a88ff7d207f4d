"""Linear and Embedding: values, gradients by finite differences, the protocol, bad input."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

import fastrnn
from fastrnn import nn
from tests.nn.finite_differences import check

RNG = np.random.default_rng


def linear(**options):
    return nn.Linear(5, 3, seed=1, **options)


def embedding(**options):
    return nn.Embedding(6, 4, seed=1, **options)


def problem(part, shape=(4, 2), seed=0):
    """x, and dy for its y."""
    rng = RNG(seed)
    if isinstance(part, nn.Embedding):
        return rng.integers(0, part.count, shape), rng.standard_normal((*shape, part.size)).astype(part.dtype)
    x = rng.standard_normal((*shape, part.in_size)).astype(part.dtype)
    return x, rng.standard_normal((*shape, part.out_size)).astype(part.dtype)


PARTS = {"linear": linear, "linear without bias": lambda **o: linear(bias=False, **o), "embedding": embedding}
parts = pytest.mark.parametrize("make", PARTS.values(), ids=PARTS)


@pytest.mark.parametrize("shape", [(), (4,), (4, 2), (2, 3, 4), (0,), (3, 0)])
@parts
def test_gradients_by_finite_differences(make, shape):
    part = make(dtype="float64")
    x, dy = problem(part, shape)
    y, tape = part.forward(x)
    assert y.shape == dy.shape and np.array_equal(y, part(x))
    grads = part.backward(tape, dy)

    def loss():
        return float((part(x) * dy).sum())

    for name, array in part.params.items():
        check(loss, array, grads.params[name], name)
    if isinstance(part, nn.Embedding):
        assert grads.x is None
    else:
        check(loss, x, grads.x, "x")


def test_linear_is_the_equation():
    part = linear()
    x, _ = problem(part)
    want = x @ part.params["weight"].T + part.params["bias"]
    np.testing.assert_allclose(part(x), want, rtol=1e-6)
    np.testing.assert_array_equal(part(x[::-1, ::2]), part(x[::-1, ::2].copy()))


def test_linear_initial_values_follow_pytorchs_law():
    part = nn.Linear(100, 400, seed=0)
    bound = 0.1
    for array in part.params.values():
        assert np.abs(array).max() <= bound and np.abs(array).max() > 0.95 * bound
        assert abs(array.mean()) < 0.02


def test_embedding_of_repeated_and_absent_symbols():
    """The rows of dy with the same symbol add up in order; others have gradient 0."""
    part = nn.Embedding(50, 3, dtype="float32", seed=0)
    x = np.array([[3, 3, 7], [49, 3, 0]], np.int16)
    dy = RNG(0).standard_normal((2, 3, 3)).astype(np.float32)
    y, tape = part.forward(x)
    np.testing.assert_array_equal(y, part.params["weight"][x])
    got = part.backward(tape, dy).params["weight"]
    want = np.zeros((50, 3), np.float32)
    np.add.at(want, x, dy)
    np.testing.assert_allclose(got, want, rtol=1e-6)
    assert not got[[1, 2, 4, 48]].any()


def test_embedding_gradient_is_repeatable_at_any_size():
    part = nn.Embedding(1000, 16, seed=0)
    x, dy = problem(part, (64, 32))
    first, second = (part.backward(part.forward(x)[1], dy).flat for _ in range(2))
    assert first.tobytes() == second.tobytes()
    want = np.zeros((1000, 16))
    np.add.at(want, x, dy)
    np.testing.assert_allclose(first.reshape(1000, 16), want, atol=1e-5)


@parts
def test_params_are_views_of_the_flat_buffer(make):
    part = make()
    for name, array in part.params.items():
        assert np.shares_memory(array, part.flat_params), name
    part.flat_params[...] = 0
    assert not any(array.any() for array in part.params.values())
    x, dy = problem(part)
    grads = part.backward(part.forward(x)[1], dy)
    assert grads.flat.shape == part.flat_params.shape and grads.flat.dtype == part.dtype
    assert list(grads.params) == list(part.params)
    for array in grads.params.values():
        assert np.shares_memory(array, grads.flat)


@parts
def test_dtypes_are_kept_and_never_cast(make):
    for dtype, other in (("float32", "float64"), ("float64", "float32")):
        part = make(dtype=dtype)
        x, dy = problem(part)
        y, tape = part.forward(x)
        grads = part.backward(tape, dy, keep_tape=True)
        assert y.dtype == grads.flat.dtype == np.dtype(dtype)
        with pytest.raises(TypeError, match=f"dy must have the layer's dtype {dtype}, got {other}"):
            part.backward(tape, dy.astype(other))
        if x.dtype.kind == "f":
            with pytest.raises(TypeError, match=f"x must have the layer's dtype {dtype}, got {other}"):
                part(x.astype(other))
    for dtype in ("float16", "int32"):
        with pytest.raises(ValueError, match="dtype must be one of"):
            make(dtype=dtype)


@parts
def test_tapes(make):
    part, another = make(), make()
    x, dy = problem(part)
    _, tape = part.forward(x)
    first = part.backward(tape, dy, keep_tape=True)
    with pytest.raises(ValueError, match="tape must come from this layer's forward"):
        another.backward(tape, dy)
    with pytest.raises(ValueError, match="dy must have shape"):
        part.backward(tape, dy[:1])
    second = part.backward(tape, dy)
    assert first.flat.tobytes() == second.flat.tobytes()
    with pytest.raises(RuntimeError, match="consumed"):
        part.backward(tape, dy)
    with pytest.raises(TypeError, match="tape must be a Tape"):
        part.backward(None, dy)


@parts
def test_out_accumulates(make):
    part = make(dtype="float64")
    x, dy = problem(part)
    once = part.backward(part.forward(x)[1], dy)
    total = part.backward(part.forward(x)[1], dy)
    assert part.backward(part.forward(x)[1], dy, out=total) is total
    np.testing.assert_allclose(total.flat, 2 * once.flat, rtol=1e-14)
    if once.x is not None:
        np.testing.assert_allclose(total.x, 2 * once.x, rtol=1e-14)
        assert part.backward(part.forward(x)[1], dy, input_grad=False).x is None
        less = part.backward(part.forward(x)[1], dy, input_grad=False)
        with pytest.raises(ValueError, match=r"out\.x must have shape"):
            part.backward(part.forward(x)[1], dy, out=less)
    with pytest.raises(ValueError, match="those of another part"):
        part.backward(part.forward(x)[1], dy, out=_other_gradients())
    with pytest.raises(TypeError, match="out must be the Gradients"):
        part.backward(part.forward(x)[1], dy, out=dy)


def _other_gradients():
    part = nn.Linear(2, 2, dtype="float64")
    x = np.ones((1, 2))
    return part.backward(part.forward(x)[1], x)


@parts
def test_copies_and_pickles_own_their_parameters(make):
    part = make()
    for other in (copy.copy(part), copy.deepcopy(part), pickle.loads(pickle.dumps(part))):
        assert other.flat_params.tobytes() == part.flat_params.tobytes()
        other.flat_params[...] = 7
        assert all((array == 7).all() for array in other.params.values())
        assert not (part.flat_params == 7).any()
        assert other.settings() == part.settings() and repr(other) == repr(part)


@parts
def test_nothing_is_written_to_the_arguments(make):
    part = make()
    x, dy = problem(part)
    kept = x.copy(), dy.copy()
    for array in (x, dy):
        array.flags.writeable = False
    part.backward(part.forward(x)[1], dy)
    np.testing.assert_array_equal(x, kept[0])
    np.testing.assert_array_equal(dy, kept[1])


def test_bad_input_to_linear():
    part = linear()
    with pytest.raises(ValueError, match=r"x must have shape \(…, in_size\) = \(…, 5\), got \(2, 4\)"):
        part(np.zeros((2, 4), np.float32))
    with pytest.raises(TypeError, match="x must be a NumPy array, got list"):
        part([[1.0] * 5])
    for sizes, error in (((0, 3), ValueError), ((3, -1), ValueError), ((3.0, 1), TypeError), ((True, 1), TypeError)):
        with pytest.raises(error, match="_size must be"):
            nn.Linear(*sizes)
    with pytest.raises(ValueError, match="missing bias"):
        part.load_params({"weight": np.zeros((3, 5))})
    with pytest.raises(ValueError, match=r"weight must have shape \(3, 5\), got \(5, 3\)"):
        part.load_params({"weight": np.zeros((5, 3)), "bias": np.zeros(3)})


@pytest.mark.parametrize("bad", [6, -1, 1 << 40])
def test_symbols_out_of_range_are_named(bad):
    x = np.zeros((3, 2), np.int64)
    x[1, 1] = x[2, 0] = bad
    with pytest.raises(ValueError, match=rf"x must lie in 0..5 \(count - 1\), got x\[1, 1\] = {bad}"):
        embedding()(x)
    with pytest.raises(ValueError, match=rf"got x = {bad}"):
        embedding()(np.array(bad))


def test_symbols_are_integers():
    for x in (np.zeros(3), np.zeros(3, bool), np.array(["a"])):
        with pytest.raises(TypeError, match="x must be integers, got dtype"):
            embedding()(x)
    with pytest.raises(TypeError, match="x must be a NumPy array, got list"):
        embedding()([1, 2])


def test_weights_of_pytorch_fit():
    torch = pytest.importorskip("torch")
    rng = RNG(0)
    theirs, ours = torch.nn.Linear(5, 3), nn.Linear(5, 3)
    ours.load_params({name: array.numpy() for name, array in theirs.state_dict().items()})
    x = rng.standard_normal((4, 2, 5)).astype(np.float32)
    np.testing.assert_allclose(ours(x), theirs(torch.from_numpy(x)).detach().numpy(), atol=1e-6)
    theirs, ours = torch.nn.Embedding(6, 4), nn.Embedding(6, 4)
    ours.load_params({name: array.numpy() for name, array in theirs.state_dict().items()})
    x = rng.integers(0, 6, (4, 2))
    np.testing.assert_array_equal(ours(x), theirs(torch.from_numpy(x)).detach().numpy())


def test_a_part_is_no_recurrent_layer():
    """The shared base does not make one pass for the other."""
    with pytest.raises(TypeError, match="layer"):
        fastrnn.explain(linear(), 3, 2)
