"""Fixtures; and prints, after the tests, the largest error of each cell on every device, and which bugs were found."""

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


def pytest_collection_modifyitems(config, items):
    if "long" in (config.option.markexpr or ""):
        return
    left_out = [item for item in items if item.get_closest_marker("long")]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


def pytest_sessionfinish(session):
    """A worker of pytest-xdist sends what it has seen to the process that prints."""
    checks = sys.modules.get("tests.checks")
    output = getattr(session.config, "workeroutput", None)
    if checks is not None and output is not None:
        output["largest_errors"], output["found_bugs"] = checks.LARGEST_ERRORS, checks.FOUND_BUGS


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    """That process adds it to its own, which has run no test."""
    output = getattr(node, "workeroutput", {})
    if "largest_errors" in output:
        from tests import checks

        for key, errors in output["largest_errors"].items():
            checks.keep_largest(key, errors)
        checks.FOUND_BUGS.update(output["found_bugs"])


def pytest_terminal_summary(terminalreporter):
    checks = sys.modules.get("tests.checks")
    if checks is not None and checks.LARGEST_ERRORS:
        terminalreporter.section("largest error against the reference, relative to the largest entry")
        _write_errors(terminalreporter, checks.LARGEST_ERRORS)
    if checks is not None and checks.FOUND_BUGS:
        terminalreporter.section("planted bugs, and what found them")
        for name, found in checks.FOUND_BUGS.items():
            terminalreporter.write_line(f"{name:50}{', '.join(sorted(found))}")


def _write_errors(terminalreporter, table):
    columns = sorted({where for errors in table.values() for where in errors})
    heading = "".join(f"{where:>22}" for where in columns)
    terminalreporter.write_line(f"{'cell':24}{'direction':18}{'precision':10}{heading}")
    for (cell, direction, precision), errors in sorted(table.items()):
        row = "".join(f"{errors[where]:22.1e}" if where in errors else " " * 22 for where in columns)
        terminalreporter.write_line(f"{cell:24}{direction:18}{precision:10}{row}")
