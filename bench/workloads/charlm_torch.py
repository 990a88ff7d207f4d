"""The same character model in PyTorch, from the same weights and data, to compare losses and speed."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import nn

from bench.workloads.charlm import Config, initial_weights
from bench.workloads.text import batches, corpus

__all__ = ["CharLMTorch"]


class CharLMTorch:
    """As ``bench.workloads.charlm.CharLM``: the same methods and figures."""

    def __init__(self, config: dict[str, Any], threads: int) -> None:
        torch.set_num_threads(threads)
        self.config = Config(**config)
        self.corpus = corpus()
        V = len(self.corpus.alphabet)
        self.embedding = nn.Embedding(V, self.config.embedding)
        self.lstm = nn.LSTM(self.config.embedding, self.config.hidden)
        self.output = nn.Linear(self.config.hidden, V)
        modules = nn.ModuleDict({"embedding": self.embedding, "lstm": self.lstm, "output": self.output})
        modules.load_state_dict({n: torch.from_numpy(w) for n, w in initial_weights(self.config, V).items()})
        self.parameters = list(modules.parameters())
        self.optimizer = torch.optim.SGD(self.parameters, lr=self.config.rate)
        self.loss = nn.CrossEntropyLoss(reduction="sum")
        self.done = 0
        self._restart()

    def _restart(self) -> None:
        self._walk = batches(self.corpus.train, self.config.B, self.config.T)
        self._state: Any = None

    def train(self, steps: int) -> dict[str, Any]:
        losses, started = [], time.perf_counter()
        for _ in range(steps):
            batch = next(self._walk, None)
            if batch is None:
                self._restart()
                batch = next(self._walk)
            losses.append(self._step(*(torch.from_numpy(b.copy()) for b in batch)))
        seconds = time.perf_counter() - started
        return {"losses": losses, "seconds": seconds, "characters": steps * self.config.T * self.config.B}

    def _step(self, inputs: torch.Tensor, targets: torch.Tensor) -> float:
        y, state = self.lstm(self.embedding(inputs), self._state)
        self._state = tuple(s.detach() for s in state)
        loss = self.loss(self.output(y).flatten(0, 1), targets.flatten()) / inputs.shape[1]
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, self.config.clip)
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate(self.done)
        self.optimizer.step()
        self.done += 1
        return loss.item() / len(inputs)

    def held_out(self) -> float:
        losses, state = [], None
        with torch.inference_mode():
            for inputs, targets in batches(self.corpus.held_out, self.config.B, self.config.T):
                y, state = self.lstm(self.embedding(torch.from_numpy(inputs.copy())), state)
                O = self.output(y).flatten(0, 1)
                losses.append(self.loss(O, torch.from_numpy(targets.copy()).flatten()).item() / inputs.size)
        return sum(losses) / len(losses)
