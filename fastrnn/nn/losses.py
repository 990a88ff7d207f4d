"""Losses and their gradients, with respect to what the model puts out.

Each takes arrays with the entries of a batch first: (T, B, ·) with what layers give, (B, T, ·) with
``batch_first=True``, (N, ·), or any other. Which entries count: with ``lengths`` (B,), those before a row's length;
with ``mask``, booleans shaped as the entries, those where it is True. What lies in the others does not matter, NaN
included, and their gradient is 0. How they become one number, with ``reduction``:

    "mean"       the mean over what counts (over every component, where an entry has several; 0 if nothing counts)
    "sum"        the sum
    "batchmean"  summed over time, averaged over the rows of the batch: the sum / B
    "none"       none: the losses by entry, and for each the gradient of its own

All return (loss, gradient): loss a float on the host (summed in float64), on a GPU an array without axes, so that
nothing waits; gradient shaped as the first argument and in its dtype, or None with ``gradient=False``, which saves
the work. Nothing is written to the arguments. They raise TypeError for arrays of another place or dtype, ValueError
for shapes and options that do not fit, and for targets out of range, naming the first one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastrnn import checks
from fastrnn.nn.arguments import floats, indices, within
from fastrnn.nn.entries import Entries
from fastrnn.places import HOST, Kind, Place, is_cupy

__all__ = [
    "log_softmax",
    "mean_squared_error",
    "sigmoid",
    "sigmoid_cross_entropy",
    "softmax",
    "softmax_cross_entropy",
]


def softmax_cross_entropy(
    logits: Any,
    targets: Any,
    *,
    lengths: Any = None,
    mask: Any = None,
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    batch_first: bool = False,
    gradient: bool = True,
) -> tuple[Any, NDArray[Any] | None]:
    """-log softmax(o)[t] of logits o (…, V) and targets t (…), integers in 0..V-1.

        loss = -Σ_k q_k log p_k,  p = softmax(o),  q = (1 - ε) onehot(t) + ε / V;    d loss / d o = p - q

    Parameters
    ----------
    logits : array (…, V), float32 or float64
    targets : array (…) of integers
        On a GPU they may lie on the host: their range is then checked without waiting for the GPU.
    lengths, mask, reduction, batch_first, gradient
        As in the module's text.
    ignore_index : int, optional
        Targets of this value do not count; it may lie outside 0..V-1.
    label_smoothing : float, 0 <= ε < 1
    """
    logits, place = _scores("logits", logits)
    ε = checks.fraction("label_smoothing", label_smoothing)
    *shape, V = logits.shape
    with place.current():
        entries = Entries(tuple(shape), place, mask, lengths, batch_first)
        t = _index_targets(targets, entries, V, ignore_index)
        losses, d = _softmax_rows(entries.pick(logits), entries.pick(t), ε, place, checks.flag("gradient", gradient))
        return entries.reduce(losses, d, reduction, 1)


def _scores(name: str, value: Any) -> tuple[NDArray[Any], Place]:
    """A float array (…, V), V at least 1, and where it lies."""
    found, place = floats(name, value)
    if found.ndim < 1 or not found.shape[-1]:
        raise ValueError(f"{name} must have shape (…, V), got {found.shape}")
    return found, place


def _index_targets(targets: Any, entries: Entries, V: int, ignore_index: int | None) -> NDArray[Any]:
    found = (entries.place if is_cupy(targets) else HOST).own("targets", targets)
    if found.shape != entries.shape:
        raise ValueError(f"targets must have shape {entries.shape}, that of logits but for V, got {found.shape}")
    if ignore_index is not None:
        entries.leave_out(found, checks.integer("ignore_index", ignore_index, -(1 << 62), 1 << 62))
    return indices("targets", found, entries.place, V, "V", entries.valid, entries.known)


def _softmax_rows(o: Any, t: Any, ε: float, place: Place, gradient: bool) -> tuple[Any, Any]:
    """Losses (n,) and softmax minus target distribution (n, V) of rows."""
    n, V = o.shape
    arrays = place.arrays
    rows = arrays.arange(n)
    with np.errstate(invalid="ignore"):  # infinite logits
        p = o - o.max(axis=1, keepdims=True) if n else o.copy()
        at_target = p[rows, t]
        if ε:
            at_target = (1 - ε) * at_target + (ε / V) * p.sum(axis=1)
        arrays.exp(p, out=p)
        total = p.sum(axis=1)
        losses = arrays.log(total) - at_target
        if not gradient:
            return losses, None
        p /= total[:, None]
    if ε:
        p -= ε / V
    p[rows, t] -= 1 - ε
    return losses, p


def sigmoid_cross_entropy(
    logits: Any,
    targets: Any,
    *,
    lengths: Any = None,
    mask: Any = None,
    reduction: str = "mean",
    batch_first: bool = False,
    gradient: bool = True,
) -> tuple[Any, NDArray[Any] | None]:
    """Binary cross-entropy of the sources' output o = σ(V s), from the logits z = V s.

        loss = -t log σ(z) - (1 - t) log(1 - σ(z)) = max(z, 0) - z t + log(1 + exp(-|z|));    d loss / d z = σ(z) - t

    Parameters
    ----------
    logits : array (…, K), float32 or float64
        K outputs that do not exclude each other; (T, B, 1) for one.
    targets : array (…, K), 0 <= t <= 1
        In the logits' dtype, or of integers or booleans. Their range is looked at, for which the host waits for a GPU.
    lengths, mask, reduction, batch_first, gradient
        As in the module's text. An entry's loss is the sum over its K outputs; "mean" divides by K as well.
    """
    entries, z, t, place = _componentwise("logits", logits, targets, mask, lengths, batch_first)
    with place.current():
        within("targets", t, entries.valid, place, 0, 1)
        z, t, arrays = entries.pick(z), entries.pick(t), place.arrays
        losses = arrays.maximum(z, 0) - z * t + arrays.log1p(arrays.exp(-arrays.abs(z)))
        d = sigmoid(z) - t if checks.flag("gradient", gradient) else None
        return entries.reduce(losses.sum(axis=1), d, reduction, z.shape[1])


def mean_squared_error(
    outputs: Any,
    targets: Any,
    *,
    lengths: Any = None,
    mask: Any = None,
    reduction: str = "mean",
    batch_first: bool = False,
    gradient: bool = True,
) -> tuple[Any, NDArray[Any] | None]:
    """loss = Σ_k (y_k - t_k)²;    d loss / d y = 2 (y - t).

    Parameters
    ----------
    outputs, targets : arrays (…, K), both float32 or float64
    lengths, mask, reduction, batch_first, gradient
        As in the module's text. An entry's loss is the sum over its K components; "mean" divides by K as well.
    """
    entries, y, t, place = _componentwise("outputs", outputs, targets, mask, lengths, batch_first)
    with place.current():
        d = entries.pick(y) - entries.pick(t)
        losses = (d * d).sum(axis=1)
        return entries.reduce(losses, 2 * d if checks.flag("gradient", gradient) else None, reduction, d.shape[1])


def _componentwise(
    name: str, outputs: Any, targets: Any, mask: Any, lengths: Any, batch_first: Any
) -> tuple[Entries, Any, Any, Place]:
    """What the losses of several components an entry share: checked arrays of one shape, place and dtype."""
    outputs, place = floats(name, outputs)
    if outputs.ndim < 1:
        raise ValueError(f"{name} must have shape (…, K), got {outputs.shape}")
    targets = place.own("targets", targets)
    with place.current():
        if targets.dtype.kind in "biu":
            targets = targets.astype(outputs.dtype)
        targets = checks.shaped("targets", targets, Kind.of(place, outputs.dtype), outputs.shape, f"that of {name}")
        return Entries(outputs.shape[:-1], place, mask, lengths, batch_first), outputs, targets, place


def sigmoid(z: Any) -> NDArray[Any]:
    """σ(z) = 1 / (1 + exp(-z)), of either place's arrays, without overflow."""
    found, place = floats("z", z)
    with place.current(), np.errstate(over="ignore"):  # 1 / (1 + inf) is 0, as it should be
        e: NDArray[Any] = place.arrays.exp(-found)
        e += 1
        return 1 / e


def softmax(o: Any) -> NDArray[Any]:
    """exp(o) / Σ exp(o) over the last axis, of either place's arrays, without overflow."""
    found, place = _scores("o", o)
    with place.current(), np.errstate(invalid="ignore"):
        p: NDArray[Any] = place.arrays.exp(found - found.max(axis=-1, keepdims=True))
        p /= p.sum(axis=-1, keepdims=True)
        return p


def log_softmax(o: Any) -> NDArray[Any]:
    """o - log Σ exp(o) over the last axis, of either place's arrays, without overflow."""
    found, place = _scores("o", o)
    with place.current(), np.errstate(invalid="ignore"):
        shifted: NDArray[Any] = found - found.max(axis=-1, keepdims=True)
        shifted -= place.arrays.log(place.arrays.exp(shifted).sum(axis=-1, keepdims=True))
        return shifted
