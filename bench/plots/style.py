"""What the pictures have in common: colours, legends, axes, and the rows that they show."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import NullFormatter, NullLocator

from bench.results import Results
from bench.tables import ours

__all__ = [
    "CELL_COLOURS",
    "MARKERS",
    "PLAIN_CELLS",
    "TITLES",
    "Row",
    "cell_handles",
    "dress",
    "mode_handles",
    "plain_numbers",
    "subtitle",
    "timed_rows",
]

# Okabe and Ito's colours, told apart by colour-blind readers, too; one per cell, always the same.
CELL_COLOURS = {
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
MARKERS = {"forward": "o", "training": "s", "step": "^"}
TITLES = {"forward": "forward", "training": "forward + backward", "step": "one step at a time"}
PLAIN_CELLS = ("rnn_tanh", "lstm", "gru_reset_before", "gru_reset_after")

Row = dict[str, Any]


def timed_rows(results: Results, device: str) -> list[tuple[Row, dict[str, Any]]]:
    """float32 rows with our timed entry; on the CPU those with the most threads."""
    threads = max(results["settings"]["threads"])
    rows = (
        row
        for row in results["cases"]
        if row["threads"] == threads and (row["case"]["dtype"], row["case"]["device"]) == ("float32", device)
    )
    return [(row, mine) for row in rows if (mine := ours(row)) is not None and mine["status"] == "timed"]


def subtitle(results: Results, device: str) -> str:
    """What and where: the second line of a picture's title."""
    about = results["machine"]
    if device == "cpu":
        where = f"{max(results['settings']['threads'])} threads, {about['processor']}"
    else:
        where = about.get("devices", {}).get(device, {}).get("name", device)
    return f"float32, {where}, {results['created'][:10]}"


def dress(axes: Axes) -> None:
    """A light grid behind the data, and no box."""
    axes.grid(True, which="major", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def plain_numbers(axes: Axes, which: str, ticks: list[float] | None = None) -> None:
    """Write 0.5, 8, 100 along a logarithmic axis and not powers of ten; with ``ticks`` these and no others."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    if ticks is not None:
        axis.set_ticks(ticks)
        axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_minor_formatter(NullFormatter())


def cell_handles(cells: set[str], marker: str = "o") -> list[Line2D]:
    """A legend's entries for these cells; RNNs have one colour, so one entry, in the order of the bars."""
    handles = []
    for colour in dict.fromkeys(CELL_COLOURS[c] for c in CELL_COLOURS if c in cells):
        named = [c for c in CELL_COLOURS if c in cells and CELL_COLOURS[c] == colour]
        label = f"rnn ({', '.join(c.removeprefix('rnn_') for c in named)})" if len(named) > 1 else named[0]
        handles.append(_handle(marker, label, colour))
    return handles


def mode_handles(modes: set[str]) -> list[Line2D]:
    """A legend's entries for these modes."""
    return [_handle(MARKERS[mode], TITLES[mode], "white") for mode in MARKERS if mode in modes]


def _handle(marker: str, label: str, colour: str) -> Line2D:
    return Line2D(
        [],
        [],
        color="none",
        marker=marker,
        markersize=6,
        markeredgewidth=0.4,
        markeredgecolor="black",
        markerfacecolor=colour,
        label=label,
    )
