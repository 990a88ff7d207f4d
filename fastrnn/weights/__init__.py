"""Weights from elsewhere into layers, and back: PyTorch, Keras, ONNX, safetensors, npz.

Importing this loads none of those libraries; each function loads what it needs when it is called. What a layer can't
represent (an activation, a clip, a projection) is a ValueError that names it. Nothing is ever unpickled.
"""

from __future__ import annotations
