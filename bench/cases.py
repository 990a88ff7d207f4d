"""What is timed: cells, shapes, dtypes and modes. The arrays of a case come from the table that tests use.

Every process makes a case's arrays by itself from the case's own seed, so no data crosses a pipe and all
contenders compute the same thing. Nothing here imports fastrnn: a rival's process does not load it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from tests import cases as shared
from tests.reference import CELLS

__all__ = ["CELLS", "MODES", "SHAPES", "Case", "cases_for", "parse_shapes"]

Shape = tuple[int, int, int, int]

MODES = ("forward", "training", "step")
"""forward: inference over T steps. training: forward that keeps what backward needs, then all gradients.
step: T calls of one step each, the state carried by the caller or its library."""

QUICK: tuple[Shape, ...] = ((100, 1, 128, 128), (100, 16, 128, 128), (100, 32, 256, 256))
GRID: tuple[Shape, ...] = (
    (1, 1, 32, 32),
    (100, 1, 32, 32),
    (100, 1, 128, 128),
    (100, 1, 256, 256),
    (100, 1, 512, 512),
    (100, 16, 128, 128),
    (100, 32, 256, 256),
    (100, 64, 512, 512),
    (50, 128, 1024, 1024),
)
FULL: tuple[Shape, ...] = (
    *GRID,
    (1000, 1, 128, 128),
    (100, 5, 100, 100),
    (100, 16, 16, 256),
    (100, 16, 512, 64),
    (500, 16, 256, 256),
)
SHAPES: dict[str, tuple[Shape, ...]] = {"quick": QUICK, "grid": GRID, "full": FULL}


@dataclass(frozen=True)
class Case:
    """One line of the table: what is computed, on which shapes, in which precision, where."""

    cell: str
    T: int
    B: int
    I: int
    H: int
    dtype: str = "float32"
    mode: str = "forward"
    device: str = "cpu"

    def problem(self) -> shared.Problem:
        """The arrays: params by PyTorch's names, x (T, B, I), state (tuple of (1, B, H)), dy (T, B, H)."""
        return shared.Case(self.cell, T=self.T, B=self.B, I=self.I, H=self.H, dtype=self.dtype).problem()

    @property
    def gates(self) -> int:
        """How many blocks of H rows the weights have."""
        return len(CELLS[self.cell].gates)

    @property
    def shape(self) -> Shape:
        return self.T, self.B, self.I, self.H

    @property
    def key(self) -> str:
        """A name that is the same in every results file."""
        return f"{self.cell} {self.T},{self.B},{self.I},{self.H} {self.dtype} {self.mode} {self.device}"

    @property
    def flops(self) -> int:
        """Multiplications and additions of the products: input, recurrent; in training also dx, dh and dW."""
        forward = 2 * self.T * self.B * self.gates * self.H * (self.I + self.H)
        return 3 * forward if self.mode == "training" else forward

    @property
    def weight_bytes(self) -> int:
        """Bytes of the recurrent weights, which each step needs anew."""
        return self.gates * self.H * self.H * np.dtype(self.dtype).itemsize

    @property
    def streamed_bytes(self) -> int:
        """The least that must come from cache: the recurrent weights every step, backward again."""
        return self.T * self.weight_bytes * (2 if self.mode == "training" else 1)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def parse_shapes(text: str) -> tuple[Shape, ...]:
    """Read ``quick``, ``grid``, ``full`` or one or more ``T,B,I,H`` separated by ``;`` or spaces.

    Raises ValueError for anything else.
    """
    if text in SHAPES:
        return SHAPES[text]
    shapes = []
    for part in text.replace(";", " ").split():
        numbers = [int(n) for n in part.split(",") if n.strip().isdigit()]
        if len(numbers) != 4 or len(part.split(",")) != 4 or min(numbers) < 1:
            raise ValueError(f"shapes must be one of {', '.join(SHAPES)} or T,B,I,H, got {part!r}")
        shapes.append((numbers[0], numbers[1], numbers[2], numbers[3]))
    if not shapes:
        raise ValueError(f"shapes must be one of {', '.join(SHAPES)} or T,B,I,H, got {text!r}")
    return tuple(shapes)


def cases_for(
    cells: Iterable[str],
    shapes: Iterable[Shape],
    dtypes: Iterable[str] = ("float32",),
    modes: Iterable[str] = ("forward", "training"),
    devices: Iterable[str] = ("cpu",),
) -> Iterator[Case]:
    """The table's product, smallest shapes first within a mode so that a broken-off run holds all cells."""
    shapes, dtypes, modes, cells = list(shapes), list(dtypes), list(modes), list(cells)
    for device in devices:
        for shape in shapes:
            for cell in cells:
                for dtype in dtypes:
                    for mode in modes:
                        yield Case(cell, *shape, dtype=dtype, mode=mode, device=device)
