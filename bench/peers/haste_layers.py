"""haste (LMNT, 2020): LSTM and GRU kernels for PyTorch tensors on a GPU. It has to be built from its sources."""

from __future__ import annotations

import haste_pytorch
import numpy as np
import torch
from torch import Tensor, nn

from bench.cases import Case
from bench.checks import Outputs
from bench.peers.base import UnsupportedError
from bench.peers.pytorch import PyTorch, State

__all__ = ["Haste"]

_LAYERS = {"lstm": haste_pytorch.LSTM, "gru_reset_after": haste_pytorch.GRU}
# Where haste keeps each of our gates: i f g o as i g f o, and r z n as z r n.
_ORDER = {"lstm": [0, 2, 1, 3], "gru_reset_after": [1, 0, 2]}
_PRECISIONS = {"float32": "fp32", "float16": "fp16", "float64": "fp64"}


class _Layer(nn.Module):
    def __init__(self, cell: str, params: dict[str, Tensor]) -> None:
        super().__init__()
        w_ih, w_hh = params["weight_ih_l0"], params["weight_hh_l0"]
        self.layer = _LAYERS[cell](w_ih.shape[1], w_hh.shape[1])
        self.layer.from_native_weights(w_ih, w_hh, params["bias_ih_l0"], params["bias_hh_l0"])

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        self.layer.train(torch.is_grad_enabled())  # without it nothing is kept for the way back
        lifted = tuple(s[None] for s in state)
        y, final = self.layer(x, lifted if len(lifted) == 2 else lifted[0])
        return y, tuple(s[0] for s in (final if isinstance(final, tuple) else (final,)))


class Haste(PyTorch):
    """The LSTM has one bias, so both of ours have its gradient."""

    name = "haste"
    cells = tuple(_LAYERS)
    devices = ("cuda",)
    modes = ("forward", "training")

    def __init__(self, threads: int, device: str = "cuda") -> None:
        super().__init__(threads, device)

    def variants_of(self, case: Case) -> tuple[str, ...]:
        return (_PRECISIONS.get(case.dtype, ""),)

    def versions(self) -> dict[str, str]:
        return {"haste_pytorch": haste_pytorch.__version__} | super().versions()

    def program(self, case: Case, variant: str) -> object:
        if case.dtype not in _PRECISIONS:
            raise UnsupportedError(f"no {case.dtype}")
        return super().program(case, variant)

    def _module(self, cell: str, params: dict[str, Tensor]) -> nn.Module:
        return _Layer(cell, params)

    def _is_native(self, cell: str) -> bool:
        return True

    def _how(self, cell: str) -> str:
        return f"haste_pytorch.{_LAYERS[cell].__name__}"

    def _named(self, cell: str, outputs: Outputs) -> Outputs:
        def ours(array: np.ndarray) -> np.ndarray:
            gates = np.split(array.T, len(_ORDER[cell]))
            return np.concatenate([gates[k] for k in _ORDER[cell]])

        named = {k: v for k, v in outputs.items() if "kernel" not in k and "bias" not in k}
        if "dkernel" in outputs:
            bias = ours(outputs["dbias"])
            named |= {"dweight_ih_l0": ours(outputs["dkernel"]), "dweight_hh_l0": ours(outputs["drecurrent_kernel"])}
            named |= {"dbias_ih_l0": bias}
            named |= {"dbias_hh_l0": ours(outputs["drecurrent_bias"]) if "drecurrent_bias" in outputs else bias}
        return named
