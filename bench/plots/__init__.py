"""Pictures of a results file, a file here for each: PNG and SVG.

To add one: a module with ``paint(results, device) -> Figure | None`` (None: nothing to show), and a line below.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt

from bench.devices import DEVICES
from bench.plots import crossover, roofline, speed_up, time_per_step
from bench.results import Results

__all__ = ["draw"]

_PICTURES = {
    "roofline": roofline.paint,
    "speed-up": speed_up.paint,
    "time-per-step": time_per_step.paint,
}


def draw(results: Results, folder: Path) -> list[Path]:
    """Draw every picture that the results have data for; returns the PNG files."""
    folder.mkdir(parents=True, exist_ok=True)
    figures = {}
    for device in DEVICES:
        for name, paint in _PICTURES.items():
            figures[name if device == "cpu" else f"{name}-{device}"] = paint(results, device)
    figures["crossover"] = crossover.paint(results)
    pictures = []
    for name, figure in figures.items():
        if figure is None:
            continue
        for suffix in ("png", "svg"):
            figure.savefig(folder / f"{name}.{suffix}", dpi=150, bbox_inches="tight")
        plt.close(figure)
        pictures.append(folder / f"{name}.png")
    return pictures
