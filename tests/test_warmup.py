"""Compiling ahead of time: complete, found by the next process, and clear about what it cannot do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from fastrnn.cell_table import CELLS
from fastrnn.warmup import CacheError, cells_named, warm
from tests.processes import ROOT, run_python

# Uses a cell in every way, and prints how many functions Numba compiled for that.
USES = """
import numpy as np
from numba.core import event

with event.install_recorder("numba:compile") as compiled:
    import fastrnn

    layer = fastrnn.RNN(70, 130, 2, nonlinearity="relu", bidirectional=True, dropout=0.5, seed=0)
    x = np.ones((9, 20, 70), np.float32)
    y, state, tape = layer.forward(x, lengths=[9] * 10 + [3] * 10, resets=np.eye(9, 20, dtype=bool))
    layer.backward(tape, y, state)
    fastrnn.RNN(70, 130, nonlinearity="relu").stream()(x[0, :1])
    fastrnn.set_num_threads(1)
    fastrnn.RNN(3, 4, nonlinearity="relu")(x[:, :1, :3].copy())
print(len(compiled.buffer))
"""

COMMAND = [sys.executable, "-m", "fastrnn.warmup"]


def environment(**variables):
    return os.environ | {"PYTHONDONTWRITEBYTECODE": "1"} | {k: str(v) for k, v in variables.items()}


def run_warmup(*arguments, **variables):
    """Run the program; return its exit status and what it wrote."""
    done = subprocess.run(
        [*COMMAND, *arguments],
        cwd=ROOT,
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert not done.stdout
    return done.returncode, done.stderr


def cache_files(folder):
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*") if path.is_file()}


def test_the_next_process_compiles_nothing_and_the_next_warmup_changes_nothing(tmp_path):
    status, written = run_warmup("--cells", "rnn_relu", FASTRNN_CACHE_DIR=tmp_path)
    assert status == 0, written
    assert str(tmp_path) in written and "rnn_relu float32" in written and "1 compiled, 0 were there" in written
    assert "\r" not in written and "\x1b" not in written, "a bar that moves belongs on a terminal"
    files = cache_files(tmp_path)
    assert files
    assert int(run_python(USES, timeout=300, FASTRNN_CACHE_DIR=str(tmp_path))) == 0
    status, written = run_warmup("--cells", "rnn_relu", FASTRNN_CACHE_DIR=tmp_path)
    assert status == 0 and "everything was there already" in written
    assert cache_files(tmp_path) == files


def test_wrong_names_are_refused_before_any_work(tmp_path):
    for arguments in (["--cells", "lstn"], ["--dtypes", "float16"], ["--processes", "0"]):
        status, written = run_warmup(*arguments, FASTRNN_CACHE_DIR=tmp_path)
        assert status == 2
        assert f"got {arguments[1]!r}" in written or "got 0" in written
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match=r"cells must be .* got ''"):
        warm(cells="lstm,,gru")


def test_names_and_prefixes():
    assert cells_named("all") == list(CELLS)
    assert cells_named("gru,lstm_coupled") == ["gru_reset_before", "gru_reset_after", "lstm_coupled"]
    assert cells_named(["lstm", "lstm"]) == ["lstm"]


def test_every_cell_has_a_layer():
    from fastrnn.kernels.first_calls import Calls

    for name in CELLS:
        assert Calls(name, "float64").layer.cell is CELLS[name]


@pytest.mark.parametrize("turned_off", [False, True])
def test_without_a_cache_it_says_so(tmp_path, monkeypatch, turned_off):
    (tmp_path / "file").write_text("")
    folder = "" if turned_off else str(tmp_path / "file" / "cache")
    status, written = run_warmup("--cells", "rnn_relu", FASTRNN_CACHE_DIR=folder)
    assert status == 1
    assert "there is no cache" in written and "FASTRNN_CACHE_DIR" in written and folder in written
    monkeypatch.setenv("FASTRNN_CACHE_DIR", folder)
    with pytest.raises(CacheError, match="FASTRNN_CACHE_DIR"):
        warm(cells="rnn_relu")


def test_a_child_that_dies_is_reported(monkeypatch):
    monkeypatch.setenv("PYTHONHOME", os.devnull)  # no interpreter starts with it
    with pytest.raises(RuntimeError, match="a compiling process ended with status"):
        warm(cells="rnn_relu")


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="POSIX process groups")
def test_ctrl_c_leaves_no_child_behind(tmp_path):
    """Pressed at the parent alone; on a terminal the children hear it too, and ignore it."""
    process = subprocess.Popen(
        [*COMMAND, "--cells", "rnn"],
        cwd=ROOT,
        env=environment(FASTRNN_CACHE_DIR=tmp_path),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    )
    try:
        assert "compiled kernels are kept" in process.stderr.readline()
        os.kill(process.pid, signal.SIGINT)
        assert process.wait(timeout=60) == 130
        assert "broken off" in process.stderr.read()
        with pytest.raises(ProcessLookupError):
            os.killpg(process.pid, 0)
    finally:
        process.kill()
        process.stderr.close()


def test_importing_fastrnn_does_not_import_it_and_it_loads_no_numba():
    run_python("""
import sys
import fastrnn
assert "fastrnn.warmup" not in sys.modules
import fastrnn.warmup
assert "numba" not in sys.modules
""")
