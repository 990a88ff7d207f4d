"""Symbols and their numbers: what turns sequences of letters, phonemes or words into ragged batches of indices."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Vocabulary"]

BOS, EOS = "<bos>", "<eos>"


class Vocabulary(tuple[str, ...]):
    """An immutable sequence of distinct symbols; a symbol's number is its place.

    ``Vocabulary(symbols)`` are the symbols as they are. ``Vocabulary.of(sequences, ends=True)`` collects them, sorted,
    behind ``<bos>`` and ``<eos>``, which a model's target side needs.

    Raises TypeError for what is no string, ValueError for a symbol that comes twice.
    """

    _numbers: dict[str, int]

    def __new__(cls, symbols: Iterable[str]) -> Vocabulary:
        found = super().__new__(cls, symbols)
        numbers: dict[str, int] = {}
        for number, symbol in enumerate(found):
            if not isinstance(symbol, str):
                raise TypeError(f"symbols must be strings, got symbols[{number}] = {symbol!r}")
            if symbol in numbers:
                raise ValueError(f"symbols must differ, got {symbol!r} at {numbers[symbol]} and {number}")
            numbers[symbol] = number
        found._numbers = numbers
        return found

    @classmethod
    def of(cls, sequences: Iterable[Iterable[str]], ends: bool = False) -> Vocabulary:
        """All symbols that the sequences have, sorted; with ``ends``, after ``<bos>`` and ``<eos>``."""
        symbols = sorted({symbol for sequence in sequences for symbol in sequence})
        return cls([BOS, EOS, *symbols] if ends else symbols)

    @property
    def bos(self) -> int:
        """The number of ``<bos>``; KeyError without one."""
        return self._numbers[BOS]

    @property
    def eos(self) -> int:
        """The number of ``<eos>``; KeyError without one."""
        return self._numbers[EOS]

    def encode(self, sequence: Iterable[str]) -> NDArray[np.int64]:
        """Numbers of a sequence's symbols. Raises ValueError that names a symbol which is not in the vocabulary."""
        found = [self._numbers.get(symbol, -1) for symbol in sequence]
        if -1 in found:
            place = found.index(-1)
            raise ValueError(f"symbol {list(sequence)[place]!r} at position {place} is not in the vocabulary")
        return np.array(found, dtype=np.int64)

    def decode(self, numbers: Iterable[Any]) -> list[str]:
        """The symbols of numbers, up to ``<eos>`` where there is one."""
        symbols = [self[int(number)] for number in numbers]
        return symbols[: symbols.index(EOS)] if EOS in symbols else symbols

    def batch(self, sequences: Sequence[Iterable[str]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Sequences as (T, B) numbers, 0 past a row's length, and the (B,) lengths.

        A vocabulary with ``<eos>`` ends every row with it, and counts it.
        """
        end = [self.eos] if EOS in self._numbers else []
        rows = [np.append(self.encode(sequence), np.array(end, np.int64)) for sequence in sequences]
        lengths = np.array([len(row) for row in rows], np.int64)
        found = np.zeros((int(lengths.max(initial=0)), len(rows)), np.int64)
        for b, row in enumerate(rows):
            found[: len(row), b] = row
        return found, lengths

    def __repr__(self) -> str:
        return f"<Vocabulary of {len(self)} symbols>"
