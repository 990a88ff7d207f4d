"""Timing one case: every contender in turn, block by block, until each has its time.

A round gives each contender one block, in an order that turns from round to round, so that a machine that gets
slower meets all of them alike. What is quoted is the ratio of medians over all samples; its spread are the
quartiles of the rounds' own ratios. Rounds go to the contenders for whom they decide something: a rival far behind
sits out once it is known to be, and a call of seconds is not repeated for the sake of another digit.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Any

from bench.cases import Case
from bench.processes import Worker, WorkerError

__all__ = ["Budget", "ratio", "time_case"]

Samples = dict[str, list[list[float]]]
"""Seconds of a call, by label and block."""

_LEAST_ROUNDS = 3
_LONG_ROUNDS = 2  # for a program whose single call takes longer than Budget.long_call_s


@dataclass(frozen=True)
class Budget:
    """How long a case is measured: rounds, and seconds of each contender's block."""

    rounds: int = 7
    block_s: float = 0.03
    most_s: float = 2.0
    """A contender whose blocks have taken this long sits the further rounds out, three at least."""
    no_contest: float = 4.0
    """So does, after three, a rival whose every block takes this many times as long as ours."""
    long_call_s: float = 2.0
    """A program that takes longer for one call is timed in two blocks only."""
    close: float = 0.08
    """A best rival nearer than this, relative, is measured over ``extra_rounds`` more."""
    extra_rounds: int = 7
    pause_s: float = 0.0
    """Each call that is timed comes so long after the last: what a server or a microphone does."""


def time_case(
    case: Case, workers: Mapping[str, Worker], reference: str, budget: Budget, ours: str
) -> dict[str, dict[str, Any]]:
    """Prepare and time a case on every worker; entries by "name" or "name variant" (see ``bench.results``).

    A worker that dies is closed; its entry says so and the others go on.
    """
    entries: dict[str, dict[str, Any]] = {}
    racing: dict[str, tuple[Worker, str]] = {}
    for name, worker in workers.items():
        try:
            prepared = worker.call("prepare", case=case.to_json(), reference=reference)
        except WorkerError as error:
            prepared = {"": {"status": "failed", "why": str(error)}}
        for variant, report in prepared.items():
            label = f"{name} {variant}".strip()
            entries[label] = report
            if report["status"] == "ready":
                racing[label] = (worker, variant)
    samples: Samples = {label: [] for label in racing}
    _race(racing, samples, entries, budget, budget.rounds, ours)
    if _close_call(samples, ours, budget.close):
        _race(racing, samples, entries, budget, budget.extra_rounds, ours)
    for label, blocks in samples.items():
        if label in racing:
            memory = {} if "peak_bytes" in entries[label] else _memory(racing[label][0])
            entries[label] |= {"status": "timed"} | _summary(blocks) | memory
    return entries


def _race(
    racing: dict[str, tuple[Worker, str]],
    samples: Samples,
    entries: dict[str, dict[str, Any]],
    budget: Budget,
    rounds: int,
    ours: str,
) -> None:
    labels = list(racing)
    if not labels:
        return
    spent = dict.fromkeys(labels, 0.0)
    for turn in range(rounds):
        for label in labels[turn % len(labels) :] + labels[: turn % len(labels)]:
            if label not in racing or _sits_out(label, samples, spent[label], budget, ours):
                continue
            worker, variant = racing[label]
            started = time.perf_counter()
            try:
                block = worker.call("block", variant=variant, seconds=budget.block_s, pause=budget.pause_s)
                samples[label].append(block)
                spent[label] += time.perf_counter() - started
            except WorkerError as error:
                entries[label] |= {"status": "failed", "why": str(error)}
                del racing[label]


def _sits_out(label: str, samples: Samples, spent: float, budget: Budget, ours: str) -> bool:
    """Whether a contender has had rounds enough: its calls or blocks are long, or it is a rival far behind ours.

    Judged by its quickest block: one that was disturbed must not cost it the others.
    """
    blocks = samples[label]
    if len(blocks) < _LONG_ROUNDS:
        return False
    quickest = min(median(block) for block in blocks)
    if quickest > budget.long_call_s:
        return True
    if len(blocks) < _LEAST_ROUNDS:
        return False
    if spent > budget.most_s:
        return True
    mine = _median_of(samples, lambda name: name == ours)
    return label.split()[0] != ours and mine is not None and quickest > budget.no_contest * mine


def _median_of(samples: Samples, chosen: Callable[[str], bool]) -> float | None:
    """The best median of the chosen contenders; None if none of them has been timed."""
    medians = [
        median(s for block in blocks for s in block)
        for label, blocks in samples.items()
        if blocks and chosen(label.split()[0])
    ]
    return min(medians, default=None)


def _quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Low, median, high; within the values, as is right for few of them."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = quantiles(values, n=4, method="inclusive")
    return low, middle, high


def _summary(blocks: Sequence[Sequence[float]]) -> dict[str, Any]:
    flat = [s for block in blocks for s in block]
    low, middle, high = _quartiles(flat)
    return {
        "seconds": middle,
        "low": low,
        "high": high,
        "blocks": [median(block) for block in blocks],
        "samples": len(flat),
    }


def _memory(worker: Worker) -> dict[str, Any]:
    try:
        return {"peak_bytes": worker.call("peak_memory")}
    except WorkerError:
        return {"peak_bytes": None}


def _close_call(samples: Samples, ours: str, close: float) -> bool:
    mine = _median_of(samples, lambda name: name == ours)
    theirs = _median_of(samples, lambda name: name != ours)
    return mine is not None and theirs is not None and abs(math.log(theirs / mine)) < close


def ratio(rival: Mapping[str, Any], mine: Mapping[str, Any]) -> tuple[float, float, float]:
    """How many times as long the rival takes: the ratio of medians, and the quartiles of the rounds' ratios."""
    rounds = [r / m for r, m in zip(rival["blocks"], mine["blocks"], strict=False)]
    low, _, high = _quartiles(rounds)
    return rival["seconds"] / mine["seconds"], low, high
