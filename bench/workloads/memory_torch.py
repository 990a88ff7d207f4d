"""The same tasks in PyTorch, from the same weights and sequences."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from bench.workloads.memory import KINDS, Memory, made

__all__ = ["MemoryTorch"]


class MemoryTorch(Memory):
    """As ``bench.workloads.memory.Memory``: the same methods and figures."""

    def __init__(self, config: dict[str, Any], threads: int) -> None:
        torch.set_num_threads(threads)
        self.config = made(config)

    def _build(self, weights: dict[str, np.ndarray]) -> None:
        (I, O), H = self.recall.sizes, self.config.H
        self.layer, self.output = getattr(nn, KINDS[self.recall.cell])(I, H), nn.Linear(H, O)
        self.modules = nn.ModuleDict({"layer": self.layer, "output": self.output})
        self.modules.load_state_dict({name: torch.from_numpy(w) for name, w in weights.items()})
        self.optimizer = torch.optim.Adam(self.modules.parameters(), self.config.rate)

    def _step(self, x: np.ndarray, targets: np.ndarray, rate: float) -> float:
        y, _ = self.layer(torch.from_numpy(x))
        wanted = torch.from_numpy(targets)
        if self.recall.task == "adding":
            loss = nn.functional.mse_loss(self.output(y[-1]), wanted)
        else:
            loss = nn.functional.cross_entropy(self.output(y).flatten(0, 1), wanted.flatten())
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.modules.parameters(), self.config.clip)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        return loss.item()

    def _outputs(self, x: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            y, _ = self.layer(torch.from_numpy(x))
            return self.output(y[-1] if self.recall.task == "adding" else y).numpy()
