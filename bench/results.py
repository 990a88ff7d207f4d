"""The file that a run leaves: what is in it, and reading the files of older versions.

Version 1
---------
schema, created, commit, machine, settings      where, when, how
contenders: {name, or "name (cuda)": {versions, settings, import_s}}
limits: {threads, or "cuda": {flops: {precision: FLOP/s}, bytes: {level: B/s}, cache: {level: bytes}}}
cases: [{case: {cell, T, B, I, H, dtype, mode, device}, threads, compile_s, flops, streamed_bytes, limit, floor_s,
         entries: {"name" or "name variant": entry}}]
workloads: {name: figures}; of a training's losses every ``losses_every``-th
elapsed_s: {stage of the run: seconds}
complete: False if the run was broken off

machine.devices has one entry per device beyond the CPU: {"cuda": {name, memory_bytes, compute_capability,
multiprocessors, driver, driver_cuda, packages: {name: version}}}. On cuda the limits are GEMM rates and the memory's
copying rate ("memory"), and threads are those of the host.

A case on cuda has floors: {"exact", for float32 also "tf32" and "3xtf32": {seconds, policy, calibrated, limit,
limit_s}}: what the cost model says of the whole case, under the policy that is fastest by it, and whether its
constants were measured; limit and limit_s as the row's own, in that precision.

compile_s is the first call of our kernels on tiny shapes, in a process of its own: compiling, or loading from
the cache. floor_s is the time that the nearer ``limit`` allows.

An entry has ``status``: "timed", "refused", "unsupported", "failed" (these with ``why``); if timed also
seconds, low, high (median and quartiles of all samples), blocks (each block's median, in turn with everyone
else's), samples, first_call_s, prepare_s, warmup_s, error, tolerance, peak_bytes, how, native, precision.
peak_bytes is the process's resident memory, on cuda what one variant held of the device's. A rival has fewer blocks
than others if it was far behind ours, or long.

settings.budget.pause_s: seconds between two calls that are timed; 0 where they follow each other.

Files of the first days lack pause_s, floors, elapsed_s, machine.devices, precision and losses_every (then: all).
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

__all__ = ["SCHEMA", "ResultsError", "described_as", "load", "pause_of", "save"]

SCHEMA = 1

Results = dict[str, Any]


class ResultsError(ValueError):
    """The file is not one of ours, or of a version that this code does not know."""


def described_as(name: str, device: str) -> str:
    """The key among ``contenders`` of what was said about a contender on a device."""
    return name if device == "cpu" else f"{name} ({device})"


def pause_of(results: Results) -> float:
    """Seconds between two calls that were timed."""
    return float(results.get("settings", {}).get("budget", {}).get("pause_s", 0.0))


def save(results: Results, path: Path) -> None:
    """Write a results file; a file that is there is replaced only by a whole one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(path.suffix + ".part")
    unfinished.write_text(json.dumps(results, indent=1) + "\n")
    os.replace(unfinished, path)


def load(path: Path) -> Results:
    """Read a results file of this or an older version. Raises ResultsError."""
    try:
        results = json.loads(path.read_text())
    except OSError as error:
        raise ResultsError(f"{path}: {error.strerror}") from error
    except json.JSONDecodeError as error:
        raise ResultsError(f"{path}: not JSON ({error})") from error
    schema = results.get("schema") if isinstance(results, dict) else None
    if not isinstance(schema, int):
        raise ResultsError(f"{path}: not a results file of fastrnn's benchmark (no schema version)")
    if schema > SCHEMA:
        raise ResultsError(f"{path}: schema version {schema}, this code reads up to {SCHEMA}")
    results.setdefault("elapsed_s", {})
    return results
