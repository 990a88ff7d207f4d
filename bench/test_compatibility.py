"""The committed table of compatibility is whole, and its text is that of its numbers."""

from __future__ import annotations

import json

from bench.compatibility import PUBLISHED, tables_of, text_of


def test_the_committed_table_is_whole_and_within_tolerance():
    results = json.loads(PUBLISHED.read_text(encoding="utf-8"))
    assert set(results) == {"PyTorch", "Keras", "ONNX Runtime"}
    rows = [row for entry in results.values() for row in entry["rows"]]
    assert len(rows) > 300 and all(difference <= tolerance for *_, difference, tolerance in rows)
    assert len(tables_of(results)) == 5
    assert PUBLISHED.with_suffix(".md").read_text(encoding="utf-8") == text_of(results)


def test_the_list_is_that_of_the_tests():
    """So that an option that is added is also published."""
    from tests.weights import agree_onnx

    results = json.loads(PUBLISHED.read_text(encoding="utf-8"))
    published = [(row[0], row[1], row[2]) for row in results["ONNX Runtime"]["rows"]]
    assert published == [(a.library, a.cell, a.option) for a in agree_onnx.agreements()]
