"""Inference with an encoder-decoder: what it says is fed back to it, until it says <eos>."""

from __future__ import annotations

import copy
import math
import sys
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from fastrnn import checks
from fastrnn.nn.arguments import number
from fastrnn.nn.losses import log_softmax
from fastrnn.nn.seq2seq import Run, Seq2Seq

__all__ = ["Decoded", "beam_search", "greedy_search"]


# Beyond these no memory is large enough, nor any time.
_MOST_BEAM, _MOST_STEPS = 1 << 20, (1 << 31) - 1


class Decoded(NamedTuple):
    """What a search found, on the host.

    tokens : (U, B) int64; ``eos`` from a row's end on
    lengths : (B,) int64; ``eos`` counts, where it was reached
    finished : (B,) bool; whether it was, within max_length
    scores : (B,) float64; Σ log p of the row's symbols, divided as the search says
    """

    tokens: NDArray[np.int64]
    lengths: NDArray[np.int64]
    finished: NDArray[np.bool_]
    scores: NDArray[np.float64]

    def sequences(self) -> list[list[int]]:
        """The rows' symbols, without ``eos``."""
        ends = self.lengths - self.finished
        return [self.tokens[:end, b].tolist() for b, end in enumerate(ends)]


class _Decoding:
    """The decoder, step by step, for ``width`` hypotheses of each row of the source, side by side.

    It works on a frozen copy of the decoder: the weights are packed once, and not in every step.
    """

    def __init__(self, model: Seq2Seq, source: Any, lengths: Any, width: int) -> None:
        self.model, self.width = model, width
        self.decoder = model.decoder if model.decoder.frozen else copy.deepcopy(model.decoder).freeze()
        state, self.memory = model.encode(source, lengths)
        self.state: tuple[NDArray[Any], ...] = state if isinstance(state, tuple) else (state,)
        if width > 1:
            self.choose(np.repeat(np.arange(source.shape[1]), width), None)

    def choose(self, hypotheses: NDArray[np.int64], rows: NDArray[np.int64] | None) -> None:
        """Go on with these hypotheses, in this order, and, if not None, with these rows of the source only."""
        from_host = self.model.place.from_host
        places = from_host(hypotheses)
        self.state = tuple([part[:, places] for part in self.state])
        if rows is not None and self.memory is not None:
            self.memory = self.memory.take(rows)

    def step(self, tokens: NDArray[np.int64]) -> NDArray[Any]:
        """Logits (N, V) after one more symbol of each of N = rows * width hypotheses."""
        model = self.model
        state = self.state if len(self.state) > 1 else self.state[0]
        h, after = self.decoder(model.target_embedding(tokens)[None], state)
        self.state = after if isinstance(after, tuple) else (after,)
        if self.memory is not None:  # a row's hypotheses are to attention what steps are in training
            h = h.reshape(-1, self.width, h.shape[-1]).transpose(1, 0, 2)
        features = model.features(Run(model), h, self.memory)
        if self.memory is not None:
            features = features.transpose(1, 0, 2)
        return cast(NDArray[Any], model.output(features.reshape(-1, features.shape[-1])))


def greedy_search(model: Seq2Seq, source: Any, source_lengths: Any = None, *, max_length: int = 100) -> Decoded:
    """The likeliest symbol at each step.

    Rows that have said ``eos`` leave the batch and cost nothing more.

    Parameters
    ----------
    source : (T, B) integers; source_lengths : (B,), default all T
    max_length : int >= 1
        Steps after which a row is cut off.

    ``scores`` are Σ log p. Raises as ``model.forward`` does.
    """
    max_length = checks.integer("max_length", max_length, 1, _MOST_STEPS)
    source, source_lengths = _model(model).check_source(source, source_lengths)
    place, B = model.place, source.shape[1]
    said: list[NDArray[np.int64]] = []  # not (max_length, B) of them: most searches end long before
    lengths, finished, scores = np.full(B, max_length), np.zeros(B, np.bool_), np.zeros(B)
    with place.current():
        decoding = _Decoding(model, source, source_lengths, 1)
        rows, tokens = np.arange(B), np.full(B, model.bos)
        for step in range(max_length):
            if not len(rows):
                break
            logits = decoding.step(tokens)
            scores[rows] += place.to_host(_largest_log_probability(place, logits))
            tokens = place.to_host(logits.argmax(axis=1))
            said.append(np.full(B, model.eos))
            said[-1][rows] = tokens
            ends = tokens == model.eos
            if ends.any():
                lengths[rows[ends]], finished[rows[ends]] = step + 1, True
                on = np.flatnonzero(~ends)
                rows, tokens = rows[on], tokens[on]
                decoding.choose(on, on)
    return Decoded(np.stack(said) if said else np.zeros((0, B), np.int64), lengths, finished, scores)


def _largest_log_probability(place: Any, logits: NDArray[Any]) -> NDArray[Any]:
    """log softmax(logits) at the largest entry of each row."""
    arrays = place.arrays
    return cast(NDArray[Any], -arrays.log(arrays.exp(logits - logits.max(axis=1, keepdims=True)).sum(axis=1)))


def beam_search(
    model: Seq2Seq,
    source: Any,
    source_lengths: Any = None,
    *,
    beam: int = 5,
    max_length: int = 100,
    length_penalty: float = 1.0,
) -> Decoded:
    """The best sequence among the ``beam`` likeliest beginnings that are kept at each step.

        score = Σ log p / length ** length_penalty

    A hypothesis that says ``eos`` is finished, and the row's beam is one narrower from there on (Sutskever, Vinyals
    and Le, 2014). A row is done when its beam is used up, or when nothing that it may still find can score better
    than what it has; it then leaves the batch and costs nothing more. With ``beam=1`` this is ``greedy_search``.

    Parameters
    ----------
    source : (T, B) integers; source_lengths : (B,), default all T
    beam : int >= 1
    max_length : int >= 1
        Steps after which a search is cut off; a row in which nothing has finished then gets its likeliest beginning.
    length_penalty : float >= 0
        0 prefers short sequences, 1 compares the mean log p of a symbol.

    Raises as ``model.forward`` does.
    """
    beam = checks.integer("beam", beam, 1, _MOST_BEAM)
    max_length = checks.integer("max_length", max_length, 1, _MOST_STEPS)
    penalty = _penalty(length_penalty, max_length)
    source, source_lengths = _model(model).check_source(source, source_lengths)
    with model.place.current():
        search = _Beam(_Decoding(model, source, source_lengths, beam), source.shape[1], max_length, penalty)
        for _ in range(max_length):
            if not len(search.rows):
                break
            search.step()
    return search.result()


def _model(value: Any) -> Seq2Seq:
    if not isinstance(value, Seq2Seq):
        raise TypeError(f"model must be a Seq2Seq, got {type(value).__name__}")
    return value


def _penalty(value: Any, max_length: int) -> float:
    found = number("length_penalty", value, 0)
    if found * math.log(max_length) > math.log(sys.float_info.max):
        raise ValueError(
            f"length_penalty must be so small that {max_length} ** length_penalty is finite, got {value!r}"
        )
    return found


class _Beam:
    """A beam search under way. n rows are not done; k is the width of the beam.

    rows : (n,) which rows of the batch
    live : (n, k) Σ log p of the hypotheses, likeliest first; -inf where there is none
    said : (steps, n, k) their symbols
    slots : (n,) how many hypotheses a row may still keep: k less those that have finished
    """

    def __init__(self, decoding: _Decoding, B: int, max_length: int, penalty: float) -> None:
        self.decoding, self.max_length, self.penalty = decoding, max_length, penalty
        self.eos, k = decoding.model.eos, decoding.width
        self.rows, self.slots = np.arange(B), np.full(B, k)
        self.live = np.full((B, k), -np.inf)
        self.live[:, 0] = 0  # all hypotheses are the same as yet: one of them
        self.said = np.empty((0, B, k), np.int64)
        self.latest = np.full((B, k), decoding.model.bos)
        self.tokens = np.full((0, B), self.eos)  # of the best so far
        self.lengths, self.finished = np.zeros(B, np.int64), np.zeros(B, np.bool_)
        self.scores = np.full(B, -np.inf)

    def step(self) -> None:
        """One more symbol for every hypothesis; done rows leave."""
        values, parents, tokens = self._likeliest()
        k = values.shape[1]
        usable = (np.arange(k) < self.slots[:, None]) & (values > -np.inf)
        ends = usable & (tokens == self.eos)
        n = np.arange(len(values))[:, None]
        self.said = np.concatenate((self.said[:, n, parents], tokens[None]))
        for rank in range(k):
            self._offer(ends[:, rank], values[:, rank], rank)
        self.slots = self.slots - ends.sum(axis=1)
        self.live = np.where(usable & ~ends, values, -np.inf)
        if len(self.said) == self.max_length:
            nothing = ~self.finished[self.rows] & (self.live.max(axis=1) > -np.inf)
            self._offer(nothing, self.live.max(axis=1), self.live.argmax(axis=1))
            self.finished[self.rows[nothing]] = False
        # Σ log p only falls, and is divided by no more than the greatest length's power.
        reachable = self.live.max(axis=1) / self.max_length**self.penalty
        self._go_on(np.flatnonzero(reachable > self.scores[self.rows]), parents, tokens)

    def _likeliest(self) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
        """Of each row's continuations the k likeliest, in order: Σ log p, which hypothesis it continues, its symbol."""
        logits = self.decoding.model.place.to_host(self.decoding.step(self.latest.reshape(-1)))
        n, k = self.live.shape
        total = (self.live.reshape(-1, 1) + log_softmax(logits.astype(np.float64))).reshape(n, -1)
        places = np.argpartition(-total, k - 1, axis=1)[:, :k] if k > 1 else total.argmax(axis=1)[:, None]
        values = np.take_along_axis(total, places, axis=1)
        order = np.argsort(-values, axis=1, kind="stable")
        places = np.take_along_axis(places, order, axis=1)
        return np.take_along_axis(values, order, axis=1), *np.divmod(places, logits.shape[1])

    def _offer(self, chosen: NDArray[np.bool_], values: NDArray[np.float64], rank: Any) -> None:
        """Take hypothesis ``rank`` of the chosen rows, where it beats what the row has."""
        scores = values / len(self.said) ** self.penalty
        n = np.flatnonzero(chosen & (scores > self.scores[self.rows]))
        rows, length = self.rows[n], len(self.said)
        if not len(rows):
            return
        self.scores[rows], self.lengths[rows], self.finished[rows] = scores[n], length, True
        if length > len(self.tokens):
            more = np.full((length - len(self.tokens), self.tokens.shape[1]), self.eos)
            self.tokens = np.concatenate((self.tokens, more))
        self.tokens[:length, rows] = self.said[:, n, np.broadcast_to(rank, chosen.shape)[n]]
        self.tokens[length:, rows] = self.eos

    def _go_on(self, on: NDArray[np.int64], parents: NDArray[np.int64], tokens: NDArray[np.int64]) -> None:
        """With these of the rows alone."""
        all_rows, k = len(on) == len(self.rows), parents.shape[1]
        self.decoding.choose((on[:, None] * k + parents[on]).reshape(-1), None if all_rows else on)
        self.rows, self.slots, self.live = self.rows[on], self.slots[on], self.live[on]
        self.said, self.latest = self.said[:, on], tokens[on]

    def result(self) -> Decoded:
        """The best of every row."""
        longest = int(self.lengths.max(initial=0))
        return Decoded(self.tokens[:longest], self.lengths, self.finished, self.scores)
