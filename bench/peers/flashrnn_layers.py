"""FlashRNN (Pöppel, Beck, Hochreiter 2024): recurrent kernels for PyTorch tensors on a GPU, compiled on first use."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import torch
from flashrnn import flashrnn
from torch import Tensor, nn

from bench.cases import Case
from bench.peers.base import UnsupportedError
from bench.peers.pytorch import PyTorch, State

__all__ = ["FlashRnn"]

_FUNCTIONS = {"rnn_tanh": "elman", "lstm": "lstm", "gru_reset_after": "gru"}
_BACKENDS = {"fused": "cuda_fused", "alternating": "cuda"}


class _Layer(nn.Module):
    """One head, which is a full recurrent matrix, and the input product that FlashRNN leaves to its caller."""

    def __init__(self, cell: str, params: dict[str, Tensor], backend: str) -> None:
        super().__init__()
        self.function, self.backend = _FUNCTIONS[cell], backend
        for name, value in params.items():
            setattr(self, name, nn.Parameter(value))

    def _gates(self, array: Tensor) -> list[Tensor]:
        return list(array.chunk({"elman": 1, "lstm": 4, "gru": 3}[self.function]))

    def _recurrent(self) -> tuple[Tensor, Tensor]:
        """R (gates, 1, H, H) and b (gates, 1, H). GRU: R in the order n r z, b the recurrent n, then r z n."""
        if self.function != "gru":
            R, b = self._gates(self.weight_hh_l0), self._gates(self.bias_ih_l0 + self.bias_hh_l0)
        else:
            r, z, n = self._gates(self.weight_hh_l0)
            R = [n, r, z]
            (b_r, b_z, b_n), (b_hr, b_hz, b_hn) = self._gates(self.bias_ih_l0), self._gates(self.bias_hh_l0)
            b = [b_hn, b_r + b_hr, b_z + b_hz, b_n]
        return torch.stack(R)[:, None], torch.stack(b)[:, None]

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """x (T, B, I), each state (B, H): y (T, B, H) and the final states."""
        H = self.weight_hh_l0.shape[1]
        Wx = (x @ self.weight_ih_l0.T).transpose(0, 1).unflatten(-1, (-1, 1, H))  # (B, T, gates, 1, H)
        R, b = self._recurrent()
        initial = torch.stack(state)[:, :, None, None]  # (states, B, 1, 1, H)
        dtype = str(x.dtype).removeprefix("torch.")
        states, last = flashrnn(Wx, R, b, states=initial, function=self.function, backend=self.backend, dtype=dtype)
        return states[0, :, :, 0].transpose(0, 1), tuple(s[:, 0, 0] for s in last)


class FlashRnn(PyTorch):
    """Its two CUDA backends as variants: fused into one kernel, and product and pointwise part in turn."""

    name = "flashrnn"
    cells = tuple(_FUNCTIONS)
    devices = ("cuda",)
    modes = ("forward", "training")

    def __init__(self, threads: int, device: str = "cuda") -> None:
        super().__init__(threads, device)
        self._backend = _BACKENDS["fused"]

    def variants_of(self, case: Case) -> tuple[str, ...]:
        return ("alternating",) if case.cell.startswith("gru") else tuple(_BACKENDS)  # it has no fused GRU

    def versions(self) -> dict[str, str]:
        return {"flashrnn": version("flashrnn")} | super().versions()

    def settings(self) -> dict[str, Any]:
        return super().settings() | {"mode": "flashrnn, one head, accumulating in float32"}

    def program(self, case: Case, variant: str) -> Any:
        if case.dtype == "float64":
            raise UnsupportedError("no float64")
        self._backend = _BACKENDS[variant]
        return super().program(case, variant)

    def _module(self, cell: str, params: dict[str, Tensor]) -> nn.Module:
        return _Layer(cell, params, self._backend)

    def _is_native(self, cell: str) -> bool:
        return True

    def _how(self, cell: str) -> str:
        return f"flashrnn {self._backend}"
