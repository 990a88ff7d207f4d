"""The detectors detect: each bug of planted.py, planted into the kernels' sources, is found as it says."""

from __future__ import annotations

import numpy as np
import pytest

from tests import checks
from tests.checks import reference_results, relative_error
from tests.cuda import emulator, whole_layers
from tests.cuda.planted import BUGS, planted

pytestmark = pytest.mark.skipif(bool(emulator.available()), reason=emulator.available() or "-")

SCHEDULES = [("in order", 1), ("last first", 1), ("random", 1), ("random", 2), ("one block ahead", 1)]
TOLERANCE = {"exact": 1e-5, "tf32": 1e-2}

SANITIZED = """
from tests.cuda import whole_layers
from tests.cuda.emulator import EmulatorError
from tests.cuda.planted import BUGS
bug = BUGS[{name!r}]
with whole_layers.sources_from({folder!r}):
    try:
        whole_layers.results(bug.problem(), sanitizer={sanitizer!r}, **bug.options())
    except (AssertionError, EmulatorError):
        pass  # found by other means, too
"""


def finds_without_sanitizers(bug, folder):
    """Which of "results" and "emulator"."""
    problem, found, first = bug.problem(), set(), None
    want = reference_results(problem).named()
    for schedule, seed in SCHEDULES if bug.policy != "stepwise" else SCHEDULES[:1]:
        try:
            with np.errstate(all="ignore"), whole_layers.sources_from(folder):
                got = whole_layers.results(problem, schedule=schedule, seed=seed, **bug.options()).named()
        except emulator.EmulatorError:
            found.add("emulator")
            continue
        first = first or got
        if any(got[name].tobytes() != first[name].tobytes() for name in got):
            found.add("results")
        if any(not relative_error(got[name], want[name]) <= TOLERANCE[bug.precision] for name in got):
            found.add("results")
    return found


def test_nothing_is_found_where_nothing_is_planted(tmp_path):
    for bug in {(bug.case["cell"], bug.policy, bug.precision, bug.chunk): bug for bug in BUGS.values()}.values():
        planted(bug._replace(wrong=bug.right), tmp_path)
        assert finds_without_sanitizers(bug, tmp_path) == set()


@pytest.mark.parametrize("name", BUGS)
def test_a_planted_bug_is_found(name, tmp_path):
    bug = BUGS[name]
    planted(bug, tmp_path)
    found = set() if "address" in bug.found_by else finds_without_sanitizers(bug, tmp_path)
    for sanitizer in ("thread", "address"):
        if sanitizer in bug.found_by:
            reason = emulator.sanitizer_available(sanitizer)
            if reason:
                pytest.skip(reason)
            script = SANITIZED.format(name=name, folder=str(tmp_path), sanitizer=sanitizer)
            _, reports = emulator.run_sanitized(sanitizer, script, one_is_enough=True)
            found |= {sanitizer} if reports else set()
    checks.FOUND_BUGS[name] = found
    assert bug.found_by <= found, f"found by {sorted(found)} alone"
