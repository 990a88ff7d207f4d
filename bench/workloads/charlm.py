"""A character language model on fastrnn and NumPy alone: truncated BPTT with a carried state.

    e = embedding[c];  h = LSTM(e);  O = h Whq + bq
    loss = -Σ_t log softmax(O_t)[c_{t+1}], averaged over the rows of the batch
    SGD, the gradient of all parameters together clipped to a norm

The output layer and the loss are a dozen lines of NumPy, written out, since fastrnn has only recurrent layers.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from bench.workloads.text import Corpus, batches, corpus

__all__ = ["CharLM", "Config", "initial_weights"]


@dataclass(frozen=True)
class Config:
    """Sizes and the optimiser's settings; every implementation of the model takes the same."""

    steps: int = 1200
    T: int = 64
    B: int = 32
    embedding: int = 64
    hidden: int = 256
    rate: float = 1.0
    clip: float = 1.0
    seed: int = 0

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def learning_rate(self, step: int) -> float:
        """Constant for the first half, then falling linearly to a tenth."""
        left = 2 * (1 - step / self.steps)
        return self.rate * min(1.0, 0.1 + 0.9 * left)


def initial_weights(config: Config, vocabulary: int) -> dict[str, np.ndarray]:
    """The parameters before training, float32, by name; the LSTM's as PyTorch names them."""
    rng = np.random.default_rng(config.seed)
    E, H, V = config.embedding, config.hidden, vocabulary

    def uniform(*shape: int) -> np.ndarray:
        return rng.uniform(-1, 1, shape).astype(np.float32) / np.float32(np.sqrt(H))

    return {
        "embedding": rng.standard_normal((V, E)).astype(np.float32),
        "weight_ih_l0": uniform(4 * H, E),
        "weight_hh_l0": uniform(4 * H, H),
        "bias_ih_l0": uniform(4 * H),
        "bias_hh_l0": uniform(4 * H),
        "Whq": uniform(H, V),
        "bq": np.zeros(V, np.float32),
    }


def cross_entropy(O: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Losses (N,) of logits (N, V) and, in the logits' own memory, softmax minus one-hot."""
    rows = np.arange(len(O))
    O -= O.max(axis=1, keepdims=True)
    chosen = O[rows, targets]
    np.exp(O, out=O)
    total = O.sum(axis=1)
    losses = np.log(total) - chosen
    O /= total[:, None]
    O[rows, targets] -= 1
    return losses, O


class CharLM:
    """The model and its training loop. ``train`` goes on where the last call stopped."""

    def __init__(self, config: dict[str, Any], threads: int) -> None:
        import fastrnn

        fastrnn.set_num_threads(threads)
        self.config = Config(**config)
        self.corpus: Corpus = corpus()
        V = len(self.corpus.alphabet)
        weights = initial_weights(self.config, V)
        self.lstm = fastrnn.LSTM(self.config.embedding, self.config.hidden)
        self.lstm.load_params({n: w for n, w in weights.items() if n in self.lstm.params})
        self.embedding, self.Whq, self.bq = (weights[name] for name in ("embedding", "Whq", "bq"))
        self.one_hot = np.eye(V, dtype=np.float32)
        self.done = 0
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
        T, B = inputs.shape
        H = len(self.Whq)
        y, self._state, tape = self.lstm.forward(self.embedding[inputs], self._state)
        rows = y.reshape(T * B, H)
        losses, dO = cross_entropy(rows @ self.Whq + self.bq, targets.ravel())
        dO /= B
        dWhq, dbq = rows.T @ dO, dO.sum(axis=0)
        grads = self.lstm.backward(tape, (dO @ self.Whq.T).reshape(T, B, H))
        # rows of dx with the same character add up; as a product this is exact, ordered and fast
        dembedding = self.one_hot[inputs.ravel()].T @ grads.x.reshape(T * B, -1)
        parameters = (self.embedding, self.lstm.flat_params, self.Whq, self.bq)
        self._descend(parameters, (dembedding, grads.flat, dWhq, dbq))
        self.done += 1
        return float(losses.mean())

    def _descend(self, parameters: tuple[np.ndarray, ...], gradients: tuple[np.ndarray, ...]) -> None:
        norm = float(np.sqrt(sum(np.vdot(g, g) for g in gradients)))
        rate = self.config.learning_rate(self.done) * min(1.0, self.config.clip / norm)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            gradient *= np.float32(rate)
            parameter -= gradient

    def held_out(self) -> float:
        """Nats per character on the held-out text, the state carried through it."""
        losses, state = [], None
        for inputs, targets in batches(self.corpus.held_out, self.config.B, self.config.T):
            y, state = self.lstm(self.embedding[inputs], state)
            O = y.reshape(-1, len(self.Whq)) @ self.Whq + self.bq
            losses.append(cross_entropy(O, targets.ravel())[0].mean())
        return float(np.mean(losses))

    def sample(self, length: int = 240, prompt: str = "The ", temperature: float = 0.6) -> str:
        """Text from the model, one character at a time through ``stream()``."""
        rng = np.random.default_rng(self.config.seed)
        stream = self.lstm.stream()
        written = list(self.corpus.encode(prompt))
        for number in written[:-1]:
            stream(self.embedding[number])
        for _ in range(length):
            O = (stream(self.embedding[written[-1]]) @ self.Whq + self.bq).ravel() / temperature
            chances = np.exp(O - O.max())
            written.append(int(rng.choice(len(chances), p=chances / chances.sum())))
        return self.corpus.decode(np.array(written))
