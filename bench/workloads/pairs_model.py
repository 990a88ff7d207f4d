"""The encoder-decoder of g2p and translate on fastrnn: its training, its answers."""

from __future__ import annotations

import time
from typing import Any

from bench.workloads.pairs import Batch, Pairs, Question, Scores
from bench.workloads.pairs_config import PairsConfig, config_of, load_pairs
from fastrnn import nn

__all__ = ["PairsModel", "build"]

_SHOWN = 20


def build(config: PairsConfig, pairs: Pairs) -> nn.Seq2Seq:
    """The model before training. GRUs are of PyTorch's form, so that the same parameters mean the same there."""
    import fastrnn

    kind, options = (fastrnn.GRU, {"reset_after": True}) if config.cell == "gru" else (fastrnn.LSTM, {})
    layers = {"num_layers": config.layers, "dropout": config.dropout if config.layers > 1 else 0.0, **options}
    both, own = config.bidirectional, 3 * config.seed
    encoder = kind(config.embedding, config.encoder_hidden, bidirectional=both, seed=own, **layers)
    decoder = kind(config.embedding, config.hidden, seed=own + 1, **layers)
    return nn.Seq2Seq(
        encoder,
        decoder,
        pairs.sources,
        pairs.targets,
        attention=config.score,
        dropout=config.dropout,
        seed=own + 2,
    )


class PairsModel:
    """The model and its training loop. ``train`` goes on where the last call stopped."""

    def __init__(self, config: dict[str, Any], threads: int) -> None:
        import fastrnn

        fastrnn.set_num_threads(threads)
        self.config = config_of(config)
        self.pairs = load_pairs(self.config)
        self.model = build(self.config, self.pairs)
        self.optimizer = nn.Adam(self.model, self.config.rate)
        self.batches = self.pairs.batches(self.config.B, self.config.seed)
        self.done = self.seen = 0

    def train(self, steps: int) -> dict[str, Any]:
        """Take that many steps: ``{"losses": nats a symbol of each step, "seconds", "pairs": how many were seen}``."""
        seen, started = self.seen, time.perf_counter()
        losses = nn.fit(self.model, lambda _: self._step(next(self.batches)), steps, keep_every=50)
        return {"losses": losses, "seconds": time.perf_counter() - started, "pairs": self.seen - seen}

    def _step(self, batch: Batch) -> float:
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
        self.seen += batch.source.shape[1]
        return float(loss)

    def held_out(self, beam: int | None = None, every: int | None = None) -> dict[str, float]:
        """Answers to every so many held-out sources, scored: accuracy and error rate of symbols, sources a second.

        Before training every 20th by a greedy search, as nothing is to be seen there; then all, by a beam.
        """
        beam = (self.config.beam if self.done else 1) if beam is None else beam
        scores, seconds = Scores(), 0.0
        for questions, found, took in self._answers(beam, (1 if self.done else 20) if every is None else every):
            seconds += took
            for question, given in zip(questions, found, strict=True):
                scores.add(given, question.answers)
        return {
            "accuracy": scores.accuracy,
            "error_rate": scores.error_rate,
            "asked": scores.asked,
            "beam": beam,
            "answers_per_s": scores.asked / seconds,
        }

    def _answers(self, beam: int, every: int) -> Any:
        """Questions, answers and seconds, by batch."""
        for questions, source, lengths in self.pairs.questions(self.config.B, every):
            started, most = time.perf_counter(), self.config.max_length
            if beam == 1:
                found = nn.greedy_search(self.model, source, lengths, max_length=most)
            else:
                found = nn.beam_search(self.model, source, lengths, beam=beam, max_length=most)
            seconds = time.perf_counter() - started
            yield questions, [self.pairs.targets.decode(numbers) for numbers in found.sequences()], seconds

    def sample(self) -> str:
        """Some held-out sources and what the model makes of them; where it is wrong, what is right."""
        every = max(1, len(self.pairs.held_out) // _SHOWN)
        between = self.config.between
        lines: dict[Question, str] = {}
        for questions, found, _ in self._answers(self.config.beam, every):
            for question, given in zip(questions, found, strict=True):
                right = tuple(given) in question.answers
                wrong = "" if right else f"   (right: {between.join(question.answers[0])})"
                lines[question] = f"{''.join(question.source)}: {between.join(given)}{wrong}"
        return "\n".join(lines[question] for question in self.pairs.held_out[::every])
