"""The cell table: every fact about a cell that is not arithmetic, stated once.

A cell is added here (one row), in ``kernels/cpu/cell_math.py`` (its pointwise forward and backward), in the
CUDA twin of that file, and in ``tests/reference`` (its naive equations). Nothing else names a cell.

Vocabulary
----------
gate
    A block of H rows in ``weight_ih``, ``weight_hh`` and the biases, in PyTorch's order.
slot
    A vector per unit that the kernels accumulate, activate, save and finally overwrite with its gradient ``dz``.
    It is fed by one gate of the input product, of the recurrent product, or of both.
phase
    The slots whose recurrent product can be taken at once. A second phase exists where a gate needs the
    activations of another (GRU with the reset gate before the product): its recurrent operand is not h
    but what the first phase made.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CELLS", "Cell", "Phase", "cell_for"]


@dataclass(frozen=True)
class Phase:
    """Slots accumulated together; ``x`` and ``h`` say which gate's weights feed each slot (None: not fed).

    The slots that ``x`` feeds are contiguous, and so are those that ``h`` feeds: one tile serves each product.
    """

    slots: tuple[str, ...]
    x: tuple[str | None, ...]
    h: tuple[str | None, ...]

    @property
    def x_range(self) -> tuple[int, int]:
        """First and one-past-last slot that the input product feeds."""
        return _fed(self.x)

    @property
    def h_range(self) -> tuple[int, int]:
        """First and one-past-last slot that the recurrent product feeds."""
        return _fed(self.h)


def _fed(gates: tuple[str | None, ...]) -> tuple[int, int]:
    fed = [i for i, gate in enumerate(gates) if gate is not None]
    if fed != list(range(fed[0], fed[-1] + 1)):
        raise ValueError(f"the fed slots of a phase must be contiguous, got {gates}")
    return fed[0], fed[-1] + 1


def _phase(*gates: str) -> Phase:
    return Phase(slots=gates, x=gates, h=gates)


@dataclass(frozen=True)
class Cell:
    """One row of the table. ``gates`` and ``peepholes`` are in the order of the parameters' rows."""

    name: str
    gates: tuple[str, ...]
    states: tuple[str, ...]
    phases: tuple[Phase, ...]
    peepholes: tuple[str, ...] = ()

    @property
    def slots(self) -> tuple[str, ...]:
        """All slots, phase after phase."""
        return tuple(slot for phase in self.phases for slot in phase.slots)


def _lstm(name: str, gates: tuple[str, ...], peepholes: tuple[str, ...] = ()) -> Cell:
    return Cell(name, gates, ("h", "c"), (_phase(*gates),), peepholes)


_ROWS = (
    *(Cell(f"rnn_{phi}", ("h",), ("h",), (_phase("h"),)) for phi in ("tanh", "relu", "sigmoid")),
    _lstm("lstm", ("i", "f", "g", "o")),
    _lstm("lstm_peephole", ("i", "f", "g", "o"), ("i", "f", "o")),
    _lstm("lstm_coupled", ("f", "g", "o")),
    _lstm("lstm_peephole_coupled", ("f", "g", "o"), ("f", "o")),
    Cell("gru_reset_before", ("r", "z", "n"), ("h",), (_phase("r", "z"), _phase("n"))),
    # n and its recurrent part are kept apart, since r scales only the latter. In this order the input
    # product feeds the first three slots and the recurrent product the last three.
    Cell(
        "gru_reset_after",
        ("r", "z", "n"),
        ("h",),
        (Phase(slots=("n", "r", "z", "hn"), x=("n", "r", "z", None), h=(None, "r", "z", "n")),),
    ),
)

CELLS: dict[str, Cell] = {cell.name: cell for cell in _ROWS}


def cell_for(
    kind: str,
    *,
    nonlinearity: str = "tanh",
    peephole: bool = False,
    coupled: bool = False,
    reset_after: bool = False,
) -> Cell:
    """Return the row for a layer class (``"RNN"``, ``"LSTM"``, ``"GRU"``) and its options.

    Raises ValueError for a nonlinearity that the table lacks.
    """
    if kind == "RNN":
        name = f"rnn_{nonlinearity}"
        if name not in CELLS:
            known = [c.removeprefix("rnn_") for c in CELLS if c.startswith("rnn_")]
            raise ValueError(f"nonlinearity must be one of {known}, got {nonlinearity!r}")
    elif kind == "LSTM":
        name = "lstm" + "_peephole" * peephole + "_coupled" * coupled
    else:
        name = "gru_reset_after" if reset_after else "gru_reset_before"
    return CELLS[name]
