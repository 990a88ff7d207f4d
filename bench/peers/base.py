"""What a peer is: a library that can compute a case, wrapped so that it can be checked and then timed.

To add one: a file here with a subclass of ``Peer``, and a line in ``bench/peers/__init__.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from bench.cases import Case
from bench.checks import Outputs
from bench.devices import HostMemory, Timer, WallTimer

__all__ = ["PUBLISHED_CELLS", "Memory", "Peer", "Program", "UnsupportedError"]


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
    precision : what the products are computed in, if that is not the case's dtype: "tf32", "3xtf32"
    timer : how calls are timed; for work on a GPU one with events
    """

    run: Callable[[], Any]
    outputs: Callable[[Any], Outputs]
    how: str
    native: bool = True
    lacks: tuple[str, ...] = ()
    precision: str | None = None
    timer: Timer = field(default_factory=WallTimer)


class Memory(Protocol):
    """Weighs what a library holds on a device."""

    def release(self) -> None:
        """Give back what is not in use: other contenders have cases of their own on the same device."""
        ...

    def reset(self) -> None:
        """Begin anew."""
        ...

    def peak(self) -> int | None:
        """The most bytes held since ``reset``, without what was held then; None if the library does not tell."""
        ...


class Peer:
    """A library in a process of its own, for one device.

    The constructor imports the library (ImportError: not installed) and raises UnsupportedError if the library
    as installed cannot use the device.
    """

    name: ClassVar[str]
    cells: ClassVar[tuple[str, ...] | None] = None
    """The cells that the adapter was written for; None: all that the tests' reference has."""
    modes: ClassVar[tuple[str, ...]] = ("forward", "training", "step")
    devices: ClassVar[tuple[str, ...]] = ("cpu",)
    variants: ClassVar[dict[str, tuple[str, ...]]] = {}
    """Ways of running one mode that are timed beside each other; a mode that is not named has one, ""."""

    def __init__(self, threads: int, device: str = "cpu") -> None:
        if device not in self.devices:
            raise UnsupportedError(f"{self.name} does not run on {device}")
        self.threads, self.device = threads, device

    def variants_of(self, case: Case) -> tuple[str, ...]:
        """The variants in which a case is timed."""
        return self.variants.get(case.mode, ("",))

    def memory(self) -> Memory:
        """What weighs this peer's memory: the process's own on the CPU."""
        return HostMemory()

    def versions(self) -> dict[str, str]:
        """The library's version and those of what it rests on."""
        raise NotImplementedError

    def settings(self) -> dict[str, Any]:
        """Everything that was set: threads, precision, allocator."""
        return {"threads": self.threads}

    def program(self, case: Case, variant: str) -> Program:
        """Make a case ready. Raises UnsupportedError."""
        raise NotImplementedError
