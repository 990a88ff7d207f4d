"""The README's recipes run as they stand."""

from __future__ import annotations

import re

import numpy as np
import pytest

import fastrnn
from fastrnn.weights import to_onnx
from tests.cuda import emulator, stand_in
from tests.processes import readme
from tests.weights import keras_equations

TEXT = readme()
SECTION = re.search(r"^## Recipes\n(.*?)^## ", TEXT, re.S | re.M)[1]
RECIPES = dict(re.findall(r"^### (.+?)\n\n```python\n(.*?)```", SECTION, re.S | re.M))


def run(title, **names):
    """The recipe's names after it has run."""
    exec(compile(RECIPES[title], title, "exec"), names)
    return names


def test_every_recipe_is_short_and_run_here():
    assert set(RECIPES) >= {f"I have {what}" for what in ("a PyTorch model", "an ONNX file", "Keras weights")}
    assert set(RECIPES) >= {"I have a NumPy loop", "I have CuPy arrays"}
    code = {
        title: [line for line in text.splitlines() if line and "import" not in line] for title, text in RECIPES.items()
    }
    assert max(map(len, code.values())) <= 15
    assert max(len(line) for text in RECIPES.values() for line in text.splitlines()) <= 130


def test_pytorch():
    pytest.importorskip("torch", reason="the recipe is about PyTorch")
    run("I have a PyTorch model")


def test_onnx(tmp_path, monkeypatch):
    pytest.importorskip("onnx", reason="the recipe is about ONNX")
    monkeypatch.chdir(tmp_path)
    to_onnx(fastrnn.LSTM(64, 32, seed=0), "model.onnx")
    run("I have an ONNX file")
    assert (tmp_path / "again.onnx").exists()


def test_keras(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (arrays,) = keras_equations.random_weights("lstm", 64, 32)
    arrays = [array.astype(np.float32) for array in arrays]
    np.savez("keras_lstm.npz", *arrays)
    found = run("I have Keras weights")
    want = keras_equations.outputs("lstm", found["x"].swapaxes(0, 1), [arrays])
    np.testing.assert_allclose(found["y"].swapaxes(0, 1), want, atol=1e-6)


def test_a_numpy_loop():
    run("I have a NumPy loop")


@pytest.mark.skipif(bool(emulator.available()), reason=emulator.available() or "-")
def test_cupy():
    """On the stand-in for CuPy and the emulator; the step of training is the host's."""
    with stand_in.installed() as cupy:
        found = run("I have CuPy arrays")
        x = cupy.asnumpy(found["x"])
    host = fastrnn.GRU(8, 16, reset_after=True, seed=0)
    y, _, tape = host.forward(x, lengths=[5, 3])
    host.flat_params -= 0.01 * host.backward(tape, 2 * y).flat
    assert found["layer"].device == "cpu"
    np.testing.assert_allclose(found["layer"].flat_params, host.flat_params, atol=1e-6)
