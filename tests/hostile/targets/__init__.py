"""Every public function, with good arguments for it: what each is, and how to call. A module for each area."""

from __future__ import annotations

import importlib.util

from tests.hostile.targets import files, layers, models, outputs, seq2seq, steps, training, weights
from tests.hostile.targets.common import TARGETS, Setting, Target

__all__ = ["TARGETS", "Setting", "Target"]

# What needs a package that need not be there.
for _package, _area in (("onnx", "onnx_nodes"), ("torch", "torch_modules")):
    if importlib.util.find_spec(_package):
        importlib.import_module(f"{__name__}.{_area}")

_ = files, layers, models, outputs, seq2seq, steps, training, weights  # imported for what they register
