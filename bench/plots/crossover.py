"""Where the GPU overtakes the CPU: the CPU's time in multiples of the GPU's, against the batch."""

from __future__ import annotations

import matplotlib
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.crossover import Line, lines
from bench.plots.style import CELL_COLOURS, MARKERS, PLAIN_CELLS, TITLES, dress, plain_numbers, subtitle
from bench.results import Results

__all__ = ["paint"]


def paint(results: Results) -> Figure | None:
    """One column per cell (the plain ones, where any of them was measured), one row per mode, one line per H."""
    found = [line for line in lines(results) if len(line.points) > 1 and line.dtype == "float32"]
    measured = [cell for cell in CELL_COLOURS if any(line.cell == cell for line in found)]
    cells = [cell for cell in PLAIN_CELLS if cell in measured] or measured
    found = [line for line in found if line.cell in cells]
    if not found:
        return None
    modes = [mode for mode in MARKERS if any(line.mode == mode for line in found)]
    names = sorted({line.fixed for line in found}, key=lambda fixed: int(fixed.split()[0].removeprefix("H=")))
    size = (2.9 * len(cells) + 1.4, 2.9 * len(modes) + 0.8)
    figure, panels = plt.subplots(
        len(modes), len(cells), figsize=size, sharex=True, sharey=True, squeeze=False, layout="constrained"
    )
    for row, mode in zip(panels, modes, strict=True):
        for axes, cell in zip(row, cells, strict=True):
            chosen = [line for line in found if (line.cell, line.mode) == (cell, mode)]
            _panel(axes, chosen, names, f"{cell}, {TITLES[mode]}")
        row[0].set_ylabel("CPU time / GPU time")
    for axes in panels[-1]:
        axes.set_xlabel("B")
    _say_who_wins(panels[0][0])
    handles = {h.get_label(): h for axes in panels.flat for h in axes.get_lines() if h.get_label() in names}
    figure.legend(handles=[handles[name] for name in names], fontsize=8, frameon=False, loc="outside right upper")
    gpu = subtitle(results, "cuda").split(", ")[1]
    title = f"Where the GPU overtakes the CPU (T = {found[0].T})\n{subtitle(results, 'cpu')}; {gpu}"
    figure.suptitle(title, fontsize=10, x=0.01, ha="left")
    return figure


def _panel(axes: Axes, chosen: list[Line], names: list[str], title: str) -> None:
    shades = matplotlib.colormaps["viridis"]
    for line in chosen:
        place = names.index(line.fixed) / max(1, len(names) - 1)
        sizes = [size for size, _, _ in line.points]
        ratios = [on_cpu / on_gpu for _, on_cpu, on_gpu in line.points]
        axes.plot(sizes, ratios, marker="o", markersize=4, color=shades(0.05 + 0.8 * place), label=line.fixed)
    axes.axhline(1, color="black", lw=1)
    axes.set(xscale="log", yscale="log")
    plain_numbers(axes, "x", sorted({size for line in chosen for size, _, _ in line.points}))
    plain_numbers(axes, "y")
    axes.set_title(title, fontsize=9, loc="left")
    dress(axes)


def _say_who_wins(axes: Axes) -> None:
    """A word on either side of the line at 1, at the edge where no curve can be for want of room."""
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, 1 / 2), max(high, 2))
    for text, va, offset in (("GPU faster", "bottom", 2), ("CPU faster", "top", -2)):
        axes.annotate(
            text, (1, 1), (-2, offset), xycoords=("axes fraction", "data"), textcoords="offset points",
            ha="right", va=va, size=7, color="#555555",
        )  # fmt: skip
