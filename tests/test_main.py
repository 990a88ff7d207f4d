"""``python -m fastrnn``: the facts that a report of a bug needs."""

import platform
import subprocess
import sys

import numpy as np
import pytest

import fastrnn
from tests.processes import ROOT, run_python


def test_it_says_what_a_report_needs(monkeypatch, tmp_path):
    monkeypatch.setenv("FASTRNN_CACHE_DIR", str(tmp_path))
    done = subprocess.run(
        [sys.executable, "-m", "fastrnn"], cwd=ROOT, capture_output=True, text=True, timeout=120, check=True
    )
    lines = dict(line.split(":", 1) for line in done.stdout.splitlines())
    said = {name: value.strip() for name, value in lines.items()}
    assert list(said) == ["fastrnn", "Python", "packages", "processor", "threads", "cache", "GPU", "environment"]
    assert fastrnn.__version__ in said["fastrnn"] and platform.python_version() in said["Python"]
    assert f"numpy {np.__version__}" in said["packages"] and "numba" in said["packages"]
    assert "vectors of" in said["processor"] and "usable cores" in said["threads"]
    assert str(tmp_path) in said["cache"] and f"FASTRNN_CACHE_DIR={tmp_path}" in said["environment"]
    assert said["GPU"]


def test_it_compiles_nothing(tmp_path):
    """It is run where something is broken, perhaps the compiler."""
    subprocess.run(
        [sys.executable, "-m", "fastrnn"], cwd=ROOT, capture_output=True, timeout=120, check=True,
        env={"FASTRNN_CACHE_DIR": str(tmp_path), "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize("free_threaded, cure", [(0, "pip install numba"), (1, "none for 3.13t): use python3.")])
def test_without_numba_the_way_out_is_named(free_threaded, cure):
    """As on free-threaded Python 3.13, for which Numba has no build. Importing and making layers needs no Numba."""
    printed = run_python(
        f"""
import sys, sysconfig
sys.modules["numba"] = None
known = sysconfig.get_config_var
sysconfig.get_config_var = lambda name: {free_threaded} if name == "Py_GIL_DISABLED" else known(name)
import numpy as np
import fastrnn
layer = fastrnn.LSTM(3, 4)
try:
    layer(np.ones((2, 1, 3), np.float32))
except ImportError as error:
    print(error)
"""
    )
    assert "compiled by Numba, and numba is not installed" in printed and cure in printed
