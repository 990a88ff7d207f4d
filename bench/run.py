"""One whole run: each device's limits, every case on every contender, the workloads; and the file it leaves.

A ``Stage`` is what is measured with one device and one number of threads: its contenders live for that long.
"""

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
from bench.devices import DEVICES, LIMITS, limits_key
from bench.floors import case_floors
from bench.limits import nearer_limit
from bench.measure import Budget, time_case
from bench.peers import OURS, REGISTRY
from bench.processes import Worker, WorkerError
from bench.results import SCHEMA, Results, described_as

__all__ = ["COMPILE_EFFORT", "Plan", "Progress", "execute"]


@dataclass(frozen=True)
class Plan:
    """What a run does. ``workload`` is called with the threads and the progress to report to."""

    cases: Sequence[Case]
    rivals: Sequence[str]
    threads: Sequence[int]
    budget: Budget
    workloads: dict[str, Callable[[int, Progress], dict[str, Any]]] = field(default_factory=dict)
    alone: frozenset[Case] = frozenset()
    """Cases in which rivals do not take part: the crossover is between our two devices."""

    def stages(self) -> list[Stage]:
        """The CPU with each number of threads, then the GPU with the host's largest."""
        found = []
        for device in DEVICES:
            cases = [case for case in self.cases if case.device == device]
            rivals = [name for name in self.rivals if device in REGISTRY[name].devices]
            for threads in self.threads if device == "cpu" else [max(self.threads)]:
                if cases or (device == "cpu" and not self.cases):
                    found.append(Stage(device, threads, cases, rivals))
        return found


@dataclass(frozen=True)
class Stage:
    """A device, the threads of its host processes, its cases in order, and its rivals."""

    device: str
    threads: int
    cases: list[Case]
    rivals: list[str]

    def __str__(self) -> str:
        return f"{self.threads} threads" if self.device == "cpu" else self.device

    @property
    def limits_key(self) -> str:
        return limits_key(self.device, self.threads)

    def holds(self, row: dict[str, Any]) -> bool:
        """Whether a results file's case was measured in this stage."""
        return row["case"]["device"] == self.device and row["threads"] == self.threads


class Progress(Protocol):
    """Where a run says how far it is; ``effort`` is in arbitrary units of time."""

    def begin(self, what: str, effort: float) -> None: ...
    def advance(self, effort: float) -> None: ...
    def say(self, line: str) -> None: ...


def effort(case: Case) -> float:
    """About how long a case takes, in seconds on a usual machine: a constant, and the slow rivals' share."""
    if case.device == "cuda":
        return 2.0 + 30e-12 * min(case.flops, 4e11) + 3e-12 * case.flops
    return 0.6 + 60e-12 * case.flops + 3e-3 * case.T


def skeleton(plan: Plan) -> Results:
    """A results file before anything was measured."""
    return {
        "schema": SCHEMA,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": machine.commit(),
        "machine": machine.describe({case.device for case in plan.cases}),
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
            compiled = _compile(plan, progress)
        for stage in plan.stages():
            with _elapsed(f"cases, {stage}", results):
                _Measurement(stage, plan, compiled, progress, results, keep).carry_out()
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
    compiled = {}
    for device in DEVICES:
        cases = [case for case in plan.cases if case.device == device]
        if cases:
            total = COMPILE_EFFORT * len({(case.cell, case.dtype) for case in cases})
            progress.begin(f"compiling the kernels of {len({case.cell for case in cases})} cells, {device}", total)
            compiled |= compile_kernels(cases, max(plan.threads), progress, total)
    return compiled


@dataclass
class _Measurement:
    """One stage of a run: its limits, its cases, its limits once more."""

    stage: Stage
    plan: Plan
    compiled: dict[str, float]
    progress: Progress
    results: Results
    keep: Callable[[Results], None]

    def carry_out(self) -> None:
        stage, progress, results = self.stage, self.progress, self.results
        progress.begin(f"limits of this machine, {stage}", 3)
        with self._workers({"limits": (LIMITS[stage.device], {})}) as helpers:
            limits = helpers["limits"].call("measure", threads=stage.threads)
            results["limits"][stage.limits_key] = limits
            progress.advance(3)
            if not stage.cases:
                return
            self._with_contenders(limits)
            progress.begin("limits of this machine, once more", 2)
            again = helpers["limits"].call("measure", threads=stage.threads)
            progress.advance(2)
        _settle_limits(limits, again, progress)
        for row in filter(stage.holds, results["cases"]):
            row |= self._floors(Case(**row["case"]), limits)

    def _with_contenders(self, limits: dict[str, Any]) -> None:
        stage = self.stage
        names = (OURS, *stage.rivals)
        self.progress.begin(f"starting {', '.join(names)}", 2 * len(names))
        given = {"threads": stage.threads, "device": stage.device}
        served = {name: ("bench.contender:Contender", {"peer": REGISTRY[name].target} | given) for name in names}
        with (
            self._workers(served, advance=2) as contenders,
            self._workers({"reference": ("bench.checks:Reference", {})}) as helpers,
            tempfile.TemporaryDirectory(prefix="fastrnn-bench-") as folder,
        ):
            for name, worker in contenders.items():
                self.results["contenders"][described_as(name, stage.device)] = worker.call("describe")
            expected = str(Path(folder) / "reference.npz")
            for case in stage.cases:
                among = {OURS: contenders[OURS]} if case in self.plan.alone else contenders
                self._measure(case, among, helpers["reference"], expected, limits)

    def _measure(
        self, case: Case, contenders: dict[str, Worker], reference: Worker, expected: str, limits: dict[str, Any]
    ) -> None:
        self.progress.begin(f"{case.cell} {case.T},{case.B},{case.I},{case.H} {case.mode}", effort(case))
        reference.call("save", case=case.to_json(), path=expected)
        entries = time_case(case, contenders, expected, self.plan.budget, OURS)
        self.results["cases"].append(
            {
                "case": case.to_json(),
                "threads": self.stage.threads,
                "compile_s": self.compiled.get(kernel_key(case)),
                "flops": case.flops,
                "streamed_bytes": case.streamed_bytes,
                **self._floors(case, limits),
                "entries": entries,
            }
        )
        for label, entry in entries.items():
            if entry["status"] in ("refused", "failed"):
                self.progress.say(f"{case.key}: {label} {entry['status']}: {entry['why']}")
        self.progress.advance(effort(case))
        self.keep(self.results)

    def _floors(self, case: Case, limits: dict[str, Any]) -> dict[str, Any]:
        """What of a row depends on the limits."""
        limit, floor = nearer_limit(case, limits)
        found = {"limit": limit, "floor_s": floor}
        if case.device == "cuda":
            found["floors"] = case_floors(case, self.results["machine"]["devices"]["cuda"], limits)
        return found

    @contextmanager
    def _workers(
        self, served: dict[str, tuple[str, dict[str, Any]]], advance: float = 0
    ) -> Iterator[dict[str, Worker]]:
        """Start the processes, all ended again on leaving; a rival that cannot start is left out, and said so."""
        workers: dict[str, Worker] = {}
        try:
            for name, (target, arguments) in served.items():
                try:
                    workers[name] = Worker(target, arguments, self.stage.threads, self.stage.device)
                except WorkerError as error:
                    if name not in REGISTRY or name == OURS:
                        raise
                    self.progress.say(f"{name} is left out on {self.stage.device}: {error}")
                self.progress.advance(advance)
            yield workers
        finally:
            for worker in workers.values():
                worker.close()


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
