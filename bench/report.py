"""Results as Markdown: the README's table, and a whole report with pictures."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from bench import RESULTS, ROOT
from bench.crossover import answers
from bench.results import Results
from bench.tables import (
    Table,
    bytes_text,
    device_text,
    groups,
    limits_text,
    markdown,
    mode_table,
    ours,
    pause_text,
    ratio_text,
    seconds_text,
)

__all__ = ["PUBLISHED", "README", "readme_block", "update_readme", "write_report"]

README = ROOT / "README.md"
PUBLISHED = RESULTS / "published.json"
"""The results file that the README's table is made from."""

_BEGIN, _END = "<!-- results: begin -->", "<!-- results: end -->"
_README_CELLS = ("rnn_tanh", "lstm", "lstm_peephole", "gru_reset_before", "gru_reset_after")
_README_SHAPES = ((100, 1, 128, 128), (100, 32, 256, 256))
_SHOWN_RIVALS = {"torch": "PyTorch", "onnxruntime": "ONNX Runtime", "numpy": "NumPy loop"}


def _rows_by_case(results: Results, threads: int) -> dict[tuple, dict[str, Any]]:
    return {
        (c["cell"], (c["T"], c["B"], c["I"], c["H"]), c["mode"]): row
        for row in results["cases"]
        if (c := row["case"])["dtype"] == "float32" and c["device"] == "cpu" and row["threads"] == threads
    }


def _against(row: dict[str, Any] | None, rival: str) -> str:
    mine = ours(row) if row else None
    entry = row["entries"].get(rival, {}) if row else {}
    if mine is None or mine["status"] != "timed" or entry.get("status") != "timed":
        return ""
    return ratio_text(entry, mine).split(" ")[0]


def _time(row: dict[str, Any] | None) -> str:
    mine = ours(row) if row else None
    return seconds_text(mine["seconds"]) if mine and mine["status"] == "timed" else ""


def readme_table(results: Results) -> Table:
    """A few cells at two shapes: our times, and how many times as long each rival takes."""
    threads = max(results["settings"]["threads"])
    rows = _rows_by_case(results, threads)
    shown = {name: title for name, title in _SHOWN_RIVALS.items() if name in results["contenders"]}
    training = [name for name in shown if name != "onnxruntime"]
    columns = ["cell", "T,B,I,H", "forward", *shown.values(), "forward + backward"]
    table = Table("", columns + [shown[name] for name in training])
    for shape in _README_SHAPES:
        for cell in _README_CELLS:
            forward, both = (rows.get((cell, shape, mode)) for mode in ("forward", "training"))
            if forward is None and both is None:
                continue
            table.rows.append(
                [cell, ",".join(map(str, shape)), _time(forward)]
                + [_against(forward, name) for name in shown]
                + [_time(both), *(_against(both, name) for name in training)]
            )
    return table


def readme_block(results: Results) -> str:
    """What stands in the README between the two marks."""
    threads = max(results["settings"]["threads"])
    versions = {n: c["versions"] for n, c in results["contenders"].items()}
    rivals = ", ".join(f"{title} {versions[name][name]}" for name, title in _SHOWN_RIVALS.items() if name in versions)
    peak = results["limits"][str(threads)]["flops"]["float32"] / 1e9
    m = results["machine"]
    lines = [
        markdown(readme_table(results)),
        "",
        "The rivals' columns say how many times as long they take; * where the rival has no such cell and it is "
        f"written out in its operations. float32, {threads} threads, {m['processor']} ({m['microarchitecture']}, FMA "
        f"peak measured in the same run {peak:.0f} GFLOP/s), {rivals}, {results['created'][:10]}.",
    ]
    if "charlm" in results["workloads"]:
        lines += ["", f"Character model: {results['workloads']['charlm']['summary']}."]
    return "\n".join(lines)


def update_readme(results: Results, text: str) -> str:
    """The README's text with the block between its marks replaced. Raises ValueError if it lacks the marks."""
    pattern = re.compile(f"{re.escape(_BEGIN)}.*?{re.escape(_END)}", re.S)
    if not pattern.search(text):
        raise ValueError(f"README.md lacks the marks {_BEGIN} and {_END}")
    return pattern.sub(lambda _: f"{_BEGIN}\n{readme_block(results)}\n{_END}", text)


def _machine_lines(results: Results) -> list[str]:
    m, commit = results["machine"], results["commit"]
    memory = "" if m["memory_bytes"] is None else f", {m['memory_bytes'] / 2**30:.0f} GiB"
    changed = " with local changes" if commit["modified"] else ""
    lines = [
        f"- {m['processor']} ({m['microarchitecture']}; {', '.join(m['vectors'])}), {m['cores']} cores{memory}, "
        f"{m['system']}, Python {m['python']}",
        f"- measured {results['created']}, commit {(commit['hash'] or 'unknown')[:12]}{changed}",
    ]
    if said := pause_text(results):
        lines.append(f"- {said}")
    lines += [f"- {device}: {device_text(about)}" for device, about in m.get("devices", {}).items()]
    lines += [f"- {limits_text(key, limits)}" for key, limits in results["limits"].items()]
    for name, about in results["contenders"].items():
        parts = [f"{k} {v}" for k, v in about["versions"].items()]
        parts += [f"{k}={v}" for k, v in about["settings"].items()]
        lines.append(f"- {name}: {', '.join(parts)}")
    return lines


def detail_table(results: Results) -> Table:
    """Every contender of every case, one row each: what the tables of ratios were made from."""
    columns = ["case", "threads", "contender", "median", "quartiles", "GFLOP/s", "1st call", "warm-up"]
    table = Table("Every figure", [*columns, "peak memory", "error", "how"])
    for row in results["cases"]:
        c = row["case"]
        name = f"{c['cell']} {c['T']},{c['B']},{c['I']},{c['H']} {c['dtype']} {c['mode']} {c['device']}"
        for label, e in row["entries"].items():
            start = [name, str(row["threads"]), label]
            if e["status"] != "timed":
                table.rows.append([*start, e["status"], *[""] * 6, e["why"]])
                continue
            spread = f"{seconds_text(e['low'])} to {seconds_text(e['high'])}"
            memory = bytes_text(e.get("peak_bytes"))
            rate = f"{row['flops'] / e['seconds'] / 1e9:.1f}"
            calls = [seconds_text(e["first_call_s"]), seconds_text(e["warmup_s"])]
            table.rows.append(
                [*start, seconds_text(e["seconds"]), spread, rate, *calls, memory, f"{e['error']:.0e}", e["how"]]
            )
    return table


def write_report(results: Results, folder: Path, pictures: list[Path]) -> Path:
    """Write ``report.md`` into ``folder``, beside its pictures; returns its path."""
    parts = ["# fastrnn, measured", "", *_machine_lines(results), ""]
    if not results["complete"]:
        parts += ["This run was broken off; what follows is what it had measured.", ""]
    for picture in pictures:
        parts += [f"![{picture.stem.replace('-', ' ')}]({picture.name})", ""]
    for about, rows in groups(results):
        table = mode_table(about, rows)
        parts += [f"## {table.title}", "", markdown(table), ""]
    crossover = answers(results)
    if crossover:
        parts += ["## CPU or GPU", "", *(f"- {line}" for line in crossover), ""]
    for name, figures in results["workloads"].items():
        parts += [f"## {name}", "", figures["summary"], ""]
    details = detail_table(results)
    parts += [f"## {details.title}", "", markdown(details), ""]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "report.md"
    path.write_text("\n".join(parts), encoding="utf-8")
    return path
