"""Attention: against its definition, finite differences, lengths, step by step; what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from fastrnn import nn
from fastrnn.nn.attention import SCORES
from tests.nn.finite_differences import check

U, T, B, Q, M = 3, 4, 5, 6, 6
LENGTHS = [4, 2, 0, 1, 3]


def made(score, dtype="float64"):
    rng = np.random.default_rng(0)
    attention = nn.Attention(Q, M, score, dtype=dtype, seed=1)
    attention.flat_params[...] *= 2
    queries, memory = rng.standard_normal((U, B, Q)), rng.standard_normal((T, B, M))
    return attention, queries.astype(dtype), memory.astype(dtype)


def by_definition(attention, queries, memory, lengths):
    """Contexts and weights, one row, query and step at a time."""
    p = attention.params
    contexts, weights = np.zeros((U, B, M)), np.zeros((U, B, T))
    for u, b in np.ndindex(U, B):
        q, scores = queries[u, b], []
        for m in memory[: lengths[b], b]:
            if attention.score == "dot":
                scores.append(q @ m)
            elif attention.score == "general":
                scores.append(q @ p["weight"] @ m)
            else:
                scores.append(p["weight_score"] @ np.tanh(p["weight_query"] @ q + p["weight_memory"] @ m))
        if scores:
            a = np.exp(scores) / np.exp(scores).sum()
            weights[u, b, : len(a)] = a
            contexts[u, b] = a @ memory[: len(a), b]
    return contexts, weights


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("lengths", [LENGTHS, None])
def test_it_is_what_its_definition_says(score, lengths):
    attention, queries, memory = made(score)
    contexts, weights = by_definition(attention, queries, memory, lengths or [T] * B)
    np.testing.assert_allclose(attention(queries, memory, lengths), contexts, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(attention.weights(queries, memory, lengths), weights, rtol=1e-12, atol=1e-14)
    assert np.array_equal(attention(queries, memory, lengths), attention.forward(queries, memory, lengths)[0])


@pytest.mark.parametrize("score", SCORES)
def test_gradients(score):
    attention, queries, memory = made(score)
    weight = np.random.default_rng(2).standard_normal((U, B, M))

    def loss():
        return float((attention(queries, memory, LENGTHS) * weight).sum())

    _, tape = attention.forward(queries, memory, LENGTHS)
    grads = attention.backward(tape, weight, keep_tape=True)
    check(loss, queries, grads.x, "queries")
    check(loss, memory, grads.memory, "memory")
    for name, array in attention.params.items():
        check(loss, array, grads.params[name], name)
    beyond = np.arange(T)[:, None] >= np.array(LENGTHS)
    assert not grads.memory[beyond].any()
    twice = attention.backward(tape, weight, out=attention.backward(tape, weight, keep_tape=True))
    for got, once in ((twice.flat, grads.flat), (twice.x, grads.x), (twice.memory, grads.memory)):
        np.testing.assert_allclose(got, 2 * once, rtol=1e-14)
    assert tape.consumed


@pytest.mark.parametrize("score", SCORES)
def test_steps_of_a_prepared_memory_are_those_of_one_call(score):
    attention, queries, memory = made(score, "float32")
    prepared = attention.prepare(memory, LENGTHS)
    whole = attention(queries, memory, LENGTHS)
    for u in range(U):
        np.testing.assert_allclose(attention(queries[u : u + 1], prepared)[0], whole[u], rtol=1e-5, atol=1e-6)
    rows = np.array([4, 0, 1])
    few = attention(queries[:, rows], prepared.take(rows))
    np.testing.assert_allclose(few, whole[:, rows], rtol=1e-5, atol=1e-6)
    assert whole.dtype == np.float32


@pytest.mark.parametrize("score", SCORES)
def test_large_scores_and_a_memory_without_steps(score):
    attention, queries, memory = made(score)
    if score != "additive":  # whose scores are bounded
        contexts = attention(1e4 * queries, memory, LENGTHS)
        best = attention.weights(queries, memory, LENGTHS).argmax(axis=-1)
        for u, b in np.ndindex(U, B):
            if LENGTHS[b]:
                np.testing.assert_allclose(contexts[u, b], memory[best[u, b], b])
    contexts, tape = attention.forward(queries, memory[:0])
    assert contexts.shape == (U, B, M) and not contexts.any()
    assert attention.backward(tape, contexts).memory.shape == (0, B, M)


def test_nan_stays_in_its_row():
    attention, queries, memory = made("general")
    clean = attention(queries, memory, LENGTHS)
    memory[0, 1] = np.nan
    contexts = attention(queries, memory, LENGTHS)
    assert np.isnan(contexts[:, 1]).all()
    assert np.array_equal(np.delete(contexts, 1, axis=1), np.delete(clean, 1, axis=1))


def test_what_is_refused():
    attention, queries, memory = made("general")
    with pytest.raises(ValueError, match=r"score must be one of .*, got 'cosine'"):
        nn.Attention(3, 3, "cosine")
    with pytest.raises(ValueError, match=r"'dot' needs query_size equal to memory_size, got 3 and 4"):
        nn.Attention(3, 4, "dot")
    with pytest.raises(ValueError, match=r"attention_size must be None with score='dot'"):
        nn.Attention(3, 3, "dot", attention_size=2)
    with pytest.raises(
        ValueError, match=r"queries must have shape \(U, B, query_size\) = \(U, 5, 6\), got \(3, 4, 6\)"
    ):
        attention(queries[:, 1:], memory)
    with pytest.raises(ValueError, match=r"memory must have shape \(T, B, memory_size\)"):
        attention(queries, memory[0])
    with pytest.raises(TypeError, match=r"memory must have the layer's dtype float64, got float32"):
        attention(queries, memory.astype("float32"))
    with pytest.raises(ValueError, match=r"lengths must lie in 0..4"):
        attention(queries, memory, [5] * B)
    with pytest.raises(ValueError, match=r"lengths must be None with a prepared memory"):
        attention(queries, attention.prepare(memory), LENGTHS)


def test_gradients_without_a_memory_are_not_added_to():
    part = nn.Attention(3, 4, seed=0)
    queries, memory = np.ones((2, 1, 3), np.float32), np.ones((5, 1, 4), np.float32)
    contexts, tape = part.forward(queries, memory)
    total = part.backward(tape, contexts, keep_tape=True)
    total.memory, before = None, total.flat.copy()
    with pytest.raises(ValueError, match=r"out.memory must have shape \(5, 1, 4\), got None"):
        part.backward(tape, contexts, out=total)
    assert np.array_equal(total.flat, before) and not tape.consumed
