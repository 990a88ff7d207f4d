"""PyTorch's nn.RNN, nn.LSTM and nn.GRU: their parameters have our names, shapes and order of gates."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from fastrnn.recurrent import RecurrentLayer, recurrent_layer
from fastrnn.weights.arrays import Arrays, find_prefix, host_params, layer_from

__all__ = ["from_torch", "to_torch"]

# What selects PyTorch's cells among ours.
_CELL_OPTIONS: dict[str, dict[str, Any]] = {
    "RNN": {},
    "LSTM": {"peephole": False, "coupled": False},
    "GRU": {"reset_after": True},
}


def from_torch(source: Any, *, prefix: str | None = None, **options: Any) -> RecurrentLayer:
    """A layer with the weights of PyTorch's.

    Parameters
    ----------
    source : torch.nn.RNN, torch.nn.LSTM, torch.nn.GRU, or a mapping of names to tensors or arrays
        A mapping is a state_dict, of such a module or of a model that has one among others.
    prefix : str, optional
        Of a state_dict: what stands before the layer's names, such as "encoder.lstm."; by default it is found, and
        there must be one recurrent layer only. Every name under the prefix without a further dot must be the layer's.
    options : of the layer's class
        Override the module's. A state_dict does not tell batch_first, dropout, nor an RNN's nonlinearity: they are the
        defaults. dtype: float64 if the weights are, else float32.

    Raises ValueError for a projection (proj_size), for several layers or none, and for what is missing, unexpected or
    misshapen; TypeError for another source.
    """
    torch = sys.modules.get("torch")  # whoever has a module has it loaded
    if torch is not None and isinstance(source, torch.nn.Module):
        kind = next((k for k in ("RNN", "LSTM", "GRU") if isinstance(source, getattr(torch.nn, k))), None)
        if kind is None or prefix is not None:
            raise TypeError(
                f"source must be an nn.RNN, nn.LSTM or nn.GRU, got {type(source).__name__}"
                f"{' and a prefix' * (kind is not None)}: of another module pass the layer, or state_dict() and prefix="
            )
        defaults = {"batch_first": source.batch_first, "dropout": float(source.dropout)}
        cell = {"nonlinearity": source.nonlinearity} if kind == "RNN" else _CELL_OPTIONS[kind]
        return layer_from(Arrays(_tensors(source)), lambda *_: (kind, cell), "", defaults | options)
    if not isinstance(source, Mapping):
        raise TypeError(f"source must be a module of PyTorch or a state_dict, got {type(source).__name__}")
    arrays = Arrays(source)
    return layer_from(arrays, _by_gates, find_prefix(arrays) if prefix is None else prefix, options)


def _by_gates(gates: int, peephole: bool) -> tuple[str, dict[str, Any]]:
    """PyTorch has one LSTM and one GRU only; an RNN's nonlinearity is not among its arrays."""
    kind = {1: "RNN", 3: "GRU", 4: "LSTM"}[gates]
    return kind, _CELL_OPTIONS[kind]


def _tensors(module: Any) -> dict[str, Any]:
    """What a module computes with, also where its state_dict has tensors that this is made of (weight_norm)."""
    return {name: getattr(module, name) for names in module._all_weights for name in names}


def to_torch(layer: RecurrentLayer) -> Any:
    """A torch.nn.RNN, LSTM or GRU on the CPU with a layer's options and a copy of its weights.

    Raises ValueError for what PyTorch lacks: peepholes, coupled gates, the sigmoid RNN, the GRU of reset_after=False.
    """
    kind = recurrent_layer(layer)._kind
    import torch

    for option, value in _CELL_OPTIONS[kind].items():
        if getattr(layer, option) != value:
            raise ValueError(f"PyTorch's {kind} knows only {option}={value}, got {layer}")
    options = {}
    if kind == "RNN":
        options["nonlinearity"] = layer.nonlinearity  # type: ignore[attr-defined]
        if options["nonlinearity"] == "sigmoid":
            raise ValueError(f"PyTorch's RNN knows only nonlinearity='tanh' and 'relu', got {layer}")
    module = getattr(torch.nn, kind)(
        layer.input_size,
        layer.hidden_size,
        layer.num_layers,
        bias=layer.bias,
        batch_first=layer.batch_first,
        dropout=layer.dropout,
        bidirectional=layer.bidirectional,
        dtype=getattr(torch, layer.dtype.name),
        **options,
    )
    with torch.no_grad():
        for name, array in host_params(layer).items():
            getattr(module, name).copy_(torch.tensor(array))
    return module
