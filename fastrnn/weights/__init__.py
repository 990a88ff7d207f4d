"""Weights from elsewhere into layers, and back: PyTorch, Keras, ONNX, safetensors, npz.

Importing this loads none of those libraries; each function loads what it needs when it is called. What a layer can't
represent (an activation, a clip, a projection) is a ValueError that names it. Nothing is ever unpickled::

    from fastrnn import weights

    layer = weights.from_torch(torch_lstm)
    layer = weights.from_safetensors("model.safetensors", prefix="encoder.lstm.")
"""

from __future__ import annotations

from fastrnn.weights.files import from_npz, from_safetensors, to_npz, to_safetensors
from fastrnn.weights.keras_layers import from_keras, to_keras, to_keras_weights
from fastrnn.weights.onnx_export import to_onnx
from fastrnn.weights.onnx_import import from_onnx
from fastrnn.weights.pytorch import from_torch, to_torch
from fastrnn.weights.reverse import Reverse

__all__ = [
    "Reverse",
    "from_keras",
    "from_npz",
    "from_onnx",
    "from_safetensors",
    "from_torch",
    "to_keras",
    "to_keras_weights",
    "to_npz",
    "to_onnx",
    "to_safetensors",
    "to_torch",
]
