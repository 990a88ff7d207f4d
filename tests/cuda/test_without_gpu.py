"""No GPU, and no CuPy: nothing of them is asked for, and what is missing is said."""

from __future__ import annotations

import ctypes
import importlib

import numpy as np
import pytest

import fastrnn
from tests.processes import run_python


def test_a_cpu_layer_never_imports_cupy():
    run_python("""
import pickle, sys
import numpy as np
import fastrnn
layer = fastrnn.LSTM(3, 4, 2, bidirectional=True, dropout=0.5)
y, _, tape = layer.forward(np.ones((5, 2, 3), np.float32))
layer.backward(tape, y)
pickle.loads(pickle.dumps(layer)).freeze()(np.ones((5, 2, 3), np.float32))
fastrnn.GRU(3, 4).stream()(np.ones(3, np.float32))
fastrnn.explain(layer, 5, 2)
layer.to("cpu")
loaded = [name for name in sys.modules if name.partition(".")[0] in ("cupy", "cupy_backends", "cupyx")]
assert not loaded and "fastrnn.kernels.cuda" not in sys.modules, loaded
""")


def test_without_a_gpu(monkeypatch):
    """Making a layer there and moving one there say what is missing; the layer stays as it was."""
    devices = importlib.import_module("fastrnn.kernels.cuda.devices")

    def no_library(name, *arguments, **options):
        raise OSError(name)

    layer, x = fastrnn.LSTM(6, 16), np.zeros((5, 4, 6), np.float32)
    layer(x)  # loads what it needs
    devices.require.cache_clear()
    monkeypatch.setattr(ctypes, "CDLL", no_library)
    try:
        with pytest.raises(fastrnn.GPUUnavailable, match=r'device "cuda" is not available: .*driver.*device="cpu"'):
            fastrnn.LSTM(6, 16, device="cuda")
        with pytest.raises(fastrnn.GPUUnavailable):
            layer.to("cuda")
        assert layer.device == "cpu"
        layer(x)
    finally:
        devices.require.cache_clear()
