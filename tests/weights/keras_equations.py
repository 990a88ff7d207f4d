"""Keras' SimpleRNN, LSTM and GRU in plain NumPy, in Keras' own order of gates: i f c o and z r h.

From the equations of keras/src/layers/rnn: what a layer's get_weights() means, stated once more, so that importing is
tested where Keras is not installed. Where it is, these are tested against it.
"""

from __future__ import annotations

import numpy as np

PHI = {"tanh": np.tanh, "relu": lambda x: np.maximum(x, 0), "sigmoid": lambda x: 1 / (1 + np.exp(-x))}
SIGMOID = PHI["sigmoid"]


def simple_rnn(x, weights, lengths, phi="tanh"):
    kernel, recurrent, bias = with_bias(weights)

    def step(x_t, h):
        return (PHI[phi](x_t @ kernel + bias + h @ recurrent),)

    return walk(step, x, recurrent, lengths, states=1)


def lstm(x, weights, lengths):
    kernel, recurrent, bias = with_bias(weights)

    def step(x_t, h, c):
        i, f, g, o = np.split(x_t @ kernel + h @ recurrent + bias, 4, axis=1)
        c = SIGMOID(f) * c + SIGMOID(i) * np.tanh(g)
        return SIGMOID(o) * np.tanh(c), c

    return walk(step, x, recurrent, lengths, states=2)


def gru(x, weights, lengths, reset_after):
    kernel, recurrent, bias = with_bias(weights)
    bias = np.broadcast_to(bias, (2, kernel.shape[1])) if reset_after else np.stack([bias, np.zeros_like(bias)])
    if len(weights) == 2:
        bias = np.zeros((2, kernel.shape[1]))
    H = len(recurrent)

    def step(x_t, h):
        x_z, x_r, x_h = np.split(x_t @ kernel + bias[0], 3, axis=1)
        if reset_after:
            h_z, h_r, h_h = np.split(h @ recurrent + bias[1], 3, axis=1)
            z, r = SIGMOID(x_z + h_z), SIGMOID(x_r + h_r)
            candidate = np.tanh(x_h + r * h_h)
        else:
            h_z, h_r = h @ recurrent[:, :H], h @ recurrent[:, H : 2 * H]
            z, r = SIGMOID(x_z + h_z), SIGMOID(x_r + h_r)
            candidate = np.tanh(x_h + (r * h) @ recurrent[:, 2 * H :])
        return (z * h + (1 - z) * candidate,)

    return walk(step, x, recurrent, lengths, states=1)


CELLS = {
    "rnn_tanh": simple_rnn,
    "rnn_relu": lambda *args: simple_rnn(*args, phi="relu"),
    "rnn_sigmoid": lambda *args: simple_rnn(*args, phi="sigmoid"),
    "lstm": lstm,
    "gru_reset_before": lambda *args: gru(*args, reset_after=False),
    "gru_reset_after": lambda *args: gru(*args, reset_after=True),
}


def with_bias(weights):
    kernel, recurrent, *bias = weights
    return kernel, recurrent, bias[0] if bias else np.zeros(kernel.shape[1])


def walk(step, x, recurrent, lengths, states):
    """y (T, B, H), 0 past a row's length."""
    T, B, _ = x.shape
    state = [np.zeros((B, len(recurrent)))] * states
    y = np.zeros((T, B, len(recurrent)))
    for t in range(T):
        alive = (t < lengths)[:, None]
        leaving = step(x[t], *state)
        state = [np.where(alive, new, old) for new, old in zip(leaving, state, strict=True)]
        y[t] = np.where(alive, leaving[0], 0)
    return y


def turned(values, lengths):
    """Every row's valid steps in the opposite order."""
    found = values.copy()
    for row, n in enumerate(lengths):
        found[:n, row] = values[:n, row][::-1]
    return found


def outputs(cell, x, layers, lengths=None):
    """y (T, B, D*H) of a stack; layers: get_weights() of each; twice as many arrays are of Bidirectional."""
    lengths = np.full(x.shape[1], len(x)) if lengths is None else lengths
    for weights in layers:
        halves = [weights] if len(weights) < 4 else [weights[: len(weights) // 2], weights[len(weights) // 2 :]]
        ys = [CELLS[cell](x, halves[0], lengths)]
        if len(halves) == 2:
            ys.append(turned(CELLS[cell](turned(x, lengths), halves[1], lengths), lengths))
        x = np.concatenate(ys, axis=2)
    return x


def random_weights(cell, I, H, num_layers=1, bidirectional=False, bias=True, seed=0):
    """What get_weights() of each layer of a stack might return."""
    rng = np.random.default_rng(seed)
    G = {"r": 1, "l": 4, "g": 3}[cell[0]]
    shape = (2, G * H) if cell == "gru_reset_after" else (G * H,)
    layers = []
    for k in range(num_layers):
        width = I if k == 0 else H * (1 + bidirectional)
        shapes = [(width, G * H), (H, G * H), shape][: 2 + bias] * (1 + bidirectional)
        layers.append([rng.uniform(-0.3, 0.3, s) for s in shapes])
    return layers
