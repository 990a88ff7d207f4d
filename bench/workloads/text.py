"""Text for the character model: the English of CPython's own manual pages, which every machine has.

``pydoc_data.topics`` ships with Python (about half a megabyte, a little different by version), so nothing is
downloaded and nobody tunes a benchmark to a file of their own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

__all__ = ["Corpus", "batches", "corpus"]

_HELD_OUT = 0.1


@dataclass(frozen=True)
class Corpus:
    """Characters as numbers. train and held_out: (n,) integers below len(alphabet)."""

    alphabet: str
    train: np.ndarray
    held_out: np.ndarray
    digest: str

    def encode(self, text: str) -> np.ndarray:
        """Numbers of the characters; KeyError-free: a character outside the alphabet is left out."""
        places = {c: i for i, c in enumerate(self.alphabet)}
        return np.array([places[c] for c in text if c in places], dtype=np.int64)

    def decode(self, numbers: np.ndarray) -> str:
        """The inverse of ``encode``."""
        return "".join(self.alphabet[n] for n in numbers)


def corpus() -> Corpus:
    """All topics in the order of their names; the last tenth of the characters is held out."""
    from pydoc_data.topics import topics

    text = "\n\n".join(topics[name].strip() for name in sorted(topics))
    alphabet = "".join(sorted(set(text)))
    places = {c: i for i, c in enumerate(alphabet)}
    numbers = np.array([places[c] for c in text], dtype=np.int64)
    border = int(len(numbers) * (1 - _HELD_OUT))
    return Corpus(alphabet, numbers[:border], numbers[border:], hashlib.sha256(text.encode()).hexdigest()[:16])


def batches(numbers: np.ndarray, B: int, T: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Cut a text into B streams side by side and walk them T characters at a time.

    Yields (inputs, targets), both (T, B), targets one character ahead. Row b of one batch goes on where row b of
    the batch before ended, so that a carried state fits.
    """
    length = (len(numbers) - 1) // B
    inputs = numbers[: B * length].reshape(B, length).T
    targets = numbers[1 : B * length + 1].reshape(B, length).T
    for start in range(0, length - T + 1, T):
        yield inputs[start : start + T], targets[start : start + T]
