"""The pictures, from invented results and from the committed ones: they are drawn, and their words can be read."""

from __future__ import annotations

import itertools

import pytest

pytest.importorskip("matplotlib")

from matplotlib import pyplot as plt
from matplotlib.text import Annotation

from bench.devices import DEVICES
from bench.plots import crossover, draw, roofline, speed_up, time_per_step
from bench.report import PUBLISHED
from bench.results import load
from bench.test_crossover import invented, timed

PAINTERS = (roofline.paint, speed_up.paint, time_per_step.paint)
CELLS = ("lstm", "gru_reset_after")


def with_rivals():
    results = invented(cells=CELLS)
    for k, row in enumerate(results["cases"]):
        mine = row["entries"]["fastrnn frozen"]["seconds"]
        row["entries"]["onnxruntime"] = timed(mine * (0.7 + k % 5), native=k % 2 == 0)
        row["entries"]["torch tf32"] = timed(mine / 10, precision="tf32")
    return results


def test_every_picture_is_drawn_where_there_is_data_for_it(tmp_path):
    names = {path.stem for path in draw(with_rivals(), tmp_path)}
    expected = {"roofline", "speed-up", "time-per-step"}
    assert names == expected | {f"{name}-cuda" for name in expected} | {"crossover"}
    assert len(list(tmp_path.iterdir())) == 2 * len(names)


def test_a_run_on_one_device_has_that_ones_pictures_only():
    results = load(PUBLISHED)
    assert crossover.paint(results) is None
    assert [paint(results, "cuda") for paint in PAINTERS] == [None] * 3
    assert speed_up.paint(results, "cpu") is not None
    plt.close("all")


def test_the_best_rival_is_one_of_the_same_precision():
    for row in with_rivals()["cases"]:
        assert speed_up.best_rival(row)[0] == "onnxruntime"


@pytest.mark.parametrize("device", DEVICES)
def test_names_over_bars_do_not_overlap(device):
    figure = speed_up.paint(with_rivals(), device)
    figure.canvas.draw()
    for axes in figure.axes:
        boxes = [text.get_window_extent() for text in axes.texts if isinstance(text, Annotation)]
        assert len(boxes) == 8 * len(CELLS)
        assert not [pair for pair in itertools.combinations(boxes, 2) if pair[0].overlaps(pair[1])]
        assert all(axes.get_window_extent().containsy(box.y1) for box in boxes)
    plt.close(figure)


def test_the_crossover_has_a_panel_per_cell_and_a_line_per_hidden_size():
    figure = crossover.paint(invented(cells=("lstm", "lstm_peephole")))
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["lstm, forward"]
    assert [line.get_label() for line in figure.axes[0].get_lines()][:2] == ["H=128", "H=512"]
    plt.close(figure)
