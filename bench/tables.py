"""Results as tables: built once, shown on the terminal (rich) or written as Markdown."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from bench.measure import ratio
from bench.peers import OURS
from bench.results import Results, pause_of

__all__ = [
    "Table",
    "bytes_text",
    "device_text",
    "groups",
    "limits_text",
    "markdown",
    "mode_table",
    "mode_text",
    "ours",
    "pause_text",
    "ratio_text",
    "rivals_in",
    "seconds_text",
]


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


def bytes_text(size: int | None) -> str:
    """In MiB or GiB; empty if it is not known."""
    if size is None:
        return ""
    return f"{size / 2**20:.0f} MiB" if size < 10 * 2**30 else f"{size / 2**30:.1f} GiB"


def limits_text(key: str, limits: dict[str, Any]) -> str:
    """A device's measured limits in one line; ``key`` is the number of threads, or the device."""
    flops = ", ".join(f"{dtype} {rate / 1e9:.0f}" for dtype, rate in limits["flops"].items())
    levels = ", ".join(f"{level} {rate / 1e9:.0f}" for level, rate in limits["bytes"].items())
    if key.isdigit():
        return f"limits with {key} thread{'s' * (key != '1')}: FMA GFLOP/s {flops}; loads GB/s {levels}"
    return f"limits of {key}: GEMM GFLOP/s {flops}; copies GB/s {levels}"


def pause_text(results: Results) -> str:
    """How the calls that were timed followed each other, if not at once."""
    return f"each call {pause_of(results) * 1e3:g} ms after the last" if pause_of(results) else ""


def device_text(about: dict[str, Any]) -> str:
    """A GPU in one line."""
    packages = ", ".join(f"{name} {version}" for name, version in about["packages"].items())
    return (
        f"{about['name']}, {bytes_text(about['memory_bytes'])}, {about['multiprocessors']} multiprocessors, compute "
        f"capability {about['compute_capability']}, driver {about['driver']} (CUDA {about['driver_cuda']}), {packages}"
    )


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


def ours(row: dict[str, Any], precision: str = "exact") -> dict[str, Any] | None:
    """Our entry that is compared with rivals: the frozen layer where there is one (rivals pack once, too)."""
    more = "" if precision == "exact" else f" {precision}"
    for label in (f"{OURS} frozen{more}", f"{OURS}{more}"):
        entry = row["entries"].get(label)
        if entry is not None:
            return entry
    return None


_TITLES = {"forward": "forward (inference)", "training": "forward + backward", "step": "one step at a time"}


def mode_text(mode: str) -> str:
    """A mode's name in running text."""
    return {"forward": "forward", "training": "forward + backward", "step": "one step at a time"}[mode]


def mode_table(about: dict[str, Any], rows: list[dict[str, Any]]) -> Table:
    """One mode's table: our time, its share of the nearer limit, and how many times as long each rival takes.

    Where we were not timed, the rivals' own times.
    """
    rivals = rivals_in(rows)
    unfrozen = about["mode"] == "forward"
    where = about["device"]
    if where == "cpu":
        where += f", {about['threads']} thread{'s' * (about['threads'] > 1)}"
    title = f"{_TITLES[about['mode']]}, {about['dtype']}, {where}"
    columns = ["cell", "T,B,I,H", "frozen" if unfrozen else "fastrnn"] + ["unfrozen"] * unfrozen
    columns += [
        "GFLOP/s",
        "of limit",
        *["floor", "of floor"] * (where == "cuda"),
        *(f"vs {name}" for name in rivals),
        "memory",
        "compile",
        "error",
    ]
    table = Table(title, columns)
    for row in rows:
        table.rows.append(_row(row, rivals, unfrozen))
        reduced = [name for name in ("tf32", "3xtf32") if ours(row, name) is not None]
        table.rows += [_row(row, rivals, unfrozen, precision) for precision in reduced]
    whom = " as the frozen layer" * unfrozen
    table.notes.append(f"vs: how many times as long the rival takes{whom}, and half the spread between rounds")
    if any(not e.get("native", True) for row in rows for e in row["entries"].values()):
        table.notes.append("* the rival has no such cell: written out in its operations, a loop over time")
    if where == "cuda":
        constants = {floor["calibrated"] for row in rows for floor in row.get("floors", {}).values()}
        if constants:
            known = "measured" if constants == {True} else "estimated"
            table.notes.append(f"floor: the model of kernels/cuda/cost.py, by its fastest policy, constants {known}")
        if any(row[0].endswith("tf32") for row in table.rows):
            table.notes.append("tf32, 3xtf32: our products, one or three in TF32 for each; a rival's are in its name")
    untimed = {f"fastrnn {e['status']}: {e['why']}" for row in rows if (e := ours(row)) and e["status"] != "timed"}
    table.notes += sorted(untimed)
    return table


def _row(row: dict[str, Any], rivals: list[str], unfrozen: bool, precision: str = "exact") -> list[str]:
    case, mine, on_gpu = row["case"], ours(row, precision), row["case"]["device"] == "cuda"
    name = case["cell"] if precision == "exact" else f"{case['cell']} {precision}"
    cells = [name, f"{case['T']},{case['B']},{case['I']},{case['H']}"]
    against = [_against(row["entries"].get(name), mine) for name in rivals]
    if mine is None or mine["status"] != "timed":
        status = "missing" if mine is None else mine["status"]
        return [*cells, status, *["-"] * (2 + unfrozen + 2 * on_gpu), *against, "-", "-", "-"]
    cells.append(seconds_text(mine["seconds"]))
    if unfrozen:
        other = row["entries"].get(f"{OURS} unfrozen", {}) if precision == "exact" else {}
        cells.append(seconds_text(other["seconds"]) if other.get("status") == "timed" else "-")
    cells.append(f"{row['flops'] / mine['seconds'] / 1e9:.0f}" if mine["seconds"] else "-")
    floor = row.get("floors", {}).get(precision)
    limit, limit_s = (row["limit"], row["floor_s"]) if floor is None else (floor["limit"], floor["limit_s"])
    cells.append(f"{limit_s / mine['seconds']:.0%} {limit}")
    if on_gpu:
        cells += ["-", "-"] if floor is None else [seconds_text(floor["seconds"]), _share(floor, mine)]
    compiled = row.get("compile_s")
    cells += [*against, bytes_text(mine.get("peak_bytes")) or "-"]
    return cells + ["-" if compiled is None else f"{compiled:.1f} s", f"{mine['error']:.0e}"]


def _share(floor: dict[str, Any], mine: dict[str, Any]) -> str:
    return f"{floor['seconds'] / mine['seconds']:.0%} {floor['policy']}"


def _against(entry: dict[str, Any] | None, mine: dict[str, Any] | None) -> str:
    """A rival's cell: the ratio to ours, its own time where there is none of ours, or why it has neither."""
    if entry is None or entry["status"] == "unsupported":
        return "-"
    if entry["status"] != "timed":
        return entry["status"]
    if mine is None or mine["status"] != "timed":
        return seconds_text(entry["seconds"])
    return ratio_text(entry, mine)


def markdown(table: Table) -> str:
    """The table in GitHub's Markdown, without its title."""
    lines = ["| " + " | ".join(table.columns) + " |"]
    lines.append("|" + "|".join(":---" if i == 0 else "---:" for i in range(len(table.columns))) + "|")
    lines += ["| " + " | ".join(row) + " |" for row in table.rows]
    return "\n".join(lines + [""] * bool(table.notes) + table.notes)
