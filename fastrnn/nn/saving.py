"""Layers, parts and models in one file: their parameters and how they were made, in the safetensors format.

The tensors are ``params`` by name, so that other programs read them. The metadata say the rest, as JSON: "fastrnn"
what was saved, as ``{"kind": class, "settings": arguments}`` or, of a plain ``Model``, ``{"kind": "Model", "parts":
{name: …}}``; layers, parts and models among the arguments are said in the same way. "notes" whatever the caller gave.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any, TypeVar

from numpy.typing import NDArray

from fastrnn import layers
from fastrnn.nn.model import Model, leaves
from fastrnn.nn.part import Part
from fastrnn.parametric import Parametric
from fastrnn.recurrent import RecurrentLayer
from fastrnn.weights.safetensors import SafetensorsFile, write_safetensors

__all__ = ["load", "load_into", "read_notes", "save"]

AnyPath = str | os.PathLike[str]
Target = TypeVar("Target")

_LAYERS = {"RNN": layers.RNN, "LSTM": layers.LSTM, "GRU": layers.GRU}
_ABOUT, _NOTES = "fastrnn", "notes"


def save(path: AnyPath, part: Any, *, notes: Any = None) -> None:
    """Write a layer, a part or a model to a file, which appears whole or not at all.

    notes : anything that JSON can hold, such as a vocabulary; ``read_notes`` gives it back.

    Raises TypeError for what is no part and for notes that JSON can't hold.
    """
    described = _described(part)
    try:
        about = {_ABOUT: json.dumps(described), _NOTES: json.dumps(notes)}
    except (TypeError, ValueError, RecursionError) as error:
        raise TypeError(f"notes and settings must be what JSON can hold: {error}") from None
    tensors = {}
    for prefix, leaf in leaves(part):
        flat = leaf.kind.place.to_host(leaf.flat_params)
        for entry in leaf.layout:
            name = f"{prefix}.{entry.name}" if prefix else entry.name
            tensors[name] = flat[entry.start : entry.stop].reshape(entry.shape)
    write_safetensors(path, tensors, about)


def load(path: AnyPath, *, device: str = "cpu") -> Any:
    """Make again what ``save`` wrote, with bitwise the same parameters; unfrozen.

    Raises ValueError for a file that ``save`` did not write, whose tensors do not fit what it says, or that holds a
    class that is not known: one of one's own must have been imported. OSError from the system.
    """
    tensors, about = _read(path)
    part = _made(path, about)
    _fill(path, part, tensors)
    part.to(device)
    return part


def load_into(path: AnyPath, part: Target) -> Target:
    """Copy a file's parameters into a part that was made with the same settings, and return the part.

    Raises ValueError that names every setting in which the two differ, such as the size of a vocabulary; then nothing
    has changed.
    """
    tensors, about = _read(path)
    described = _described(part)
    differences = list(_differences(about, json.loads(json.dumps(described))))
    if differences:
        raise ValueError(f"{os.fspath(path)} does not fit: " + "; ".join(differences))
    _fill(path, part, tensors)
    return part


def read_notes(path: AnyPath) -> Any:
    """The notes that were given to ``save``."""
    return json.loads(_opened(path)[1].get(_NOTES, "null"))


def _described(part: Any) -> dict[str, Any]:
    if type(part) is Model:
        return {"kind": "Model", "parts": {name: _described(inner) for name, inner in part.parts.items()}}
    if isinstance(part, RecurrentLayer):
        return {"kind": part._kind, "settings": _settings(part)}
    if not isinstance(part, (Part, Model)):
        raise TypeError(f"part must be a layer, a part or a model, got {type(part).__name__}")
    settings = part.settings()
    for name, value in settings.items():
        if isinstance(value, (Parametric, Model)):
            settings[name] = _described(value)
    return {"kind": type(part).__name__, "settings": settings}


def _settings(layer: RecurrentLayer) -> dict[str, Any]:
    """The arguments that make a layer like this one, but for device and seed."""
    names = ["input_size", "hidden_size", "num_layers", *layer._defaults, *layer._cell_defaults]
    found = {name: getattr(layer, name) for name in names if name != "device"}
    return found | {"dtype": layer.dtype.name}


def _made(path: AnyPath, about: Any) -> Any:
    """What a description is of, with parameters yet to be loaded."""
    try:
        kind = about["kind"]
        if kind == "Model":
            return Model(**{name: _made(path, inner) for name, inner in about["parts"].items()})
        known: dict[str, Any] = _LAYERS | Part.kinds | Model.kinds
        if kind not in known:
            raise ValueError(f"{kind!r} is not known: import the module that defines it")
        settings = {name: _made(path, v) if _is_part(v) else v for name, v in about["settings"].items()}
        return known[kind](**settings)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{os.fspath(path)} has a description that can't be used: {error!r}") from None


def _is_part(value: Any) -> bool:
    return isinstance(value, dict) and "kind" in value


def _fill(path: AnyPath, part: Any, tensors: dict[str, NDArray[Any]]) -> None:
    for name, own in part.params.items():
        if name in tensors and tensors[name].dtype != own.dtype:
            raise ValueError(f"{os.fspath(path)}: {name} must have dtype {own.dtype}, got {tensors[name].dtype}")
    try:
        part.load_params(tensors)
    except ValueError as error:
        raise ValueError(f"{os.fspath(path)}: {error}") from None


def _differences(file: Any, part: Any, where: str = "") -> Iterator[str]:
    """Every leaf in which two descriptions differ."""
    if isinstance(file, dict) and isinstance(part, dict):
        for name in dict.fromkeys([*part, *file]):
            label = where if name in ("settings", "parts") else f"{where}.{name}" if where else name
            if name not in file or name not in part:
                yield f"{label} is only in the {'model' if name in part else 'file'}"
            else:
                yield from _differences(file[name], part[name], label)
    elif isinstance(file, list) and isinstance(part, list) and file != part:
        if len(file) != len(part):
            yield f"{where} has {len(file)} entries in the file, {len(part)} in the model"
        else:
            k = next(k for k, (theirs, ours) in enumerate(zip(file, part, strict=True)) if theirs != ours)
            yield f"{where}[{k}] is {file[k]!r} in the file, {part[k]!r} in the model"
    elif file != part:
        yield f"{where} is {file!r} in the file, {part!r} in the model"


def _opened(path: AnyPath) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    file = SafetensorsFile(path)
    return dict(file), file.metadata


def _read(path: AnyPath) -> tuple[dict[str, NDArray[Any]], Any]:
    tensors, metadata = _opened(path)
    if _ABOUT not in metadata:
        raise ValueError(f"{os.fspath(path)} was not written by fastrnn.nn.save: it does not say what it holds")
    try:
        return tensors, json.loads(metadata[_ABOUT])
    except ValueError:
        raise ValueError(f"{os.fspath(path)} has a description that is no JSON") from None
