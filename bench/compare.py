"""Two runs compared: what got slower, by more than the noise of the runs and the drift of the machine.

The rivals' code is the same in both runs if their versions are, so what their times changed by is the machine's part.
It is taken from the rivals of the same case, which were timed in turn with ours: a shared machine has slow half
minutes, which hit some cases of one run and not of the other. A case without rivals gets the median of all.

A case counts as slower if its ratio, that part taken out, is beyond three times the noise, and beyond a tenth in any
case. The noise is the spread of both runs' blocks, the disagreement of the rivals, and half of what the machine
changed by, since it does not slow everybody alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import hypot, log
from statistics import median, quantiles
from typing import Any

from bench.cases import Case
from bench.devices import DEVICES
from bench.machine import QUIET_LOAD
from bench.peers import OURS
from bench.results import Results, described_as
from bench.tables import Table, seconds_text

__all__ = ["Change", "changes", "comparison_table", "drift"]

_LEAST = 0.10
_SPREADS = 3.0
_CONTROLS = 5  # fewer rivals' figures than this say nothing about the machine


@dataclass(frozen=True)
class Change:
    """One case and variant of ours in both runs; ``ratio`` is after / before, the machine's drift taken out."""

    key: str
    label: str
    before_s: float
    after_s: float
    ratio: float
    noise: float

    @property
    def verdict(self) -> str:
        """``"slower"``, ``"faster"`` or ``"same"``: nothing beyond the noise."""
        margin = max(_LEAST, _SPREADS * self.noise)
        if self.ratio > 1 + margin:
            return "slower"
        return "faster" if self.ratio < 1 / (1 + margin) else "same"


def _timed(results: Results) -> dict[tuple[str, str], dict[str, Any]]:
    return {
        (f"{Case(**row['case']).key} {row['threads']}", label): entry
        for row in results["cases"]
        for label, entry in row["entries"].items()
        if entry["status"] == "timed"
    }


def _spread(entry: dict[str, Any]) -> float:
    """Half the distance of the blocks' quartiles, relative."""
    if len(entry["blocks"]) < 2:
        return 0.0
    low, middle, high = quantiles(entry["blocks"], n=4)
    return (high - low) / 2 / middle


def _rival_ratios(before: Results, after: Results) -> dict[str, list[float]]:
    """By case, after / before of every rival of the same version."""
    first, second = _timed(before), _timed(after)
    versions = [{n: c["versions"] for n, c in r["contenders"].items()} for r in (before, after)]
    same = {name for name in versions[0] if versions[0][name] == versions[1].get(name)}
    ratios: dict[str, list[float]] = {}
    for (key, label), entry in first.items():
        name = label.split()[0]
        if (key, label) in second and name != OURS and described_as(name, _device(key)) in same:
            ratios.setdefault(key, []).append(second[key, label]["seconds"] / entry["seconds"])
    return ratios


def drift(before: Results, after: Results, device: str = "cpu") -> float:
    """How many times as long the rivals on a device took in the second run; 1 where too few can tell."""
    ratios = [r for key, rs in _rival_ratios(before, after).items() if _device(key) == device for r in rs]
    return median(ratios) if len(ratios) >= _CONTROLS else 1.0


def _device(key: str) -> str:
    return key.split()[-2]  # a case's key ends with its device; the threads follow


def changes(before: Results, after: Results) -> list[Change]:
    """Our cases that both runs timed."""
    first, second = _timed(before), _timed(after)
    rivals = _rival_ratios(before, after)
    overall = {device: drift(before, after, device) for device in DEVICES}
    found = []
    for (key, label), entry in first.items():
        if (key, label) not in second or label.split()[0] != OURS:
            continue
        other = second[key, label]
        ratios = rivals.get(key, [overall[_device(key)]])
        machine = median(ratios)
        apart = (max(ratios) - min(ratios)) / 2 / machine
        noise = hypot(_spread(entry), _spread(other), apart, abs(log(machine)) / 2)
        ratio = other["seconds"] / entry["seconds"] / machine
        found.append(Change(key, label, entry["seconds"], other["seconds"], ratio, noise))
    return found


def comparison_table(found: list[Change], machine: dict[str, float], loads: tuple[float | None, ...] = ()) -> Table:
    """All changes, the slower ones marked; ``machine`` is each device's drift, ``loads`` were the machine's before."""
    table = Table("after / before", ["case", "kernel", "before", "after", "ratio", "noise", ""])
    for c in sorted(found, key=lambda c: -c.ratio):
        mark = {"slower": "SLOWER", "faster": "faster", "same": ""}[c.verdict]
        times = [seconds_text(c.before_s), seconds_text(c.after_s)]
        table.rows.append([c.key, c.label, *times, f"{c.ratio:.3f}", f"±{c.noise:.3f}", mark])
    taken_out = ", ".join(f"{factor:.3f} on {device}" for device, factor in machine.items())
    table.notes.append(
        f"the rivals' times changed by {taken_out}: the machine's part, taken out of each ratio case by case"
    )
    busy = [load for load in loads if load is not None and load > QUIET_LOAD]
    if busy:
        table.notes.append(f"a run began on a busy machine (load {max(busy):.1f}): measure again before believing this")
    return table
