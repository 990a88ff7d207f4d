"""First calls: every kernel of a cell run once on almost nothing, so that it is compiled and lies in the cache.

``fastrnn.warmup`` runs this module's ``serve`` in processes of its own.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numba.core import event

from fastrnn import GRU, LSTM, RNN, set_num_threads
from fastrnn.cell_table import CELLS, cell_for
from fastrnn.cells import from_layer
from fastrnn.kernels.cpu import apply_mask, multiply
from fastrnn.recurrent import RecurrentLayer

__all__ = ["Calls", "serve"]

# Large enough that two threads share the work and its packing: workers have kernels of their own.
_T, _B, _SIZE = 2, 12, 192

_NONLINEARITIES = tuple(name.removeprefix("rnn_") for name in CELLS if name.startswith("rnn_"))


def _layer(name: str, dtype: str) -> RecurrentLayer:
    """A layer of a cell: of the class and with the options that select it."""
    for kind in (RNN, LSTM, GRU):
        choices = ((False, True) if value is False else _NONLINEARITIES for value in kind._cell_defaults.values())
        for values in itertools.product(*choices):
            options = dict(zip(kind._cell_defaults, values, strict=True))
            if cell_for(kind._kind, **options) is CELLS[name]:
                return kind(_SIZE, _SIZE, dtype=dtype, seed=0, **options)
    raise LookupError(f"no layer has the cell {name}")


class Calls:
    """The calls of one cell and dtype on the CPU, through the public layer: each compiles what users' calls need."""

    def __init__(self, name: str, dtype: str) -> None:
        self.layer = _layer(name, dtype).freeze()
        self.x = np.zeros((_T, _B, _SIZE), dtype)

    def packing(self) -> None:
        """What all cells of the dtype share: packing, workers, dropout's masks, and the products of ``fastrnn.nn``."""
        self.layer.packed_weights(backward=True)
        square = np.zeros((_SIZE, _SIZE), self.x.dtype)
        apply_mask(square, 0.5, 0, 0)
        multiply(square, square, np.empty_like(square))

    def forward(self) -> None:
        """Inference, a stream's step, a single step, and the forward pass of training."""
        _, state = self.layer(self.x)
        self.layer.stream(_B)(self.x[0])
        from_layer(self.layer)(self.x[0], state[0] if isinstance(state, np.ndarray) else tuple([s[0] for s in state]))
        self.y, _, self.tape = self.layer.forward(self.x)

    def backward(self) -> None:
        """Back through time, and the gradients of the parameters."""
        self.layer.backward(self.tape, self.y)


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
    set_num_threads(2)
    for line in sys.stdin:
        task = json.loads(line)
        calls = Calls(task["cell"], task["dtype"])
        for stage in task["stages"]:
            answer(**_timed(getattr(calls, stage)))
