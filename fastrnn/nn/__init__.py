"""From recurrent layers to sequence models: what stands before and behind them, losses, training.

Thin, and apart: the layers of ``fastrnn`` never import it. One protocol everywhere, that of the layers::

    y = part(x)                                # inference
    y, tape = part.forward(x)                  # training
    grads = part.backward(tape, dy)            # grads.x, grads.params, grads.flat

NumPy in, NumPy out; CuPy in, CuPy out (``part.to("cuda")``). Products are those libraries' own: unlike a layer's, a
row's result may depend in its last bits on the batch around it and on the number of threads.

A language model, and one step of its training::

    model = nn.Model(embedding=nn.Embedding(V, 64), lstm=fastrnn.LSTM(64, 256), output=nn.Linear(256, V))
    optimizer = nn.Adam(model, rate=1e-3)

    x, tape_e = model.embedding.forward(inputs)                 # inputs (T, B) integers
    h, state, tape_r = model.lstm.forward(x)
    o, tape_o = model.output.forward(h)
    loss, do = nn.softmax_cross_entropy(o, targets)
    g_o = model.output.backward(tape_o, do)
    g_r = model.lstm.backward(tape_r, g_o.x)
    g_e = model.embedding.backward(tape_e, g_r.x)
    grads = model.gradients(embedding=g_e, lstm=g_r, output=g_o)
    nn.clip_grad_norm(grads, 1.0)
    optimizer.step(grads)
"""

from __future__ import annotations

from fastrnn.nn.attention import Attention, AttentionGradients, Memory
from fastrnn.nn.bridge import Bridge
from fastrnn.nn.embedding import Embedding
from fastrnn.nn.flow import GradientFlow, JacobianFlow, gradient_flow, jacobian_flow
from fastrnn.nn.linear import Linear
from fastrnn.nn.loop import Diverged, fit
from fastrnn.nn.losses import (
    log_softmax,
    mean_squared_error,
    sigmoid,
    sigmoid_cross_entropy,
    softmax,
    softmax_cross_entropy,
)
from fastrnn.nn.model import Model, ModelGradients
from fastrnn.nn.optimizers import SGD, Adam, Optimizer, clip_grad_norm
from fastrnn.nn.part import Part
from fastrnn.nn.saving import load, load_into, read_notes, save
from fastrnn.nn.search import Decoded, beam_search, greedy_search
from fastrnn.nn.seq2seq import Seq2Seq
from fastrnn.nn.truncated import Window, truncated_bptt, windows
from fastrnn.nn.vocabulary import Vocabulary

__all__ = [
    "SGD",
    "Adam",
    "Attention",
    "AttentionGradients",
    "Bridge",
    "Decoded",
    "Diverged",
    "Embedding",
    "GradientFlow",
    "JacobianFlow",
    "Linear",
    "Memory",
    "Model",
    "ModelGradients",
    "Optimizer",
    "Part",
    "Seq2Seq",
    "Vocabulary",
    "Window",
    "beam_search",
    "clip_grad_norm",
    "fit",
    "gradient_flow",
    "greedy_search",
    "jacobian_flow",
    "load",
    "load_into",
    "log_softmax",
    "mean_squared_error",
    "read_notes",
    "save",
    "sigmoid",
    "sigmoid_cross_entropy",
    "softmax",
    "softmax_cross_entropy",
    "truncated_bptt",
    "windows",
]
