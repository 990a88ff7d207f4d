"""Hostile arguments at every public function: a few here, 110,000 in processes of their own with ``-m long``."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings

from tests.hostile.examples import check, examples
from tests.hostile.targets import TARGETS, Setting
from tests.processes import run_python


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_good_arguments_are_good(name):
    for setting in (
        Setting("lstm", "float32", False, False, False, 1),
        Setting("gru_reset_after", "float32", True, True, True, 1),
    ):
        TARGETS[name].call(setting, TARGETS[name].arguments(setting))


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(examples(("lstm", "gru_reset_after"), ("float32",)))
def test_hostile_arguments(example):
    check(example)


@pytest.mark.long
@pytest.mark.parametrize("chunk", range(44))
def test_many_hostile_arguments(chunk):
    """The interpreter's death would fail the chunk."""
    printed = run_python(f"from tests.hostile.examples import run; run({chunk}, 2500)", timeout=3600)
    assert printed.endswith("2500 examples\n")
