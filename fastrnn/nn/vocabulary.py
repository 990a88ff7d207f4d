"""Symbols and their numbers: what turns sequences of letters, phonemes or words into ragged batches of indices."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from fastrnn import checks
from fastrnn.nn.arguments import indices, place_of_array
from fastrnn.places import HOST

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
        found = super().__new__(cls, _each("symbols", symbols))
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
        symbols: set[str] = set()
        for sequence in _each("sequences", sequences):
            for symbol in _each("sequences", sequence):
                if not isinstance(symbol, str):
                    raise TypeError(f"sequences must be of strings, got {symbol!r} in one")
                symbols.add(symbol)
        return cls([BOS, EOS, *sorted(symbols)] if checks.flag("ends", ends) else sorted(symbols))

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
        symbols = list(_each("sequence", sequence))
        try:
            found = [self._numbers.get(symbol, -1) for symbol in symbols]
        except TypeError:  # what has no hash
            raise TypeError(f"sequence must be of strings, got {symbols!r}") from None
        if -1 in found:
            place = found.index(-1)
            raise ValueError(f"symbol {symbols[place]!r} at position {place} is not in the vocabulary")
        return np.array(found, dtype=np.int64)

    def decode(self, numbers: Iterable[Any]) -> list[str]:
        """The symbols of numbers, up to ``<eos>`` where there is one.

        Raises TypeError for other than integers, ValueError that names the first one that no symbol has.
        """
        symbols = [self[number] for number in _numbers(numbers, len(self))]
        return symbols[: symbols.index(EOS)] if EOS in symbols else symbols

    def batch(self, sequences: Sequence[Iterable[str]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Sequences as (T, B) numbers, 0 past a row's length, and the (B,) lengths.

        A vocabulary with ``<eos>`` ends every row with it, and counts it.
        """
        end = [self.eos] if EOS in self._numbers else []
        rows = [np.append(self.encode(s), np.array(end, np.int64)) for s in _each("sequences", sequences)]
        lengths = np.array([len(row) for row in rows], np.int64)
        found = np.zeros((int(lengths.max(initial=0)), len(rows)), np.int64)
        for b, row in enumerate(rows):
            found[: len(row), b] = row
        return found, lengths

    def __repr__(self) -> str:
        return f"<Vocabulary of {len(self)} symbols>"


def _each(name: str, value: Any) -> Iterator[Any]:
    """An iterator over value, or a TypeError that names the argument."""
    try:
        return iter(value)
    except TypeError:
        raise TypeError(f"{name} must be a sequence, got {type(value).__name__}") from None


def _numbers(value: Any, count: int) -> list[int]:
    """Integers in 0..count-1."""
    place = place_of_array(value)
    if place is not HOST:
        value = place.to_host(value)
    if isinstance(value, (np.ndarray, Sequence)):
        found = value
    else:
        found = list(_each("numbers", value))
    if not isinstance(found, np.ndarray):
        try:
            found = np.array(found) if len(found) else np.zeros(0, np.int64)
        except ValueError:  # a ragged list
            raise TypeError("numbers must be integers, got a nested list") from None
    if found.ndim != 1:
        raise ValueError(f"numbers must be one sequence, got shape {found.shape}")
    return cast(list[int], indices("numbers", found, HOST, count, "symbols").tolist())
