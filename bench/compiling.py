"""Compiling before timing: every kernel's first call, on as many processes as there are cores, timed by itself.

Afterwards the kernels lie in the disk cache, so the process that is timed only loads them.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

from bench.cases import Case
from bench.processes import Worker, WorkerError
from fastrnn.cores import usable_cores

__all__ = ["FirstCalls", "compile_kernels", "kernel_key"]


class Progress(Protocol):
    """See ``bench.run.Progress``."""

    def advance(self, effort: float) -> None: ...
    def say(self, line: str) -> None: ...


def kernel_key(case: Case) -> str:
    """Cases with the same key run the same machine code: shapes are arguments of a kernel, not parts of it."""
    return f"{case.cell} {case.dtype} {case.mode} {case.device}"


class FirstCalls:
    """Served by a process: makes first calls of fastrnn on tiny shapes of one device."""

    def __init__(self, threads: int, device: str = "cpu") -> None:
        from bench.peers.fastrnn_layers import FastrnnLayers

        self._peer = FastrnnLayers(threads, device)
        if device == "cpu":
            # What any first kernel costs a process, whichever it is: loading Numba and its typing of arrays.
            self._call(Case("rnn_tanh", 0, 0, 1, 1))

    def _call(self, case: Case) -> float:
        started = time.perf_counter()
        program = self._peer.program(case, "")
        program.run()
        program.timer.wait()
        return time.perf_counter() - started

    def call(self, case: dict[str, Any]) -> float:
        """Seconds of the first call of a case's kernels."""
        return self._call(replace(Case(**case), T=2, B=2, I=4, H=4))


def compile_kernels(cases: Sequence[Case], threads: int, progress: Progress, effort: float) -> dict[str, float]:
    """Seconds of the first call by ``kernel_key``, in one process per core; ``effort`` is for all of them.

    All cases are of one device. Cells are shared out whole, since the modes of one cell have kernels in common. What
    the device has no kernels for is missing in the answer.
    """
    by_cell: dict[tuple[str, str], dict[str, Case]] = {}
    for case in cases:
        by_cell.setdefault((case.cell, case.dtype), {}).setdefault(kernel_key(case), case)
    waiting: queue.SimpleQueue[list[Case]] = queue.SimpleQueue()
    for kernels in by_cell.values():
        waiting.put(list(kernels.values()))
    seconds: dict[str, float] = {}

    def work(worker: Worker) -> None:
        while True:
            try:
                kernels = waiting.get_nowait()
            except queue.Empty:
                return
            for case in kernels:
                try:
                    seconds[kernel_key(case)] = worker.call("call", case=case.to_json())
                except WorkerError as error:
                    if error.kind == "UnsupportedError":
                        continue
                    progress.say(f"{case.key}: the first call failed: {error}")
            progress.advance(effort / len(by_cell))

    _in_processes(work, min(usable_cores(), len(by_cell)), threads, cases[0].device)
    return {kernel_key(case): seconds[kernel_key(case)] for case in cases if kernel_key(case) in seconds}


def _in_processes(work: Any, count: int, threads: int, device: str) -> None:
    target = f"{__name__}:{FirstCalls.__name__}"
    workers = [Worker(target, {"threads": threads, "device": device}, threads, device) for _ in range(count)]
    try:
        helpers = [threading.Thread(target=work, args=(worker,), daemon=True) for worker in workers]
        for helper in helpers:
            helper.start()
        for helper in helpers:
            while helper.is_alive():  # with a time limit, so that Ctrl-C is heard
                helper.join(timeout=0.2)
    finally:
        for worker in workers:
            worker.close()
