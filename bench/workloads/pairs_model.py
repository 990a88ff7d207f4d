"""The encoder-decoder of g2p and translate on fastrnn: its settings, its training, its answers."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from bench.workloads.g2p import g2p_pairs, without_stress
from bench.workloads.pairs import Pairs, Scores
from bench.workloads.translate import translate_pairs
from fastrnn import nn

__all__ = ["Config", "PairsModel", "load_pairs"]

_DATA: dict[str, Callable[[], Pairs]] = {"g2p": g2p_pairs, "translate": translate_pairs}


@dataclass(frozen=True)
class Config:
    """Sizes and the optimiser's settings; every implementation of the model takes the same."""

    data: str = "g2p"
    thin: int = 1
    """Every so many pairs."""
    steps: int = 12000
    B: int = 256
    cell: str = "gru"
    embedding: int = 64
    hidden: int = 256
    layers: int = 1
    bidirectional: bool = True
    attention: str | None = None
    dropout: float = 0.0
    smoothing: float = 0.0
    rate: float = 2e-3
    final_rate: float = 1e-2
    """Of the rate, at the end."""
    clip: float = 2.0
    beam: int = 5
    max_length: int = 40
    seed: int = 0

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def learning_rate(self, step: int) -> float:
        """A short rise, then half a cosine down."""
        warm = min(1.0, (step + 1) / (0.02 * self.steps + 1))
        cosine = 0.5 * (1 + np.cos(np.pi * step / self.steps))
        return self.rate * warm * (self.final_rate + (1 - self.final_rate) * float(cosine))


def load_pairs(config: Config) -> Pairs:
    """The pairs that a config asks for."""
    pairs = _DATA[config.data]()
    return pairs if config.thin == 1 else pairs.thinned(config.thin)


def build(config: Config, pairs: Pairs) -> nn.Seq2Seq:
    """The model before training. GRUs are of PyTorch's form, so that the same parameters mean the same there."""
    import fastrnn

    kind, options = (fastrnn.GRU, {"reset_after": True}) if config.cell == "gru" else (fastrnn.LSTM, {})
    layers = {"num_layers": config.layers, "dropout": config.dropout if config.layers > 1 else 0.0, **options}
    encoder = kind(config.embedding, config.hidden, bidirectional=config.bidirectional, seed=3 * config.seed, **layers)
    decoder = kind(config.embedding, config.hidden, seed=3 * config.seed + 1, **layers)
    sizes = len(pairs.sources), len(pairs.targets)
    return nn.Seq2Seq(
        encoder,
        decoder,
        *sizes,
        bos=pairs.targets.bos,
        eos=pairs.targets.eos,
        attention=config.attention,
        dropout=config.dropout,
        seed=3 * config.seed + 2,
    )


class PairsModel:
    """The model and its training loop. ``train`` goes on where the last call stopped."""

    def __init__(self, config: dict[str, Any], threads: int) -> None:
        import fastrnn

        fastrnn.set_num_threads(threads)
        self.config = Config(**config)
        self.pairs = load_pairs(self.config)
        self.model = build(self.config, self.pairs)
        self.optimizer = nn.Adam(self.model, self.config.rate)
        self.batches = self.pairs.batches(self.config.B, self.config.seed)
        self.done = 0

    def train(self, steps: int) -> dict[str, Any]:
        """Take that many steps: ``{"losses": nats a symbol of each step, "seconds", "words": pairs seen}``."""
        losses, words, started = [], 0, time.perf_counter()
        for _ in range(steps):
            batch = next(self.batches)
            losses.append(self._step(batch))
            words += batch.source.shape[1]
        return {"losses": losses, "seconds": time.perf_counter() - started, "words": words}

    def _step(self, batch: Any) -> float:
        model, config = self.model, self.config
        sides = batch.source, batch.target, batch.source_lengths, batch.target_lengths
        logits, tape = model.forward(*sides, seed=self.done)
        loss, dlogits = nn.softmax_cross_entropy(
            logits, batch.target, lengths=batch.target_lengths, label_smoothing=config.smoothing
        )
        grads = model.backward(tape, dlogits)
        nn.clip_grad_norm(grads, config.clip)
        self.optimizer.rate = config.learning_rate(self.done)
        self.optimizer.step(grads)
        self.done += 1
        return float(loss)

    def held_out(self, beam: int | None = None, every: int = 1) -> dict[str, Any]:
        """Answers to every so many held-out questions, scored: accuracies and symbol error rates, seconds, words."""
        whole, plain, samples = Scores(), Scores(), []
        beam, seconds = self.config.beam if beam is None else beam, 0.0
        for chosen, source, lengths in self.pairs.questions(self.config.B, every):
            started = time.perf_counter()
            options = {"max_length": self.config.max_length}
            if beam == 1:
                found = nn.greedy_search(self.model, source, lengths, **options)
            else:
                found = nn.beam_search(self.model, source, lengths, beam=beam, **options)
            seconds += time.perf_counter() - started
            for question, numbers in zip(chosen, found.sequences(), strict=True):
                given = self.pairs.targets.decode(numbers)
                whole.add(given, question.answers)
                plain.add(without_stress(given), [without_stress(answer) for answer in question.answers])
                samples.append((question, given))
        samples.sort(key=lambda pair: pair[0].source)
        shown = samples[:: max(1, len(samples) // 20)][:20]
        figures = {"accuracy": whole.accuracy, "error_rate": whole.error_rate, "words": whole.asked}
        if self.config.data == "g2p":
            figures |= {"accuracy_without_stress": plain.accuracy, "error_rate_without_stress": plain.error_rate}
        rows = [
            {"source": q.source, "given": given, "answer": q.answers[0], "right": tuple(given) in q.answers}
            for q, given in shown
        ]
        return {**figures, "seconds": seconds, "beam": beam, "samples": rows}
