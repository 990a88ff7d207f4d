"""Greedy and beam search: against each other, against all sequences there are, and row by row."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import fastrnn
from fastrnn import nn

V, W, BOS, EOS, T, B = 5, 4, 0, 1, 6, 7
LENGTHS = np.array([6, 1, 3, 0, 6, 2, 4])


def made(cell="GRU", attention=None, targets=W, scale=3.0, seed=0, layers=1):
    encoder = getattr(fastrnn, cell)(4, 5, bidirectional=True, dtype="float64", seed=seed)
    decoder = getattr(fastrnn, cell)(4, 10, layers, dtype="float64", seed=seed + 1)
    model = nn.Seq2Seq(encoder, decoder, V, targets, bos=BOS, eos=EOS, attention=attention, seed=seed + 2)
    for array in model.params.values():
        array *= scale  # so that what it says depends on what it reads
    model.output.params["bias"][EOS] += 2.0  # and that it ends, sooner or later
    return model, np.random.default_rng(seed).integers(0, V, (T, B))


def log_p(model, source, length, sequence):
    """Σ log p of a sequence after one row of the source, by teacher forcing; any last symbol."""
    target = np.array([*sequence, EOS])[:, None]
    target = target if sequence[-1] != EOS else target[:-1]
    logits = model(source[:, None], target, [length])
    steps = nn.log_softmax(logits)[:, 0]
    return sum(steps[t, symbol] for t, symbol in enumerate(sequence))


@pytest.mark.parametrize("attention", [None, "dot", "general", "additive"])
@pytest.mark.parametrize("cell", ["GRU", "LSTM"])
def test_a_beam_of_one_is_greedy(cell, attention):
    for seed in range(4):
        model, source = made(cell, attention, targets=9, seed=seed, layers=1 + seed % 2)
        greedy = nn.greedy_search(model, source, LENGTHS, max_length=12)
        beam = nn.beam_search(model, source, LENGTHS, beam=1, max_length=12, length_penalty=0)
        assert np.array_equal(greedy.tokens, beam.tokens)
        assert np.array_equal(greedy.lengths, beam.lengths) and np.array_equal(greedy.finished, beam.finished)
        np.testing.assert_allclose(greedy.scores, beam.scores, rtol=1e-9)


@pytest.mark.parametrize("attention", [None, "general"])
def test_greedy_is_the_likeliest_symbol_after_those_before(attention):
    model, source = made(attention=attention, targets=9)
    found = nn.greedy_search(model, source, LENGTHS, max_length=8)
    assert 0 < found.finished.sum() and found.lengths.max() == len(found.tokens)
    for b, length in enumerate(found.lengths):
        said = found.tokens[:length, b]
        fed = np.concatenate((np.where(said[:-1] <= EOS, 2, said[:-1]), [EOS]))
        if (said[:-1] > EOS).all():  # what teacher forcing takes
            logits = model(source[:, b : b + 1], fed[:, None], LENGTHS[b : b + 1])[:, 0]
            assert np.array_equal(logits.argmax(axis=-1), said)
        assert (found.tokens[length:, b] == EOS).all()
        assert found.finished[b] == (said[-1] == EOS)


@pytest.mark.parametrize("penalty", [0.0, 0.7, 1.5])
@pytest.mark.parametrize("attention", [None, "general"])
def test_a_wide_beam_finds_the_best_of_all_sequences(attention, penalty):
    """Three symbols besides <eos>, at most four steps: all 3 + 9 + 27 beginnings fit the beam."""
    most = 4
    for seed in range(3):
        model, source = made(attention=attention, seed=seed, scale=2.0)
        model.output.params["bias"][BOS] = -1e9  # a target with it inside can't be teacher-forced
        found = nn.beam_search(model, source, LENGTHS, beam=60, max_length=most, length_penalty=penalty)
        for b in range(B):
            best, score = None, -np.inf
            for n in range(most):
                for beginning in itertools.product(range(2, W), repeat=n):
                    sequence = [*beginning, EOS]
                    value = log_p(model, source[:, b], LENGTHS[b], sequence) / len(sequence) ** penalty
                    if value > score:
                        best, score = sequence, value
            assert found.tokens[: found.lengths[b], b].tolist() == best
            assert found.finished[b]
            np.testing.assert_allclose(found.scores[b], score, rtol=1e-9)


def test_a_wider_beam_is_seldom_worse_and_sometimes_better():
    better = worse = 0
    for seed in range(8):
        model, source = made(attention="general", targets=9, scale=2.0, seed=seed)
        narrow, wide = [nn.beam_search(model, source, LENGTHS, beam=k, max_length=8, length_penalty=0) for k in (1, 6)]
        both = narrow.finished & wide.finished
        better += (wide.scores[both] > narrow.scores[both] + 1e-9).sum()
        worse += (wide.scores[both] < narrow.scores[both] - 1e-9).sum()
    assert better > worse


@pytest.mark.parametrize("search", [nn.greedy_search, lambda *a, **k: nn.beam_search(*a, beam=3, **k)])
@pytest.mark.parametrize("attention", [None, "additive"])
def test_a_row_does_not_depend_on_the_others(search, attention):
    model, source = made("LSTM", attention, targets=9)
    whole = search(model, source, LENGTHS, max_length=10)
    for b in range(B):
        alone = search(model, source[:, b : b + 1], LENGTHS[b : b + 1], max_length=10)
        assert alone.sequences() == whole.sequences()[b : b + 1]


def test_finished_rows_leave_the_batch():
    """The decoder is called with as many rows as have not said <eos>."""
    model, source = made(targets=9)
    asked = []

    class Spy(type(model.decoder)):
        def __call__(self, x, state=None, **options):
            asked.append(x.shape[1])
            return super().__call__(x, state, **options)

    model.decoder.__class__ = Spy
    found = nn.greedy_search(model, source, LENGTHS, max_length=12)
    assert asked == [int((found.lengths > step).sum()) for step in range(len(asked))]
    assert asked[-1] < B and not model.decoder.frozen


def test_a_search_cut_off_and_an_empty_batch():
    model, source = made(targets=9)
    model.output.params["bias"][EOS] = -1e9
    for found in (nn.greedy_search(model, source, max_length=3), nn.beam_search(model, source, beam=4, max_length=3)):
        assert found.tokens.shape == (3, B) and not found.finished.any() and (found.lengths == 3).all()
        assert [len(row) for row in found.sequences()] == [3] * B and np.isfinite(found.scores).all()
    for found in (nn.greedy_search(model, source[:, :0]), nn.beam_search(model, source[:, :0])):
        assert found.sequences() == [] and found.tokens.shape == (0, 0)


def test_what_is_refused():
    model, source = made()
    with pytest.raises(ValueError, match="beam must be at least 1, got 0"):
        nn.beam_search(model, source, beam=0)
    with pytest.raises(ValueError, match="max_length must be at least 1"):
        nn.greedy_search(model, source, max_length=0)
    with pytest.raises(ValueError, match="length_penalty must be a number >= 0, got -1"):
        nn.beam_search(model, source, length_penalty=-1)
    with pytest.raises(ValueError, match=r"source must lie in 0..4"):
        nn.greedy_search(model, source + V)
    with pytest.raises(ValueError, match=r"source_lengths must lie in 0..6"):
        nn.beam_search(model, source, LENGTHS + 1)


def test_no_memory_for_steps_that_are_not_taken():
    model, source = made()
    model.output.params["bias"][EOS] = 1e3  # says it at once
    for search in (nn.greedy_search, nn.beam_search):
        found = search(model, source, max_length=1 << 30)
        assert found.finished.all() and found.tokens.shape == (1, B)
    with pytest.raises(ValueError, match=r"length_penalty must be so small that 10 \*\* length_penalty is finite"):
        nn.beam_search(model, source, max_length=10, length_penalty=400)
    with pytest.raises(TypeError, match="model must be a Seq2Seq, got Linear"):
        nn.greedy_search(nn.Linear(2, 2), source)
