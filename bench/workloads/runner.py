"""Running a workload: in a process of its own, and beside a rival's implementation if one is asked for."""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import median
from typing import Any, Protocol

from bench.processes import Worker
from bench.workloads.charlm import Config

__all__ = ["EFFORT", "WORKLOADS", "charlm", "thinned"]

_IMPLEMENTATIONS = {
    "fastrnn": "bench.workloads.charlm:CharLM",
    "torch": "bench.workloads.charlm_torch:CharLMTorch",
}
_BLOCK = 50  # steps in turn
_COMPARED = 100  # losses that must agree with a rival's
_KEPT = 100  # losses that the figures keep of a training


class Progress(Protocol):
    """See ``bench.run.Progress``."""

    def begin(self, what: str, effort: float) -> None: ...
    def advance(self, effort: float) -> None: ...
    def say(self, line: str) -> None: ...


def charlm(
    threads: int, progress: Progress, config: Config | None = None, against: str | None = None
) -> dict[str, Any]:
    """Train the character model; with ``against`` (``"torch"``) also there, from the same weights, in turn.

    Returns figures by implementation: every ``losses_every``-th loss, held-out loss before and after (nats per
    character), characters a second; the ``comparison`` where there is one; a ``sample`` of text; a ``summary`` line.
    """
    config = config or Config()
    names = ["fastrnn"] + [against] * (against is not None)
    workers: dict[str, Worker] = {}
    figures: dict[str, Any] = {"config": config.to_json(), "threads": threads}
    try:
        for name in names:
            progress.begin(f"charlm: starting {name}", 0)
            workers[name] = Worker(_IMPLEMENTATIONS[name], {"config": config.to_json(), "threads": threads}, threads)
            figures[name] = {"before": workers[name].call("held_out"), "losses": [], "rates": []}
        _train(workers, figures, config, progress)
        for name, worker in workers.items():
            figures[name]["after"] = worker.call("held_out")
            figures[name]["characters_per_s"] = median(figures[name].pop("rates"))
        figures["sample"] = workers["fastrnn"].call("sample")
    finally:
        for worker in workers.values():
            worker.close()
    if against is not None:
        figures["comparison"] = compare(figures["fastrnn"], figures[against], against)
    for name in names:
        figures[name]["losses"], figures[name]["losses_every"] = thinned(figures[name]["losses"])
    figures["summary"] = _summary(figures, config)
    return figures


def thinned(losses: list[float]) -> tuple[list[float], int]:
    """At most about a hundred of them, evenly chosen, the first one included; and how many steps lie between two."""
    every = max(1, math.ceil(len(losses) / _KEPT))
    return losses[::every], every


def _train(workers: dict[str, Worker], figures: dict[str, Any], config: Config, progress: Progress) -> None:
    for start in range(0, config.steps, _BLOCK):
        steps = min(_BLOCK, config.steps - start)
        progress.begin(f"charlm: step {start} of {config.steps}", EFFORT)
        for name, worker in workers.items():
            block = worker.call("train", steps=steps)
            figures[name]["losses"] += block["losses"]
            figures[name]["rates"].append(block["characters"] / block["seconds"])
        progress.advance(EFFORT * steps / config.steps)


def compare(mine: dict[str, Any], rival: dict[str, Any], name: str) -> dict[str, Any]:
    """How far two trainings from the same weights went apart, and the ratio of their speeds."""
    pairs = list(zip(mine["losses"], rival["losses"], strict=True))[:_COMPARED]
    return {
        "against": name,
        "largest_loss_difference": max(abs(a - b) / abs(b) for a, b in pairs),
        "losses_compared": len(pairs),
        "held_out_difference": mine["after"] / rival["after"] - 1,
        "speed_ratio": mine["characters_per_s"] / rival["characters_per_s"],
    }


def _summary(figures: dict[str, Any], config: Config) -> str:
    mine = figures["fastrnn"]
    text = (
        f"{config.steps} steps of {config.B} x {config.T} characters, LSTM({config.embedding}, {config.hidden}): "
        f"held-out loss {mine['before']:.3f} -> {mine['after']:.3f} nats a character, "
        f"{mine['characters_per_s']:,.0f} characters a second"
    )
    if "comparison" in figures:
        c = figures["comparison"]
        text += (
            f"; {c['against']}: held-out {figures[c['against']]['after']:.3f} ({c['held_out_difference']:+.2%} apart), "
            f"first {c['losses_compared']} losses within {c['largest_loss_difference']:.1e}, "
            f"{figures[c['against']]['characters_per_s']:,.0f} characters a second (ours {c['speed_ratio']:.2f} times)"
        )
    return text


EFFORT = 30.0
"""About how many seconds a default run takes."""

WORKLOADS: dict[str, Callable[..., dict[str, Any]]] = {"charlm": charlm}
