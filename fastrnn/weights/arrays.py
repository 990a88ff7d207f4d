"""Arrays by PyTorch's names, wherever they lie: finding a layer's among them, telling its structure, filling it.

PyTorch's names and shapes are also ours, so this serves state_dicts, safetensors and npz files alike.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

import fastrnn
from fastrnn import checks
from fastrnn.parameters import Layout, mismatches
from fastrnn.recurrent import RecurrentLayer, recurrent_layer

__all__ = [
    "CLASSES",
    "Arrays",
    "Choice",
    "Source",
    "combined",
    "fill",
    "find_prefix",
    "host_params",
    "layer_from",
    "precision_of",
]

CLASSES: dict[str, type[RecurrentLayer]] = {"RNN": fastrnn.RNN, "LSTM": fastrnn.LSTM, "GRU": fastrnn.GRU}

_FIRST = "weight_hh_l0"
_NAME = re.compile(r"(weight_ih|weight_hh|weight_hr|bias_ih|bias_hh|weight_peephole)_l(\d{1,9})(_reverse)?")


class Source(Protocol):
    """Arrays by name, whose shapes and dtypes are known before one is read."""

    def __iter__(self) -> Iterator[str]: ...
    def __getitem__(self, name: str) -> Any: ...
    def shape(self, name: str) -> tuple[int, ...]: ...
    def dtype(self, name: str) -> str: ...


# Of a number of gates, and whether there are peepholes: the class, and the options that select its cell.
Choice = Callable[[int, bool], tuple[str, dict[str, Any]]]


class Arrays:
    """A mapping of arrays or tensors as a Source."""

    def __init__(self, mapping: Mapping[str, Any]) -> None:
        if not (hasattr(mapping, "keys") and hasattr(mapping, "__getitem__")):
            raise TypeError(f"expected a mapping of names to arrays, got {type(mapping).__name__}")
        self._mapping = mapping

    def __iter__(self) -> Iterator[str]:
        return (name for name in self._mapping.keys() if isinstance(name, str))

    def __getitem__(self, name: str) -> Any:
        value = self._mapping[name]
        if hasattr(value, "detach"):  # a tensor of PyTorch
            value = value.detach().cpu()
            value = (value.float() if str(value.dtype) == "torch.bfloat16" else value).numpy()
        return value

    def shape(self, name: str) -> tuple[int, ...]:
        value = self._mapping[name]
        if not hasattr(value, "shape"):
            raise TypeError(f"{name} must be an array or a tensor, got {type(value).__name__}")
        return tuple(value.shape)

    def dtype(self, name: str) -> str:
        return str(getattr(self._mapping[name], "dtype", None)).removeprefix("torch.")


def precision_of(dtype: Any) -> str:
    """The dtype of a layer for arrays of this one: float64 stays, all else is float32 (16 bits are widened)."""
    return "float64" if str(dtype) in ("float64", "F64") else "float32"


def _layout(kind: str, options: Mapping[str, Any], sizes: tuple[int, int, int], directions: int, bias: bool) -> Layout:
    """The names and shapes of a layer that need not exist; ``sizes``: I, H and L."""
    cls = CLASSES[kind]
    cell = cls(1, 1, **{name: options[name] for name in cls._cell_defaults if name in options}).cell
    return Layout.of(cell, *sizes, directions, bias)


def find_prefix(source: Source) -> str:
    """What stands before the names of the only recurrent layer in a source."""
    found = sorted({name.removesuffix(_FIRST) for name in source if name == _FIRST or name.endswith("." + _FIRST)})
    if len(found) != 1:
        listed = ", ".join(map(repr, found[:8])) + ", ..." * (len(found) > 8)
        which = f"{len(found)} layers, with the prefixes {listed}: give prefix=" if found else f"no {_FIRST}"
        raise ValueError(f"expected the arrays of one recurrent layer, found {which}")
    return found[0]


def names_under(source: Source, prefix: str) -> dict[str, str]:
    """Names of a layer's arrays -> their full names; one with a dot after the prefix belongs to another module."""
    checks.text("prefix", prefix)
    names = {name[len(prefix) :]: name for name in source if name.startswith(prefix)}
    names = {bare: name for bare, name in names.items() if "." not in bare}
    if _FIRST not in names:
        raise ValueError(f"no array is called {prefix + _FIRST!r}, with prefix {prefix!r}")
    return names


def layer_from(source: Source, choose: Choice, prefix: str, options: Mapping[str, Any]) -> RecurrentLayer:
    """A layer with the arrays under a prefix, whose sizes and structure are told by their names and shapes."""
    names = names_under(source, prefix)
    shapes = {bare: source.shape(name) for bare, name in names.items()}
    parts = [match for match in map(_NAME.fullmatch, names) if match]
    kinds = {part[1] for part in parts}
    if "weight_hr" in kinds:
        raise ValueError("the layer has a projection (proj_size, weight_hr_l0), which layers here have not")
    rows, I = _matrix(shapes, "weight_ih_l0")
    _, H = _matrix(shapes, _FIRST)
    gates, left = divmod(rows, H) if H else (0, 0)
    if left or gates not in (1, 3, 4):
        raise ValueError(
            f"weight_ih_l0 {shapes['weight_ih_l0']} and weight_hh_l0 {shapes[_FIRST]} are of no known cell"
        )
    kind, cell_options = choose(gates, "weight_peephole" in kinds)
    chosen = combined(kind, cell_options, options)
    layers = 1 + max(int(part[2]) for part in parts)
    if layers > len(names):  # a name alone must not make a layout of a billion layers
        raise ValueError(f"the arrays do not fit a layer: {layers} layers, but {len(names)} arrays")
    bidirectional, bias = any(part[3] for part in parts), bool({"bias_ih", "bias_hh"} & kinds)
    if problems := mismatches(_layout(kind, chosen, (I, H, layers), 1 + bidirectional, bias), shapes):
        raise ValueError(f"the arrays do not fit {kind}({I}, {H}, {layers}): {problems}")
    structure = {"dtype": precision_of(source.dtype(names[_FIRST])), "bias": bias, "bidirectional": bidirectional}
    layer = CLASSES[kind](I, H, layers, **combined(kind, structure, chosen, fixed=("bias", "bidirectional")))
    layer.load_params({bare: source[name] for bare, name in names.items()})
    return layer


def combined(
    kind: str, known: Mapping[str, Any], options: Mapping[str, Any], fixed: Iterable[str] = ()
) -> dict[str, Any]:
    """Options of a layer: those that the weights tell and the caller's, which must not contradict the weights."""
    for name in (*CLASSES[kind]._cell_defaults, *fixed):
        if name in known and name in options and not _same(options[name], known[name]):
            raise ValueError(f"{name} is {known[name]!r} for these weights of {kind}, got {name}={options[name]!r}")
    return {**known, **options}


def _same(given: Any, known: Any) -> bool:
    """Whether an option is what the weights tell; an array is equal to nothing and everything."""
    return isinstance(given, (bool, np.bool_, str)) and given == known


def _matrix(shapes: Mapping[str, tuple[int, ...]], name: str) -> tuple[int, int]:
    shape = shapes.get(name)
    if shape is None:
        raise ValueError(f"the arrays do not fit a layer: missing {name}")
    if len(shape) != 2:
        raise ValueError(f"{name} must be a matrix, got shape {shape}")
    return shape[0], shape[1]


def fill(layer: RecurrentLayer, source: Source, prefix: str) -> RecurrentLayer:
    """Load the arrays under a prefix into a layer that they fit, shapes checked before anything is read."""
    names = names_under(source, prefix)
    if problems := mismatches(layer.layout, {bare: source.shape(name) for bare, name in names.items()}):
        raise ValueError(f"the arrays do not fit the layer: {problems}")
    layer.load_params({bare: source[name] for bare, name in names.items()})
    return layer


def host_params(layer: RecurrentLayer) -> dict[str, NDArray[Any]]:
    """Name -> NumPy array of a layer on any device; bfloat16, which few libraries take from NumPy, as float32."""
    recurrent_layer(layer)
    arrays = {name: layer.kind.place.to_host(array) for name, array in layer.params.items()}
    if layer.dtype.name == "bfloat16":
        return {name: array.astype(np.float32) for name, array in arrays.items()}
    return arrays
