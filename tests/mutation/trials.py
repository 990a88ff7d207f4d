"""Mutants drawn, planted into a copy of the sources, and judged by the tests there."""

from __future__ import annotations

import compileall
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from py_compile import PycInvalidationMode

from tests.mutation.cuda_source import mutants_of_cuda
from tests.mutation.equivalent import why_equivalent
from tests.mutation.mutant import Mutant
from tests.mutation.python_source import mutants_of_python
from tests.mutation.reach import kernels_reached
from tests.mutation.suites import CPU_FILES, CUDA_FILES, suite
from tests.mutation.trial import MARK
from tests.processes import ROOT

__all__ = ["Copy", "all_mutants", "drawn"]

# What decides about speed alone: in how many blocks, how many panels at once, and what is prefetched.
_SPEED_ALONE = frozenset({"together", "_features", "processor", "lines"})
# Of the processor's time, past which a mutant hangs; and five times as long of waiting.
LIMIT_S = 200


def all_mutants(device: str, root: Path = ROOT) -> dict[str, list[Mutant]]:
    """By file."""
    if device == "cpu":
        return {file: mutants_of_python(root, file, _SPEED_ALONE) for file in CPU_FILES}
    return {file: mutants_of_cuda(root, file) for file in CUDA_FILES}


def drawn(device: str, count: int, seed: int, root: Path = ROOT) -> list[Mutant]:
    """So many in a random order that a seed decides: every file its share, every kind of change as often as another.

    A larger count begins with those of a smaller one, up to the rounding of shares.
    """
    shares = CPU_FILES if device == "cpu" else CUDA_FILES
    found: list[tuple[float, Mutant]] = []
    for file, mutants in all_mutants(device, root).items():
        rng = random.Random(f"{seed} {file}")
        kinds: dict[str, list[Mutant]] = defaultdict(list)
        for mutant in mutants:
            kinds[mutant.kind].append(mutant)
        for of_kind in kinds.values():
            rng.shuffle(of_kind)
        wanted = min(len(mutants), max(1, round(count * shares[file])))
        for k in range(wanted):
            kind = rng.choice(sorted(kind for kind, left in kinds.items() if left))
            found.append(((k + 0.5) / wanted, kinds[kind].pop()))
    in_turns = [mutant for _, mutant in sorted(found, key=lambda pair: pair[0])]
    return [mutant for mutant in in_turns if why_equivalent(mutant) is None]


class Copy:
    """A copy of the sources, in which one mutant at a time lives."""

    def __init__(self, folder: Path, cache: Path | None, through: list[str], limit: int = LIMIT_S) -> None:
        """``cache``: compiled kernels of these sources; ``through``: a command that runs commands, as nice does."""
        self.root, self.through, self.limit = folder / "copy", through, limit
        self.cache, self.own_cache = cache, folder / "cache"
        for package in ("fastrnn", "kernels", "tests"):
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / package, self.root / package, ignore=ignored)
        shutil.copy(ROOT / "pyproject.toml", self.root)
        # By their contents: a planted file may be as long, and as old, as what it replaces.
        compileall.compile_dir(self.root, quiet=2, invalidation_mode=PycInvalidationMode.CHECKED_HASH)

    def judge(self, mutant: Mutant, everything: bool = False) -> dict[str, str]:
        """What became of a mutant: "outcome" and "by".

        everything: by many more tests, and with nothing taken from the cache, in case what a mutant reaches was judged
        too narrowly.
        """
        files, patterns = suite(mutant, wide=everything)
        original = (ROOT / mutant.file).read_text(encoding="utf-8")
        mutant.plant(self.root)
        try:
            return self._run(mutant, files, patterns, everything)
        finally:
            (self.root / mutant.file).write_text(original, encoding="utf-8")

    def without_a_mutant(self, mutant: Mutant) -> dict[str, str]:
        """The same tests on the sources as they are."""
        return self._run(mutant, *suite(mutant, wide=False), everything=False)

    def _run(self, mutant: Mutant, files: list[str], patterns: list[str], everything: bool) -> dict[str, str]:
        shutil.rmtree(self.own_cache, ignore_errors=True)
        self.own_cache.mkdir()
        files = [file for file in files if (self.root / file).exists()]
        spec = {"files": files, "patterns": patterns, "limit": self.limit, "cache": "", "reached": []}
        if self.cache is not None and mutant.file.startswith("kernels/cpu") and not everything:
            reached = kernels_reached(ROOT, mutant.file, mutant.function)
            spec |= {"cache": str(self.cache), "reached": sorted(reached)}
        if self.cache is not None and mutant.file.startswith("kernels/cuda"):
            # Kept by the text that is compiled, so the whole may be shared; and what the CPU's side compiles.
            shutil.copytree(self.cache.parent / "emulator", self.own_cache / "emulator", copy_function=os.link)
            shutil.copytree(self.cache, self.own_cache / self.cache.name, copy_function=os.link)
        path = self.root.parent / "spec.json"
        path.write_text(json.dumps(spec))
        variables = {
            "PYTHONPATH": str(self.root),
            "PYTHONDONTWRITEBYTECODE": "1",
            "FASTRNN_CACHE_DIR": str(self.own_cache),
        }
        done = subprocess.run(
            [*self.through, sys.executable, "-m", "tests.mutation.trial", str(path)],
            cwd=self.root, env=os.environ | variables, capture_output=True, text=True, errors="replace", check=False,
        )  # fmt: skip
        (self.root.parent / "output.txt").write_text(done.stdout + done.stderr)
        return _outcome(done)


def _outcome(done: subprocess.CompletedProcess[str]) -> dict[str, str]:
    last = [line for line in done.stdout.splitlines() if line.startswith(MARK)]
    ends = {"SIGXCPU": "hung", "SIGKILL": "hung", "SIGALRM": "undecided"}  # it waits for ever, or the machine is busy
    for name, outcome in ends.items():
        if done.returncode in (-signal.Signals[name], 128 + signal.Signals[name]):
            return {"outcome": outcome, "by": "the time limit"}
    if done.returncode or not last:
        return {"outcome": "crashed", "by": f"exit status {done.returncode}"}
    result = json.loads(last[-1].removeprefix(MARK))
    if result["failed"]:
        outcome = {"test": "killed", "compile": "no code", "import": "no code"}[result["why"]]
        return {"outcome": outcome, "by": result["failed"], "ran": str(result["ran"])}
    if result["status"]:
        return {"outcome": "error", "by": f"pytest's status {result['status']}"}
    return {"outcome": "survived", "by": "", "ran": str(result["ran"])}
