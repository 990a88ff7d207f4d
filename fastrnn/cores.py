"""How many cores this process may use: its affinity, and the quota of its control group (a container's --cpus)."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

__all__ = ["default_threads", "usable_cores"]

_CGROUPS, _OWN = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def usable_cores(cgroups: Path = _CGROUPS, own: Path = _OWN) -> int:
    """At least 1. Cores of the process's affinity where the system tells, else of the machine; at most the quota's.

    A quota of 1.5 cores gives 2: half of one more is better than none. ``cgroups``, ``own``: where Linux shows it.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([cores, *(math.ceil(quota) for quota in _quotas(cgroups, own))]))


def default_threads() -> int:
    """Threads that kernels use until told otherwise: the usable cores, or fewer where NUMBA_NUM_THREADS says so.

    The kernels are Numba's, and joblib, for one, sets it so that its workers share the cores. OMP_NUM_THREADS does
    not count: there is no OpenMP here, and it is often 1 for the sake of another library.
    """
    told = os.environ.get("NUMBA_NUM_THREADS", "")
    most, usable = int(told) if told.isdecimal() else 0, usable_cores()
    return min(most or usable, usable)


def _quotas(cgroups: Path, own: Path) -> Iterator[float]:
    """Cores that each control group above this process grants, where one sets a limit."""
    for line in _lines(own):
        _, controllers, path = line.split(":", 2)
        group = Path(path.lstrip("/"))
        for above in (group, *group.parents):
            if not controllers:  # version 2: one file, "max 100000" or "150000 100000"
                yield from _ratio(_lines(cgroups / above / "cpu.max"))
            elif "cpu" in controllers.split(","):
                files = (cgroups / "cpu" / above / f"cpu.cfs_{name}_us" for name in ("quota", "period"))
                yield from _ratio([" ".join(" ".join(_lines(file)) for file in files)])


def _ratio(lines: list[str]) -> Iterator[float]:
    try:
        quota, period = (int(word) for word in " ".join(lines).split())
    except ValueError:  # no such file, or no limit
        return
    if quota > 0 and period > 0:
        yield quota / period


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
