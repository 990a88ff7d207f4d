"""What the picture of the gradient's way back claims, on its numbers."""

from __future__ import annotations

import numpy as np
import pytest

from bench.gradient_flow import draw, flows, table

T, H = 100, 48


@pytest.fixture(scope="module")
def found():
    return flows(T, H)


def test_tanh_vanishes_and_sigmoid_faster(found):
    """Steadily: at least a power of ten every ten steps, and the sigmoid, of slope at most 1/4, twice as fast."""
    for name in ("rnn", "sigmoid"):
        assert (np.diff(found[name].log10_norm[::10]) < -1).all(), name
    assert found["rnn"].decades < -15
    assert found["sigmoid"].decades < 2 * found["rnn"].decades


def test_large_weights_explode(found):
    assert found["large"].decades > 8
    assert found["large"].log10_norm[T // 2] > 3


def test_open_gates_carry(found):
    """Less than a factor of ten is lost over all steps, and it stays below 1."""
    for name in ("lstm", "gru"):
        assert -1 < found[name].decades < 0, name
        assert found[name].log10_norm.max() < 0.01


def test_half_open_gates_do_not(found):
    """What carries is the open gate, not the cell's name."""
    for name in ("lstm_usual", "gru_usual"):
        assert found[name].decades < -10, name


def test_the_picture_and_the_table(found, tmp_path):
    pytest.importorskip("matplotlib")
    path = draw(found, tmp_path / "new" / "flow.png")
    assert path.read_bytes()[:4] == b"\x89PNG"
    rows = table(found).rows
    assert [row[0] for row in rows] == [flow.title for flow in found.values()]
    assert rows[0][1].endswith("e-1")
