"""Save and load: exact round trips of everything, strict errors, and a file that appears whole."""

from __future__ import annotations

import importlib
import os

import numpy as np
import pytest

import fastrnn
from fastrnn import nn
from fastrnn.weights.safetensors import write_safetensors
from tests.cases import LAYERS

saving = importlib.import_module("fastrnn.nn.saving")


def layers():
    for cell, (kind, options) in LAYERS.items():
        yield cell, lambda kind=kind, options=options: getattr(fastrnn, kind)(3, 4, seed=1, **options)
    more = {"num_layers": 2, "bidirectional": True, "bias": False, "batch_first": True, "dropout": 0.25}
    yield "every option", lambda: fastrnn.LSTM(3, 4, dtype="float64", peephole=True, seed=1, **more)
    yield "linear", lambda: nn.Linear(3, 4, bias=False, seed=1)
    yield "embedding", lambda: nn.Embedding(3, 4, dtype="float64", seed=1)
    yield "model", model


def model(vocabulary=5):
    inner = nn.Model(embedding=nn.Embedding(vocabulary, 3, seed=1), layer=fastrnn.GRU(3, 4, seed=2))
    return nn.Model(inner=inner, output=nn.Linear(4, vocabulary, seed=3))


class Doubled(nn.Model):
    """A model of somebody's own."""

    def __init__(self, size):
        super().__init__(first=nn.Linear(size, size), second=nn.Linear(size, size))
        self.size = size

    def settings(self):
        return {"size": self.size}


@pytest.mark.parametrize("make", [m for _, m in layers()], ids=[n for n, _ in layers()])
def test_round_trips_are_exact(make, tmp_path):
    part, path = make(), tmp_path / "saved.safetensors"
    extremes = [0.0, -0.0, np.inf, np.nan, 1e-42]
    for _, leaf in saving.leaves(part):
        leaf.flat_params[:5] = extremes
    nn.save(path, part, notes={"alphabet": ["a", "ß"]})
    again = nn.load(path)
    assert type(again) is type(part) and repr(again) == repr(part)
    assert list(again.params) == list(part.params)
    for name, array in part.params.items():
        assert again.params[name].dtype == array.dtype and again.params[name].tobytes() == array.tobytes(), name
        assert again.params[name].flags.writeable
    assert nn.read_notes(path) == {"alphabet": ["a", "ß"]}
    other = make()
    assert nn.load_into(path, other) is other
    for name, array in part.params.items():
        assert other.params[name].tobytes() == array.tobytes()


def test_a_frozen_layer_is_saved_and_comes_back_unfrozen(tmp_path):
    layer = fastrnn.LSTM(3, 4, seed=0).freeze()
    nn.save(tmp_path / "f", layer)
    again = nn.load(tmp_path / "f")
    assert not again.frozen and again.flat_params.tobytes() == layer.flat_params.tobytes()


def test_a_class_of_ones_own(tmp_path):
    part = Doubled(3)
    nn.save(tmp_path / "f", part)
    again = nn.load(tmp_path / "f")
    assert type(again) is Doubled and again.params["second.bias"].tobytes() == part.params["second.bias"].tobytes()
    kept = nn.Model.kinds.pop("Doubled")
    try:
        with pytest.raises(ValueError, match="'Doubled' is not known: import the module"):
            nn.load(tmp_path / "f")
    finally:
        nn.Model.kinds["Doubled"] = kept


def test_another_vocabulary_is_named(tmp_path):
    nn.save(tmp_path / "f", model(5))
    other = model(6)
    before = other.params["inner.embedding.weight"].copy()
    with pytest.raises(ValueError, match=r"inner\.embedding\.count is 5 in the file, 6 in the model; output\.out_size"):
        nn.load_into(tmp_path / "f", other)
    np.testing.assert_array_equal(other.params["inner.embedding.weight"], before)
    with pytest.raises(ValueError, match="kind is 'Model' in the file, 'GRU' in the model"):
        nn.load_into(tmp_path / "f", fastrnn.GRU(3, 4))


def test_files_that_do_not_fit_what_they_say(tmp_path):
    path = tmp_path / "f"
    with pytest.raises(FileNotFoundError, match="No such file"):
        nn.load(path)
    path.write_bytes(b"nonsense")
    with pytest.raises(ValueError, match="the header would have"):
        nn.load(path)
    write_safetensors(path, {"weight": np.zeros((2, 2), np.float32)})
    with pytest.raises(ValueError, match=r"was not written by fastrnn\.nn\.save"):
        nn.load(path)
    good = '{"kind": "Linear", "settings": {"in_size": 2, "out_size": 2, "bias": false}}'
    for about, tensors, words in (
        (good, {"weight": np.zeros((2, 3), np.float32)}, r"weight must have shape \(2, 2\), got \(2, 3\)"),
        (good, {}, "missing weight"),
        (good, {"weight": np.zeros((2, 2))}, "weight must have dtype float32, got float64"),
        ("{", {}, "a description that is no JSON"),
        ('{"kind": "Linear"}', {}, "a description that can't be used"),
        ('{"kind": "Linear", "settings": {"size": 3}}', {}, "a description that can't be used"),
        ("[]", {}, "a description that can't be used"),
        ('{"kind": "Linear", "settings": {"in_size": 0, "out_size": 2}}', {}, "in_size must be at least 1"),
    ):
        write_safetensors(path, tensors, {"fastrnn": about})
        with pytest.raises(ValueError, match=words):
            nn.load(path)


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "f"
    nn.save(path, nn.Linear(2, 2, seed=0))
    before = path.read_bytes()
    with pytest.raises(TypeError, match="JSON"):
        nn.save(path, nn.Linear(2, 2, seed=1), notes={1, 2})
    with pytest.raises(TypeError, match="part must be a layer, a part or a model, got int"):
        nn.save(path, 3)

    def full(*_):
        raise OSError("no space left")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="no space"):
        nn.save(path, nn.Linear(2, 2, seed=1))
    assert path.read_bytes() == before and [f.name for f in tmp_path.iterdir()] == ["f"]


def test_a_bridge_alone(tmp_path):
    encoder = fastrnn.LSTM(2, 3, bidirectional=True, seed=0)
    bridge = nn.Bridge(encoder, fastrnn.GRU(4, 5, 2, seed=1), seed=2)
    nn.save(tmp_path / "bridge", bridge)
    again = nn.load(tmp_path / "bridge")
    for name, array in bridge.params.items():
        assert np.array_equal(again.params[name], array)
    final = encoder(np.ones((4, 1, 2), np.float32))[1]
    assert np.array_equal(again(final), bridge(final))
