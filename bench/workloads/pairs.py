"""Pairs of sequences: the data of the encoder-decoder workloads, in ragged batches, and how answers are scored."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from fastrnn.nn.vocabulary import Vocabulary

__all__ = ["Batch", "Pairs", "Question", "Scores", "edit_distance", "needs"]

_HELD_OUT_EVERY = 20
Symbols = tuple[str, ...]


def needs(package: str, workload: str) -> ModuleNotFoundError:
    """What to raise where a workload's data are not installed."""
    return ModuleNotFoundError(f"the workload {workload} needs the package {package}: pip install {package}")


@dataclass(frozen=True)
class Question:
    """A held-out source and every target that counts as right; the first is the one shown."""

    source: Symbols
    answers: tuple[Symbols, ...]


@dataclass(frozen=True)
class Batch:
    """source (T, B) and target (U, B) numbers, target ending with <eos> at lengths - 1; 0 past the lengths."""

    source: np.ndarray
    source_lengths: np.ndarray
    target: np.ndarray
    target_lengths: np.ndarray


class Ragged:
    """Many sequences of numbers in one array, taken out as (T, B) batches without a loop over rows."""

    def __init__(self, rows: Sequence[np.ndarray]) -> None:
        self.lengths = np.array([len(row) for row in rows], np.int64)
        self.starts = np.cumsum(self.lengths) - self.lengths
        self.numbers = np.concatenate(rows)

    def take(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        lengths = self.lengths[rows]
        steps = np.arange(lengths.max())[:, None]
        valid = steps < lengths
        places = np.where(valid, self.starts[rows] + steps, 0)
        return np.where(valid, self.numbers[places], 0), lengths


@dataclass(frozen=True)
class Pairs:
    """Training pairs and held-out questions over two vocabularies; the targets' has <bos> and <eos>."""

    train: tuple[tuple[Symbols, Symbols], ...]
    held_out: tuple[Question, ...]
    sources: Vocabulary = field(init=False)
    targets: Vocabulary = field(init=False)

    def __post_init__(self) -> None:
        sources = [s for s, _ in self.train] + [q.source for q in self.held_out]
        object.__setattr__(self, "sources", Vocabulary.of(sources))
        object.__setattr__(self, "targets", Vocabulary.of([t for _, t in self.train], ends=True))

    @classmethod
    def split(cls, known: Iterable[tuple[Symbols, Sequence[Symbols]]]) -> Pairs:
        """Of sources and their right answers: every 20th is held out, each answer of the others makes a pair."""
        train, held_out = [], []
        for k, (source, answers) in enumerate(known, 1):
            if k % _HELD_OUT_EVERY:
                train += [(source, answer) for answer in answers]
            else:
                held_out.append(Question(source, tuple(answers)))
        return cls(tuple(train), tuple(held_out))

    def thinned(self, every: int) -> Pairs:
        """Every so many pairs and questions."""
        return Pairs(self.train[::every], self.held_out[::every])

    def batches(self, B: int, seed: int) -> Iterator[Batch]:
        """All training pairs once, in batches of rows of nearly the same lengths, the batches in random order.

        Endless: each epoch draws its batches anew.
        """
        sources = Ragged([self.sources.encode(s) for s, _ in self.train])
        eos = self.targets.eos
        targets = Ragged([np.append(self.targets.encode(t), eos) for _, t in self.train])
        rng = np.random.default_rng(seed)
        while True:
            order = rng.permutation(len(self.train))
            order = order[np.lexsort((targets.lengths[order], sources.lengths[order]))]
            # The border between batches moves, or the same rows would meet in every epoch.
            cuts = np.arange(int(rng.integers(B)), len(order), B)
            pieces = [piece for piece in np.split(order, cuts) if len(piece)]
            for k in rng.permutation(len(pieces)):
                yield Batch(*sources.take(pieces[k]), *targets.take(pieces[k]))

    def questions(self, B: int, every: int = 1) -> Iterator[tuple[list[Question], np.ndarray, np.ndarray]]:
        """Every so many held-out sources in batches, longest first: the questions, (T, B) numbers, (B,) lengths."""
        ordered = sorted(self.held_out[::every], key=lambda question: -len(question.source))
        for start in range(0, len(ordered), B):
            chosen = ordered[start : start + B]
            yield chosen, *self.sources.batch([question.source for question in chosen])


def edit_distance(a: Sequence[str], b: Sequence[str]) -> int:
    """Fewest insertions, deletions and substitutions that make b of a (Levenshtein)."""
    row = list(range(len(b) + 1))
    for i, left in enumerate(a, 1):
        corner, row[0] = row[0], i
        for j, right in enumerate(b, 1):
            corner, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, corner + (left != right))
    return row[-1]


@dataclass
class Scores:
    """Exact answers and symbol errors (to the nearest right answer, per symbol of it), counted as they come."""

    asked: int = 0
    exact: int = 0
    errors: int = 0
    symbols: int = 0

    def add(self, given: Sequence[str], answers: Sequence[Sequence[str]]) -> None:
        distances = [edit_distance(given, answer) for answer in answers]
        nearest = int(np.argmin(distances))
        self.asked += 1
        self.exact += distances[nearest] == 0
        self.errors += distances[nearest]
        self.symbols += len(answers[nearest])

    @property
    def accuracy(self) -> float:
        return self.exact / max(1, self.asked)

    @property
    def error_rate(self) -> float:
        return self.errors / max(1, self.symbols)
