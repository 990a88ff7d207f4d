"""Results as tables: built once, shown on the terminal (rich) or written as Markdown."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from bench.measure import ratio
from bench.peers import OURS
from bench.results import Results

__all__ = ["Table", "groups", "markdown", "mode_table", "ours", "ratio_text", "rivals_in", "seconds_text"]


@dataclass
class Table:
    """Rows of text under headings; the first column is left-aligned, the others right."""

    title: str
    columns: list[str]
    rows: list[list[str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def seconds_text(seconds: float) -> str:
    """Three significant digits in the unit that fits: ``9.31 µs``, ``10.7 ms``, ``1.09 s``."""
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= scale or unit == "µs":
            value = seconds / scale
            digits = 0 if value >= 100 else 1 if value >= 10 else 2
            return f"{value:.{digits}f} {unit}"
    raise AssertionError


def ratio_text(rival: dict[str, Any], mine: dict[str, Any]) -> str:
    """``1.73 ±0.04``: the ratio of medians and half the spread of the rounds'; * if written out in operations."""
    middle, low, high = ratio(rival, mine)
    digits = 2 if middle < 10 else 1 if middle < 100 else 0
    star = "" if rival["native"] else "*"
    return f"{middle:.{digits}f}{star} ±{(high - low) / 2:.{digits}f}"


def groups(results: Results) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """The cases that belong in one table: same mode, precision, device and threads."""
    found: dict[tuple, list[dict[str, Any]]] = {}
    for row in results["cases"]:
        case = row["case"]
        key = (case["device"], case["dtype"], row["threads"], case["mode"])
        found.setdefault(key, []).append(row)
    for (device, dtype, threads, mode), rows in found.items():
        yield {"device": device, "dtype": dtype, "threads": threads, "mode": mode}, rows


def rivals_in(rows: list[dict[str, Any]]) -> list[str]:
    """Names of the rivals that were timed in any of the rows, in the order of the registry."""
    names = []
    for row in rows:
        for label, entry in row["entries"].items():
            if label.split()[0] != OURS and entry["status"] == "timed" and label not in names:
                names.append(label)
    return names


def ours(row: dict[str, Any]) -> dict[str, Any] | None:
    """Our entry that is compared with rivals: the frozen layer where there is one (rivals pack once, too)."""
    for label in (f"{OURS} frozen", OURS):
        entry = row["entries"].get(label)
        if entry is not None:
            return entry
    return None


_TITLES = {"forward": "forward (inference)", "training": "forward + backward", "step": "one step at a time"}


def mode_table(about: dict[str, Any], rows: list[dict[str, Any]]) -> Table:
    """One mode's table: our time, its share of the nearer limit, and how many times as long each rival takes."""
    rivals = rivals_in(rows)
    unfrozen = about["mode"] == "forward"
    title = (
        f"{_TITLES[about['mode']]}, {about['dtype']}, {about['device']}, "
        f"{about['threads']} thread{'s' * (about['threads'] > 1)}"
    )
    columns = ["cell", "T,B,I,H", "frozen" if unfrozen else "fastrnn"] + ["unfrozen"] * unfrozen
    columns += ["GFLOP/s", "of limit", *(f"vs {name}" for name in rivals), "compile", "error"]
    table = Table(title, columns)
    for row in rows:
        table.rows.append(_row(row, rivals, unfrozen))
    whom = " as the frozen layer" * unfrozen
    table.notes.append(f"vs: how many times as long the rival takes{whom}, and half the spread between rounds")
    if any(not e.get("native", True) for row in rows for e in row["entries"].values()):
        table.notes.append("* the rival has no such cell: written out in its operations, a loop over time")
    return table


def _row(row: dict[str, Any], rivals: list[str], unfrozen: bool) -> list[str]:
    case, mine = row["case"], ours(row)
    cells = [case["cell"], f"{case['T']},{case['B']},{case['I']},{case['H']}"]
    if mine is None or mine["status"] != "timed":
        status = "missing" if mine is None else mine["status"]
        return cells + [status] + ["-"] * (4 + unfrozen + len(rivals))
    cells.append(seconds_text(mine["seconds"]))
    if unfrozen:
        other = row["entries"].get(f"{OURS} unfrozen", {})
        cells.append(seconds_text(other["seconds"]) if other.get("status") == "timed" else "-")
    cells.append(f"{row['flops'] / mine['seconds'] / 1e9:.0f}" if mine["seconds"] else "-")
    cells.append(f"{row['floor_s'] / mine['seconds']:.0%} {row['limit']}")
    for name in rivals:
        entry = row["entries"].get(name, {"status": "-"})
        timed = entry["status"] == "timed"
        untimed = "-" if entry["status"] == "unsupported" else entry["status"]
        cells.append(ratio_text(entry, mine) if timed else untimed)
    compiled = row.get("compile_s")
    return cells + ["-" if compiled is None else f"{compiled:.1f} s", f"{mine['error']:.0e}"]


def markdown(table: Table) -> str:
    """The table in GitHub's Markdown, without its title."""
    lines = ["| " + " | ".join(table.columns) + " |"]
    lines.append("|" + "|".join(":---" if i == 0 else "---:" for i in range(len(table.columns))) + "|")
    lines += ["| " + " | ".join(row) + " |" for row in table.rows]
    return "\n".join(lines + [""] * bool(table.notes) + table.notes)
