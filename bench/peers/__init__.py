"""The registry of contenders: ours first, then rivals in the order of the tables' columns.

A rival takes part if the distribution it needs is installed; nothing here imports one.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import NamedTuple

__all__ = ["OURS", "REGISTRY", "Entry", "installed", "select"]


class Entry(NamedTuple):
    """Where a contender's class is, and the modules that it cannot do without."""

    target: str
    needs: tuple[str, ...]


OURS = "fastrnn"

REGISTRY: dict[str, Entry] = {
    OURS: Entry("bench.peers.fastrnn_layers:FastrnnLayers", ("numpy", "numba")),
    "numpy": Entry("bench.peers.numpy_reference:NumpyReference", ("numpy",)),
    "torch": Entry("bench.peers.pytorch:PyTorch", ("torch",)),
    "onnxruntime": Entry("bench.peers.onnx_runtime:OnnxRuntime", ("onnxruntime", "onnx")),
    "openvino": Entry("bench.peers.openvino_model:OpenVino", ("openvino", "onnx")),
    "jax": Entry("bench.peers.jax_scan:JaxScan", ("jax",)),
    "keras": Entry("bench.peers.keras_layers:KerasLayers", ("keras",)),
    "mygrad": Entry("bench.peers.mygrad_gru:MyGradGRU", ("mygrad", "numba")),
}


def installed(name: str) -> bool:
    """Whether every module that the contender needs can be found."""
    return all(find_spec(module) is not None for module in REGISTRY[name].needs)


def select(text: str) -> list[str]:
    """The rivals that ``auto`` (all installed), ``none`` or a list of names separated by commas asks for.

    Raises ValueError for an unknown name and for a named one that is not installed.
    """
    rivals = [name for name in REGISTRY if name != OURS]
    if text == "auto":
        return [name for name in rivals if installed(name)]
    if text == "none":
        return []
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in rivals:
            raise ValueError(f"peers must be auto, none or some of {', '.join(rivals)}, got {name!r}")
        if not installed(name):
            raise ValueError(f"the peer {name!r} needs {' and '.join(REGISTRY[name].needs)}: not installed")
    return names
