"""The same classifier in PyTorch, packed sequences, from the same weights and batches."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

from bench.workloads.vowels import Vowels

__all__ = ["VowelsTorch"]


class VowelsTorch(Vowels):
    """As ``bench.workloads.vowels.Vowels``: the same methods and figures."""

    def _build(self, weights: dict[str, np.ndarray], threads: int) -> None:
        torch.set_num_threads(threads)
        kind = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}[self.config.cell]
        speakers, width = weights["output.weight"].shape
        coefficients = weights["layer.weight_ih_l0"].shape[1]
        self.layer = kind(coefficients, self.config.hidden, bidirectional=True)
        self.output = nn.Linear(width, speakers)
        self.modules = nn.ModuleDict({"layer": self.layer, "output": self.output})
        self.modules.load_state_dict({name: torch.from_numpy(w) for name, w in weights.items()})
        self.optimizer = torch.optim.Adam(self.modules.parameters(), self.config.rate)

    def _run(self, x: np.ndarray, lengths: np.ndarray) -> torch.Tensor:
        packed = pack_padded_sequence(torch.from_numpy(x), torch.from_numpy(lengths), enforce_sorted=False)
        _, state = self.layer(packed)
        h = state[0] if isinstance(state, tuple) else state
        return self.output(torch.cat([h[0], h[1]], dim=1))

    def _step(self, x: np.ndarray, lengths: np.ndarray, speakers: np.ndarray) -> float:
        loss = nn.functional.cross_entropy(self._run(x, lengths), torch.from_numpy(speakers))
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.modules.parameters(), self.config.clip)
        self.optimizer.step()
        return loss.item()

    def _logits(self, x: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return self._run(x, lengths).numpy()
