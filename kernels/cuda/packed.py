"""One direction's parameters as the kernels read them: where they lie, with the two biases of a slot added up."""

from __future__ import annotations

from typing import Any

from fastrnn.cell_table import Cell

from . import devices
from .layout import ELEMENTS, runs

__all__ = ["Packed", "pack"]


class Packed:
    """Parameters of one layer in one direction.

    Weights are read as the caller has them; nothing is rearranged. ``bias`` (slots, H), in the dtype of sums, has what
    both biases add to each slot, or is None.
    """

    def __init__(self, cell: Cell, w_ih: Any, w_hh: Any, b_ih: Any, b_hh: Any, peephole: Any, precision: str) -> None:
        cupy = devices.require()
        self.cell, self.dtype, self.precision = cell, w_ih.dtype.name, precision
        self.I, self.H = w_ih.shape[1], w_hh.shape[1]
        self.device = w_ih.device.id
        self.w_ih, self.w_hh, self.peephole = w_ih, w_hh, peephole
        self.bias = None
        if b_ih is not None:
            self.bias = cupy.zeros((len(cell.slots), self.H), ELEMENTS[self.dtype].sums)
            for source, biases in (("x", b_ih), ("h", b_hh)):
                by_gate = biases.reshape(-1, self.H)
                for run in runs(cell.name, source):
                    slots = self.bias[run.slot : run.slot + run.count]
                    slots += by_gate[run.gate : run.gate + run.count]  # on the slice itself: one launch, not two

    def copy(self) -> Packed:
        """The same, in memory that nobody else writes to."""
        other = object.__new__(Packed)
        other.__dict__.update(self.__dict__)
        for name in ("w_ih", "w_hh", "peephole", "bias"):
            value = getattr(self, name)
            setattr(other, name, None if value is None else value.copy())
        return other


def pack(
    cell: Cell, w_ih: Any, w_hh: Any, b_ih: Any, b_hh: Any, peephole: Any,
    backward: bool = False, bf16: bool = False, once: bool = False, precision: str = "exact",
) -> Packed:  # fmt: skip
    """See ``fastrnn.backend.Backend``. Refers to the weights; raises ValueError for ``bf16``."""
    if bf16:
        raise ValueError("weights='bfloat16' is for the CPU: on a GPU make the layer with dtype='bfloat16'")
    return Packed(cell, w_ih, w_hh, b_ih, b_hh, peephole, precision)
