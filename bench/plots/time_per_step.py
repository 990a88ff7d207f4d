"""Microseconds a step against H for one sequence (B = 1), ours and the rivals'; one panel per plain cell."""

from __future__ import annotations

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.peers import OURS
from bench.plots.style import PLAIN_CELLS, Row, dress, plain_numbers, subtitle, timed_rows
from bench.results import Results

__all__ = ["paint"]

# Not the cells' colours: here a colour is a library.
_COLOURS = ("#009E73", "#AA4499", "#882255", "#44AA99", "#999933", "#6699CC", "#CC6677", "#117733")


def paint(results: Results, device: str) -> Figure | None:
    rows = [
        row
        for row, _ in timed_rows(results, device)
        if (c := row["case"])["B"] == 1 and c["T"] > 1 and c["I"] == c["H"] and c["mode"] == "forward"
    ]
    lengths = [row["case"]["T"] for row in rows]
    rows = [row for row in rows if row["case"]["T"] == max(lengths, key=lengths.count)]
    cells = [cell for cell in PLAIN_CELLS if any(row["case"]["cell"] == cell for row in rows)]
    if not cells or len({row["case"]["H"] for row in rows}) < 2:
        return None
    labels = dict.fromkeys(label for row in rows for label in _labels(row))
    names = sorted(labels, key=lambda name: name != OURS)
    figure, panels = plt.subplots(
        1, len(cells), figsize=(3.2 * len(cells) + 1, 3.7), sharey=True, squeeze=False, layout="constrained"
    )
    for axes, cell in zip(panels[0], cells, strict=True):
        _panel(axes, [row for row in rows if row["case"]["cell"] == cell], cell, names)
    panels[0][0].set_ylabel("µs a step")
    handles = {h.get_label(): h for axes in panels[0] for h in axes.get_lines()}
    figure.legend(handles=[handles[name] for name in names], fontsize=8, frameon=False, loc="outside right upper")
    title = f"One sequence (B = 1, T = {rows[0]['case']['T']}), forward, input product included"
    figure.suptitle(f"{title}\n{subtitle(results, device)}", fontsize=10, x=0.01, ha="left")
    return figure


def _labels(row: Row) -> dict[str, float]:
    """Seconds by the name of a line: ours once, as the frozen layer."""
    timed = {label: entry["seconds"] for label, entry in row["entries"].items() if entry["status"] == "timed"}
    timed.pop(f"{OURS} unfrozen", None)
    return {OURS if label.split()[0] == OURS else label: seconds for label, seconds in timed.items()}


def _panel(axes: Axes, rows: list[Row], cell: str, names: list[str]) -> None:
    for i, name in enumerate(names):
        found = [(row["case"], _labels(row)) for row in rows]
        points = sorted((case["H"], by[name] / case["T"] * 1e6) for case, by in found if name in by)
        if not points:
            continue
        mine = name == OURS
        axes.plot(
            *zip(*points, strict=True),
            marker="o",
            markersize=4,
            label=name,
            linewidth=2.2 if mine else 1.2,
            color="black" if mine else _COLOURS[(i - 1) % len(_COLOURS)],
            zorder=3 if mine else 2,
        )
    axes.set(xscale="log", yscale="log")
    plain_numbers(axes, "x", sorted({row["case"]["H"] for row in rows}))
    plain_numbers(axes, "y")
    axes.set_xlabel("H = I")
    axes.set_title(cell, fontsize=9, loc="left")
    dress(axes)
