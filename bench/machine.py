"""What the figures were taken on: processor, memory, system, Python, and the code's commit."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Collection
from pathlib import Path
from typing import Any

from bench import ROOT, devices
from bench.limits import cache_sizes
from fastrnn.cores import usable_cores

__all__ = ["QUIET_LOAD", "commit", "describe", "physical_cores"]

QUIET_LOAD = 0.5
"""With more than this wanted by other programs, figures on all cores are not to be trusted."""


def physical_cores() -> int:
    """Cores that this process may run on, two hardware threads of one core counted once (Linux)."""
    if not hasattr(os, "sched_getaffinity"):
        return usable_cores()
    siblings = set()
    for cpu in os.sched_getaffinity(0):
        try:
            listed = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text()
        except OSError:
            listed = str(cpu)
        siblings.add(listed.strip())
    return len(siblings)


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def load() -> float | None:
    """How many processes wanted a core in the last minute; None where the system does not tell."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def describe(used: Collection[str] = ()) -> dict[str, Any]:
    """The machine and the devices that are used, as stored in a results file."""
    from llvmlite import binding

    features = binding.get_host_cpu_features()
    known = ("avx2", "avx512f", "avx512bf16", "amx-tile", "neon", "sve")
    return {
        "processor": _processor(),
        "microarchitecture": binding.get_host_cpu_name(),
        "vectors": [name for name in known if features.get(name)],
        "cores": physical_cores(),
        "hardware_threads": usable_cores(),
        "cache_bytes": cache_sizes(),
        "memory_bytes": _memory_bytes(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load": load(),
        "devices": {name: devices.describe(name) for name in used if name != "cpu"},
    }


def _git(*arguments: str) -> str | None:
    try:
        ran = subprocess.run(
            ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return ran.stdout.strip() if ran.returncode == 0 else None


def commit() -> dict[str, Any]:
    """The checkout's commit and whether tracked files differ from it; None where there is no git."""
    changed = _git("status", "--porcelain", "--untracked-files=no")
    return {"hash": _git("rev-parse", "HEAD"), "modified": None if changed is None else bool(changed)}
