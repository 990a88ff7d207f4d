"""Losses: values by their definition and by PyTorch, gradients by finite differences, masks, extremes, bad input."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fastrnn import nn
from tests.nn.finite_differences import check

T, B, K = 5, 4, 3
LENGTHS = [5, 0, 2, 3]
VALID = np.arange(T)[:, None] < np.array(LENGTHS)


def index_targets(shape, rng):
    return rng.integers(0, K, shape)


def probabilities(shape, rng):
    return rng.uniform(0, 1, (*shape, K))


def values(shape, rng):
    return rng.standard_normal((*shape, K))


LOSSES = {
    "softmax": (nn.softmax_cross_entropy, index_targets),
    "sigmoid": (nn.sigmoid_cross_entropy, probabilities),
    "squared": (nn.mean_squared_error, values),
}
losses = pytest.mark.parametrize("loss, targets", LOSSES.values(), ids=LOSSES)


def by_entry(loss, o, t, smoothing=0.0):
    """The definition, entry by entry, in no hurry: (…)."""
    if loss is nn.mean_squared_error:
        return ((o - t) ** 2).sum(axis=-1)
    if loss is nn.sigmoid_cross_entropy:
        p = 1 / (1 + np.exp(-o))
        return -(t * np.log(p) + (1 - t) * np.log(1 - p)).sum(axis=-1)
    p = np.exp(o) / np.exp(o).sum(axis=-1, keepdims=True)
    q = (1 - smoothing) * np.eye(K)[t] + smoothing / K
    return -(q * np.log(p)).sum(axis=-1)


@losses
def test_reductions_by_their_definition(loss, targets):
    rng = np.random.default_rng(0)
    o, t = rng.standard_normal((T, B, K)), targets((T, B), rng)
    each = by_entry(loss, o, t)
    width = 1 if loss is nn.softmax_cross_entropy else K
    for options, counted in (({}, np.ones((T, B), bool)), ({"lengths": LENGTHS}, VALID), ({"mask": VALID}, VALID)):
        sums = np.where(counted, each, 0).sum()
        want = {"sum": sums, "mean": sums / counted.sum() / width, "batchmean": sums / B}
        for reduction, value in want.items():
            got, d = loss(o, t, reduction=reduction, **options)
            assert isinstance(got, float) and got == pytest.approx(value, rel=1e-12)
            assert d.shape == o.shape and not d[~counted].any()
            assert loss(o, t, reduction=reduction, gradient=False, **options) == (got, None)
        got, d = loss(o, t, reduction="none", **options)
        np.testing.assert_allclose(got, np.where(counted, each, 0), rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(d, loss(o, t, reduction="sum", **options)[1], rtol=1e-14)
    both = loss(o, t, lengths=LENGTHS, mask=rng.random((T, B)) < 2)[0]
    assert both == loss(o, t, lengths=LENGTHS)[0]


@pytest.mark.parametrize("reduction", ["mean", "sum", "batchmean"])
@pytest.mark.parametrize("ragged", [False, True])
@losses
def test_gradients_by_finite_differences(loss, targets, ragged, reduction):
    rng = np.random.default_rng(1)
    o, t = 2 * rng.standard_normal((T, B, K)), targets((T, B), rng)
    options = {"reduction": reduction} | ({"lengths": LENGTHS} if ragged else {})
    if loss is nn.softmax_cross_entropy:
        options |= {"label_smoothing": 0.2, "ignore_index": 1}
    check(lambda: loss(o, t, **options)[0], o, loss(o, t, **options)[1], most=60)


@losses
def test_batch_first_is_the_same_transposed(loss, targets):
    rng = np.random.default_rng(2)
    o, t = rng.standard_normal((T, B, K)), targets((T, B), rng)
    for reduction in ("mean", "sum", "batchmean"):
        want, d = loss(o, t, lengths=LENGTHS, reduction=reduction)
        got, e = loss(o.swapaxes(0, 1), t.swapaxes(0, 1), lengths=LENGTHS, reduction=reduction, batch_first=True)
        assert got == pytest.approx(want, rel=1e-14)
        np.testing.assert_allclose(e.swapaxes(0, 1), d, rtol=1e-14)


@losses
def test_what_does_not_count_may_be_anything(loss, targets):
    """NaN, infinities and targets out of range past the lengths leave no trace; nothing is written either."""
    rng = np.random.default_rng(3)
    o, t = rng.standard_normal((T, B, K)).astype(np.float32), targets((T, B), rng)
    t = t.astype(np.float32) if t.dtype.kind == "f" else t
    want = loss(o, t, lengths=LENGTHS)
    o[~VALID], t[~VALID] = np.nan, 99
    kept = o.copy(), t.copy()
    o.flags.writeable = t.flags.writeable = False
    got = loss(o, t, lengths=LENGTHS)
    assert got[0] == want[0] and got[1].tobytes() == want[1].tobytes() and got[1].dtype == np.float32
    assert o.tobytes() == kept[0].tobytes() and t.tobytes() == kept[1].tobytes()


@losses
def test_nothing_that_counts(loss, targets):
    rng = np.random.default_rng(4)
    o, t = rng.standard_normal((T, B, K)), targets((T, B), rng)
    for options in ({"lengths": [0] * B}, {"mask": np.zeros((T, B), bool)}):
        for reduction in ("mean", "sum", "batchmean"):
            got, d = loss(o, t, reduction=reduction, **options)
            assert got == 0.0 and not d.any()
    for shape in ((0, B), (T, 0), (0,)):
        got, d = loss(np.zeros((*shape, K)), targets(shape, rng))
        assert got == 0.0 and d.shape == (*shape, K)


@losses
def test_nan_stays_nan_in_its_entry(loss, targets):
    rng = np.random.default_rng(5)
    o, t = rng.standard_normal((T, B, K)), targets((T, B), rng)
    o[1, 2, 0] = np.nan
    each, d = loss(o, t, reduction="none")
    assert np.isnan(each[1, 2]) and np.isnan(each).sum() == 1
    assert np.isnan(d[1, 2]).any() and np.isfinite(np.delete(d.reshape(-1, K), 1 * B + 2, axis=0)).all()
    assert math.isnan(loss(o, t)[0])


@pytest.mark.filterwarnings("error")
def test_extremes():
    """Logits of any size: no overflow, no warning, and the digits of small probabilities."""
    o = np.array([[1e4, -1e4, 0.0], [-1e30, 1e30, 0.0], [-np.inf, 0.0, 0.0]], np.float32)
    each, d = nn.softmax_cross_entropy(o, np.array([0, 1, 1]), reduction="none")
    np.testing.assert_allclose(each, [0, 0, math.log(2)], rtol=1e-6)
    np.testing.assert_allclose(d, [[0, 0, 0], [0, 0, 0], [0, -0.5, 0.5]], atol=1e-6)
    each, _ = nn.softmax_cross_entropy(o[:1], np.array([1]), reduction="none")
    assert each[0] == 2e4
    z = np.array([[1e4], [-1e4], [-50.0]], np.float32)
    each, d = nn.sigmoid_cross_entropy(z, np.array([[0], [1], [0]]), reduction="none")
    np.testing.assert_allclose(each, [1e4, 1e4, math.exp(-50)], rtol=1e-6)
    np.testing.assert_allclose(d[:, 0], [1, -1, math.exp(-50)], rtol=1e-6)
    np.testing.assert_allclose(nn.sigmoid(z)[:, 0], [1, 0, math.exp(-50)], rtol=1e-6)
    p = nn.softmax(o)
    np.testing.assert_allclose(p.sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(np.exp(nn.log_softmax(o[:2])), p[:2])
    assert nn.log_softmax(o)[0, 1] == -2e4


def test_losses_are_pytorchs():
    torch = pytest.importorskip("torch")
    F = torch.nn.functional
    rng = np.random.default_rng(6)
    o, t, u = rng.standard_normal((T, B, K)), rng.integers(0, K, (T, B)), rng.uniform(0, 1, (T, B, K))

    def same(ours, theirs, leaf):
        theirs.backward()
        assert ours[0] == pytest.approx(theirs.item(), rel=1e-12)
        np.testing.assert_allclose(ours[1], leaf.grad.numpy(), atol=1e-14)

    for reduction in ("mean", "sum"):
        leaf = torch.from_numpy(o.copy()).requires_grad_()
        options = {"label_smoothing": 0.1, "reduction": reduction, "ignore_index": 2}
        theirs = F.cross_entropy(leaf.flatten(0, 1), torch.from_numpy(t).flatten(), **options)
        same(nn.softmax_cross_entropy(o, t, **options), theirs, leaf)
        for ours, their in (
            (nn.sigmoid_cross_entropy, F.binary_cross_entropy_with_logits),
            (nn.mean_squared_error, F.mse_loss),
        ):
            leaf = torch.from_numpy(o.copy()).requires_grad_()
            same(ours(o, u, reduction=reduction), their(leaf, torch.from_numpy(u), reduction=reduction), leaf)


def test_targets_out_of_range_are_named():
    o = np.zeros((T, B, K), np.float32)
    t = np.zeros((T, B), np.int64)
    t[3, 1] = t[4, 0] = K
    words = r"targets must lie in 0..2 \(V - 1\), got targets\[3, 1\] = 3"
    with pytest.raises(ValueError, match=words):
        nn.softmax_cross_entropy(o, t)
    t[3, 1] = -1
    with pytest.raises(ValueError, match=r"got targets\[3, 1\] = -1"):
        nn.softmax_cross_entropy(o, t, ignore_index=-100)
    assert nn.softmax_cross_entropy(o, t, lengths=[3, 3, 0, 1])[0] == pytest.approx(math.log(3))
    u = np.zeros((T, B, K), np.float32)
    for bad in (1.5, -0.1, np.nan):
        u[2, 2, 1] = bad
        with pytest.raises(ValueError, match=r"targets must lie in 0..1, got targets\[2, 2, 1\] = "):
            nn.sigmoid_cross_entropy(o, u)


def test_bad_input():
    o, t = np.zeros((T, B, K), np.float32), np.zeros((T, B), np.int64)
    loss = nn.softmax_cross_entropy
    for arguments, options, error, words in (
        ((o, t[:2]), {}, ValueError, r"targets must have shape \(5, 4\), that of logits but for V, got \(2, 4\)"),
        ((o, o[..., 0]), {}, TypeError, "targets must be integers, got dtype float32"),
        ((o.astype(int), t), {}, TypeError, "logits must have one of the dtypes"),
        ((o.tolist(), t), {}, TypeError, "logits must be a NumPy or CuPy array, got list"),
        ((o, t), {"lengths": [1, 2]}, ValueError, r"lengths must have shape \(B,\) = \(4,\)"),
        ((o, t), {"lengths": [6, 0, 0, 0]}, ValueError, r"lengths must lie in 0..5 \(T\), got lengths\[0\] = 6"),
        ((o, t), {"mask": np.ones((T, B))}, TypeError, "mask must have dtype bool"),
        ((o, t), {"mask": np.ones(T, bool)}, ValueError, r"mask must have shape \(5, 4\)"),
        ((o[0, 0], t[0, 0]), {"lengths": [1]}, ValueError, r"lengths need entries of shape \(T, B\), got \(\)"),
        ((o, t), {"reduction": "average"}, ValueError, "reduction must be one of"),
        ((o, t), {"label_smoothing": 1.0}, ValueError, "label_smoothing must be a number"),
        (
            (np.zeros((2, 2, 2, K)), np.zeros((2, 2, 2), int)),
            {"reduction": "batchmean"},
            ValueError,
            "'batchmean' needs",
        ),
    ):
        with pytest.raises(error, match=words):
            loss(*arguments, **options)
    for loss in (nn.sigmoid_cross_entropy, nn.mean_squared_error):
        with pytest.raises(ValueError, match="targets must have shape"):
            loss(o, o[:1])
        with pytest.raises(TypeError, match="targets must have the layer's dtype float32, got float64"):
            loss(o, o.astype(np.float64))
