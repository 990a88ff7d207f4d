"""Fixtures; and prints, after the tests, the largest error that each cell showed against the reference."""

from __future__ import annotations

import os
import sys

import pytest

# One thread in the peers that tests import: the suite must not fight itself for cores. Set before they load.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import fastrnn


@pytest.fixture
def set_threads():
    """fastrnn.set_num_threads, undone after the test."""
    before = fastrnn.get_num_threads()
    yield fastrnn.set_num_threads
    fastrnn.set_num_threads(before)


def pytest_terminal_summary(terminalreporter):
    checks = sys.modules.get("tests.checks")
    if checks is None or not checks.LARGEST_ERRORS:
        return
    terminalreporter.section("largest error against the reference, relative to the largest entry")
    for (cell, direction, dtype), error in sorted(checks.LARGEST_ERRORS.items()):
        terminalreporter.write_line(f"{cell:24}{direction:18}{dtype:10}{error:.1e}")
