"""The workloads, at sizes that take seconds: through the processes that run them, and beside PyTorch."""

from __future__ import annotations

import pytest

from bench.workloads.charlm import CharLM, Config
from bench.workloads.table import WORKLOADS, configured

SMALL = {"charlm": ["steps=30", "T=16", "B=8", "hidden=32", "embedding=16"]}


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


def test_charlm_learns_and_agrees_with_pytorch():
    pytest.importorskip("torch")
    config = configured(Config, SMALL["charlm"])
    figures = WORKLOADS["charlm"](1, Quiet(), config=config, against="torch")
    assert figures["fastrnn"]["after"] < figures["fastrnn"]["before"] - 0.5
    assert figures["comparison"]["largest_loss_difference"] < 1e-5
    assert abs(figures["comparison"]["held_out_difference"]) < 1e-5
    assert "characters a second" in figures["summary"] and figures["sample"].startswith("The ")


def test_charlm_samples_what_its_layer_says():
    """Character by character through a stream, and the whole text through the layer, agree on the likeliest next."""
    model = CharLM(configured(Config, SMALL["charlm"]).to_json(), 1)
    written = model.corpus.encode(model.sample(length=12, temperature=1e-6))
    h, _ = model.model.lstm(model.model.embedding(written[:-1, None]))
    likeliest = model.model.output(h)[:, 0].argmax(axis=1)
    assert written[4:].tolist() == likeliest[3:].tolist()
