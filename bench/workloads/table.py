"""The workloads by name. To add one: its config and implementations in modules beside this, and a line here."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from bench.workloads import charlm, g2p, g2p_en, memory, translate, vowels
from bench.workloads.runner import Workload

__all__ = ["WORKLOADS", "configured"]

WORKLOADS: dict[str, Workload] = {
    workload.name: workload
    for workload in (module.WORKLOAD for module in (charlm, memory, vowels, g2p, translate, g2p_en))
}


def configured(config: type[Any], settings: list[str], quick: bool = False) -> Any:
    """A config with ``name=value`` settings in the types of its defaults; ``quick``: its ``quick()`` as the start.

    Raises ValueError that names what there is.
    """
    start = config.quick() if quick else config()
    changes = {}
    known = {field.name: getattr(start, field.name) for field in fields(config)}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals or name not in known:
            have = ", ".join(f"{name}={value}" for name, value in known.items())
            raise ValueError(f"a setting is name=value, got {setting!r}; there are {have}")
        changes[name] = _read(name, text, known[name])
    return replace(start, **changes)


def _read(name: str, text: str, default: Any) -> Any:
    """Text as a value of the default's type."""
    if isinstance(default, bool):
        if text not in ("True", "False"):
            raise ValueError(f"{name} must be True or False, got {text!r}")
        return text == "True"
    if isinstance(default, tuple):
        return tuple(_read(name, part, default[0]) for part in text.split(","))
    try:
        return type(default)(text)
    except ValueError:
        raise ValueError(f"{name} must be of type {type(default).__name__}, got {text!r}") from None
