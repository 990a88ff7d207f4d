"""A character language model on fastrnn and NumPy alone: truncated BPTT with a carried state.

e = embedding[c];  h = LSTM(e);  O = h Whq + bq
loss = -Σ_t log softmax(O_t)[c_{t+1}], averaged over the rows of the batch
SGD, the gradient of all parameters together clipped to a norm
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.workloads.runner import Settings, Training, falling
from bench.workloads.text import Corpus, batches, corpus

__all__ = ["WORKLOAD", "CharLM", "Config", "initial_weights"]


@dataclass(frozen=True)
class Config(Settings):
    steps: int = 1200
    T: int = 64
    B: int = 32
    embedding: int = 64
    hidden: int = 256
    rate: float = 1.0
    clip: float = 1.0
    seed: int = 0

    @staticmethod
    def quick() -> Config:
        return Config(steps=100)

    def learning_rate(self, step: int) -> float:
        """Constant for the first half, then falling linearly to a tenth."""
        return self.rate * falling(step, self.steps)


def initial_weights(config: Config, vocabulary: int) -> dict[str, np.ndarray]:
    """The parameters before training, float32, named as PyTorch names those of three modules."""
    rng = np.random.default_rng(config.seed)
    E, H, V = config.embedding, config.hidden, vocabulary

    def uniform(*shape: int) -> np.ndarray:
        return rng.uniform(-1, 1, shape).astype(np.float32) / np.float32(np.sqrt(H))

    return {
        "embedding.weight": rng.standard_normal((V, E)).astype(np.float32),
        "lstm.weight_ih_l0": uniform(4 * H, E),
        "lstm.weight_hh_l0": uniform(4 * H, H),
        "lstm.bias_ih_l0": uniform(4 * H),
        "lstm.bias_hh_l0": uniform(4 * H),
        "output.weight": uniform(H, V).T,
        "output.bias": np.zeros(V, np.float32),
    }


class CharLM:
    """The model and its training loop. ``train`` goes on where the last call stopped."""

    def __init__(self, config: dict[str, Any], threads: int) -> None:
        import fastrnn
        from fastrnn import nn

        fastrnn.set_num_threads(threads)
        self.config = Config(**config)
        self.corpus: Corpus = corpus()
        V, E, H = len(self.corpus.alphabet), self.config.embedding, self.config.hidden
        self.model = nn.Model(embedding=nn.Embedding(V, E), lstm=fastrnn.LSTM(E, H), output=nn.Linear(H, V))
        self.model.load_params(initial_weights(self.config, V))
        self.optimizer = nn.SGD(self.model, self.config.rate)
        self._restart()

    def _restart(self) -> None:
        self._walk = batches(self.corpus.train, self.config.B, self.config.T)
        self._state: Any = None

    def train(self, steps: int) -> dict[str, Any]:
        """Take that many steps: ``{"losses": nats per character of each step, "seconds", "characters"}``."""
        losses, started = [], time.perf_counter()
        for _ in range(steps):
            batch = next(self._walk, None)
            if batch is None:  # the end of the text: begin again with an empty memory
                self._restart()
                batch = next(self._walk)
            losses.append(self._step(*batch))
        seconds = time.perf_counter() - started
        return {"losses": losses, "seconds": seconds, "characters": steps * self.config.T * self.config.B}

    def _step(self, inputs: np.ndarray, targets: np.ndarray) -> float:
        from fastrnn import nn

        model = self.model
        e, tape_e = model.embedding.forward(inputs)
        h, self._state, tape_h = model.lstm.forward(e, self._state)
        O, tape_O = model.output.forward(h)
        loss, dO = nn.softmax_cross_entropy(O, targets, reduction="batchmean")
        of_output = model.output.backward(tape_O, dO)
        of_lstm = model.lstm.backward(tape_h, of_output.x)
        of_embedding = model.embedding.backward(tape_e, of_lstm.x)
        grads = model.gradients(embedding=of_embedding, lstm=of_lstm, output=of_output)
        nn.clip_grad_norm(grads, self.config.clip)
        self.optimizer.rate = self.config.learning_rate(self.optimizer.steps)
        self.optimizer.step(grads)
        return loss / len(inputs)

    def held_out(self) -> float:
        """Nats per character on the held-out text, the state carried through it."""
        from fastrnn import nn

        losses, state, model = [], None, self.model
        for inputs, targets in batches(self.corpus.held_out, self.config.B, self.config.T):
            h, state = model.lstm(model.embedding(inputs), state)
            losses.append(nn.softmax_cross_entropy(model.output(h), targets, gradient=False)[0])
        return float(np.mean(losses))

    def sample(self, length: int = 240, prompt: str = "The ", temperature: float = 0.6) -> str:
        """Text from the model, one character at a time through ``stream()``."""
        from fastrnn import nn

        rng, model = np.random.default_rng(self.config.seed), self.model
        stream = model.lstm.stream()
        written = list(self.corpus.encode(prompt))
        for number in written[:-1]:
            stream(model.embedding(number))
        for _ in range(length):
            h = stream(model.embedding(written[-1]))
            chances = nn.softmax(model.output(h).astype(np.float64) / temperature)
            written.append(int(rng.choice(len(chances), p=chances)))
        return self.corpus.decode(np.array(written))


def _summary(figures: dict[str, Any], config: Config) -> str:
    mine = figures["fastrnn"]
    text = (
        f"{config.steps} steps of {config.B} x {config.T} characters, LSTM({config.embedding}, {config.hidden}): "
        f"held-out loss {mine['before']:.3f} -> {mine['after']:.3f} nats a character "
        f"({mine['after'] / np.log(2):.3f} bits), {mine['characters_per_s']:,.0f} characters a second"
    )
    if "comparison" in figures:
        c = figures["comparison"]
        text += (
            f"; {c['against']}: held-out {figures[c['against']]['after']:.3f} ({c['held_out_difference']:+.2%} apart), "
            f"first {c['losses_compared']} losses within {c['largest_loss_difference']:.1e}, "
            f"{figures[c['against']]['characters_per_s']:,.0f} characters a second (ours {c['speed_ratio']:.2f} times)"
        )
    return text


WORKLOAD = Training(
    name="charlm",
    about="a character language model",
    config=Config,
    implementations={
        "fastrnn": "bench.workloads.charlm:CharLM",
        "torch": "bench.workloads.charlm_torch:CharLMTorch",
    },
    unit="characters",
    summary=_summary,
    effort=30.0,
    always=True,
)
