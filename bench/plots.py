"""Pictures of a results file: roofline, speed-up by shape, time per step against H. PNG and SVG of each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bench.measure import ratio
from bench.peers import OURS
from bench.results import Results
from bench.tables import ours

__all__ = ["draw"]

# Okabe and Ito's colours, told apart by colour-blind readers, too; one per cell, always the same.
_COLOURS = {
    "rnn_tanh": "#999999",
    "rnn_relu": "#999999",
    "rnn_sigmoid": "#999999",
    "lstm": "#0072B2",
    "lstm_peephole": "#56B4E9",
    "lstm_coupled": "#CC79A7",
    "lstm_peephole_coupled": "#F0E442",
    "gru_reset_before": "#E69F00",
    "gru_reset_after": "#D55E00",
}
_MARKERS = {"forward": "o", "training": "s", "step": "^"}
_TITLES = {"forward": "forward", "training": "forward + backward", "step": "one step at a time"}


def draw(results: Results, folder: Path) -> list[Path]:
    """Draw every picture that the results have data for; returns the PNG files."""
    folder.mkdir(parents=True, exist_ok=True)
    pictures = []
    for name, painter in {"roofline": _roofline, "speed-up": _speed_up, "time-per-step": _time_per_step}.items():
        figure = painter(results)
        if figure is None:
            continue
        for suffix in ("png", "svg"):
            figure.savefig(folder / f"{name}.{suffix}", dpi=150, bbox_inches="tight")
        plt.close(figure)
        pictures.append(folder / f"{name}.png")
    return pictures


def _timed(results: Results, dtype: str = "float32") -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Rows with our timed entry, at the largest thread count."""
    threads = max(results["settings"]["threads"])
    rows = (r for r in results["cases"] if r["threads"] == threads and r["case"]["dtype"] == dtype)
    return [(r, mine) for r in rows if (mine := ours(r)) is not None and mine["status"] == "timed"]


def _subtitle(results: Results) -> str:
    threads = max(results["settings"]["threads"])
    return f"float32, {threads} threads, {results['machine']['processor']}, {results['created'][:10]}"


def _style(axes: Axes) -> None:
    axes.grid(True, which="major", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _roofline(results: Results) -> Figure | None:
    """GFLOP/s against operations per byte of recurrent weights; the roofs are measured."""
    rows = _timed(results)
    if not rows:
        return None
    limits = results["limits"][str(max(results["settings"]["threads"]))]
    peak = limits["flops"]["float32"] / 1e9
    figure, axes = plt.subplots(figsize=(9, 5.5))
    intensities = [row["flops"] / row["streamed_bytes"] for row, _ in rows]
    left, right = min(intensities) / 2, max(intensities) * 2
    lowest = min(row["flops"] / mine["seconds"] / 1e9 for row, mine in rows)
    for level, rate in limits["bytes"].items():
        corner = peak / (rate / 1e9)
        axes.plot([left, min(corner, right)], [left * rate / 1e9, min(peak, right * rate / 1e9)], color="#888888", lw=1)
        x = left * 1.08
        axes.text(
            x,
            x * rate / 1e9 * 1.06,
            f"{level} {rate / 1e9:.0f} GB/s",
            fontsize=8,
            color="#555555",
            rotation=45,
            rotation_mode="anchor",
            transform_rotates_text=True,
        )
    axes.axhline(peak, color="black", lw=1.2)
    axes.annotate(f"FMA peak {peak:.0f} GFLOP/s", (right, peak), ha="right", va="bottom", fontsize=8)
    cells = list(_COLOURS)
    for (row, mine), x in zip(rows, intensities, strict=True):
        case = row["case"]
        axes.scatter(
            x * 1.035 ** (cells.index(case["cell"]) - 4),  # side by side: cells of one shape share an intensity
            row["flops"] / mine["seconds"] / 1e9,
            color=_COLOURS[case["cell"]],
            marker=_MARKERS[case["mode"]],
            s=26,
            edgecolor="black",
            linewidth=0.4,
            zorder=3,
        )
    axes.set(xscale="log", yscale="log", xlim=(left, right), ylim=(lowest / 2, peak * 2))
    axes.set_xlabel("floating-point operations per byte of recurrent weights")
    axes.set_ylabel("GFLOP/s")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_title(f"Every kernel under its limits\n{_subtitle(results)}", fontsize=10, loc="left")
    _legend(axes, {row["case"]["cell"] for row, _ in rows}, {row["case"]["mode"] for row, _ in rows})
    _style(axes)
    return figure


def _legend(axes: Axes, cells: set[str], modes: set[str]) -> None:
    plain = {"color": "none", "markeredgecolor": "black", "markersize": 6, "markeredgewidth": 0.4}
    handles = []
    for colour in dict.fromkeys(_COLOURS[c] for c in _COLOURS if c in cells):
        named = [c for c in _COLOURS if c in cells and _COLOURS[c] == colour]
        label = "rnn" if len(named) > 1 else named[0]
        handles.append(Line2D([], [], marker="o", label=label, **plain, markerfacecolor=colour))
    for mode in _MARKERS:
        if mode in modes:
            handles.append(Line2D([], [], marker=_MARKERS[mode], label=_TITLES[mode], **plain, markerfacecolor="white"))
    axes.legend(handles=handles, fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1.01, 1))


def _best_rival(row: dict[str, Any]) -> tuple[str, dict[str, Any]] | None:
    timed = {
        label: entry
        for label, entry in row["entries"].items()
        if label.split()[0] != OURS and entry["status"] == "timed"
    }
    return min(timed.items(), key=lambda item: item[1]["seconds"]) if timed else None


def _speed_up(results: Results) -> Figure | None:
    """How many times as long the best rival takes, by shape; one panel per mode."""
    rows = [(row, mine, best) for row, mine in _timed(results) if (best := _best_rival(row)) is not None]
    modes = [mode for mode in _MARKERS if any(row["case"]["mode"] == mode for row, _, _ in rows)]
    if not modes:
        return None
    figure, panels = plt.subplots(len(modes), 1, figsize=(11, 3.6 * len(modes)), squeeze=False, layout="constrained")
    for axes, mode in zip(panels[:, 0], modes, strict=True):
        _speed_up_panel(axes, [r for r in rows if r[0]["case"]["mode"] == mode], mode)
    figure.suptitle(
        f"The best rival's time, in multiples of fastrnn's\n{_subtitle(results)}", fontsize=10, x=0.01, ha="left"
    )
    return figure


def _speed_up_panel(axes: Axes, rows: list[tuple[dict, dict, tuple[str, dict]]], mode: str) -> None:
    shapes = list(dict.fromkeys(tuple(row["case"][k] for k in "TBIH") for row, _, _ in rows))
    cells = [cell for cell in _COLOURS if any(row["case"]["cell"] == cell for row, _, _ in rows)]
    width = 0.84 / len(cells)
    for row, mine, (name, rival) in rows:
        case = row["case"]
        middle, low, high = ratio(rival, mine)
        x = shapes.index(tuple(case[k] for k in "TBIH")) + (cells.index(case["cell"]) - (len(cells) - 1) / 2) * width
        axes.bar(x, middle - 1, width * 0.92, bottom=1, color=_COLOURS[case["cell"]], zorder=2)
        axes.plot([x, x], [low, high], color="black", lw=0.8, zorder=3)
        written = name + ("" if rival["native"] else "*")
        axes.annotate(
            written, (x, max(middle, high)), (0, 3), textcoords="offset points", rotation=90, fontsize=6, ha="center"
        )
    axes.axhline(1, color="black", lw=1)
    axes.set_yscale("log")
    ticks = [0.25, 0.5, 1, 2, 4, 8, 16, 32, 64]
    low, high = axes.get_ylim()
    axes.set_yticks([t for t in ticks if low <= t <= high * 2], minor=False)
    axes.set_ylim(min(low, 0.8), high * 2.2)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_minor_formatter(lambda value, _: "")
    axes.set_xticks(range(len(shapes)), [f"T{t} B{b}\nI{i} H{h}" for t, b, i, h in shapes], fontsize=8)
    axes.set_title(_TITLES[mode], fontsize=9, loc="left")
    axes.set_ylabel("times as long")
    _legend(axes, set(cells), set())
    _style(axes)


def _time_per_step(results: Results) -> Figure | None:
    """Microseconds a step against H for one row (B = 1), ours and the rivals'; one panel per plain cell."""
    rows = [(row, mine) for row, mine in _timed(results) if row["case"]["B"] == 1 and row["case"]["T"] > 1]
    rows = [
        (row, mine) for row, mine in rows if row["case"]["I"] == row["case"]["H"] and row["case"]["mode"] == "forward"
    ]
    cells = [
        c
        for c in ("rnn_tanh", "lstm", "gru_reset_before", "gru_reset_after")
        if any(r["case"]["cell"] == c for r, _ in rows)
    ]
    if not cells or len({row["case"]["H"] for row, _ in rows}) < 2:
        return None
    figure, panels = plt.subplots(
        1, len(cells), figsize=(3.4 * len(cells), 3.6), sharey=True, squeeze=False, layout="constrained"
    )
    for axes, cell in zip(panels[0], cells, strict=True):
        _time_panel(axes, [row for row, _ in rows if row["case"]["cell"] == cell], cell)
    panels[0][0].set_ylabel("µs a step")
    panels[0][-1].legend(fontsize=8, frameon=False)
    figure.suptitle(
        f"One sequence (B = 1), forward, input product included\n{_subtitle(results)}", fontsize=10, x=0.01, ha="left"
    )
    return figure


def _time_panel(axes: Axes, rows: list[dict[str, Any]], cell: str) -> None:
    lines: dict[str, list[tuple[int, float]]] = {}
    for row in rows:
        for label, entry in row["entries"].items():
            if entry["status"] == "timed" and label != f"{OURS} unfrozen":
                lines.setdefault(label.split()[0], []).append(
                    (row["case"]["H"], entry["seconds"] / row["case"]["T"] * 1e6)
                )
    colours = list(dict.fromkeys(_COLOURS.values()))[1:]
    for i, (name, points) in enumerate(sorted(lines.items(), key=lambda item: item[0] != OURS)):
        mine = name == OURS
        axes.plot(
            *zip(*sorted(points), strict=True),
            marker="o",
            markersize=4,
            label=name,
            linewidth=2.2 if mine else 1.2,
            color="black" if mine else colours[i % len(colours)],
            zorder=3 if mine else 2,
        )
    sizes = sorted({h for points in lines.values() for h, _ in points})
    axes.set(xscale="log", yscale="log")
    axes.set_xticks(sizes, [str(h) for h in sizes])
    axes.xaxis.set_minor_formatter(lambda value, _: "")
    axes.set_xlabel("H = I")
    axes.set_title(cell, fontsize=9, loc="left")
    _style(axes)
