"""Losses and activations, Linear, Embedding, Attention."""

from __future__ import annotations

import functools

import numpy as np

from fastrnn import nn
from tests.hostile.targets.common import ROWS, B, H, I, Setting, T, V, numbers, target

_ENTRIES = "lengths=lengths mask=flags reduction=option batch_first=option gradient=option"
# Targets of components are floats, integers or booleans.
_INTEGERS_TOO = {"floats": "integers booleans"}


def _entries(s: Setting):
    shape = (B, T) if s.batch_first else (T, B)
    given = {"lengths": np.array([2, 0, T]), "mask": np.arange(T * B).reshape(shape) % 4 > 0}
    return shape, given | {"reduction": "mean", "batch_first": s.batch_first, "gradient": True}


@target("logits=floats targets=integers ignore_index=option label_smoothing=option " + _ENTRIES, exact=False)
def softmax_cross_entropy(s):
    shape, given = _entries(s)
    given |= {"logits": numbers(*shape, V, dtype=s.dtype), "targets": np.arange(T * B).reshape(shape) % V}
    del given["mask"], given["lengths"]  # entries that do not count may hold any target
    return given | {"ignore_index": None, "label_smoothing": 0.1}, nn.softmax_cross_entropy


@target("logits=floats targets=floats " + _ENTRIES, exact=False, accepted=_INTEGERS_TOO)
def sigmoid_cross_entropy(s):
    shape, given = _entries(s)
    targets = np.random.default_rng(1).random((*shape, V)).astype(s.dtype)
    return given | {"logits": numbers(*shape, V, dtype=s.dtype), "targets": targets}, nn.sigmoid_cross_entropy


@target("outputs=floats targets=floats " + _ENTRIES, exact=False, accepted=_INTEGERS_TOO)
def mean_squared_error(s):
    shape, given = _entries(s)
    arrays = {"outputs": numbers(*shape, V, dtype=s.dtype), "targets": numbers(*shape, V, dtype=s.dtype, seed=1)}
    return given | arrays, nn.mean_squared_error


@target("z=floats o=floats", exact=False)
def activations(s):
    def run(z, o):
        return nn.sigmoid(z), nn.softmax(o), nn.log_softmax(o)

    return {"z": numbers(T, V, dtype=s.dtype), "o": numbers(T, B, V, dtype=s.dtype)}, run


def _trained(part, x, dy, **options):
    y, tape = part.forward(x)
    grads = part.backward(tape, dy, **options)
    return part(x), y, grads.x, grads.flat


@target("x=floats dy=floats input_grad=option keep_tape=option", exact=False)
def linear(s):
    part = nn.Linear(I, V, dtype=s.dtype, seed=1)
    given = {"x": numbers(T, B, I, dtype=s.dtype), "dy": numbers(T, B, V, dtype=s.dtype)}
    return given | {"input_grad": True, "keep_tape": False}, functools.partial(_trained, part)


@target("x=integers dy=floats", exact=False, patient=True)
def embedding(s):
    part = nn.Embedding(V, I, dtype=s.dtype, seed=1)
    given = {"x": np.arange(T * B).reshape(T, B) % V, "dy": numbers(T, B, I, dtype=s.dtype)}
    return given, functools.partial(_trained, part)


@target("queries=floats memory=floats lengths=lengths dy=floats", exact=False)
def attention(s):
    part = nn.Attention(I, H, "additive" if s.batch_first else "general", dtype=s.dtype, seed=1)

    def run(queries, memory, lengths, dy):
        y, tape = part.forward(queries, memory, lengths)
        grads = part.backward(tape, dy)
        return y, grads.x, grads.memory, grads.flat

    given = {"queries": numbers(T, B, I, dtype=s.dtype), "memory": numbers(V, B, H, dtype=s.dtype, seed=1)}
    return given | {"lengths": np.array([2, 0, V]), "dy": numbers(T, B, H, dtype=s.dtype, seed=2)}, run


@target("queries=floats memory=floats lengths=lengths", exact=False)
def attention_weights(s):
    part = nn.Attention(I, H, "additive" if s.batch_first else "general", dtype=s.dtype, seed=1)
    given = {"queries": numbers(T, B, I, dtype=s.dtype), "memory": numbers(V, B, H, dtype=s.dtype, seed=1)}
    return given | {"lengths": np.array([2, 0, V])}, part.weights


@target("memory=floats lengths=lengths rows=integers", exact=False, accepted=ROWS)
def attention_memory(s):
    part = nn.Attention(I, H, "additive" if s.batch_first else "general", dtype=s.dtype, seed=1)

    def run(memory, lengths, rows):
        prepared = part.prepare(memory, lengths)
        return part(numbers(T, prepared.values.shape[0], I, dtype=s.dtype), prepared), *prepared.take(rows)

    given = {"memory": numbers(V, B, H, dtype=s.dtype, seed=1), "lengths": np.array([2, 0, V])}
    return given | {"rows": np.array([2, 0])}, run


@target("dy=floats out=gradients tape=option input_grad=option keep_tape=option", exact=False)
def parts_accumulation(s):
    part, x = _part(s)
    dy = numbers(T, B, H, dtype=s.dtype, seed=2)
    _, tape = part.forward(*x)
    given = {"dy": dy, "out": part.backward(tape, dy, keep_tape=True), "tape": tape}

    def run(tape, **arguments):
        # A tape that an earlier call has used up would only be refused for that.
        grads = part.backward(part.forward(*x)[1] if hasattr(tape, "peek") else tape, **arguments)
        return grads.x, getattr(grads, "memory", None), grads.flat

    return given | {"input_grad": True, "keep_tape": False}, run


def _part(s: Setting):
    """Linear, Embedding or Attention, and what it is called with; outputs are (T, B, H)."""
    x = numbers(T, B, I, dtype=s.dtype)
    if s.bidirectional:
        return nn.Attention(I, H, dtype=s.dtype, seed=1), (x, numbers(V, B, H, dtype=s.dtype, seed=1))
    if s.unbatched:
        return nn.Embedding(V, H, dtype=s.dtype, seed=1), (np.arange(T * B).reshape(T, B) % V,)
    return nn.Linear(I, H, dtype=s.dtype, seed=1), (x,)


@target(
    "size=option other=option bias=option score=option attention_size=option dtype=option device=option seed=option",
    also="in_size out_size count query_size memory_size",
)
def part_options(s):
    given = {"size": I, "other": H, "bias": True, "score": "additive", "attention_size": 4, "dtype": s.dtype}

    def run(size, other, bias, score, attention_size, **common):
        if any(type(n) is int and 1 << 12 < n <= 1 << 24 for n in (size, other, attention_size)):
            return ()  # a part as large as memory is no error
        made = (
            nn.Linear(size, other, bias=bias, **common),
            nn.Embedding(size, other, **common),
            nn.Attention(size, other, score, attention_size=attention_size, **common),
        )
        return () if common["seed"] is None else [part.to(common["device"]).flat_params for part in made]

    return given | {"device": "cpu", "seed": 1}, run
