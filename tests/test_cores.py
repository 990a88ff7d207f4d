"""How many cores a process may use, by its affinity and its control group."""

import os

import pytest

from fastrnn.cores import usable_cores
from tests.processes import run_python


def pretend(monkeypatch, cores):
    """So many cores, whatever machine this is."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)


@pytest.mark.parametrize(
    "limits, cores",
    [({}, 8), ({"": "max 100000"}, 8), ({"box": "250000 100000"}, 3), ({"box": "50000 100000"}, 1),
     ({"box/app": "max 100000", "box": "400000 100000"}, 4), ({"box/app": "600000 100000", "box": "200000 100000"}, 2),
     ({"box": "1600000 100000"}, 8), ({"box": "nonsense"}, 8), ({"other": "100000 100000"}, 8)],
)  # fmt: skip
def test_the_second_version_of_control_groups(limits, cores, tmp_path, monkeypatch):
    pretend(monkeypatch, 8)
    own = tmp_path / "cgroup"
    own.write_text("0::/box/app\n")
    for group, limit in limits.items():
        (tmp_path / group).mkdir(parents=True, exist_ok=True)
        (tmp_path / group / "cpu.max").write_text(limit + "\n")
    assert usable_cores(tmp_path, own) == cores


@pytest.mark.parametrize("quota, cores", [("-1", 8), ("100000", 1), ("350000", 4)])
def test_the_first_version_of_control_groups(quota, cores, tmp_path, monkeypatch):
    pretend(monkeypatch, 8)
    own = tmp_path / "cgroup"
    own.write_text("5:memory:/box\n3:cpu,cpuacct:/box\n0::/\n")
    (tmp_path / "cpu/box").mkdir(parents=True)
    (tmp_path / "cpu/box/cpu.cfs_quota_us").write_text(quota)
    (tmp_path / "cpu/box/cpu.cfs_period_us").write_text("100000")
    assert usable_cores(tmp_path, own) == cores


def test_where_nothing_is_told(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert usable_cores(tmp_path, tmp_path / "absent") == 1


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system binds no process to a core")
def test_a_process_bound_to_one_core_starts_no_worker():
    printed = run_python(
        """
import os, threading
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
import numpy as np
import fastrnn
fastrnn.LSTM(64, 256)(np.ones((3, 8, 64), np.float32))
print(fastrnn.get_num_threads(), threading.active_count())
"""
    )
    assert printed == "1 1\n"
