"""Timing one case: every contender in turn, block by block, until each has its time.

A round gives each contender one block, in an order that turns from round to round, so that a machine that gets
slower meets all of them alike. What is quoted is the ratio of medians over all samples; its spread are the
quartiles of the rounds' own ratios.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Any

from bench.cases import Case
from bench.processes import Worker, WorkerError

__all__ = ["Budget", "ratio", "time_case"]

_LEAST_ROUNDS = 3


@dataclass(frozen=True)
class Budget:
    """How long a case is measured: rounds, and seconds of each contender's block."""

    rounds: int = 7
    block_s: float = 0.03
    most_s: float = 2.0
    """A contender whose blocks have taken this long sits the further rounds out, three at least."""
    close: float = 0.08
    """A best rival nearer than this, relative, is measured over ``extra_rounds`` more."""
    extra_rounds: int = 7


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
    samples = {label: [] for label in racing}
    _race(racing, samples, entries, budget, budget.rounds)
    if _close_call(samples, ours, budget.close):
        _race(racing, samples, entries, budget, budget.extra_rounds)
    for label, blocks in samples.items():
        if label in racing:
            entries[label] |= {"status": "timed"} | _summary(blocks) | _memory(racing[label][0])
    return entries


def _race(
    racing: dict[str, tuple[Worker, str]],
    samples: dict[str, list[list[float]]],
    entries: dict[str, dict[str, Any]],
    budget: Budget,
    rounds: int,
) -> None:
    labels = list(racing)
    spent = dict.fromkeys(labels, 0.0)
    for turn in range(rounds):
        for label in labels[turn % len(labels) :] + labels[: turn % len(labels)]:
            if label not in racing or (turn >= _LEAST_ROUNDS and spent[label] > budget.most_s):
                continue
            worker, variant = racing[label]
            started = time.perf_counter()
            try:
                samples[label].append(worker.call("block", variant=variant, seconds=budget.block_s))
                spent[label] += time.perf_counter() - started
            except WorkerError as error:
                entries[label] |= {"status": "failed", "why": str(error)}
                del racing[label]


def _summary(blocks: Sequence[Sequence[float]]) -> dict[str, Any]:
    flat = [s for block in blocks for s in block]
    low, middle, high = quantiles(flat, n=4) if len(flat) > 1 else [flat[0]] * 3
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


def _close_call(samples: Mapping[str, Sequence[Sequence[float]]], ours: str, close: float) -> bool:
    middles = {label: median(s for block in blocks for s in block) for label, blocks in samples.items() if blocks}
    mine = [m for label, m in middles.items() if label.split()[0] == ours]
    theirs = [m for label, m in middles.items() if label.split()[0] != ours]
    return bool(mine and theirs) and abs(math.log(min(theirs) / min(mine))) < close


def ratio(rival: Mapping[str, Any], mine: Mapping[str, Any]) -> tuple[float, float, float]:
    """How many times as long the rival takes: the ratio of medians, and the quartiles of the rounds' ratios."""
    rounds = [r / m for r, m in zip(rival["blocks"], mine["blocks"], strict=False)]
    low, _, high = quantiles(rounds, n=4) if len(rounds) > 1 else [rounds[0]] * 3
    return rival["seconds"] / mine["seconds"], low, high
