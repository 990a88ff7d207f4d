"""Layers to and from files of named arrays: safetensors and npz."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from fastrnn import checks
from fastrnn.recurrent import RecurrentLayer, recurrent_layer
from fastrnn.weights.arrays import CLASSES, Source, fill, find_prefix, host_params, layer_from
from fastrnn.weights.npz import NpzFile
from fastrnn.weights.safetensors import SafetensorsFile, write_safetensors

__all__ = ["from_npz", "from_safetensors", "to_npz", "to_safetensors"]

# Under this name a safetensors file's metadata keeps, as JSON, what names and shapes do not tell: {"kind": class,
# "settings": arguments} of a layer; of what stands before a dot in names, {"kind": "Model", "parts": {name: ...}}.
_METADATA = "fastrnn"
_TOLD = ("batch_first", "dropout")

Path = str | os.PathLike[str]


def from_safetensors(
    path: Path, into: RecurrentLayer | None = None, *, prefix: str | None = None, **options: Any
) -> RecurrentLayer:
    """A layer with the weights in a safetensors file, by PyTorch's names.

    Parameters
    ----------
    path : of a file by ``to_safetensors``, or by any library
        Only the layer's own arrays are read.
    into : layer, optional
        To be filled and returned, in place of a new one.
    prefix : str, optional
        What stands before the layer's names; by default it is found, and there must be one recurrent layer only.
    options : of the layer's class
        What the file does not tell. A file by ``to_safetensors`` tells all but the device. In others three gates need
        reset_after=True (a GRU of PyTorch), reset_after=False or coupled=True.

    Raises ValueError for a broken file, for several layers or none, for what is missing, unexpected or misshapen, and
    for options that contradict the weights. Nothing is loaded before all of that is checked.
    """
    file = SafetensorsFile(path)
    try:
        told = json.loads(file.metadata.get(_METADATA, "{}"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{os.fspath(path)}: the metadata {_METADATA!r} can't be read: {error}") from None
    return _loaded(file, into, prefix, options, told)


def from_npz(
    path: Path, into: RecurrentLayer | None = None, *, prefix: str | None = None, **options: Any
) -> RecurrentLayer:
    """A layer with the weights in an npz file, by PyTorch's names; see ``from_safetensors``.

    Pickles are never loaded, and a file that would inflate to more than a hundred times its size is refused. An npz
    file tells only the parameters: three gates need reset_after= or coupled=True, and batch_first, dropout and an
    RNN's nonlinearity are the defaults unless given.
    """
    return _loaded(NpzFile(path), into, prefix, options, None)


def to_safetensors(layer: RecurrentLayer, path: Path, *, prefix: str = "") -> None:
    """Write a layer's parameters under PyTorch's names after a prefix, and its options into the metadata."""
    recurrent_layer(layer)
    if checks.text("prefix", prefix) and not prefix.endswith("."):
        raise ValueError(f"prefix must be empty or end with a dot, got {prefix!r}")
    names = ("input_size", "hidden_size", "num_layers", *layer._defaults, *layer._cell_defaults)
    settings = {name: getattr(layer, name) for name in names if name != "device"} | {"dtype": layer.dtype.name}
    described: dict[str, Any] = {"kind": type(layer).__name__, "settings": settings}
    for name in reversed(prefix.split(".")[:-1]):
        described = {"kind": "Model", "parts": {name: described}}
    arrays = {prefix + name: layer.kind.place.to_host(array) for name, array in layer.params.items()}
    write_safetensors(path, arrays, {_METADATA: json.dumps(described)})


def to_npz(layer: RecurrentLayer, path: Path, *, prefix: str = "") -> None:
    """Write a layer's parameters under PyTorch's names after a prefix; as float32 where they are bfloat16."""
    checks.text("prefix", prefix)
    arrays: dict[str, Any] = {prefix + name: array for name, array in host_params(layer).items()}
    with open(checks.path(path), "wb") as file:  # by its name NumPy would append .npz to it
        np.savez(file, **arrays)


def _loaded(
    source: Source, into: RecurrentLayer | None, prefix: str | None, options: Mapping[str, Any], told: Any
) -> RecurrentLayer:
    """The layer under a prefix; told: what the file says of the layers in it, by prefix."""
    if into is not None:
        recurrent_layer(into, "into")
    if into is not None and options:
        raise TypeError(f"into takes no options of a new layer, got {', '.join(options)}")
    prefix = find_prefix(source) if prefix is None else checks.text("prefix", prefix)
    if into is not None:
        return fill(into, source, prefix)
    kind, settings = _described(told, prefix)
    if kind is None:
        return layer_from(source, functools.partial(_by_gates, options), prefix, options)
    cell = {name: settings[name] for name in CLASSES[kind]._cell_defaults if name in settings}
    defaults = {name: settings[name] for name in _TOLD if name in settings}
    return layer_from(source, lambda *_: (kind, cell), prefix, {**defaults, **options})


def _described(told: Any, prefix: str) -> tuple[str | None, dict[str, Any]]:
    """The class and the settings of the layer under a prefix, or None where the file does not say them."""
    for name in prefix.split(".")[:-1]:
        parts = told.get("parts") if isinstance(told, dict) else None
        told = parts.get(name) if isinstance(parts, dict) else None
    kind, settings = (told.get("kind"), told.get("settings")) if isinstance(told, dict) else (None, None)
    if not isinstance(kind, str) or kind not in CLASSES or not isinstance(settings, dict):
        return None, {}
    return kind, settings


def _by_gates(options: Mapping[str, Any], gates: int, peephole: bool) -> tuple[str, dict[str, Any]]:
    """The class and what selects its cell, where only shapes and the caller's options tell."""
    if gates == 1:
        return "RNN", {}
    if gates == 4 or peephole or checks.flag("coupled", options.get("coupled", False)):
        return "LSTM", {"peephole": peephole, "coupled": gates == 3}
    if "reset_after" in options:
        return "GRU", {}
    raise ValueError(
        "three gates may be a GRU's of either form or a coupled LSTM's: give reset_after=True (PyTorch's GRU), "
        "reset_after=False or coupled=True"
    )
