"""Keras 3 on the backend that it finds: SimpleRNN, LSTM and GRU through ``predict_on_batch``."""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import Any

import numpy as np

from bench.cases import Case
from bench.checks import Outputs
from bench.peers.base import Peer, Program

# Keras looks for TensorFlow unless told otherwise; take the first backend that is there.
_BACKENDS = {"tensorflow": "tensorflow", "jax": "jax", "torch": "torch"}
os.environ.setdefault("KERAS_BACKEND", next((b for m, b in _BACKENDS.items() if find_spec(m)), "tensorflow"))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras  # noqa: E402

__all__ = ["KerasLayers"]

_ACTIVATION = {"rnn_tanh": "tanh", "rnn_relu": "relu", "rnn_sigmoid": "sigmoid"}


def _layer_and_weights(case: Case, params: dict[str, np.ndarray]) -> tuple[Any, list[np.ndarray]]:
    """The layer, and its kernel, recurrent kernel and bias: transposed; GRU gates z r h, LSTM i f c o as ours."""
    w_ih, w_hh = params["weight_ih_l0"], params["weight_hh_l0"]
    biases = np.stack([params["bias_ih_l0"], params["bias_hh_l0"]])
    options = {"return_sequences": True, "return_state": True, "dtype": case.dtype}
    if case.cell in _ACTIVATION:
        layer = keras.layers.SimpleRNN(case.H, activation=_ACTIVATION[case.cell], **options)
    elif case.cell == "lstm":
        layer = keras.layers.LSTM(case.H, **options)
    else:
        layer = keras.layers.GRU(case.H, reset_after=case.cell == "gru_reset_after", **options)
        r, z, n = np.split(np.arange(3 * case.H), 3)
        order = np.concatenate([z, r, n])
        w_ih, w_hh, biases = w_ih[order], w_hh[order], biases[:, order]
    bias = biases if case.cell == "gru_reset_after" else biases.sum(axis=0)
    return layer, [w_ih.T, w_hh.T, bias]


class KerasLayers(Peer):
    """Inference as a Keras user runs it; batch-major input."""

    name = "keras"
    cells = (*_ACTIVATION, "lstm", "gru_reset_before", "gru_reset_after")
    modes = ("forward",)

    def versions(self) -> dict[str, str]:
        backend = keras.backend.backend()
        return {"keras": keras.__version__, backend: __import__(backend).__version__}

    def settings(self) -> dict[str, Any]:
        return {"backend": keras.backend.backend(), "call": "predict_on_batch", "threads": self.threads}

    def program(self, case: Case, variant: str) -> Program:
        problem = case.problem()
        layer, weights = _layer_and_weights(case, problem.params)
        x = keras.Input((case.T, case.I), batch_size=case.B, dtype=case.dtype)
        initial = [keras.Input((case.H,), batch_size=case.B, dtype=case.dtype) for _ in problem.state]
        model = keras.Model([x, *initial], layer(x, initial_state=initial))
        layer.set_weights(weights)
        model.compile()
        feeds = [np.ascontiguousarray(problem.x.swapaxes(0, 1)), *(s[0] for s in problem.state)]

        def forward() -> Any:
            return model.predict_on_batch(feeds)

        def outputs(ran: Any) -> Outputs:
            y, *final = (np.asarray(a) for a in ran)
            return {"y": y.swapaxes(0, 1)} | {f"state{k}": s[None] for k, s in enumerate(final)}

        return Program(forward, outputs, how=f"keras.layers.{type(layer).__name__}")
