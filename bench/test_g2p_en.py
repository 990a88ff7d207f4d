"""g2p_en's pipeline with fastrnn in it: the original's phonemes, one word at a time and in ragged batches."""

from __future__ import annotations

import sys

import pytest

from bench.workloads import g2p_en
from bench.workloads.g2p_en import WORKLOAD, Config


class Quiet:
    """A progress that says nothing."""

    def begin(self, what, effort):
        pass

    advance = say = lambda self, _: None


def test_what_is_missing_is_said(monkeypatch):
    monkeypatch.setattr(g2p_en, "_PACKAGES", ("no_such_package",))
    with pytest.raises(ValueError, match=r"g2p_en needs no_such_package: pip install --no-deps g2p_en==2.1.0"):
        WORKLOAD(1, Quiet())


@pytest.fixture
def there():
    if g2p_en.missing():
        pytest.skip(g2p_en.missing())


def test_the_workload(there):
    figures = WORKLOAD(1, Quiet(), config=Config(words=120, batch=50))
    assert figures["identical"] == {"single": 120, "batch": 120}
    assert figures["fastrnn"]["words_per_s"] > 0 and "words a second" in figures["summary"]
    assert figures["sample"].splitlines()[0] == "a: AA1"
    with pytest.raises(ValueError, match="against"):
        WORKLOAD(1, Quiet(), against="torch")


def test_batches_of_any_size_and_words_of_any_kind(there):
    """Accents and signs are unknown letters; words that never end stop after 20 phonemes."""
    words = ["a", "x" * 60, "naïve", "don't", "pneumonoultramicroscopicsilicovolcanoconiosis"]
    plain, fast = g2p_en.original()(), g2p_en.replaced()()
    want = [plain.predict(word) for word in words]
    assert fast.predict_all(words) == want and [fast.predict_all([word])[0] for word in words] == want
    assert [fast.predict(word) for word in words] == want
    assert max(map(len, want)) == 20


def test_the_stubs_are_gone_afterwards(there):
    before = {name: sys.modules.get(name) for name in ("nltk", "nltk.corpus", "inflect")}
    with g2p_en.stubs():
        assert sys.modules["nltk"] is not before["nltk"]
    assert {name: sys.modules.get(name) for name in before} == before
