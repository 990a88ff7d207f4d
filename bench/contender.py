"""A contender inside its own process: it makes cases ready, checks them, and times blocks of calls."""

from __future__ import annotations

import gc
import importlib
import time
from dataclasses import dataclass
from typing import Any

from bench.cases import Case, forget_problem
from bench.checks import error_and_place, load_reference, tolerance, within
from bench.peers import OURS
from bench.peers.base import Peer, Program, UnsupportedError

__all__ = ["Contender"]

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

    peer: ``"module:Class"`` of the Peer. threads: what the library is given. device: where it measures.
    """

    def __init__(self, peer: str, threads: int, device: str = "cpu") -> None:
        module, _, name = peer.partition(":")
        started = time.perf_counter()
        self._peer: Peer = getattr(importlib.import_module(module), name)(threads, device)
        self._memory = self._peer.memory()
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
        forget_problem()
        gc.collect()
        self._memory.reset()
        described = Case(**case)
        return {
            variant: self._prepare_variant(described, variant, reference)
            for variant in self._peer.variants_of(described)
        }

    def _prepare_variant(self, case: Case, variant: str, reference: str) -> dict[str, Any]:
        try:
            if self._peer.cells is not None and case.cell not in self._peer.cells:
                raise UnsupportedError(f"no {case.cell}")
            if case.mode not in self._peer.modes or case.device != self._peer.device:
                raise UnsupportedError(f"no {case.mode} on {case.device}")
            if case.device != "cpu":  # there each variant is weighed by itself
                self._memory.reset()
            program, report = self._checked(case, variant, reference)
            if report["status"] == "ready":
                report |= self._warmed(program, variant)
            if case.device != "cpu":
                report["peak_bytes"] = self._memory.peak()
                self._memory.release()
            return report
        except UnsupportedError as reason:
            return {"status": "unsupported", "why": str(reason)}
        except Exception as error:  # a rival that fails must not end the run
            return {"status": "failed", "why": f"{type(error).__name__}: {error}"}

    def _checked(self, case: Case, variant: str, reference: str) -> tuple[Program, dict[str, Any]]:
        """Build a case's program and compare its first outputs with the reference's."""
        started = time.perf_counter()
        program = self._peer.program(case.checking, variant)
        built = time.perf_counter()
        ran = program.run()
        program.timer.wait()
        called = time.perf_counter()
        expected = {n: a for n, a in load_reference(reference).items() if n not in program.lacks}
        precision = program.precision or case.dtype
        error, where = error_and_place(within(case, program.outputs(ran)), expected, precision)
        allowed = tolerance(precision, ours=self._peer.name == OURS)
        report = {
            "status": "ready",
            "how": program.how,
            "native": program.native,
            "precision": precision,
            "lacks": list(program.lacks),
            "prepare_s": built - started,
            "first_call_s": called - built,
            "error": error if error < float("inf") else None,
            "error_at": where,
            "tolerance": allowed,
        }
        if not error <= allowed:
            why = f"error {error:.1e} in {where}, allowed {allowed:.0e}"
            return program, report | {"status": "refused", "why": why}
        if case.checking is not case:
            del ran, program  # two large cases at once need not fit
            program = self._peer.program(case, variant)
        return program, report

    def _warmed(self, program: Program, variant: str) -> dict[str, Any]:
        started = time.perf_counter()
        seconds = _warm_up(program)
        calls = max(1, round(program.timer.least_s / seconds))
        self._ready[variant] = _Ready(program, calls, seconds)
        return {"warmup_s": time.perf_counter() - started, "call_s": seconds}

    def block(self, variant: str, seconds: float, pause: float = 0.0) -> list[float]:
        """Time samples for about so long, at least one; each is the mean of a few calls if they are short.

        pause: seconds of sleep before each sample, which is then a single call.
        """
        ready = self._ready[variant]  # a variant that was refused is not there
        run, timer, clock = ready.program.run, ready.program.timer, time.perf_counter
        on_gpu = self._peer.device != "cpu"
        if on_gpu or ready.seconds < _LONG:
            run()  # the first call after a pause finds cold caches, parked threads, and on a GPU no memory of its own
        samples = []
        gc.collect()
        gc.disable()
        try:
            end = clock() + seconds
            while not samples or clock() < end:
                if pause:
                    time.sleep(pause)
                samples.append(timer(run, 1 if pause else ready.calls))
        finally:
            gc.enable()
            if on_gpu:
                self._memory.release()
        return samples

    def peak_memory(self) -> int | None:
        """The most bytes held since ``prepare``, all variants together."""
        return self._memory.peak()


def _warm_up(program: Program) -> float:
    """Call until it is warm, a long program once; the seconds of the quickest call."""
    best, calls, end = float("inf"), 0, time.perf_counter() + _WARMUP_SECONDS
    while time.perf_counter() < end or (calls < _WARMUP_CALLS and best < _LONG):
        best = min(best, program.timer(program.run, 1))
        calls += 1
    return best
