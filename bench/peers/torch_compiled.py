"""PyTorch under ``torch.compile``: one step of every cell compiled, and a loop over time around it.

A loop of hundreds of steps compiled whole takes minutes, and torch.nn's own layers gain nothing: they are calls of
one kernel already.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from bench.peers.pytorch import PyTorch, WrittenOut

__all__ = ["TorchCompiled"]


class TorchCompiled(PyTorch):
    """Not among ``auto``: its first calls take seconds a cell, and want a C++ compiler or Triton."""

    name = "torch-compile"

    def settings(self) -> dict[str, Any]:
        return super().settings() | {"mode": "torch.compile of one step, dynamic=False"}

    def _module(self, cell: str, params: dict[str, Tensor]) -> nn.Module:
        return WrittenOut(cell, params, wrap=lambda step: torch.compile(step, dynamic=False))

    def _how(self, cell: str) -> str:
        return "loop over a compiled step"

    def _is_native(self, cell: str) -> bool:
        return False
