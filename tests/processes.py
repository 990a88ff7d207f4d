"""Running Python in a process of its own, where a test needs a fresh one."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
IN_TREE = (ROOT / "setup.py").exists()
needs_tree = pytest.mark.skipif(
    not IN_TREE, reason="reads the sources: away from the tree, beside an installed package"
)


def kernels_folder() -> Path:
    """Of the package that is tested: of the tree, or installed."""
    return Path(importlib.import_module("fastrnn.kernels").__path__[0])


def readme() -> str:
    """README's text; a module that reads it is skipped away from the tree."""
    if not IN_TREE:
        pytest.skip("reads the README: away from the tree, beside an installed package", allow_module_level=True)
    return (ROOT / "README.md").read_text(encoding="utf-8")


def run_python(script: str, *arguments: str, timeout: float = 120, root: Path = ROOT, **environment: str | None) -> str:
    """Run a script with the packages under root; return what it printed.

    A process that hangs, and one that ends with an error, fail the test. The script is a file's path if it ends
    in ``.py`` (``spawn`` needs a file), else source code. ``environment`` is added to this process's own; None takes a
    variable out.
    """
    command = [script] if script.endswith(".py") else ["-c", script]
    given = {**os.environ, "PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1", **environment}
    variables = {name: value for name, value in given.items() if value is not None}
    try:
        done = subprocess.run(
            [sys.executable, *command, *arguments],
            cwd=root,
            env=variables,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired as expired:
        pytest.fail(f"the process hung for {timeout} s; it had printed: {expired.stdout!r} {expired.stderr!r}")
    assert done.returncode == 0, f"exit status {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@contextmanager
def limited_memory(extra: int) -> Iterator[None]:
    """For scripts (Linux): within, the process's address space may grow by so many bytes, and no more."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + extra, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
