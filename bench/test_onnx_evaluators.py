"""The bench of ONNX's evaluators: it runs, and its committed text is that of its numbers."""

from __future__ import annotations

import json
from importlib.util import find_spec

import pytest

from bench.onnx_evaluators import EVALUATORS, PUBLISHED, SIZES, text_of, timed


def test_the_committed_table_is_whole():
    results = json.loads(PUBLISHED.read_text(encoding="utf-8"))
    assert [(row["T"], row["B"], row["H"]) for row in results["rows"]] == list(SIZES)
    assert all(set(row["seconds"]) == set(EVALUATORS) for row in results["rows"])
    assert PUBLISHED.with_suffix(".md").read_text(encoding="utf-8") == text_of(results)


@pytest.mark.skipif(find_spec("onnxruntime") is None or find_spec("onnx") is None, reason="needs onnx and onnxruntime")
def test_all_evaluators_agree_and_are_timed():
    (row,) = timed(1, [(3, 2, 5)], rounds=1)
    assert all(seconds > 0 for seconds in row["seconds"].values())
