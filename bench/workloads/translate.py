"""English to French names of places, languages, scripts and currencies: the package pycountry's locales/fr.

About 14,000 pairs, as characters. Every 20th name in alphabetical order is held out.
"""

from __future__ import annotations

import gettext
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from bench.workloads.pairs import Pairs, needs
from bench.workloads.pairs_config import PairsConfig, workload

__all__ = ["WORKLOAD", "Config"]


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

    def pairs(self) -> Pairs:
        """Names as pairs (English characters, French characters)."""
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
        return Pairs.split(
            (tuple(english), [tuple(name) for name in sorted(french)]) for english, french in sorted(names.items())
        )


WORKLOAD = workload(
    "translate",
    "English to French names of places and languages by characters, with attention (needs pycountry)",
    Config,
)
