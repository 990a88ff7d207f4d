"""The mutation check itself: what it changes, that mutants can be planted and told apart, and how ends are judged."""

from __future__ import annotations

import ast
import subprocess

import pytest

from tests.mutation.cuda_source import mutants_of_cuda
from tests.mutation.equivalent import why_equivalent
from tests.mutation.python_source import mutants_of_python
from tests.mutation.reach import kernels_reached
from tests.mutation.suites import CPU_FILES, CUDA_FILES, suite
from tests.mutation.trial import MARK
from tests.mutation.trials import _outcome, all_mutants, drawn
from tests.processes import ROOT, needs_tree

pytestmark = needs_tree

PYTHON = '''
def cell(self, slots, h):
    """A docstring + no code."""
    a, b = slots[0], slots[1]
    if a < b:
        store(a, h + 4)
    for k in range(1, len(h)):
        prefetch(h + k)
        total += fma(a, b, h)
    return a * b - h, min(a, h)
'''

PYTHON_MUTANTS = {
    "a, b = slots[0], slots[1] -> slots[1], slots[0]", "slots[0] -> 1", "slots[1] -> 2", "a < b -> <=",
    "a < b -> (not (a < b))", "store(a, h + 4) -> pass", "store(a, h + 4) -> h + 4, a", "h + 4 -> h", "h + 4 -> -",
    "h + 4 -> 5", "range(1, len(h)) -> len(h) - 1", "range(1, len(h)) -> 1 + 1", "total += fma(a, b, h) -> pass",
    "fma(a, b, h) -> h, b", "a * b - h -> a * b", "a * b - h -> +", "a * b -> (a)", "a * b -> (b)",
    "return a * b - h, min(a, h) -> min(a, h), a * b - h", "min(a, h) -> max",
}  # fmt: skip


def test_python(tmp_path):
    """Exactly these: nothing of docstrings, of prefetches and of what commutes."""
    (tmp_path / "cell.py").write_text(PYTHON)
    found = mutants_of_python(tmp_path, "cell.py")
    for mutant in found:
        ast.parse(PYTHON[: mutant.start] + mutant.after + PYTHON[mutant.end :])
    assert sorted(m.after for m in found) == sorted(text.rpartition(" -> ")[2] for text in PYTHON_MUTANTS)


CUDA = """
#ifdef __CUDACC__
DEVICE int left(int a) { return a + 1; }
#else
#endif
struct Cell {
    static DEVICE float forward(float* s, int u) {  // a + b
        s[K::f] = sigmoid(s[K::i]) * u + 3;
        if (u < 4 && s[0] > 1) place(u, 1);
        return u;
    }
};
"""


def test_cuda(tmp_path):
    (tmp_path / "cell.cuh").write_text(CUDA)
    found = mutants_of_cuda(tmp_path, "cell.cuh")
    changes = {(m.before.strip(), m.after.strip()) for m in found}
    wanted = {("+", "-"), ("K::f", "K::g"), ("K::i", "K::f"), ("<", "<="), ("&&", "||"), (">", ">="), ("* u", "")}
    assert wanted <= changes
    assert ("s[K::f] = sigmoid(s[K::i]) * u + 3;", ";") in changes
    assert all(m.function == "Cell.forward" for m in found)
    assert not any("a + " in m.source and "left" in m.source for m in found)


@pytest.mark.parametrize("device, least", [("cpu", 2000), ("cuda", 1000)])
def test_of_the_kernels(device, least):
    """Many, all different, each a change, and planted where it says."""
    found = [m for mutants in all_mutants(device).values() for m in mutants]
    assert len(found) >= least and len({m.key for m in found}) >= 0.95 * len(found)
    texts = {file: (ROOT / file).read_text(encoding="utf-8") for file in (CPU_FILES if device == "cpu" else CUDA_FILES)}
    assert all(texts[m.file][m.start : m.end] == m.before != m.after for m in found)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_seed_draws_the_same(device):
    found = drawn(device, 40, 1)
    assert found == drawn(device, 40, 1) != drawn(device, 40, 2)
    assert {m.file for m in found} == set(CPU_FILES if device == "cpu" else CUDA_FILES)
    assert not any(map(why_equivalent, found))


def test_planting_and_a_suite(tmp_path):
    mutant = next(m for m in drawn("cpu", 100, 0) if "_LSTM.forward" in m.function)
    (tmp_path / mutant.file).parent.mkdir(parents=True)
    (tmp_path / mutant.file).write_text((ROOT / mutant.file).read_text(encoding="utf-8"), encoding="utf-8")
    mutant.plant(tmp_path)
    assert (tmp_path / mutant.file).read_text(encoding="utf-8") != (ROOT / mutant.file).read_text(encoding="utf-8")
    files, patterns = suite(mutant, wide=False)
    assert all((ROOT / file).exists() for file in files) and any("lstm" in pattern for pattern in patterns)


def test_which_kernels_a_change_reaches():
    assert kernels_reached(ROOT, "kernels/cpu/cell_math.py", "_LSTM.backward") == {"backward.backward"}
    assert kernels_reached(ROOT, "kernels/cpu/gradients.py", "add_chunk") == {"gradients.gradients"}
    assert kernels_reached(ROOT, "kernels/cpu/packing.py", "_panels") == {"packing.move"}
    everywhere = kernels_reached(ROOT, "kernels/cpu/layout.py", "state_row")
    assert {"forward.forward", "backward.backward", "gradients.gradients"} <= everywhere


@pytest.mark.parametrize(
    "status, printed, outcome",
    [
        (0, '{"status": 0, "failed": "", "why": "", "ran": 3}', "survived"),
        (0, '{"status": 1, "failed": "test_x", "why": "test", "ran": 3}', "killed"),
        (0, '{"status": 1, "failed": "test_x", "why": "compile", "ran": 3}', "no code"),
        (0, '{"status": 5, "failed": "", "why": "", "ran": 0}', "error"),
        (-11, "", "crashed"),
        (-14, "", "undecided"),
        (-24, "", "hung"),
    ],
)
def test_outcomes(status, printed, outcome):
    done = subprocess.CompletedProcess([], status, f"{MARK} {printed}" if printed else "", "")
    assert _outcome(done)["outcome"] == outcome
