"""The registry of contenders: ours first, then rivals in the order of the tables' columns.

A rival takes part if the distribution it needs is installed; nothing here imports one.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import NamedTuple

__all__ = ["OURS", "REGISTRY", "Entry", "installed", "only_on", "select"]


class Entry(NamedTuple):
    """A contender: its class, the modules that it cannot do without, its devices, and whether ``auto`` means it."""

    target: str
    needs: tuple[str, ...]
    devices: tuple[str, ...] = ("cpu",)
    auto: bool = True


OURS = "fastrnn"
_BOTH = ("cpu", "cuda")

REGISTRY: dict[str, Entry] = {
    OURS: Entry("bench.peers.fastrnn_layers:FastrnnLayers", ("numpy", "numba"), _BOTH),
    "numpy": Entry("bench.peers.numpy_reference:NumpyReference", ("numpy",)),
    "torch": Entry("bench.peers.pytorch:PyTorch", ("torch",), _BOTH),
    "torch-compile": Entry("bench.peers.torch_compiled:TorchCompiled", ("torch",), _BOTH, auto=False),
    "onnxruntime": Entry("bench.peers.onnx_runtime:OnnxRuntime", ("onnxruntime", "onnx")),
    "openvino": Entry("bench.peers.openvino_model:OpenVino", ("openvino", "onnx")),
    "jax": Entry("bench.peers.jax_scan:JaxScan", ("jax",), _BOTH),
    "keras": Entry("bench.peers.keras_layers:KerasLayers", ("keras",)),
    "mygrad": Entry("bench.peers.mygrad_gru:MyGradGRU", ("mygrad", "numba")),
    "cupy": Entry("bench.peers.cupy_loop:CupyLoop", ("cupy",), ("cuda",)),
    "flashrnn": Entry("bench.peers.flashrnn_layers:FlashRnn", ("flashrnn", "torch"), ("cuda",)),
    "haste": Entry("bench.peers.haste_layers:Haste", ("haste_pytorch", "torch"), ("cuda",)),
}


def installed(name: str) -> bool:
    """Whether every module that the contender needs can be found."""
    return all(find_spec(module) is not None for module in REGISTRY[name].needs)


def only_on(device: str) -> list[str]:
    """The rivals that run on this device and no other."""
    return [name for name, entry in REGISTRY.items() if entry.devices == (device,)]


def select(text: str, devices: Sequence[str] = ("cpu",)) -> list[str]:
    """The rivals on any of the devices that ``auto`` (all installed), ``none`` or a list of names asks for.

    Raises ValueError for an unknown name, and for a named one that is not installed or has none of the devices.
    """
    rivals = [name for name in REGISTRY if name != OURS]
    if text == "auto":
        here = [name for name in rivals if REGISTRY[name].auto and set(devices) & set(REGISTRY[name].devices)]
        return [name for name in here if installed(name)]
    if text == "none":
        return []
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in rivals:
            raise ValueError(f"peers must be auto, none or some of {', '.join(rivals)}, got {name!r}")
        if not set(devices) & set(REGISTRY[name].devices):
            raise ValueError(f"the peer {name!r} runs on {' and '.join(REGISTRY[name].devices)} only")
        if not installed(name):
            raise ValueError(f"the peer {name!r} needs {' and '.join(REGISTRY[name].needs)}: not installed")
    return names
