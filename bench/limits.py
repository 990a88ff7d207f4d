"""What this machine can do at most, measured in the same run as everything else.

``measure(threads)`` gives the CPU's FMA peak (float32 and float64) and the load bandwidth of each memory level with
that many threads; ``bench.limits_cuda`` the GPU's. ``floor_seconds(case, limits)`` turns either into the time that
no kernel can go below.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bench.cases import Case
from bench.machine_kernels import fma_burst, load_burst

__all__ = ["Limits", "cache_sizes", "floor_seconds", "measure", "nearer_limit"]

_BURST_SECONDS = 0.02
_ROUNDS = 5
_GUESS = {"L1": 32 << 10, "L2": 1 << 20, "L3": 16 << 20}


def cache_sizes() -> dict[str, int]:
    """Bytes of each data cache seen by core 0, from sysfs; a usual size where the system does not tell."""
    sizes = dict(_GUESS)
    for index in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*"):
        try:
            level, kind, size = ((index / f).read_text().strip() for f in ("level", "type", "size"))
        except OSError:
            continue
        if kind != "Instruction" and size.endswith(("K", "M")):
            sizes[f"L{level}"] = int(size[:-1]) << (10 if size.endswith("K") else 20)
    return sizes


def _together(work: Callable[[int], Any], threads: int) -> float:
    """Run ``work(thread number)`` on all threads at once; seconds from the first start to the last end."""
    barrier = threading.Barrier(threads)
    spans: list[tuple[float, float]] = [(0.0, 0.0)] * threads

    def run(i: int) -> None:
        barrier.wait()
        start = time.perf_counter()
        work(i)
        spans[i] = (start, time.perf_counter())

    others = [threading.Thread(target=run, args=(i,)) for i in range(1, threads)]
    for thread in others:
        thread.start()
    run(0)
    for thread in others:
        thread.join()
    return max(end for _, end in spans) - min(start for start, _ in spans)


def _best_rate(amount: float, work: Callable[[int, int], Any], threads: int) -> float:
    """Largest rate of ``work(thread, repeats)``, where one repeat does ``amount`` per thread.

    A limit is what the machine can do, so the best of several bursts counts and not their median.
    """

    def burst(repeats: int) -> float:
        return _together(lambda i: work(i, repeats), threads)

    repeats = 1
    while (seconds := burst(repeats)) < _BURST_SECONDS / 4:
        repeats *= 4
    repeats = max(1, int(repeats * _BURST_SECONDS / seconds))
    return max(amount * repeats * threads / burst(repeats) for _ in range(_ROUNDS))


def _aligned(size: int) -> np.ndarray:
    raw = np.ones(size + 4096, np.uint8)
    offset = -raw.ctypes.data % 4096
    return raw[offset : offset + size]


def _level_bytes(sizes: dict[str, int], threads: int) -> dict[str, int]:
    """A working set per thread that surely lies in each level (shared L3: an equal part)."""
    return {
        "L1": sizes["L1"] // 2,
        "L2": sizes["L2"] // 2,
        "L3": max(2 * sizes["L2"], sizes["L3"] // (2 * threads)),
        "DRAM": max(2 * sizes["L3"], 64 << 20) // threads,
    }


def _peak(threads: int, dtype: str) -> float:
    burst, per_turn = fma_burst(dtype)
    turns = 2000
    return _best_rate(per_turn * turns, lambda i, n: burst(turns * n, 0.5), threads)


def measure(threads: int) -> dict[str, Any]:
    """Measure with ``threads`` threads.

    Returns ``{"threads", "flops": {dtype: FLOP/s}, "bytes": {level: B/s}, "cache": {level: bytes}}``, totals over
    all threads. Takes about two seconds, compiling included.
    """
    flops = {dtype: _peak(threads, dtype) for dtype in ("float32", "float64")}
    burst, chunk = load_burst()
    sizes = cache_sizes()
    bandwidth = {}
    for level, size in _level_bytes(sizes, threads).items():
        chunks = size // chunk
        buffers = [_aligned(chunks * chunk) for _ in range(threads)]
        addresses = [b.ctypes.data for b in buffers]
        bandwidth[level] = _best_rate(chunks * chunk, lambda i, n, a=addresses, c=chunks: burst(a[i], c, n), threads)
    return {"threads": threads, "flops": flops, "bytes": bandwidth, "cache": sizes}


class Limits:
    """Served to the run by a process of its own, so that compiling these loops burdens nobody else's."""

    def measure(self, threads: int) -> dict[str, Any]:
        return measure(threads)


def _level_of(case: Case, limits: dict[str, Any]) -> str:
    """Where a thread's share of the recurrent weights fits."""
    share = case.weight_bytes / limits["threads"]
    cache = limits["cache"]
    if share <= cache["L1"]:
        return "L1"
    if share <= cache["L2"]:
        return "L2"
    return "L3" if case.weight_bytes <= cache["L3"] else "DRAM"


def nearer_limit(case: Case, limits: dict[str, Any], precision: str | None = None) -> tuple[str, float]:
    """The limit that binds a case, in its dtype or another precision, and its time in seconds.

    Arithmetic: ``"FMA"``, on a GPU ``"GEMM"``, the rate of large products in that precision. Or what has to be moved:
    the level of cache that holds the weights, on a GPU ``"memory"``. What a device was not measured for is no limit.
    """
    level, arithmetic = (_level_of(case, limits), "FMA") if case.device == "cpu" else ("memory", "GEMM")
    rates = limits["flops"]
    if "tf32" in rates:
        rates = rates | {"3xtf32": rates["tf32"] / 3}
    computing = case.flops / rates.get(precision or case.dtype, float("inf"))
    loading = case.streamed_bytes / limits["bytes"][level]
    return (arithmetic, computing) if computing >= loading else (level, loading)


def floor_seconds(case: Case, limits: dict[str, Any]) -> float:
    """The time below which no kernel can go on this machine."""
    return nearer_limit(case, limits)[1]
