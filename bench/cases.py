"""What is timed: cells, shapes, dtypes, modes and devices. The arrays of a case come from the table that tests use.

Every process makes a case's arrays by itself from the case's own seed, so no data crosses a pipe and all
contenders compute the same thing. Nothing here imports fastrnn: a rival's process does not load it.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from bench.devices import DTYPES
from tests import cases as shared
from tests.reference import CELLS

__all__ = ["CELLS", "CROSSOVER", "MODES", "SHAPES", "Case", "cases_for", "forget_problem", "parse_shapes"]

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
CUDA_QUICK: tuple[Shape, ...] = ((512, 1, 256, 256), (512, 16, 512, 512), (512, 64, 1024, 1024))
CUDA_GRID: tuple[Shape, ...] = tuple((512, B, H, H) for H in (128, 256, 512, 1024, 2048) for B in (1, 16, 64, 256))
CUDA_FULL: tuple[Shape, ...] = (
    *CUDA_GRID,
    (1, 1, 128, 128),
    (2000, 16, 256, 256),
    (512, 5, 100, 100),
    (512, 64, 64, 512),
    (512, 64, 512, 64),
)
SHAPES: dict[str, dict[str, tuple[Shape, ...]]] = {
    "cpu": {"quick": QUICK, "grid": GRID, "full": FULL},
    "cuda": {"quick": CUDA_QUICK, "grid": CUDA_GRID, "full": CUDA_FULL},
}

_CROSSOVER_GRID = tuple((100, B, H, H) for H in (128, 256, 512, 1024) for B in (1, 16, 64, 256))
CROSSOVER: dict[str, tuple[Shape, ...]] = {
    "quick": tuple((100, B, 128, 128) for B in (1, 16, 64, 256)),
    "grid": _CROSSOVER_GRID,
    "full": _CROSSOVER_GRID,
}
"""Measured on both devices when both are asked for, to say where the GPU overtakes the CPU: the GPU's own shapes
would take a CPU hours, and on most of the CPU's own a GPU has nothing to do."""

_ITEMSIZE = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}
_CHECKED_FLOPS = 4e11  # what the float64 reference computes in about ten seconds on two cores
_CHECKED_ROWS, _CHECKED_STEPS = 8, 16  # never fewer, as far as a case has them


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
        """The arrays: params by PyTorch's names, x (T, B, I), state (tuple of (1, B, H)), dy (T, B, H).

        They are shared by all who ask, and not to be written to.
        """
        return _problem(shared.Case(self.cell, T=self.T, B=self.B, I=self.I, H=self.H, dtype=self.dtype))

    @property
    def window(self) -> tuple[int, np.ndarray]:
        """Up to which step, and which rows, outputs are compared with the reference: all but in the largest cases.

        There rows are spread over the batch, and only then the end of the sequences is left out.
        """
        steps, rows = self.T, self.B
        while self.flops / max(1, self.T * self.B) * steps * rows > _CHECKED_FLOPS:
            if rows > _CHECKED_ROWS:
                rows = max(rows // 2, _CHECKED_ROWS)
            elif steps > _CHECKED_STEPS:
                steps = max(steps // 2, _CHECKED_STEPS)
            else:
                break
        return steps, np.linspace(0, self.B - 1, rows).round().astype(int)

    @property
    def checking(self) -> Case:
        """The case to check: this one, or where only a window is compared one whose dy is zero outside of it.

        So gradients that sum over rows and steps need only the window, too.
        """
        steps, rows = self.window
        return self if steps == self.T and len(rows) == self.B else _Windowed(**self.to_json())

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
        return self.gates * self.H * self.H * _ITEMSIZE[self.dtype]

    @property
    def streamed_bytes(self) -> int:
        """The least that must be moved.

        On the CPU from cache: the recurrent weights every step, backward again. On a GPU, whose registers may hold
        them, through its memory: all arguments and results once.
        """
        if self.device == "cpu":
            return self.T * self.weight_bytes * (2 if self.mode == "training" else 1)
        weights = self.gates * self.H * (self.I + self.H)
        sequences = self.T * self.B * (self.I + self.H)
        return (weights + sequences) * _ITEMSIZE[self.dtype] * (2 if self.mode == "training" else 1)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class _Windowed(Case):
    """A case whose dy is zero outside of the window that is checked."""

    def problem(self) -> shared.Problem:
        problem = copy.copy(super().problem())
        steps, rows = self.window
        dy = np.zeros_like(problem.dy)
        dy[:steps, rows] = problem.dy[:steps, rows]
        problem.dy = dy
        return problem


@functools.lru_cache(maxsize=1)
def _problem(case: shared.Case) -> shared.Problem:
    """Kept for a case's other variants: the numbers of the largest take many seconds to draw."""
    if case.dtype == "bfloat16":
        import ml_dtypes  # noqa: F401  (gives NumPy the name)
    return case.problem()


forget_problem = _problem.cache_clear


def parse_shapes(text: str, device: str = "cpu") -> tuple[Shape, ...]:
    """Read ``quick``, ``grid``, ``full`` (each device has its own) or ``T,B,I,H``, one or more, separated by ``;``.

    Raises ValueError for anything else.
    """
    if text in SHAPES[device]:
        return SHAPES[device][text]
    shapes = []
    for part in text.replace(";", " ").split():
        numbers = [int(n) for n in part.split(",") if n.strip().isdigit()]
        if len(numbers) != 4 or len(part.split(",")) != 4 or min(numbers) < 1:
            raise ValueError(f"shapes must be one of {', '.join(SHAPES[device])} or T,B,I,H, got {part!r}")
        shapes.append((numbers[0], numbers[1], numbers[2], numbers[3]))
    if not shapes:
        raise ValueError(f"shapes must be one of {', '.join(SHAPES[device])} or T,B,I,H, got {text!r}")
    return tuple(shapes)


def cases_for(
    cells: Iterable[str],
    shapes: Iterable[Shape],
    dtypes: Iterable[str] = ("float32",),
    modes: Iterable[str] = ("forward", "training"),
    devices: Iterable[str] = ("cpu",),
) -> Iterator[Case]:
    """The table's product, smallest shapes first within a mode so that a broken-off run holds all cells.

    A dtype that a device does not compute in is left out there.
    """
    shapes, dtypes, modes, cells = list(shapes), list(dtypes), list(modes), list(cells)
    for device in devices:
        for shape in shapes:
            for cell in cells:
                for dtype in dtypes:
                    if dtype not in DTYPES[device]:
                        continue
                    for mode in modes:
                        yield Case(cell, *shape, dtype=dtype, mode=mode, device=device)
