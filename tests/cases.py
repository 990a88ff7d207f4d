"""The table of cases that tests and benchmarks share: which cells, which shapes, and numbers to fill them.

A ``Case`` is a description, ``Case.problem()`` its arrays. A case forces what it is named for: with
``ragged`` the first row has length 0, the last one all T, and dy holds NaN past every length, which must be
ignored; with ``resets`` there is one at t = 0, one in the middle, and one on a row's last valid step.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, fields

import numpy as np

from tests.reference import CELLS, Network

# The layer class and the options that select each cell.
LAYERS: dict[str, tuple[str, dict]] = {
    "rnn_tanh": ("RNN", {}),
    "rnn_relu": ("RNN", {"nonlinearity": "relu"}),
    "rnn_sigmoid": ("RNN", {"nonlinearity": "sigmoid"}),
    "lstm": ("LSTM", {}),
    "lstm_peephole": ("LSTM", {"peephole": True}),
    "lstm_coupled": ("LSTM", {"coupled": True}),
    "lstm_peephole_coupled": ("LSTM", {"peephole": True, "coupled": True}),
    "gru_reset_before": ("GRU", {}),
    "gru_reset_after": ("GRU", {"reset_after": True}),
}
DTYPES = ("float32", "float64")

# Largest difference that kernels may show against the reference, relative to the largest entry.
TOLERANCE = {"float32": 1e-5, "float64": 1e-12}


@dataclass(frozen=True)
class Case:
    """One layer and the batch it runs on."""

    cell: str
    T: int = 6
    B: int = 5
    I: int = 4
    H: int = 17
    num_layers: int = 1
    bidirectional: bool = False
    bias: bool = True
    ragged: bool = False
    resets: bool = False
    batch_first: bool = False
    dtype: str = "float64"

    def __str__(self):
        """``cell-T6-B5-I4-H17-dtype`` and whatever differs from the defaults; the test's id."""
        parts = [self.cell, f"T{self.T}-B{self.B}-I{self.I}-H{self.H}", self.dtype]
        parts += [f"{self.num_layers}layers"] * (self.num_layers > 1)
        parts += [name for name in ("bidirectional", "ragged", "resets", "batch_first") if getattr(self, name)]
        parts += ["nobias"] * (not self.bias)
        return "-".join(parts)

    @property
    def directions(self):
        return 2 if self.bidirectional else 1

    def problem(self, seed=0):
        """The arrays of this case, the same for every call with the same seed."""
        return Problem(self, seed)

    def parameter_shapes(self):
        """Shape of every parameter by name, in the order of the contract."""
        cell, H = CELLS[self.cell], self.H
        rows = len(cell.gates) * H
        shapes = {}
        for layer in range(self.num_layers):
            width = self.I if layer == 0 else self.directions * H
            for direction in ("", "_reverse")[: self.directions]:
                suffix = f"l{layer}{direction}"
                shapes[f"weight_ih_{suffix}"] = (rows, width)
                shapes[f"weight_hh_{suffix}"] = (rows, H)
                if self.bias:
                    shapes[f"bias_ih_{suffix}"] = (rows,)
                    shapes[f"bias_hh_{suffix}"] = (rows,)
                if cell.peepholes:
                    shapes[f"weight_peephole_{suffix}"] = (len(cell.peepholes) * H,)
        return shapes


class Problem:
    """The arrays of one case, time-major, in the case's dtype.

    params (dict), x (T, B, I), state (tuple of (L*D, B, H)), lengths (B,) or None, resets (T, B) or None,
    dy (T, B, D*H), dstate (tuple like state).
    """

    def __init__(self, case: Case, seed: int = 0) -> None:
        rng = np.random.default_rng([seed, zlib.crc32(str(case).encode())])
        self.case = case
        bound = 1 / np.sqrt(case.H)
        numbers = {name: rng.uniform(-bound, bound, shape) for name, shape in case.parameter_shapes().items()}
        self.params = {name: array.astype(case.dtype) for name, array in numbers.items()}
        T, B = case.T, case.B
        states = (case.num_layers * case.directions, B, case.H)

        def normal(*shape):
            return rng.standard_normal(shape).astype(case.dtype)

        self.x = normal(T, B, case.I)
        self.state = tuple(normal(*states) for _ in range(CELLS[case.cell].states))
        self.dy = normal(T, B, case.directions * case.H)
        self.dstate = tuple(normal(*states) for _ in self.state)
        self.lengths = _lengths(rng, T, B) if case.ragged else None
        self.resets = _resets(rng, T, B, self.lengths) if case.resets else None
        if case.ragged:
            self.dy[self.padding] = np.nan

    @property
    def padding(self):
        """(T, B), True past a row's length."""
        lengths = np.full(self.case.B, self.case.T) if self.lengths is None else self.lengths
        return np.arange(self.case.T)[:, None] >= lengths

    def network(self, dtype=np.float64):
        """The reference for this case's parameters, in dtype."""
        return Network(self.case.cell, {name: p.astype(dtype) for name, p in self.params.items()})


def _lengths(rng, T, B):
    """Mixed lengths: the first row is empty and the last one full; a single row stops half-way."""
    lengths = rng.integers(min(1, T), T + 1, B)
    if B == 1:
        lengths[0] = T // 2
    elif B > 1:
        lengths[0], lengths[-1] = 0, T
    return lengths


def _resets(rng, T, B, lengths):
    """Scattered resets: at t = 0, midway, on last valid steps, past lengths; of 3 rows or more one has none."""
    resets = rng.random((T, B)) < 0.15
    if T and B:
        lengths = np.full(B, T) if lengths is None else lengths
        resets[0, -1] = resets[T // 2, -1] = True
        for row in range(0, B, 2):
            resets[lengths[row] :, row] = True
            resets[max(lengths[row] - 1, 0), row] = True
        if B > 2:
            resets[:, 1] = False
    return resets


def structures(**fixed):
    """Every combination of layers, directions, lengths, resets and biases, for every cell and dtype."""
    grid = {
        "cell": LAYERS,
        "dtype": DTYPES,
        "num_layers": (1, 2),
        "bidirectional": (False, True),
        "ragged": (False, True),
        "resets": (False, True),
        "bias": (True, False),
    }
    assert set(fixed) <= {f.name for f in fields(Case)}
    return [Case(**combination, **fixed) for combination in _product(grid)]


def sizes():
    """Shapes that are no multiple of any tile, and some that are, for every cell and dtype.

    T and B sweep over all pairs; I, ragged and batch_first change along so that each meets every H.
    """
    cases = []
    for cell in LAYERS:
        for dtype in DTYPES:
            for h, H in enumerate((1, 3, 17, 64, 80, 100, 130)):
                for k, (T, B) in enumerate([(0, 5), (1, 1), (1, 7), (2, 1), (2, 5), (13, 1), (13, 5), (13, 7)]):
                    variant = {"I": (1, 3, 40)[(h + k) % 3], "ragged": k % 2 == 1, "batch_first": k % 4 == 0}
                    cases.append(Case(cell, T=T, B=B, H=H, dtype=dtype, **variant))
    return cases


def _product(grid):
    combinations = [{}]
    for name, values in grid.items():
        combinations = [{**c, name: value} for c in combinations for value in values]
    return combinations
