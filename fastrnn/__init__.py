"""fastrnn: fast recurrent cells for NumPy and CuPy, forward and backward through time, without a framework.

A first look::

    layer = fastrnn.LSTM(input_size=64, hidden_size=256, seed=0)
    y, (h, c) = layer(x)                        # x (T, B, 64): NumPy in, NumPy out
    y, state, tape = layer.forward(x)           # training
    grads = layer.backward(tape, dy)            # grads.x, grads.state, grads.params
    layer.flat_params[...] -= 0.1 * grads.flat
"""

from __future__ import annotations

import os as _os

_here = _os.path.dirname(_os.path.abspath(__file__))
if not _os.path.isdir(_os.path.join(_here, "kernels")):
    # In a checkout the folder kernels/ stands beside this one, and installing maps it to fastrnn.kernels.
    __path__.append(_os.path.dirname(_here))

from fastrnn import cells  # noqa: E402
from fastrnn.backend import GPUUnavailable, get_num_threads, set_num_threads  # noqa: E402
from fastrnn.explain import Explanation, explain  # noqa: E402
from fastrnn.layers import GRU, LSTM, RNN  # noqa: E402
from fastrnn.stream import Stream  # noqa: E402
from fastrnn.tape import Gradients, Tape  # noqa: E402

__version__ = "0.1.0"

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "Explanation",
    "GPUUnavailable",
    "Gradients",
    "Stream",
    "Tape",
    "__version__",
    "cells",
    "explain",
    "get_num_threads",
    "set_num_threads",
]
