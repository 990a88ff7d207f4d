"""One mutant's tests, in the copy of the sources that has it: run there by ``trials``, which reads the last line.

python -m tests.mutation.trial SPEC.json
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import re
import resource
import signal
import sys
from pathlib import Path

import pytest

MARK = "mutation trial:"


class Chosen:
    """Tests in the order of the patterns that they meet; and the first that fails."""

    def __init__(self, patterns: list[str]) -> None:
        self.patterns = [re.compile(pattern) for pattern in patterns]
        self.failed, self.why, self.count = "", "", 0

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items):
        ranks = {}
        for item in items:
            ranks[item] = next((k for k, p in enumerate(self.patterns) if p.search(item.nodeid)), None)
        items[:] = sorted((item for item in items if ranks[item] is not None), key=ranks.__getitem__)

    def pytest_runtest_logreport(self, report):
        self.count += report.when == "call"
        if report.failed and not self.failed:
            self.failed, self.why = report.nodeid, _what_failed(str(report.longrepr))

    def pytest_collectreport(self, report):
        if report.failed and not self.failed:
            self.failed, self.why = report.nodeid, "import"


def _what_failed(text: str) -> str:
    """A mutant that does not compile proves nothing."""
    if re.search(r"numba/core/|numba\.core\.errors|refused the source", text):
        return "compile"
    return "test"


def share_cache(source: str, reached: list[str]) -> None:
    """Take over compiled kernels that the mutant does not reach."""
    jit = importlib.import_module("fastrnn.kernels.cpu.jit")
    target = jit.cache_folder()
    for file in Path(source).glob("*/fastrnn.kernels.cpu.*"):
        module, _, rest = file.name.removeprefix("fastrnn.kernels.cpu.").partition(".")
        if f"{module}.{rest.rpartition('-')[0]}" not in reached:
            place = target / file.parent.name / file.name
            place.parent.mkdir(exist_ok=True)
            with contextlib.suppress(FileExistsError):
                os.link(file, place)


def main() -> None:
    spec = json.loads(Path(sys.argv[1]).read_text())
    # Both end the process even where it loops in compiled code. A busy machine is no hang: time of its own counts.
    resource.setrlimit(resource.RLIMIT_CPU, (spec["limit"], spec["limit"]))
    signal.alarm(5 * spec["limit"])
    chosen = Chosen(spec["patterns"])
    try:
        if spec["cache"]:
            share_cache(spec["cache"], spec["reached"])
        status = int(
            pytest.main(["-x", "-q", "--no-header", "-p", "no:cacheprovider", *spec["files"]], plugins=[chosen])
        )
    except Exception as error:  # a mutant may fail to be imported in any way
        chosen.failed, chosen.why, status = f"{type(error).__name__}: {error}", "import", 1
    print(f"\n{MARK}", json.dumps({"status": status, "failed": chosen.failed, "why": chosen.why, "ran": chosen.count}))
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
