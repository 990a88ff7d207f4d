"""Running a training: in a process of its own, and beside a rival's implementation if one is asked for.

An implementation is a class, served by a process of its own:

    Implementation(config: dict, threads: int)
    train(steps) -> {"losses": one a step, "seconds", unit: how many of it}      goes on where the last call stopped
    held_out() -> float, or several by name                                      on data that training never sees
    sample() -> str                                                              what a person would look at
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, Protocol

from bench.processes import Worker

__all__ = ["Progress", "Settings", "Training", "Workload", "falling", "thinned"]

_KEPT = 100  # losses that the figures keep of a training
_COMPARED = 100  # losses that must agree with a rival's


class Progress(Protocol):
    """See ``bench.run.Progress``."""

    def begin(self, what: str, effort: float) -> None: ...
    def advance(self, effort: float) -> None: ...
    def say(self, line: str) -> None: ...


@dataclass(frozen=True)
class Settings:
    """Sizes and the optimiser's settings, all with defaults; every implementation of a workload takes the same.

    A subclass has ``quick()``, the settings of a run of seconds.
    """

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def falling(step: int, steps: int) -> float:
    """The share of a learning rate: constant for the first half, then falling linearly to a tenth."""
    return min(1.0, 0.1 + 1.8 * (1 - step / steps))


class Workload(Protocol):
    """What the table of workloads holds."""

    name: str
    about: str  # one line
    config: type[Settings]
    effort: float  # about how many seconds a default run takes, alone
    always: bool  # whether every run of the benchmarks has it

    def __call__(
        self, threads: int, progress: Progress, config: Any = None, against: str | None = None
    ) -> dict[str, Any]:
        """Figures: at least "config", "threads", a "summary" line, a "sample" of text, and "fastrnn"'s own."""


@dataclass(frozen=True)
class Training:
    """A workload that is one training, with ``config.steps`` steps.

    Its figures, by implementation: every ``losses_every``-th loss, ``before`` and ``after`` as ``held_out`` gives
    them, and how many of ``unit`` a second; the ``comparison`` where there is one.
    """

    name: str
    about: str
    config: type[Settings]
    implementations: dict[str, str]  # name -> "module:Class"; "fastrnn" and rivals
    unit: str
    summary: Callable[[dict[str, Any], Any], str]
    effort: float
    block: int = 50  # steps in turn
    always: bool = False
    variables: dict[str, str] | None = None  # of the environment of our own process

    def __call__(
        self, threads: int, progress: Progress, config: Any = None, against: str | None = None
    ) -> dict[str, Any]:
        """Train; with ``against`` (``"torch"``, or several with commas) also there, from the same weights, in turn."""
        config = config or self.config()
        rivals = against.split(",") if against else []
        for rival in rivals:
            if rival not in self.implementations:
                raise ValueError(f"{self.name} has no implementation in {rival}")
        names = ["fastrnn", *rivals]
        workers: dict[str, Worker] = {}
        figures: dict[str, Any] = {"config": config.to_json(), "threads": threads}
        try:
            for name in names:
                progress.begin(f"{self.name}: starting {name}", 0)
                given = {"config": config.to_json(), "threads": threads}
                variables = self.variables if name == "fastrnn" else None
                workers[name] = Worker(self.implementations[name], given, threads, variables=variables)
                figures[name] = {"before": workers[name].call("held_out"), "losses": [], "rates": []}
            self._train(workers, figures, config.steps, progress)
            for name, worker in workers.items():
                figures[name]["after"] = worker.call("held_out")
                figures[name][f"{self.unit}_per_s"] = median(figures[name].pop("rates"))
            figures["sample"] = workers["fastrnn"].call("sample")
        finally:
            for worker in workers.values():
                worker.close()
        rate = f"{self.unit}_per_s"
        if rivals:
            figures["comparisons"] = [_compare(figures["fastrnn"], figures[name], name, rate) for name in rivals]
            figures["comparison"] = figures["comparisons"][0]
        for name in names:
            figures[name]["losses"], figures[name]["losses_every"] = thinned(figures[name]["losses"])
        figures["summary"] = self.summary(figures, config)
        return figures

    def _train(self, workers: dict[str, Worker], figures: dict[str, Any], total: int, progress: Progress) -> None:
        for start in range(0, total, self.block):
            steps = min(self.block, total - start)
            progress.begin(f"{self.name}: step {start} of {total}", self.effort)
            for name, worker in workers.items():
                done = worker.call("train", steps=steps)
                figures[name]["losses"] += done["losses"]
                figures[name]["rates"].append(done[self.unit] / done["seconds"])
            progress.advance(self.effort * steps / total)


def thinned(losses: list[float]) -> tuple[list[float], int]:
    """At most about a hundred of them, evenly chosen, the first one included; and how many steps lie between two."""
    every = max(1, math.ceil(len(losses) / _KEPT))
    return losses[::every], every


def _compare(mine: dict[str, Any], rival: dict[str, Any], name: str, rate: str) -> dict[str, Any]:
    """How far two trainings from the same weights went apart, and the ratio of their speeds."""
    pairs = list(zip(mine["losses"], rival["losses"], strict=True))[:_COMPARED]
    found = {
        "against": name,
        "largest_loss_difference": max(abs(a - b) / abs(b) for a, b in pairs),
        "losses_compared": len(pairs),
        "speed_ratio": mine[rate] / rival[rate],
    }
    if isinstance(mine["after"], float) and rival["after"]:
        found["held_out_difference"] = mine["after"] / rival["after"] - 1
    return found
