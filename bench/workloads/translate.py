"""English to French names of places, languages, scripts and currencies: the package pycountry's locales/fr.

About 14,000 pairs, as characters. Every 20th name in alphabetical order is held out.
"""

from __future__ import annotations

import gettext
from importlib.util import find_spec
from pathlib import Path

from bench.workloads.pairs import HELD_OUT_EVERY, Pairs, Question, needs

__all__ = ["translate_pairs"]


def translate_pairs() -> Pairs:
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
