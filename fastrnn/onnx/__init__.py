"""ONNX's RNN, LSTM and GRU for its reference evaluator: any model with recurrent nodes, fast and right, in NumPy.

    from onnx.reference import ReferenceEvaluator
    from fastrnn.onnx import OPERATORS

    outputs = ReferenceEvaluator("model.onnx", new_ops=OPERATORS).run(None, {"x": x})

The evaluator's own operators ignore sequence_lens, clip, input_forget and activations. These compute every option, for
float16, bfloat16 (both through float32), float32 and float64: by a layer where there is one that does the same, by a
loop in NumPy where there is none (clip, other activations). Weights that can't change are packed once.
"""

from __future__ import annotations

from fastrnn.onnx.operators import GRU, LSTM, OPERATORS, RNN

__all__ = ["GRU", "LSTM", "OPERATORS", "RNN"]
