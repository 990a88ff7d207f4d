"""First calls: every kernel of a cell run once on almost nothing, so that it is compiled and lies in the cache.

``fastrnn.warmup`` runs this module's ``serve`` in processes of its own.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numba.core import event

from fastrnn.backend import load
from fastrnn.cells import CELLS
from fastrnn.sequences import Schedule

__all__ = ["Calls", "serve"]

# Large enough that two threads share the work and its packing: workers have kernels of their own.
_T, _B, _SIZE = 2, 12, 192


class Calls:
    """The calls of one cell and dtype on the CPU; each returns nothing that matters."""

    def __init__(self, name: str, dtype: str) -> None:
        self.backend, self.cell = load("cpu"), CELLS[name]
        rows, peepholes = len(self.cell.gates) * _SIZE, len(self.cell.peepholes) * _SIZE
        shapes = {"w_ih": (rows, _SIZE), "w_hh": (rows, _SIZE), "b_ih": (rows,), "b_hh": (rows,)}
        if peepholes:
            shapes["peephole"] = (peepholes,)
        self.weights = {k: np.zeros(shape, dtype) for k, shape in shapes.items()}
        self.x = np.zeros((_T, _B, _SIZE), dtype)
        self.state = tuple(np.zeros((_B, _SIZE), dtype) for _ in self.cell.states)
        self.schedule = Schedule(_T, _B)

    def packing(self) -> None:
        """What all cells of the dtype share: packing, and the workers."""
        weights = {"peephole": None} | self.weights
        self.packed = self.backend.pack(self.cell, **weights, backward=True)

    def forward(self) -> None:
        """Inference, which is also a stream's step and the forward pass of training."""
        final = tuple(map(np.empty_like, self.state))
        y = np.empty_like(self.x)
        self.saved = self.backend.forward(
            self.cell, self.packed, self.x, None, self.schedule, None, y, final, keep=True
        )

    def backward(self) -> None:
        """Back through time, and the gradients of the parameters."""
        dinitial = tuple(map(np.empty_like, self.state))
        dx, dy = np.empty_like(self.x), self.x
        grads = {k: np.zeros_like(weight) for k, weight in self.weights.items()}
        self.backend.backward(
            self.cell, self.packed, self.saved, self.x, self.schedule, None, dy, None, dx, dinitial, grads
        )


def _timed(call: Callable[[], None]) -> dict[str, float]:
    """Seconds that a call took, and how many functions Numba compiled: none where all came from the cache."""
    with event.install_recorder("numba:compile") as compiled:
        started = time.perf_counter()
        call()
        seconds = time.perf_counter() - started
    return {"seconds": seconds, "compiled": len(compiled.buffer)}


def serve() -> None:
    """Answer the lines of stdin, ``{"cell", "dtype", "stages"}``: a line of JSON for each stage, a method of ``Calls``.

    The first line of all names the cache folder. SIGINT is the parent's to hear.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # whatever a library prints must not get among them

    def answer(**fields: Any) -> None:
        print(json.dumps(fields), file=answers, flush=True)

    from fastrnn.kernels.cpu.jit import cache_folder

    folder = cache_folder()
    answer(folder=None if folder is None else str(folder))
    load("cpu").set_num_threads(2)
    for line in sys.stdin:
        task = json.loads(line)
        calls = Calls(task["cell"], task["dtype"])
        for stage in task["stages"]:
            answer(**_timed(getattr(calls, stage)))
