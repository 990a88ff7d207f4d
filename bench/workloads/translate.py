"""English to French names of places, languages, scripts and currencies: the package pycountry's locales/fr.

About 14,000 pairs, as characters. Every 20th name in alphabetical order is held out.
"""

from __future__ import annotations

import gettext
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from bench.workloads.pairs import HELD_OUT_EVERY, Pairs, Question, needs
from bench.workloads.pairs_config import BLAS, PairsConfig, summary
from bench.workloads.runner import Training

__all__ = ["WORKLOAD", "Config", "pairs"]


@dataclass(frozen=True)
class Config(PairsConfig):
    data: str = "translate"
    steps: int = 4000
    B: int = 64
    encoder_hidden: int = 128
    attention: str = "general"
    dropout: float = 0.3
    max_length: int = 90

    @staticmethod
    def quick() -> Config:
        return Config(thin=10, steps=200)


def pairs() -> Pairs:
    """Names as pairs (English characters, French characters).

    Raises ModuleNotFoundError that says what to install.
    """
    spec = find_spec("pycountry")
    if spec is None or spec.origin is None:
        raise needs("pycountry", "translate")
    names: dict[str, set[str]] = {}
    for path in sorted((Path(spec.origin).parent / "locales" / "fr" / "LC_MESSAGES").glob("*.mo")):
        with path.open("rb") as file:
            catalog = vars(gettext.GNUTranslations(file))["_catalog"]
        for english, french in catalog.items():
            if english and isinstance(english, str):  # the empty key is the file's header
                names.setdefault(english, set()).add(french)
    train: list[tuple[tuple[str, ...], tuple[str, ...]]] = []
    held_out = []
    for k, (english, french) in enumerate(sorted(names.items()), 1):
        answers = tuple(tuple(name) for name in sorted(french))
        if k % HELD_OUT_EVERY:
            train += [(tuple(english), answer) for answer in answers]
        else:
            held_out.append(Question(tuple(english), answers))
    return Pairs(tuple(train), tuple(held_out))


WORKLOAD = Training(
    name="translate",
    about="English to French names of places and languages by characters, with attention (needs pycountry)",
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
