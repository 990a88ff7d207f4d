"""Compile kernels ahead of time: ``python -m fastrnn.warmup [--cells lstm,gru] [--dtypes float32] [--inference]``.

Without it a cell's first call in the first process that ever makes one waits for the compiler. In a container image,
or after an installation, this program does that waiting once, on all cores; ``warm`` is the same from Python.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self, TextIO

from fastrnn.cell_table import CELLS
from fastrnn.cores import usable_cores

__all__ = ["CacheError", "Progress", "Report", "Warmed", "cells_named", "main", "warm"]

DTYPES = ("float32", "float64")
_STAGES = ("packing", "forward", "backward")

# A child gets the parent's import path as its argument; the program itself may not be importable there.
_CHILD = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); import fastrnn.kernels.first_calls as f; f.serve()"


class CacheError(RuntimeError):
    """No folder can be written where compiled kernels could be kept."""


@dataclass(frozen=True)
class Warmed:
    """The kernels of one cell and dtype: seconds of each stage, and how many functions had to be compiled."""

    cell: str
    dtype: str
    seconds: dict[str, float]
    compiled: int

    @property
    def name(self) -> str:
        return f"{self.cell} {self.dtype}"


@dataclass(frozen=True)
class Report:
    """What ``warm`` did: where the compiled kernels lie, what was asked for, and the seconds that it took."""

    folder: Path
    kernels: tuple[Warmed, ...]
    seconds: float

    @property
    def compiled(self) -> tuple[Warmed, ...]:
        """Those that were not there already."""
        return tuple(kernel for kernel in self.kernels if kernel.compiled)


class Progress(Protocol):
    """What ``warm`` tells whoever watches. All calls come from the calling thread."""

    def begin(self, folder: Path, stages: int) -> None:
        """Work starts on so many stages."""

    def enter(self, name: str, stage: str) -> None:
        """A cell and dtype enters a stage, having left the one before."""

    def finish(self, kernel: Warmed) -> None:
        """All stages of a cell and dtype have ended."""

    def tick(self) -> None:
        """Some time has passed."""


def cells_named(names: str | Iterable[str]) -> list[str]:
    """Cells by name or by prefix ("gru": both GRUs), separated by commas or one by one; "all" is all of them.

    Raises ValueError for a name that no cell begins with.
    """
    asked = names.split(",") if isinstance(names, str) else list(names)
    chosen: dict[str, None] = {}
    for name in (part.strip() for part in asked):
        found = list(CELLS) if name == "all" else [name] if name in CELLS else []
        found = found or [cell for cell in CELLS if name and cell.startswith(name)]
        if not found:
            raise ValueError(f"cells must be all or some of {', '.join(CELLS)}, got {name!r}")
        chosen.update(dict.fromkeys(found))
    return list(chosen)


def _dtypes_named(names: str | Iterable[str]) -> list[str]:
    asked = [part.strip() for part in (names.split(",") if isinstance(names, str) else names)]
    for name in asked:
        if name not in DTYPES:
            raise ValueError(f"dtypes must be some of {', '.join(DTYPES)}, got {name!r}")
    return list(dict.fromkeys(asked))


def warm(
    cells: str | Iterable[str] = "all",
    dtypes: str | Iterable[str] = "float32",
    *,
    training: bool = True,
    processes: int | None = None,
    progress: Progress | None = None,
) -> Report:
    """Compile what is not in the cache yet, in processes of its own: nothing is loaded into this one.

    Parameters
    ----------
    cells, dtypes : str or several
        Names as in ``fastrnn.cell_table``, prefixes, or "all"; "float32", "float64".
    training : bool
        False leaves backward out. Inference and streams share their kernels.
    processes : int, optional
        At most so many at once; default one a core.
    progress : Progress, optional
        Told what happens.

    Raises ValueError for a name that is not known, CacheError where no cache folder can be written, RuntimeError
    with the reason where compiling fails. However it ends, no child is left behind.
    """
    tasks = [(cell, dtype) for dtype in _dtypes_named(dtypes) for cell in cells_named(cells)]
    if processes is not None and processes < 1:
        raise ValueError(f"processes must be at least 1, got {processes}")
    stages = _STAGES if training else _STAGES[:-1]
    started = time.perf_counter()
    with _Children(min(len(tasks), processes or usable_cores())) as children:
        folder = children.folder()
        if progress:
            progress.begin(folder, len(tasks) * len(stages))
        kernels = children.run(tasks, stages, progress)
    return Report(folder, tuple(kernels[task] for task in tasks), time.perf_counter() - started)


class _Child:
    """A process that compiles what it is asked for."""

    def __init__(self) -> None:
        self.errors = tempfile.TemporaryFile()
        path = json.dumps([part or os.getcwd() for part in sys.path])
        self.process = subprocess.Popen(
            [sys.executable, "-c", _CHILD, path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
        )

    def ask(self, question: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        print(json.dumps(question), file=self.process.stdin, flush=True)

    def answer(self) -> dict[str, Any]:
        """The next line. Raises RuntimeError with the child's last words if there is none."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            status = self.process.wait()
            self.errors.seek(0)
            words = self.errors.read().decode(errors="replace").strip()
            raise RuntimeError(f"a compiling process ended with status {status}\n{words[-2000:]}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout, self.errors):
            assert pipe is not None
            try:
                pipe.close()
            except BrokenPipeError:  # a question that the child did not live to read
                pass


class _Children:
    """As many children as there is work for; leaving the ``with`` block ends them, whatever they do."""

    def __init__(self, count: int) -> None:
        self.children: list[_Child] = []
        try:
            for _ in range(count):
                self.children.append(_Child())
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        for child in self.children:
            child.close()

    def folder(self) -> Path:
        """The cache folder, once all children have said that they can write there; raises CacheError if not."""
        folder = None
        for child in self.children:
            folder = child.answer()["folder"]
            if folder is None:
                raise CacheError(_why_no_cache())
        assert folder is not None
        return Path(folder)

    def run(
        self, tasks: Sequence[tuple[str, str]], stages: Sequence[str], progress: Progress | None
    ) -> dict[tuple[str, str], Warmed]:
        """Share the tasks out; returns what each took."""
        waiting: queue.SimpleQueue[tuple[str, str]] = queue.SimpleQueue()
        for task in tasks:
            waiting.put(task)
        events: queue.SimpleQueue[tuple[tuple[str, str], dict[str, Any] | None] | BaseException] = queue.SimpleQueue()
        for child in self.children:
            threading.Thread(target=_converse, args=(child, waiting, stages, events), daemon=True).start()
        done: dict[tuple[str, str], Warmed] = {}
        parts: dict[tuple[str, str], list[dict[str, Any]]] = {task: [] for task in tasks}
        while len(done) < len(tasks):
            try:
                event = events.get(timeout=0.2)  # with a limit, so that Ctrl-C is heard and a bar can move
            except queue.Empty:
                if progress:
                    progress.tick()
                continue
            if isinstance(event, BaseException):
                raise event
            task, answer = event
            parts[task] += [answer] if answer else []
            if len(parts[task]) < len(stages):
                if progress:
                    progress.enter(" ".join(task), stages[len(parts[task])])
                continue
            seconds = {stage: part["seconds"] for stage, part in zip(stages, parts[task], strict=True)}
            done[task] = Warmed(*task, seconds, sum(part["compiled"] for part in parts[task]))
            if progress:
                progress.finish(done[task])
        return done


def _converse(child: _Child, waiting: Any, stages: Sequence[str], events: Any) -> None:
    """A thread's work: hand one child task after task; passes on that a task starts (no answer), and its answers."""
    try:
        while True:
            try:
                cell, dtype = task = waiting.get_nowait()
            except queue.Empty:
                return
            events.put((task, None))
            child.ask({"cell": cell, "dtype": dtype, "stages": stages})
            for _ in stages:
                events.put((task, child.answer()))
    except (RuntimeError, OSError, ValueError) as error:
        events.put(error if isinstance(error, RuntimeError) else RuntimeError(f"a compiling process broke: {error}"))


def _why_no_cache() -> str:
    named = os.environ.get("FASTRNN_CACHE_DIR")
    if named == "":
        return "there is no cache: FASTRNN_CACHE_DIR is empty, which turns it off"
    if named:
        return f"there is no cache: nothing can be written below {named}, which FASTRNN_CACHE_DIR names"
    usual = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return f"there is no cache: nothing can be written below {usual}/fastrnn; name a folder in FASTRNN_CACHE_DIR"


class Bar:
    """Progress on a terminal: a line for every cell that is done, and below them one that moves.

    Where the output is no terminal, only the lines.
    """

    _WIDTH = 24

    def __init__(self, out: TextIO) -> None:
        self._out, self._moves = out, out.isatty()
        self._stages = self._done = 0
        self._running: dict[str, str] = {}
        self._started = time.perf_counter()

    def begin(self, folder: Path, stages: int) -> None:
        self._stages = stages
        self._say(f"compiled kernels are kept in {folder}")

    def enter(self, name: str, stage: str) -> None:
        self._done += name in self._running
        self._running[name] = stage
        self.tick()

    def finish(self, kernel: Warmed) -> None:
        self._done += 1
        del self._running[kernel.name]
        parts = ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in kernel.seconds.items())
        self._say(f"{kernel.name:32} {f'compiled: {parts}' if kernel.compiled else 'was there'}")

    def tick(self) -> None:
        if not self._moves:
            return
        full = self._WIDTH * self._done // max(self._stages, 1)
        bar = "#" * full + "-" * (self._WIDTH - full)
        elapsed = time.perf_counter() - self._started
        running = ", ".join(f"{name} {stage}" for name, stage in self._running.items())
        self._write(f"[{bar}] {self._done}/{self._stages}  {elapsed:3.0f} s  {running}")

    def close(self) -> None:
        """Take the moving line away."""
        if self._moves:
            self._write("")

    def _write(self, line: str) -> None:
        columns = os.get_terminal_size(self._out.fileno()).columns or 80  # some terminals say 0
        print(f"\r{line[: columns - 1]}\x1b[K", end="", file=self._out, flush=True)

    def _say(self, line: str) -> None:
        self.close()
        print(line, file=self._out, flush=True)
        self.tick()


def main(arguments: Sequence[str] | None = None) -> int:
    """The program; its exit status: 0, 1 if compiling failed or there is no cache, 2 for a wrong command line."""
    parser = argparse.ArgumentParser(prog="python -m fastrnn.warmup", description="Compile kernels ahead of time.")
    parser.add_argument("--cells", default="all", help=f"all, or some of {', '.join(CELLS)}; a prefix (lstm) is enough")
    parser.add_argument("--dtypes", default="float32", help=", ".join(DTYPES))
    parser.add_argument("--inference", action="store_true", help="forward and stream only (default: backward too)")
    parser.add_argument("--processes", type=int, default=None, help="at most so many at once (default: one a core)")
    options = parser.parse_args(arguments)
    bar = Bar(sys.stderr)
    try:
        report = warm(
            options.cells,
            options.dtypes,
            training=not options.inference,
            processes=options.processes,
            progress=bar,
        )
    except ValueError as error:
        parser.error(str(error))
    except (CacheError, RuntimeError) as error:
        bar.close()
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        bar.close()
        print("broken off; what was compiled so far is kept", file=sys.stderr)
        return 130
    bar.close()
    print(_summary(report), file=sys.stderr)
    return 0


def _summary(report: Report) -> str:
    asked, compiled = len(report.kernels), len(report.compiled)
    if not compiled:
        return f"everything was there already: {asked} loaded in {report.seconds:.1f} s"
    return f"{compiled} compiled, {asked - compiled} were there already, in {report.seconds:.1f} s"


if __name__ == "__main__":
    sys.exit(main())
