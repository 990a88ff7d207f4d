"""What ``fastrnn.network`` asks of a layer, on weights that a module owns and may change or replace at any time."""

from __future__ import annotations

import operator
from typing import Any, NamedTuple

import torch

from fastrnn import checks
from fastrnn.backend import load
from fastrnn.cell_table import Cell
from fastrnn.parameters import Layout, Weights
from fastrnn.places import Kind
from fastrnn.torch.exchange import Exchange, exchange_for, numpy_dtype

__all__ = ["KeptPacks", "Options", "Stack"]


class Options(NamedTuple):
    """What of a module decides how its stack runs; a stack is made once for each."""

    input_size: int
    hidden_size: int
    num_layers: int
    bias: bool
    bidirectional: bool
    batch_first: bool
    dropout: float
    dtype: torch.dtype
    device: torch.device


class KeptPacks:
    """Packed weights of a frozen module, and the parameters they were made of.

    PyTorch counts writes to a tensor (``_version``). It does not count those through ``.data`` or through an array
    that shares the memory, and to compare the bytes takes as long as to pack them again: so keeping has to be asked
    for.
    """

    __slots__ = ("_latest",)

    def __init__(self) -> None:
        self._latest: tuple[Any, list[torch.Tensor], tuple[Any, ...]] | None = None  # replaced at once: threads

    def find(self, stack: Stack, weights: list[torch.Tensor]) -> tuple[Any, ...]:
        """The packed form for inference of these weights as they now are."""
        key = stack.options, [(w.data_ptr(), _version(w)) for w in weights]
        latest = self._latest
        if latest is not None and latest[0] == key and all(map(operator.is_, weights, latest[1])):
            return latest[2]
        packs = stack.on(weights).packed_weights(False)
        self._latest = key, list(weights), packs
        return packs

    def __reduce__(self) -> tuple[Any, ...]:  # packed weights refer to this process's memory
        return KeptPacks, ()


def _version(tensor: torch.Tensor) -> object:
    """How often PyTorch has seen a tensor written to; it does not count for those made in inference_mode."""
    return object() if tensor.is_inference() else tensor._version


class Stack:
    """A stack of layers without parameters of its own.

    ``on(weights)`` gives the stand-in for a layer that one call of ``fastrnn.network``'s functions takes, and its tape
    keeps: ``weights`` are those of the modules, in the order of ``layout``.
    """

    def __init__(self, cell: Cell, options: Options) -> None:
        self.options = options
        self.exchange: Exchange = exchange_for(options.device)
        place = self.exchange.place
        self.cell, self.dtype = cell, numpy_dtype(options.dtype, place)
        self.kind = Kind.of(place, self.dtype)
        self.input_size, self.hidden_size, self.num_layers = options.input_size, options.hidden_size, options.num_layers
        self.bidirectional, self.batch_first = options.bidirectional, options.batch_first
        self.dropout = checks.dropout(options.dropout)
        self.drops = self.dropout > 0 and self.num_layers > 1
        self.num_directions = 1 + self.bidirectional
        self.layout = Layout.of(
            cell, self.input_size, self.hidden_size, self.num_layers, self.num_directions, options.bias
        )
        self._packs: tuple[Any, ...] | None = None
        self._tensors: list[torch.Tensor] = []

    def on(self, weights: list[torch.Tensor], packs: tuple[Any, ...] | None = None) -> Stack:
        """The same on weights, and on their packed form where that is known."""
        found = object.__new__(Stack)
        found.__dict__.update(self.__dict__, _tensors=weights, _packs=packs)
        return found

    def packed_weights(self, backward: bool) -> tuple[Any, ...]:
        """As ``RecurrentLayer.packed_weights``: packed for this one call, as the weights may change after it."""
        if self._packs is not None:
            return self._packs
        pack = load(self.kind.place.device).pack
        return tuple([pack(self.cell, *part, backward, False, backward) for part in self._weights()])

    def _weights(self) -> list[Weights]:
        """The arrays of the weights, which may have been replaced by anything since the module was made."""
        arrays = []
        for entry, weight in zip(self.layout, self._tensors, strict=True):
            array = self.exchange.array(weight)
            if array.shape != entry.shape or array.dtype != self.dtype:
                expected = f"{entry.shape} and dtype {self.dtype}"
                raise RuntimeError(f"{entry.name} must have shape {expected}, got {array.shape} and {array.dtype}")
            arrays.append(array if array.flags.c_contiguous else array.copy())
        rest = iter(arrays)
        return [tuple([None if name is None else next(rest) for name in names]) for names in self.layout.names]  # type: ignore[misc]
