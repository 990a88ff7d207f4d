"""Hostile arguments at every public function: a few here, 125,000 in processes of their own with ``-m long``."""

from __future__ import annotations

import importlib.util

import pytest
from hypothesis import HealthCheck, given, settings

from tests.hostile.examples import check, examples
from tests.hostile.public import UNTRIED, called, functions
from tests.hostile.targets import TARGETS, Setting
from tests.processes import run_python

SETTINGS = (
    Setting("lstm", "float32", False, False, False, 1),
    Setting("gru_reset_after", "float32", True, True, True, 1),
)


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_good_arguments_are_good(name):
    for setting in SETTINGS:
        TARGETS[name].call(setting, TARGETS[name].arguments(setting))


def test_every_public_function_is_a_target():
    seen = called(lambda: [t.call(s, t.arguments(s)) for t in TARGETS.values() for s in SETTINGS])
    optional = [f"fastrnn.{package}" for package in ("onnx", "torch") if importlib.util.find_spec(package)]
    untried = {name for name, function in functions(optional) if function.__code__ not in seen}
    if importlib.util.find_spec("torch") is None:
        untried.discard("fastrnn.weights.to_torch")
    if importlib.util.find_spec("onnx") is None:
        untried -= {"fastrnn.weights.from_onnx", "fastrnn.weights.to_onnx"}
    assert {name for name in untried if not name.endswith(tuple(UNTRIED))} == set()
    assert [end for end in UNTRIED if not any(name.endswith(end) for name in untried)] == []


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(examples(("lstm", "gru_reset_after"), ("float32",)))
def test_hostile_arguments(example):
    check(example)


@pytest.mark.long
@pytest.mark.parametrize("chunk", range(50))
def test_many_hostile_arguments(chunk):
    """The interpreter's death would fail the chunk."""
    printed = run_python(f"from tests.hostile.examples import run; run({chunk}, 2500)", timeout=3600)
    assert printed.endswith("2500 examples\n")
