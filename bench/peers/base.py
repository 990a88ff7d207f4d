"""What a peer is: a library that can compute a case, wrapped so that it can be checked and then timed.

To add one: a file here with a subclass of ``Peer``, and a line in ``bench/peers/__init__.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from bench.cases import Case
from bench.checks import Outputs

__all__ = ["PUBLISHED_CELLS", "Peer", "Program", "UnsupportedError"]


class UnsupportedError(Exception):
    """The library has no such cell, mode, precision or device; the message says which."""


PUBLISHED_CELLS = (
    "rnn_tanh",
    "rnn_relu",
    "rnn_sigmoid",
    "lstm",
    "lstm_peephole",
    "lstm_coupled",
    "lstm_peephole_coupled",
    "gru_reset_before",
    "gru_reset_after",
)
"""What adapters that spell the equations know; a cell that is added later is theirs once they are taught it."""


@dataclass
class Program:
    """One case, ready to run.

    run : what is timed; takes nothing and returns whatever the library gives
    outputs : turns what ``run`` returned into named arrays (see ``bench.checks.Outputs``)
    how : what in the library does the work, for the table's reader
    lacks : outputs that the library cannot give and that are therefore not checked
    native : False where the library lacks the cell and it is written out in the library's operations
    """

    run: Callable[[], Any]
    outputs: Callable[[Any], Outputs]
    how: str
    native: bool = True
    lacks: tuple[str, ...] = ()


class Peer:
    """A library in a process of its own. The constructor imports it: ImportError means that it is not installed."""

    name: ClassVar[str]
    cells: ClassVar[tuple[str, ...] | None] = None
    """The cells that the adapter was written for; None: all that the tests' reference has."""
    modes: ClassVar[tuple[str, ...]] = ("forward", "training", "step")
    devices: ClassVar[tuple[str, ...]] = ("cpu",)
    variants: ClassVar[dict[str, tuple[str, ...]]] = {}
    """Ways of running one mode that are timed beside each other; a mode that is not named has one, ""."""

    def __init__(self, threads: int) -> None:
        self.threads = threads

    def versions(self) -> dict[str, str]:
        """The library's version and those of what it rests on."""
        raise NotImplementedError

    def settings(self) -> dict[str, Any]:
        """Everything that was set: threads, precision, allocator."""
        return {"threads": self.threads}

    def program(self, case: Case, variant: str) -> Program:
        """Make a case ready. Raises UnsupportedError."""
        raise NotImplementedError
