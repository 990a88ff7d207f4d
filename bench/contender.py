"""A contender inside its own process: it makes cases ready, checks them, and times blocks of calls."""

from __future__ import annotations

import gc
import importlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.cases import Case
from bench.checks import largest_error, load_reference, tolerance
from bench.peers import OURS
from bench.peers.base import Peer, Program, UnsupportedError

__all__ = ["Contender"]

_SAMPLE_SECONDS = 100e-6  # a sample is at least this long, so that reading the clock costs it nothing
_WARMUP_SECONDS = 0.03
_WARMUP_CALLS = 3
_LONG = 0.02  # a call so long does not notice what the first one after a pause finds


@dataclass
class _Ready:
    """A program that passed its check, how many calls make one sample, and about how long a call takes."""

    program: Program
    calls: int
    seconds: float


class Contender:
    """Served by ``bench.worker``; everything that goes in and comes out is JSON.

    peer: ``"module:Class"`` of the Peer. threads: what the library is given.
    """

    def __init__(self, peer: str, threads: int) -> None:
        module, _, name = peer.partition(":")
        started = time.perf_counter()
        self._peer: Peer = getattr(importlib.import_module(module), name)(threads)
        self._import_seconds = time.perf_counter() - started
        self._ready: dict[str, _Ready] = {}
        gc.freeze()  # what importing left is never collected: a look at all of torch's objects costs 50 ms

    def describe(self) -> dict[str, Any]:
        """Versions, settings, and what it cost to import the library."""
        return {
            "versions": self._peer.versions(),
            "settings": self._peer.settings(),
            "import_s": self._import_seconds,
        }

    def prepare(self, case: dict[str, Any], reference: str) -> dict[str, dict[str, Any]]:
        """Build, check and warm every variant of a case; ``reference`` is the file of expected outputs.

        Returns, by variant, ``status`` ("ready", "refused": its outputs disagree, "unsupported", "failed") with
        the reason, and what was learned on the way.
        """
        self._ready.clear()
        gc.collect()
        _reset_peak_memory()
        described = Case(**case)
        variants = self._peer.variants.get(described.mode, ("",))
        return {variant: self._prepare_variant(described, variant, reference) for variant in variants}

    def _prepare_variant(self, case: Case, variant: str, reference: str) -> dict[str, Any]:
        try:
            if self._peer.cells is not None and case.cell not in self._peer.cells:
                raise UnsupportedError(f"no {case.cell}")
            if case.mode not in self._peer.modes or case.device not in self._peer.devices:
                raise UnsupportedError(f"no {case.mode} on {case.device}")
            started = time.perf_counter()
            program = self._peer.program(case, variant)
            built = time.perf_counter()
            ran = program.run()
            called = time.perf_counter()
        except UnsupportedError as reason:
            return {"status": "unsupported", "why": str(reason)}
        except Exception as error:  # a rival that fails must not end the run
            return {"status": "failed", "why": f"{type(error).__name__}: {error}"}
        expected = {n: a for n, a in load_reference(reference).items() if n not in program.lacks}
        error, where = largest_error(program.outputs(ran), expected)
        allowed = tolerance(case, ours=self._peer.name == OURS)
        report = {
            "how": program.how,
            "native": program.native,
            "lacks": list(program.lacks),
            "prepare_s": built - started,
            "first_call_s": called - built,
            "error": error if error < float("inf") else None,
            "error_at": where,
            "tolerance": allowed,
        }
        if not error <= allowed:
            why = f"error {error:.1e} in {where}, allowed {allowed:.0e}"
            return report | {"status": "refused", "why": why}
        warm = time.perf_counter()
        seconds = _warm_up(program)
        self._ready[variant] = _Ready(program, max(1, round(_SAMPLE_SECONDS / seconds)), seconds)
        return report | {"status": "ready", "warmup_s": time.perf_counter() - warm, "call_s": seconds}

    def block(self, variant: str, seconds: float) -> list[float]:
        """Time samples for about so long, at least one; each is the mean of a few calls if they are short."""
        ready = self._ready[variant]  # a variant that was refused is not there
        run, calls, clock = ready.program.run, ready.calls, time.perf_counter
        if ready.seconds < _LONG:
            run()  # the first call after a pause finds cold caches and parked threads
        samples = []
        gc.collect()
        gc.disable()
        try:
            end = clock() + seconds
            while not samples or clock() < end:
                started = clock()
                for _ in range(calls):
                    run()
                samples.append((clock() - started) / calls)
        finally:
            gc.enable()
        return samples

    def peak_memory(self) -> int | None:
        """Most bytes of physical memory held since ``prepare`` (Linux), else since the process began."""
        return _peak_memory()


def _warm_up(program: Program) -> float:
    """Call until it is warm; the seconds of the quickest call."""
    best, calls, end = float("inf"), 0, time.perf_counter() + _WARMUP_SECONDS
    while time.perf_counter() < end or (calls < _WARMUP_CALLS and best < _LONG):
        started = time.perf_counter()
        program.run()
        best = min(best, time.perf_counter() - started)
        calls += 1
    return best


def _reset_peak_memory() -> None:
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass


def _peak_memory() -> int | None:
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        import resource
    except ImportError:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
