"""The README holds what it says: its table is the committed results', its example runs, its files exist."""

from __future__ import annotations

import re

import numpy as np
import pytest

import fastrnn
from bench import ROOT
from bench.report import PUBLISHED, README, update_readme
from bench.results import load
from fastrnn import nn
from tests.processes import readme
from tests.reference import CELLS

TEXT = readme()


def test_the_table_is_the_one_of_the_committed_results():
    assert update_readme(load(PUBLISHED), TEXT) == TEXT, "run: python -m bench report --readme"


def test_the_committed_results_are_of_a_whole_run_in_which_nothing_disagreed():
    results = load(PUBLISHED)
    assert results["complete"]
    statuses = {(label, entry["status"]) for row in results["cases"] for label, entry in row["entries"].items()}
    assert not [found for found in statuses if found[1] in ("refused", "failed")]
    assert {row["case"]["cell"] for row in results["cases"]} == set(CELLS)


def test_the_quick_start_runs():
    (example,) = re.findall(r"## Quick start\n\n```python\n(.*?)```", TEXT, re.S)
    exec(compile(example, str(README), "exec"), {})


def test_the_models_example_runs(tmp_path, monkeypatch):
    pytest.importorskip("safetensors")
    (example,) = re.findall(r"## From layers to models\n.*?```python\n(.*?)```", TEXT, re.S)
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    symbols = {"inputs": rng.integers(0, 9, (5, 3)), "targets": rng.integers(0, 9, (5, 3))}
    given = {"fastrnn": fastrnn, "V": 9, "lengths": [5, 0, 2], "alphabet": "ab"} | symbols
    exec(compile(example, str(README), "exec"), given)
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_the_encoder_decoder_example_runs():
    (example,) = re.findall(r"An encoder-decoder, .*?```python\n(.*?)```", TEXT, re.S)
    spoken, written = [["K", "AE", "T"], ["D", "AO", "G", "Z"]], ["cat", "dogs"]
    example = example.replace("64, 256", "3, 4")
    made, used = example.split("source, source_lengths", 1)
    scope = {"fastrnn": fastrnn, "nn": nn, "spoken": spoken, "written": written}
    exec(compile(made, str(README), "exec"), scope)
    scope["optimizer"] = nn.Adam(scope["model"])
    exec(compile("source, source_lengths" + used, str(README), "exec"), scope)
    assert len(scope["said"]) == 2


@pytest.mark.parametrize("path", sorted(set(re.findall(r"\]\(([^)#:]+)\)", TEXT))))
def test_every_link_leads_to_a_file(path):
    assert (ROOT / path).exists()


def test_the_command_for_tests_is_the_one_that_checks_the_tree():
    (command,) = re.findall(r'^pip install -e "\.\[test\]" && (pytest.*)$', TEXT, re.M)
    assert command in (ROOT / ".ci/run").read_text(encoding="utf-8").splitlines()
