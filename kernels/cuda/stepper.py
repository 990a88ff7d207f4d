"""One layer, one direction, one step at a time."""

from __future__ import annotations

from typing import Any

from fastrnn.cell_table import Cell
from fastrnn.sequences import Schedule

from . import devices
from .forward import forward
from .packed import Packed

__all__ = ["Stepper", "stepper"]


class Stepper:
    """See ``fastrnn.backend.Stepper``; runs on CuPy's current stream."""

    def __init__(self, cell: Cell, packed: Packed, B: int) -> None:
        cupy = devices.require()
        self._cell, self._packed, self._schedule = cell, packed.copy(), Schedule(1, B)
        self._state, self._next = (
            tuple(cupy.zeros((B, packed.H), packed.w_ih.dtype) for _ in cell.states) for _ in range(2)
        )

    def step(self, x: Any, out: Any) -> bool:
        """Take one step from x (B, I), and write h into out (B, H); True."""
        with devices.require().cuda.Device(self._packed.device):
            walk = self._packed, self._state, self._schedule, out[None], self._next
            forward(self._cell, x[None], None, [walk], False)
        self._state, self._next = self._next, self._state
        return True

    def reset(self, rows: Any) -> None:
        """Zero the state of rows."""
        for part in self._state:
            part[rows] = 0

    @property
    def state(self) -> tuple[Any, ...]:
        """The state after the last step, a copy."""
        return tuple(part.copy() for part in self._state)

    @state.setter
    def state(self, values: tuple[Any, ...]) -> None:
        for part, value in zip(self._state, values, strict=True):
            part[...] = value


def stepper(cell: Cell, packed: Packed, B: int) -> Stepper:
    """A run of B rows from a state of zeros, on a copy of the parameters."""
    return Stepper(cell, packed, B)
