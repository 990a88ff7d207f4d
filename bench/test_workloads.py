"""The workloads, at sizes that take seconds: through the processes that run them, and beside PyTorch."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest

from bench.workloads import memory, vowels
from bench.workloads.charlm import CharLM, Config
from bench.workloads.runner import Settings, Training
from bench.workloads.table import WORKLOADS, configured

_PAIRS = ["B=16", "hidden=32", "encoder_hidden=24", "embedding=16", "dropout=0.0", "rate=0.01", "beam=3"]
SMALL = {
    "g2p_en": ["words=40", "batch=20"],
    "charlm": ["steps=30", "T=16", "B=8", "hidden=32", "embedding=16"],
    "memory": ["tasks=adding,copy", "lengths=20", "cells=rnn,lstm,gru", "steps=5", "B=8", "H=16"],
    "vowels": ["steps=40", "hidden=24", "rate=0.01"],
    "g2p": ["thin=200", "steps=60", *_PAIRS],
    "translate": ["thin=40", "steps=20", "max_length=20", *_PAIRS],
}


class Quiet:
    """A progress that says nothing."""

    def begin(self, what, effort):
        pass

    advance = say = lambda self, _: None


def test_every_workload_has_small_settings_here():
    assert sorted(SMALL) == sorted(WORKLOADS)


@pytest.mark.parametrize("name", sorted(SMALL))
def test_settings_are_read_by_the_type_of_their_default(name):
    workload = WORKLOADS[name]
    config = configured(workload.config, SMALL[name])
    for setting in SMALL[name]:
        field, _, text = setting.partition("=")
        value = getattr(config, field)
        assert (",".join(map(str, value)) if isinstance(value, tuple) else str(value)) == text
    assert isinstance(configured(workload.config, [], quick=True), workload.config)
    for bad in ("steps", "nothing=1"):
        with pytest.raises(ValueError, match=r"a setting is name=value.*; there are"):
            configured(workload.config, [bad])


class Invented:
    """An implementation whose losses are known; a rival's lie a little apart."""

    def __init__(self, config, threads):
        self.factor, self.done, self.steps = config["factor"], 0, config["steps"]

    def train(self, steps):
        losses = [self.factor * (100.0 - k) for k in range(self.done, self.done + steps)]
        self.done += steps
        return {"losses": losses, "seconds": 2.0, "words": 10 * steps}

    def held_out(self):
        return float(self.steps - self.done)

    def sample(self):
        return "a sample"


@dataclass(frozen=True)
class InventedConfig(Settings):
    steps: int = 70
    factor: float = 1.0


def test_a_training_and_its_rival_take_turns():
    """Blocks of steps, figures from both, and how far they are apart."""
    here = "bench.test_workloads:Invented"
    training = Training(
        "invented", "-", InventedConfig, {"fastrnn": here, "torch": here}, "words", _says, 1.0, block=30
    )
    figures = training(1, Quiet(), against="torch")
    mine = figures["fastrnn"]
    assert mine["losses"] == [100.0 - k for k in range(70)] and mine["losses_every"] == 1
    assert (mine["before"], mine["after"], mine["words_per_s"]) == (70.0, 0.0, 150.0)
    assert figures["comparison"]["largest_loss_difference"] == 0 and figures["comparison"]["speed_ratio"] == 1
    assert (figures["summary"], figures["sample"]) == ("70 steps", "a sample")
    with pytest.raises(ValueError, match="invented has no implementation in jax"):
        training(1, Quiet(), against="jax")


def _says(figures, config):
    return f"{config.steps} steps"


def test_charlm_learns_and_has_pytorchs_curve():
    pytest.importorskip("torch")
    from bench.workloads.charlm_torch import CharLMTorch

    config = configured(Config, SMALL["charlm"]).to_json()
    ours, theirs = CharLM(config, 1), CharLMTorch(config, 1)
    first = ours.train(10)["losses"]
    np.testing.assert_allclose(first, theirs.train(10)["losses"], rtol=1e-5)
    assert ours.train(20)["losses"][-1] < first[0] - 0.5


def test_charlm_samples_what_its_layer_says():
    """Character by character through a stream, and the whole text through the layer, agree on the likeliest next."""
    model = CharLM(configured(Config, SMALL["charlm"]).to_json(), 1)
    written = model.corpus.encode(model.sample(length=12, temperature=1e-6))
    h, _ = model.model.lstm(model.model.embedding(written[:-1, None]))
    likeliest = model.model.output(h)[:, 0].argmax(axis=1)
    assert written[4:].tolist() == likeliest[3:].tolist()


def test_memory_makes_its_table():
    """Through the process, with what it says of each training."""
    settings = [*SMALL["memory"], "cells=gru"]
    figures = WORKLOADS["memory"](1, Quiet(), config=configured(memory.Config, settings))
    assert [(run["task"], run["T"], run["cell"]) for run in figures["runs"]] == [
        ("adding", 20, "gru"),
        ("copy", 20, "gru"),
    ]
    for run in figures["runs"]:
        assert run["steps"] == 5 and len(run["fastrnn"]["losses"]) == 5 and 0 <= run["fastrnn"]["held_out"] <= 1
    assert figures["sample"].count("gru") == 2 and "gru learns" in figures["summary"]


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
@pytest.mark.parametrize("task", ["adding", "copy"])
def test_memory_has_pytorchs_curve(task, cell):
    pytest.importorskip("torch")
    from bench.workloads.memory_torch import MemoryTorch

    curves = []
    for kind in (memory.Memory, MemoryTorch):
        model = kind(configured(memory.Config, SMALL["memory"]).to_json(), 1)
        model.start(task, 20, cell)
        curves.append([*model.train(5)["losses"], model.held_out()])
    np.testing.assert_allclose(*curves, rtol=1e-4)


def test_memory_gru_solves_a_short_adding_problem_and_rnn_does_not():
    """20 steps in seconds; the 200 and 500 of the workload take minutes."""
    config = configured(memory.Config, ["lengths=20", "steps=250", "H=24", "cells=rnn,gru"])
    found = {}
    for cell in config.cells:
        model = memory.Memory(config.to_json(), 1)
        model.start("adding", 30, cell)
        found[cell] = np.mean(model.train(config.steps)["losses"][-25:]) / memory.baseline("adding", 30)
    assert found["gru"] < 0.1 < 0.5 < found["rnn"], found


@pytest.mark.parametrize("task", ["adding", "copy"])
def test_what_the_tasks_ask_for(task):
    recall = memory.Recall(task, 30, "gru")
    x, targets = recall.batch(np.random.default_rng(0), 7)
    assert x.shape[1:] == (7, recall.sizes[0]) and x.dtype == np.float32
    if task == "adding":
        assert (x[..., 1].sum(axis=0) == 2).all() and (x[:15, :, 1].sum(axis=0) == 1).all()
        np.testing.assert_allclose(targets[:, 0], (x[..., 0] * x[..., 1]).sum(axis=0), rtol=1e-6)
        assert memory.baseline(task, 30) == 1 / 6
    else:
        seen = x.argmax(axis=-1)
        assert len(x) == len(targets) == 50 and (seen[:10] == targets[-10:]).all() and not targets[:-10].any()
        assert (seen[39] == 9).all() and not np.delete(seen, 39, axis=0)[10:].any()
        assert memory.baseline(task, 30) == pytest.approx(10 * math.log(8) / 50)


def _with_vowels():
    try:
        return vowels.utterances("TEST")
    except ModuleNotFoundError as error:
        assert "pip install" in str(error)
        pytest.skip(reason="the data set of aeon or sktime is not installed")


def test_vowels_are_ragged_speech():
    test, train = _with_vowels(), vowels.utterances("TRAIN")
    assert (len(train.frames), len(test.frames)) == (270, 370)
    assert {f.shape[1] for f in train.frames} == {12} and train.frames[0].dtype == np.float32
    lengths = [len(f) for f in train.frames + test.frames]
    assert min(lengths) == 7 and max(lengths) == 29
    assert np.bincount(train.speakers).tolist() == [30] * 9
    every = np.concatenate(train.frames)
    np.testing.assert_allclose(every.mean(axis=0), 0, atol=1e-5)
    seen = [k for _, _, speakers in vowels.epoch(train, 40, np.random.default_rng(0)) for k in speakers]
    assert sorted(seen) == sorted(train.speakers)


def test_vowels_learn():
    _with_vowels()
    config = configured(vowels.Config, SMALL["vowels"])
    model = vowels.Vowels(config.to_json(), 1)
    assert model.held_out() < 0.4
    model.train(config.steps)
    assert model.held_out() > 0.8 and model.sample().count("speaker") == 9


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_vowels_have_pytorchs_curve(cell):
    """Ours ragged, PyTorch's packed."""
    pytest.importorskip("torch")
    _with_vowels()
    from bench.workloads.vowels_torch import VowelsTorch

    config = configured(vowels.Config, [*SMALL["vowels"], f"cell={cell}"]).to_json()
    curves = [kind(config, 1).train(4)["losses"] for kind in (vowels.Vowels, VowelsTorch)]
    np.testing.assert_allclose(*curves, rtol=1e-4)
