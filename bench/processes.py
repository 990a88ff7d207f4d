"""The parent's side: one child process per contender, of which at most one runs at any moment.

A library's worker threads may spin after a call has returned. So every child is stopped (SIGSTOP) except while it
answers: nobody's idle threads can take a core from whoever is being timed. Where the system has no such signal
(Windows) children merely idle.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from typing import Any

from bench import ROOT
from bench.devices import environment

__all__ = ["Worker", "WorkerError", "thread_environment"]

_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "NPROC",  # XLA
)
_CAN_STOP = hasattr(signal, "SIGSTOP")


class WorkerError(RuntimeError):
    """A child answered with an error, died, or gave no answer in time; ``kind`` is the exception's class."""

    def __init__(self, message: str, kind: str) -> None:
        super().__init__(message)
        self.kind = kind


def thread_environment(threads: int) -> dict[str, str]:
    """The environment that gives every numerical library this many threads."""
    return os.environ | dict.fromkeys(_THREAD_VARIABLES, str(threads))


class Worker:
    """One object served by a child process; ``call`` runs a method there.

    target: ``"module:Class"``, called with ``arguments``. threads: given to every library in the child through
    the environment. device: the one that the child works on; on the CPU it sees no GPU. variables: of its environment,
    which come last.
    """

    def __init__(
        self,
        target: str,
        arguments: dict[str, Any],
        threads: int,
        device: str = "cpu",
        variables: dict[str, str] | None = None,
    ) -> None:
        self.target = target
        self._log = tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.worker", target],
            cwd=ROOT,
            env=thread_environment(threads) | environment(device) | (variables or {}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        self._answers: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        try:
            self.call("__init__", **arguments)
        except BaseException:
            self.close()
            raise

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._answers.put(line)
        self._answers.put("")

    def _signal(self, name: str) -> None:
        if _CAN_STOP and self._process.poll() is None:
            self._process.send_signal(getattr(signal, name))

    def call(self, method: str, timeout: float = 600.0, **arguments: Any) -> Any:
        """Run ``method(**arguments)`` in the child, which is stopped again when it has answered.

        Raises WorkerError if the method raised, the child died, or no answer came in ``timeout`` seconds (the
        child is then ended).
        """
        assert self._process.stdin is not None
        self._signal("SIGCONT")
        try:
            print(json.dumps({"call": method, "args": arguments}), file=self._process.stdin, flush=True)
            line = self._answers.get(timeout=timeout)
        except (BrokenPipeError, queue.Empty) as error:
            dead = isinstance(error, BrokenPipeError)
            self.close()
            raise WorkerError("the process ended" if dead else f"no answer in {timeout:.0f} s", "Lost") from error
        if not line:
            code = self._process.wait()
            raise WorkerError(f"the process ended with {code}: {self.last_words()}", "Lost")
        self._signal("SIGSTOP")
        answer = json.loads(line)
        if "error" in answer:
            raise WorkerError(answer["error"], answer["kind"])
        return answer["result"]

    def last_words(self, size: int = 2000) -> str:
        """The end of what the child wrote to standard error."""
        if self._log.closed:
            return ""
        end = os.fstat(self._log.fileno()).st_size
        # pread: the child writes at the file position that the two processes share
        return os.pread(self._log.fileno(), size, max(0, end - size)).decode(errors="replace").strip()

    def close(self) -> None:
        """End the child; harmless if it has ended."""
        self._process.kill()
        self._process.wait()
        self._reader.join()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None and not pipe.closed:
                try:
                    pipe.close()
                except BrokenPipeError:
                    pass
        self._log.close()
