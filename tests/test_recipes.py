"""The README's recipes for running and training run as they stand, and do what they say."""

from __future__ import annotations

import re

import numpy as np
import pytest

import fastrnn
from bench.workloads import g2p_en
from tests.processes import readme

TEXT = readme()
SECTION = re.search(r"^## Recipes\n(.*?)^## ", TEXT, re.S | re.M)[1]
RECIPES = dict(re.findall(r"^### (.+?)\n\n```python\n(.*?)```", SECTION, re.S | re.M))


def run(title):
    """The recipe's names after it has run."""
    names = {}
    exec(compile(RECIPES[title], title, "exec"), names)
    return names


def test_pytorch_modules():
    torch = pytest.importorskip("torch", reason="the recipe is about PyTorch")
    torch.manual_seed(0)
    found = run("I have a PyTorch module to train")
    module = torch.nn.LSTM(64, 128, 2, batch_first=True)
    module.load_state_dict(found["model"].state_dict())
    torch.testing.assert_close(found["y"], module(found["x"])[0], rtol=0, atol=1e-5)
    assert not found["y"].requires_grad


def test_a_loop_of_ones_own():
    found = run("I have a loop of my own")
    layer = fastrnn.GRU(64, 256, reset_after=True)
    layer.load_params({"weight_ih_l0": found["w_ih"], "weight_hh_l0": found["w_hh"]} | {
        "bias_ih_l0": found["b_ih"], "bias_hh_l0": found["b_hh"]
    })  # fmt: skip
    x, h = np.zeros((1, 1, 64), np.float32), None
    for _ in range(20):
        y, h = layer(x, h)
        x = np.tanh(y[:, :, :64])
    np.testing.assert_array_equal(found["h"], h[0])


def test_streams_that_join_and_leave():
    """Whoever shares the slots, and whoever had one before, each hears what a layer of its own would say."""
    found = run("I have many streams at once")
    layer, rng = fastrnn.GRU(40, 64, seed=0), np.random.default_rng(0)
    said, heard = {}, {}
    for t in range(60):
        if found["free"] and t % 3 == 0:
            found["join"](t)
            said[t], heard[t] = [], []
        elif t % 7 == 0:
            found["leave"](min(found["slots"]))
        frames = {name: rng.standard_normal(40).astype(np.float32) for name in found["slots"]}
        for name, h in found["advance"](frames).items():
            said[name].append(frames[name])
            heard[name].append(h)
    assert len(said) > 8 and len(found["slots"]) > 1
    for name, frames in said.items():
        np.testing.assert_array_equal(np.array(heard[name]), layer(np.array(frames))[0])


def test_episodes():
    """The last rollout is that of every episode alone, the first of each environment's from the state carried over."""
    found = run("I have episodes that end in the middle of a batch")
    policy, x, begins = found["policy"], found["x"], found["begins"]
    policy.flat_params += 0.1 * found["grads"].flat  # as it was in that rollout
    assert begins[1:].any() and not begins.all()
    checked = 0
    for n in range(found["N"]):
        starts = np.flatnonzero(begins[:, n]).tolist()
        for start, stop in zip(starts, [*starts[1:], found["T"]], strict=True):
            y, _ = policy(x[start:stop, n])
            np.testing.assert_allclose(found["y"][start:stop, n], y, rtol=0, atol=1e-6)
            checked += 1
    assert checked > 5


def test_somebody_elses_pipeline():
    if g2p_en.missing():
        pytest.skip(g2p_en.missing())
    with g2p_en.stubs():
        fast = run("I have somebody else's NumPy pipeline")["FastG2p"]()
        plain = g2p_en.original()()
    words = g2p_en.words(50)
    assert [fast.predict(word) for word in words] == [plain.predict(word) for word in words]
