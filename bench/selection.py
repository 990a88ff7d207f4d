"""Reading what a command's options choose: names between commas."""

from __future__ import annotations

from collections.abc import Sequence

from fastrnn.warmup import cells_named

__all__ = ["cells_named", "names_among"]


def names_among(text: str, known: Sequence[str], what: str) -> list[str]:
    """The names that a list separated by commas asks for; raises ValueError for one that is not known."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in known:
            raise ValueError(f"{what} must be some of {', '.join(known)}, got {name!r}")
    return names
