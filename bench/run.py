"""One whole run: the machine's limits, every case on every contender, the workloads; and the file it leaves."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from bench import machine
from bench.cases import Case
from bench.compiling import compile_kernels, kernel_key
from bench.limits import nearer_limit
from bench.measure import Budget, time_case
from bench.peers import OURS, REGISTRY
from bench.processes import Worker, WorkerError
from bench.results import SCHEMA, Results

__all__ = ["COMPILE_EFFORT", "Plan", "Progress", "execute"]


@dataclass(frozen=True)
class Plan:
    """What a run does. ``workload`` is called with the threads and the progress to report to."""

    cases: Sequence[Case]
    rivals: Sequence[str]
    threads: Sequence[int]
    budget: Budget
    workloads: dict[str, Callable[[int, Progress], dict[str, Any]]] = field(default_factory=dict)


class Progress(Protocol):
    """Where a run says how far it is; ``effort`` is in arbitrary units of time."""

    def begin(self, what: str, effort: float) -> None: ...
    def advance(self, effort: float) -> None: ...
    def say(self, line: str) -> None: ...


def effort(case: Case) -> float:
    """About how long a case takes, in seconds on a usual machine: a constant, and the slow rivals' share."""
    return 0.6 + 60e-12 * case.flops + 3e-3 * case.T


def skeleton(plan: Plan) -> Results:
    """A results file before anything was measured."""
    return {
        "schema": SCHEMA,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": machine.commit(),
        "machine": machine.describe(),
        "settings": {
            "threads": list(plan.threads),
            "rivals": list(plan.rivals),
            "budget": asdict(plan.budget),
        },
        "contenders": {},
        "limits": {},
        "cases": [],
        "workloads": {},
        "elapsed_s": {},
        "complete": False,
    }


@contextmanager
def _elapsed(stage: str, results: Results) -> Iterator[None]:
    started = time.perf_counter()
    try:
        yield
    finally:
        results["elapsed_s"][stage] = time.perf_counter() - started


def execute(plan: Plan, progress: Progress, keep: Callable[[Results], None]) -> Results:
    """Carry out a plan. ``keep`` is given the results whenever a case is done, so that a break loses nothing.

    Ctrl-C ends the run and returns what there is, with ``complete`` False.
    """
    results = skeleton(plan)
    load = results["machine"]["load"]
    if load is not None and load > machine.QUIET_LOAD:
        progress.say(f"other programs are running (load {load:.1f}): expect figures that are too slow and uneven")
    try:
        with _elapsed("compiling", results):
            compiled = _compile(plan, progress) if plan.cases else {}
        for threads in plan.threads:
            with _elapsed(f"cases, {threads} threads", results):
                _measure_at(threads, plan, compiled, progress, results, keep)
        for name, workload in plan.workloads.items():
            with _elapsed(name, results):
                results["workloads"][name] = workload(max(plan.threads), progress)
            keep(results)
        results["complete"] = True
    except KeyboardInterrupt:
        progress.say("interrupted: what was measured is kept")
    keep(results)
    return results


COMPILE_EFFORT = 5.0
"""About how many seconds one cell's kernels take to compile where the cache has none."""


def _compile(plan: Plan, progress: Progress) -> dict[str, float]:
    kernels = {(case.cell, case.dtype) for case in plan.cases}
    total = COMPILE_EFFORT * len(kernels)
    progress.begin(f"compiling the kernels of {len(kernels)} cells", total)
    return compile_kernels(plan.cases, max(plan.threads), progress, total)


def _measure_at(
    threads: int,
    plan: Plan,
    compiled: dict[str, float],
    progress: Progress,
    results: Results,
    keep: Callable[[Results], None],
) -> None:
    progress.begin(f"limits of this machine, {threads} thread{'s' * (threads > 1)}", 3)
    with _workers({"limits": ("bench.limits:Limits", {})}, threads, progress) as helpers:
        limits = helpers["limits"].call("measure", threads=threads)
        results["limits"][str(threads)] = limits
        progress.advance(3)
        if not plan.cases:
            return
        progress.begin(f"starting {', '.join((OURS, *plan.rivals))}", 2 * (1 + len(plan.rivals)))
        served = {
            name: ("bench.contender:Contender", {"peer": REGISTRY[name].target, "threads": threads})
            for name in (OURS, *plan.rivals)
        }
        with _workers(served, threads, progress, advance=2) as contenders:
            for name, worker in contenders.items():
                results["contenders"][name] = worker.call("describe")
            _all_cases(threads, plan, compiled, contenders, progress, results, keep)
        progress.begin("limits of this machine, once more", 2)
        again = helpers["limits"].call("measure", threads=threads)
        progress.advance(2)
        _settle_limits(limits, again, progress)
        for row in results["cases"]:
            if row["threads"] == threads:
                row["limit"], row["floor_s"] = nearer_limit(Case(**row["case"]), limits)


def _settle_limits(limits: dict[str, Any], again: dict[str, Any], progress: Progress) -> None:
    """Keep the better of the two measurements; a machine whose speed changed on the way is not passed over."""
    for kind in ("flops", "bytes"):
        for name, rate in again[kind].items():
            before = limits[kind][name]
            if not 0.85 < rate / before < 1.18:
                progress.say(
                    f"{name}: {before / 1e9:.0f} G/s before the run, {rate / 1e9:.0f} after: not a quiet machine"
                )
            limits[kind][name] = max(rate, before)


def _all_cases(
    threads: int,
    plan: Plan,
    compiled: dict[str, float],
    contenders: dict[str, Worker],
    progress: Progress,
    results: Results,
    keep: Callable[[Results], None],
) -> None:
    limits = results["limits"][str(threads)]
    with (
        _workers({"reference": ("bench.checks:Reference", {})}, threads, progress) as helpers,
        tempfile.TemporaryDirectory(prefix="fastrnn-bench-") as folder,
    ):
        expected = str(Path(folder) / "reference.npz")
        for case in plan.cases:
            progress.begin(f"{case.cell} {case.T},{case.B},{case.I},{case.H} {case.mode}", effort(case))
            helpers["reference"].call("save", case=case.to_json(), path=expected)
            entries = time_case(case, contenders, expected, plan.budget, OURS)
            limit, floor = nearer_limit(case, limits)
            results["cases"].append(
                {
                    "case": case.to_json(),
                    "threads": threads,
                    "compile_s": compiled.get(kernel_key(case)),
                    "flops": case.flops,
                    "streamed_bytes": case.streamed_bytes,
                    "limit": limit,
                    "floor_s": floor,
                    "entries": entries,
                }
            )
            for label, entry in entries.items():
                if entry["status"] in ("refused", "failed"):
                    progress.say(f"{case.key}: {label} {entry['status']}: {entry['why']}")
            progress.advance(effort(case))
            keep(results)


@contextmanager
def _workers(
    served: dict[str, tuple[str, dict[str, Any]]], threads: int, progress: Progress, advance: float = 0
) -> Iterator[dict[str, Worker]]:
    """Start the processes, all ended again on leaving; a rival that cannot start is left out, and said so."""
    workers: dict[str, Worker] = {}
    try:
        for name, (target, arguments) in served.items():
            try:
                workers[name] = Worker(target, arguments, threads)
            except WorkerError as error:
                if name not in REGISTRY or name == OURS:
                    raise
                progress.say(f"{name} is left out: {error}")
            progress.advance(advance)
        yield workers
    finally:
        for worker in workers.values():
            worker.close()
