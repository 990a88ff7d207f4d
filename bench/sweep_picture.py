"""The sweep's picture: cost per padded operation against H, B and T, in multiples of what the FMA peak allows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from bench.results import Results

__all__ = ["draw"]

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#999999", "#000000", "#F0E442")
_MARKERS = {"single": "v", "ahead": "^", "rows": "s", "units": "o"}
_LINES = {"forward": "-", "training": (0, (4, 2))}


def draw(results: Results, path: Path) -> Path:
    """Draw all curves, one panel per size that varies; returns the path."""
    sweeps = list(dict.fromkeys(curve["sweep"] for curve in results["curves"]))
    cells = list(dict.fromkeys(curve["cell"] for curve in results["curves"]))
    figure, panels = plt.subplots(len(sweeps), 1, figsize=(11, 3.7 * len(sweeps)), squeeze=False, layout="constrained")
    for axes, sweep in zip(panels[:, 0], sweeps, strict=True):
        curves = [curve for curve in results["curves"] if curve["sweep"] == sweep]
        for curve in curves:
            _curve(axes, curve, _COLOURS[cells.index(curve["cell"]) % len(_COLOURS)])
        _rings(axes, [cliff for cliff in results["cliffs"] if cliff["sweep"] == sweep])
        _panel(axes, sweep, curves)
    _legend(panels[0][0], results, cells)
    peak = results["limits"]["flops"]["float32"] / 1e9
    threads, made = results["limits"]["threads"], results["machine"]["microarchitecture"]
    figure.suptitle(
        "Time per padded floating-point operation (H and I rounded up to whole vectors), times that of the FMA peak\n"
        f"float32, {threads} threads, {made}, peak {peak:.0f} GFLOP/s, {results['created'][:10]}",
        fontsize=10,
        x=0.01,
        ha="left",
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=140)
    plt.close(figure)
    return path


def _curve(axes: Axes, curve: dict[str, Any], colour: str) -> None:
    points = curve["points"]
    sizes = [point["size"] for point in points]
    axes.plot(sizes, [point["cost"] for point in points], color=colour, lw=1, ls=_LINES[curve["mode"]], zorder=2)
    for point in points:
        axes.plot(
            point["size"],
            point["cost"],
            marker=_MARKERS.get(point["kernel"], "D"),
            markersize=4.2,
            color=colour,
            markerfacecolor=colour if point["judged"] else "white",
            markeredgewidth=0.8,
            zorder=3,
        )


def _rings(axes: Axes, cliffs: list[dict[str, Any]]) -> None:
    for cliff in cliffs:
        at = (cliff["size"], cliff["cost"])
        axes.plot(*at, marker="o", markersize=11, markerfacecolor="none", markeredgecolor="red", zorder=4)
        axes.annotate(
            f"{cliff['ratio']:.1f}×", at, (7, 5), textcoords="offset points", fontsize=7, color="red", zorder=5
        )


def _panel(axes: Axes, sweep: str, curves: list[dict[str, Any]]) -> None:
    case = curves[0]["points"][0]["case"]
    fixed = ", ".join(f"{k} {case[k]}" for k in "TBIH" if k != sweep and not (sweep == "H" and k == "I"))
    sizes = sorted({point["size"] for curve in curves for point in curve["points"]})
    axes.set(xscale="log", yscale="log", xlim=(sizes[0] * 0.9, sizes[-1] * 1.12))
    costs = [point["cost"] for curve in curves for point in curve["points"]]
    low, high = min(0.9, min(costs) / 1.1), max(costs) * 1.2
    ticks = [2**k for k in range(12) if sizes[0] <= 2**k <= sizes[-1]]
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.set_yticks([tick for tick in (0.5, 1, 1.5, 2, 3, 5, 7, 10, 20, 50, 100) if low <= tick <= high])
    axes.set_ylim(low, high)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_formatter(lambda value, _: "")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.axhline(1, color="black", lw=0.8)
    axes.set_title(f"{'H = I' if sweep == 'H' else sweep} varies; {fixed}", fontsize=9, loc="left")
    axes.set_ylabel("times the FMA limit")
    axes.grid(True, which="major", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _legend(axes: Axes, results: Results, cells: list[str]) -> None:
    kernels = {point["kernel"] for curve in results["curves"] for point in curve["points"]}
    handles = [
        Line2D([], [], color=_COLOURS[cells.index(c) % len(_COLOURS)], ls=ls, label=f"{c} {mode}", lw=1.2)
        for c in cells
        for mode, ls in _LINES.items()
    ]
    plain = {"ls": "", "color": "black", "markersize": 5}
    handles += [Line2D([], [], marker=m, label=f"kernel {k}", **plain) for k, m in _MARKERS.items() if k in kernels]
    handles.append(Line2D([], [], marker="o", markerfacecolor="white", label="not judged (B T < 64)", **plain))
    if results["cliffs"]:
        ring = {"ls": "", "color": "none", "markeredgecolor": "red", "markersize": 10}
        handles.append(Line2D([], [], marker="o", label="cliff", **ring))
    axes.legend(handles=handles, fontsize=8, frameon=False, ncols=2, loc="upper right")
