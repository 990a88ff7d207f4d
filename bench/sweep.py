"""The cliff sweep: does a size cost much more than its neighbours? ``python -m bench sweep``.

Three sweeps, over H (with I = H), over B and over T, dense where the kernels change their ways: near multiples of a
vector, of a register tile and of a panel group, and near the thresholds of ``kernels/cpu/plan.py``. A point's cost is
its time per padded floating-point operation (H and I rounded up to whole vectors), in multiples of what the FMA peak
allows: 1 is the peak. Reported is a point that costs over 1.3 times the median of its neighbours, up to two on each
side:

spike : also over 1.3 times the median of the smaller ones alone
slope : no dearer than the smaller ones, but than the larger: small sizes share a fixed cost among few operations
step  : it and the next each cost over 1.3 times what either of the two smaller sizes before them costs

Points are compared only where the recurrent weights lie in the same level of cache. Points with B * T < 64 are
measured and drawn but neither judged nor compared with: there most of the time is the fixed cost of a call. Whatever
is found is measured again, and reported only if it is found again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import median, quantiles
from typing import Any, Protocol

import numpy as np

from bench.cases import Case
from bench.machine_kernels import vector_bytes

__all__ = ["CLIFF", "SWEEPS", "Cliff", "Curve", "Point", "cliffs_among", "measure_sweep", "padded_flops"]

CLIFF = 1.3
_LEAST_ROWS = 64  # of B * T
_ROUNDS, _BLOCK_S = 7, 0.01
_ENOUGH = 0.8  # of a core a thread; small sizes run on one thread, and count in the mean

SWEEPS: dict[str, tuple[tuple[int, ...], dict[str, int]]] = {
    "H": (
        (1, 2, 3, 5, 8, 12, 13, 15, 16, 17, 24, 31, 32, 33, 40, 48, 49, 63, 64, 65, 80, 96, 100, 112, 127, 128, 129)
        + (143, 144, 160, 165, 166, 191, 192, 193, 224, 255, 256, 257, 300, 320, 383, 384, 385, 448, 511, 512, 513)
        + (600, 640, 768, 832, 1000, 1023, 1024, 1025, 1088, 1100),
        {"T": 32, "B": 32},
    ),
    "B": (
        (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 23, 24, 25, 30, 31, 32, 33, 36, 37)
        + (47, 48, 49, 63, 64, 65, 96, 97, 127, 128, 129, 130),
        {"T": 50, "I": 128, "H": 128},
    ),
    "T": (
        (1, 2, 3, 4, 5, 7, 8, 9, 12, 15, 16, 17, 24, 31, 32, 33, 48, 63, 64, 65, 100, 127, 128, 129, 200, 255, 256, 257)
        + (400, 511, 512, 513, 800, 1000, 1024, 1500, 2000),
        {"B": 16, "I": 256, "H": 256},
    ),
}
"""By the size that varies: its values, and the others."""


class Progress(Protocol):
    """See ``bench.run.Progress``."""

    def begin(self, what: str, effort: float) -> None: ...
    def advance(self, effort: float) -> None: ...


@dataclass(frozen=True)
class Point:
    """One size, measured: seconds (median and quartiles of the rounds), cost, level of cache, way of running."""

    case: Case
    size: int
    seconds: float
    low: float
    high: float
    cost: float
    level: str
    kernel: str

    @property
    def judged(self) -> bool:
        return self.case.B * self.case.T >= _LEAST_ROWS

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"judged": self.judged}


@dataclass(frozen=True)
class Curve:
    """One sweep of a cell in one mode. ``cores``: processor seconds over seconds; fewer than threads, something else
    ran on them, or the system kept several threads on one core, and the curve means little."""

    sweep: str
    cell: str
    mode: str
    cores: float
    points: list[Point]
    cliffs: list[Cliff]

    def to_json(self) -> dict[str, Any]:
        about = {"sweep": self.sweep, "cell": self.cell, "mode": self.mode, "cores": self.cores}
        return about | {"points": [point.to_json() for point in self.points]}


@dataclass(frozen=True)
class Cliff:
    """A point of a sweep, by its index, and how many times as much it costs as those that it is compared with."""

    index: int
    kind: str  # "spike", "slope" or "step"
    ratio: float


def cliffs_among(costs: Sequence[float], levels: Sequence[str], judged: Sequence[bool]) -> list[Cliff]:
    """The cliffs of a sweep in the order of its sizes, one a point: the start of a step is not called a spike, too."""
    found: dict[int, Cliff] = {}
    usable = [i for i, counts in enumerate(judged) if counts]
    for level in dict.fromkeys(levels[i] for i in usable):
        here = [i for i in usable if levels[i] == level]
        values = [costs[i] for i in here]
        for k, i in enumerate(here):
            before, after = values[max(k - 2, 0) : k], values[k + 1 : k + 3]
            both = values[k : k + 2]
            if before + after and (ratio := values[k] / median(before + after)) > CLIFF:
                dearer = bool(before) and values[k] > CLIFF * median(before)
                found[i] = Cliff(i, "spike" if dearer else "slope", ratio)
            if len(before) == len(both) == 2 and (step := min(both) / max(before)) > CLIFF:
                found[i] = Cliff(i, "step", step)
    return [found[i] for i in sorted(found)]


def padded_flops(case: Case) -> int:
    """Floating-point operations of a case with H and I rounded up to whole vectors of this machine."""
    lanes = vector_bytes() // np.dtype(case.dtype).itemsize
    return replace(case, I=-(-case.I // lanes) * lanes, H=-(-case.H // lanes) * lanes).flops


def _level(case: Case, threads: int, sizes: dict[str, int]) -> str:
    """The cache that holds the recurrent weights: a thread's share of them, or in the shared L3 all."""
    for level in ("L1", "L2"):
        if case.weight_bytes <= sizes[level] * threads:
            return level
    return "L3" if case.weight_bytes <= sizes["L3"] else "DRAM"


def _cases(sweep: str, cell: str, mode: str) -> list[Case]:
    sizes, others = SWEEPS[sweep]
    varied = [{"H": n, "I": n} if sweep == "H" else {sweep: n} for n in sizes]
    return [Case(cell, **{**others, **one}, mode=mode) for one in varied]


def _program(case: Case) -> Callable[[], object]:
    """What is timed: a frozen layer's call, or forward and backward of one that is not, as in training."""
    import fastrnn
    from tests.cases import LAYERS

    kind, options = LAYERS[case.cell]
    layer = getattr(fastrnn, kind)(case.I, case.H, dtype=case.dtype, seed=0, **options)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((case.T, case.B, case.I), np.dtype(case.dtype))
    if case.mode == "forward":
        layer.freeze()
        return lambda: layer(x)
    dy = rng.standard_normal((case.T, case.B, case.H), np.dtype(case.dtype))

    def train() -> object:
        y, state, tape = layer.forward(x)
        return y, state, layer.backward(tape, dy)

    return train


class _Timed:
    """A program and the times of its blocks."""

    def __init__(self, program: Callable[[], object]) -> None:
        self.program = program
        program()
        self.calls = 1
        first = min(self._block(), self._block())
        self.calls = max(1, int(_BLOCK_S / first))
        self.samples: list[float] = []

    def _block(self) -> float:
        started = time.perf_counter()
        for _ in range(self.calls):
            self.program()
        return (time.perf_counter() - started) / self.calls

    def run(self) -> None:
        self.samples.append(self._block())


def _interleave(timed: Sequence[_Timed], rounds: int) -> Iterator[None]:
    """A block of each in turn, there and back: neighbours are measured within a moment of each other."""
    for turn in range(rounds):
        for one in timed[:: -1 if turn % 2 else 1]:
            one.run()
        yield


def _cores_used(timed: Sequence[_Timed], rounds: int, after_round: Callable[[], None]) -> float:
    """Run the rounds; returns the cores that this process had meanwhile."""
    started, cpu = time.perf_counter(), time.process_time()
    for _ in _interleave(timed, rounds):
        after_round()
    return (time.process_time() - cpu) / (time.perf_counter() - started)


def _point(sweep: str, case: Case, samples: Sequence[float], limits: dict[str, Any]) -> Point:
    from fastrnn.backend import load
    from fastrnn.cell_table import CELLS

    low, middle, high = quantiles(samples, n=4)
    cost = middle / padded_flops(case) * limits["flops"][case.dtype]
    sizes, threads = (case.T, case.B, case.I, case.H), limits["threads"]
    plan = load("cpu").plan(CELLS[case.cell], *sizes, case.dtype, threads, case.mode == "training")
    level = _level(case, threads, limits["cache"])
    return Point(case, getattr(case, sweep), middle, low, high, cost, level, plan.kernel)


def measure_sweep(sweep: str, cell: str, mode: str, limits: dict[str, Any], progress: Progress) -> Curve:
    """Measure one sweep of a cell; ``limits`` are those of ``bench.limits.measure``. Takes a unit of progress.

    Where threads did not get their cores, all is measured a second time.
    """
    cases, threads = _cases(sweep, cell, mode), limits["threads"]
    progress.begin(f"{sweep}: {cell} {mode}", 1.0)
    timed = [_Timed(_program(case)) for case in cases]
    cores = _cores_used(timed, _ROUNDS, lambda: progress.advance(1.0 / _ROUNDS))
    if cores < _ENOUGH * threads:
        for one in timed:
            one.samples.clear()
        cores = _cores_used(timed, _ROUNDS, lambda: None)

    def points() -> list[Point]:
        return [_point(sweep, case, one.samples, limits) for case, one in zip(cases, timed, strict=True)]

    measured = points()
    suspects = {cliff.index for cliff in _cliffs(measured)}
    if suspects:
        again = sorted({k for i in suspects for k in range(i - 2, i + 3) if 0 <= k < len(timed)})
        _cores_used([timed[k] for k in again], 2 * _ROUNDS, lambda: None)
        measured = points()
    return Curve(sweep, cell, mode, cores, measured, [c for c in _cliffs(measured) if c.index in suspects])


def _cliffs(points: Sequence[Point]) -> list[Cliff]:
    return cliffs_among([p.cost for p in points], [p.level for p in points], [p.judged for p in points])
