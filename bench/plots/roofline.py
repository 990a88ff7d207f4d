"""How near each kernel comes to its limits: GFLOP/s against operations per byte, under the measured roofs."""

from __future__ import annotations

import math

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.devices import limits_key
from bench.plots.style import (
    CELL_COLOURS,
    MARKERS,
    cell_handles,
    dress,
    mode_handles,
    plain_numbers,
    subtitle,
    timed_rows,
)
from bench.results import Results

__all__ = ["paint"]

_BYTES = {"cpu": "of recurrent weights, needed anew in every step", "cuda": "of arguments and results, moved once"}
_STRIP = 8.0  # so many times smaller intensities stand at the left, where the roofs are named


def paint(results: Results, device: str) -> Figure | None:
    # A single step is the cost of a call, three orders of magnitude below any roof.
    rows = [(row, mine) for row, mine in timed_rows(results, device) if row["case"]["T"] > 1]
    limits = results["limits"].get(limits_key(device, max(results["settings"]["threads"])))
    if not rows or limits is None or "float32" not in limits["flops"]:
        return None
    peak = limits["flops"]["float32"] / 1e9
    rates = {level: rate / 1e9 for level, rate in limits["bytes"].items()}
    points = [(row["flops"] / row["streamed_bytes"], row["flops"] / mine["seconds"] / 1e9) for row, mine in rows]
    figure, axes = plt.subplots(figsize=(9, 5.5))
    left = min(x for x, _ in points) / _STRIP
    axes.set(xscale="log", yscale="log", xlim=(left, max(x for x, _ in points) * 2))
    axes.set_ylim(min(min(y for _, y in points), left * min(rates.values())) / 1.6, peak * 2)
    cells = list(CELL_COLOURS)
    for (row, _), (x, y) in zip(rows, points, strict=True):
        case = row["case"]
        x *= 1.035 ** (cells.index(case["cell"]) - 4)  # side by side: cells of one shape share an intensity
        colour, marker = CELL_COLOURS[case["cell"]], MARKERS[case["mode"]]
        axes.scatter(x, y, color=colour, marker=marker, s=26, edgecolor="black", linewidth=0.4, zorder=3)
    for axis in "xy":
        plain_numbers(axes, axis)
    _roofs(axes, peak, rates, "FMA peak" if device == "cpu" else "large products")
    axes.set_xlabel(f"floating-point operations per byte {_BYTES[device]}")
    axes.set_ylabel("GFLOP/s")
    axes.set_title(f"How near each kernel comes to its limits\n{subtitle(results, device)}", fontsize=10, loc="left")
    handles = cell_handles({row["case"]["cell"] for row, _ in rows})
    handles += mode_handles({row["case"]["mode"] for row, _ in rows})
    axes.legend(handles=handles, fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1.01, 1))
    dress(axes)
    return figure


def _roofs(axes: Axes, peak: float, rates: dict[str, float], name: str) -> None:
    """The flat roof and the slanting ones, each named along its line, at the left where no points are."""
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    axes.axhline(peak, color="black", lw=1.2)
    axes.annotate(f"{name} {peak:.0f} GFLOP/s", (right, peak), (-2, 3), textcoords="offset points", ha="right", size=8)
    box = axes.get_window_extent()
    slope = (box.height / math.log(high / low)) / (box.width / math.log(right / left))
    above = None  # the rate of the roof above, whose name may stand in the way
    for level, rate in sorted(rates.items(), key=lambda item: -item[1]):
        corner = peak / rate
        axes.plot([left, min(corner, right)], [left * rate, min(peak, right * rate)], color="#888888", lw=1)
        beneath = above is not None and above < 1.6 * rate
        axes.annotate(
            f"{level} {rate:.0f} GB/s",
            (left * 1.12, left * 1.12 * rate),
            (0, -3 if beneath else 2),
            textcoords="offset points",
            rotation=math.degrees(math.atan(slope)),
            rotation_mode="anchor",
            va="top" if beneath else "bottom",
            size=8,
            color="#555555",
        )
        above = rate
