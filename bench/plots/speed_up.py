"""How many times as long the best rival takes, by shape; one panel per mode."""

from __future__ import annotations

from typing import Any

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.measure import ratio
from bench.peers import OURS
from bench.plots.style import (
    CELL_COLOURS,
    MARKERS,
    TITLES,
    Row,
    cell_handles,
    dress,
    plain_numbers,
    subtitle,
    timed_rows,
)
from bench.results import Results

__all__ = ["best_rival", "paint"]

_SHORT = {"onnxruntime": "ORT", "openvino": "OV"}
_LONG = {"ORT": "ONNX Runtime", "OV": "OpenVINO"}
_TICKS = [2.0**k for k in range(-6, 12)]

Compared = tuple[Row, dict[str, Any], tuple[str, dict[str, Any]]]


def best_rival(row: Row) -> tuple[str, dict[str, Any]] | None:
    """The quickest rival in the case's own precision: TF32 does not stand against float32."""
    dtype = row["case"]["dtype"]
    timed = {
        label: entry
        for label, entry in row["entries"].items()
        if label.split()[0] != OURS and entry["status"] == "timed" and entry.get("precision", dtype) == dtype
    }
    return min(timed.items(), key=lambda item: item[1]["seconds"]) if timed else None


def paint(results: Results, device: str) -> Figure | None:
    rows = [(row, mine, best) for row, mine in timed_rows(results, device) if (best := best_rival(row)) is not None]
    modes = [mode for mode in MARKERS if any(row["case"]["mode"] == mode for row, _, _ in rows)]
    if not modes:
        return None
    figure, panels = plt.subplots(len(modes), 1, figsize=(11, 3.6 * len(modes)), squeeze=False, layout="constrained")
    for axes, mode in zip(panels[:, 0], modes, strict=True):
        _panel(axes, [r for r in rows if r[0]["case"]["mode"] == mode], mode)
    handles = cell_handles({row["case"]["cell"] for row, _, _ in rows}, marker="s")
    panels[0, 0].legend(handles=handles, fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1))
    used = {_written(name, rival).rstrip("*") for _, _, (name, rival) in rows}
    notes = [f"{short}: {long}" for short, long in _LONG.items() if short in used]
    notes += ["*: it lacks the cell, written out in its operations"] * any(not r["native"] for _, _, (_, r) in rows)
    title = "The best rival's time, in multiples of fastrnn's (above 1 fastrnn is faster)"
    figure.suptitle("\n".join([title, "; ".join([subtitle(results, device), *notes])]), fontsize=10, x=0.01, ha="left")
    return figure


def _written(name: str, rival: dict[str, Any]) -> str:
    library, *variant = name.split()
    return " ".join([_SHORT.get(library, library), *variant]) + ("" if rival["native"] else "*")


def _panel(axes: Axes, rows: list[Compared], mode: str) -> None:
    shapes = list(dict.fromkeys(tuple(row["case"][k] for k in "TBIH") for row, _, _ in rows))
    cells = [cell for cell in CELL_COLOURS if any(row["case"]["cell"] == cell for row, _, _ in rows)]
    width = 0.84 / len(cells)
    lowest, highest = 1.0, 1.0
    for row, mine, (name, rival) in rows:
        case = row["case"]
        middle, low, high = ratio(rival, mine)
        x = shapes.index(tuple(case[k] for k in "TBIH")) + (cells.index(case["cell"]) - (len(cells) - 1) / 2) * width
        axes.bar(x, middle - 1, width * 0.92, bottom=1, color=CELL_COLOURS[case["cell"]], zorder=2)
        axes.plot([x, x], [low, high], color="black", lw=0.8, zorder=3)
        # above the bar; a bar below 1 hangs from the line, and its name stands on it
        over = max(middle, high, 1.0)
        place = {"textcoords": "offset points", "rotation": 90, "fontsize": 7, "ha": "center", "va": "bottom"}
        axes.annotate(_written(name, rival), (x, over), (0, 3), **place)
        lowest, highest = min(lowest, middle, low), max(highest, over)
    axes.axhline(1, color="black", lw=1)
    axes.set_yscale("log")
    axes.set_ylim(lowest / 1.25, highest * (highest / lowest) ** 0.3 * 1.2)  # names need a good part of the height
    plain_numbers(axes, "y", [t for t in _TICKS if lowest / 1.25 <= t <= highest * 1.2])
    axes.set_xlim(-0.6, len(shapes) - 0.4)
    axes.set_xticks(range(len(shapes)), [f"T{t} B{b}\nI{i} H{h}" for t, b, i, h in shapes], fontsize=8)
    axes.set_title(TITLES[mode], fontsize=9, loc="left")
    axes.set_ylabel("times as long")
    dress(axes)
