"""One step of every cell, forward and backward, for a batch of rows.

To add a cell: write its class, and give it a line in ``CELLS`` at the end.

A cell offers
    gates, peepholes      names, in the order of the blocks of H rows in the parameters
    states                how many states it carries: (h,) or (h, c)
    forward(w, x, state) -> state, saved
    backward(w, saved, dstate, dw) -> dx, dstate    (adds the parameters' gradients into dw)
with x (n, I), each state (n, H), and Weights as below. ``dstate`` is the gradient of the loss with respect to
the states that forward returned, everything downstream included; what comes back is that of those it took.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


class Weights(NamedTuple):
    """The parameters of one layer in one direction, or their gradients; G gates, P peepholes."""

    ih: np.ndarray  # (G*H, I)
    hh: np.ndarray  # (G*H, H)
    b_ih: np.ndarray  # (G*H,)
    b_hh: np.ndarray  # (G*H,)
    peephole: np.ndarray  # (P*H,)


def sigmoid(z):
    """1 / (1 + exp(-z)), without overflow and without losing digits at either end."""
    e = np.exp(-np.abs(z))
    return np.where(z < 0, e, np.ones_like(e)) / (1 + e)


def by_name(names, array):
    """Split the last axis of array into one equal block per name."""
    return dict(zip(names, np.split(array, len(names), axis=-1), strict=True)) if names else {}


def in_order(names, blocks):
    """The inverse of ``by_name``."""
    return np.concatenate([blocks[name] for name in names], axis=-1)


def add_product_gradients(w, dw, dz_x, dz_h, x, h):
    """Back through z_x = x Wihᵀ + b_ih and z_h = h Whhᵀ + b_hh: return dx, dh and add into dw."""
    dw.ih[...] += dz_x.T @ x
    dw.hh[...] += dz_h.T @ h
    dw.b_ih[...] += dz_x.sum(axis=0)
    dw.b_hh[...] += dz_h.sum(axis=0)
    return dz_x @ w.ih, dz_h @ w.hh


# φ, and its derivative written in φ's own value
NONLINEARITIES = {
    "tanh": (np.tanh, lambda h: 1 - h * h),
    "relu": (lambda z: np.where(z < 0, np.zeros_like(z), z), lambda h: (h > 0).astype(h.dtype)),
    "sigmoid": (sigmoid, lambda h: h * (1 - h)),
}


class RNN:
    """h' = φ(x Wihᵀ + b_ih + h Whhᵀ + b_hh)"""

    gates, peepholes, states = ("h",), (), 1

    def __init__(self, nonlinearity="tanh"):
        self.phi, self.slope = NONLINEARITIES[nonlinearity]

    def forward(self, w, x, state):
        (h,) = state
        h_new = self.phi(x @ w.ih.T + w.b_ih + h @ w.hh.T + w.b_hh)
        return (h_new,), (x, h, h_new)

    def backward(self, w, saved, dstate, dw):
        x, h, h_new = saved
        dz = dstate[0] * self.slope(h_new)
        dx, dh = add_product_gradients(w, dw, dz, dz, x, h)
        return dx, (dh,)


@dataclass(frozen=True)
class LSTM:
    """c' = f⊙c + i⊙g, h' = o⊙tanh(c'); with peepholes i and f see c, and o sees c'; coupled: i = 1 - f."""

    peephole: bool = False
    coupled: bool = False
    states = 2

    @property
    def gates(self):
        return ("f", "g", "o") if self.coupled else ("i", "f", "g", "o")

    @property
    def peepholes(self):
        if not self.peephole:
            return ()
        return ("f", "o") if self.coupled else ("i", "f", "o")

    def weights_of_peepholes(self, w):
        return dict.fromkeys("ifo", 0) | by_name(self.peepholes, w.peephole)

    def forward(self, w, x, state):
        h, c = state
        z = by_name(self.gates, x @ w.ih.T + w.b_ih + h @ w.hh.T + w.b_hh)
        p = self.weights_of_peepholes(w)
        f = sigmoid(z["f"] + p["f"] * c)
        i = 1 - f if self.coupled else sigmoid(z["i"] + p["i"] * c)
        g = np.tanh(z["g"])
        c_new = f * c + i * g
        o = sigmoid(z["o"] + p["o"] * c_new)
        return (o * np.tanh(c_new), c_new), (x, h, c, i, f, g, o, c_new)

    def backward(self, w, saved, dstate, dw):
        x, h, c, i, f, g, o, c_new = saved
        dh, dc = dstate
        p = self.weights_of_peepholes(w)
        dz = {"o": dh * np.tanh(c_new) * o * (1 - o)}
        dc = dc + dh * o * (1 - np.tanh(c_new) ** 2) + p["o"] * dz["o"]
        dz["g"] = dc * i * (1 - g * g)
        if self.coupled:
            dz["f"] = dc * (c - g) * f * (1 - f)
            dc_old = dc * f + p["f"] * dz["f"]
        else:
            dz["f"] = dc * c * f * (1 - f)
            dz["i"] = dc * g * i * (1 - i)
            dc_old = dc * f + p["f"] * dz["f"] + p["i"] * dz["i"]
        if self.peephole:
            seen = {"i": c, "f": c, "o": c_new}
            dp = {name: (dz[name] * seen[name]).sum(axis=0) for name in self.peepholes}
            dw.peephole[...] += in_order(self.peepholes, dp)
        dz = in_order(self.gates, dz)
        dx, dh_old = add_product_gradients(w, dw, dz, dz, x, h)
        return dx, (dh_old, dc_old)


class GRU:
    """h' = z⊙h + (1-z)⊙n: what both forms share. They differ in how n sees h."""

    gates, peepholes, states = ("r", "z", "n"), (), 1


class GRUResetBefore(GRU):
    """n = tanh(x Winᵀ + b_in + (r⊙h) Whnᵀ + b_hn)"""

    def forward(self, w, x, state):
        (h,) = state
        zx = by_name(self.gates, x @ w.ih.T + w.b_ih)
        w_r, w_z, w_n = np.split(w.hh, 3)
        b_r, b_z, b_n = np.split(w.b_hh, 3)
        r = sigmoid(zx["r"] + h @ w_r.T + b_r)
        z = sigmoid(zx["z"] + h @ w_z.T + b_z)
        n = np.tanh(zx["n"] + (r * h) @ w_n.T + b_n)
        return (z * h + (1 - z) * n,), (x, h, r, z, n)

    def backward(self, w, saved, dstate, dw):
        x, h, r, z, n = saved
        (dh,) = dstate
        w_r, w_z, w_n = np.split(w.hh, 3)
        dz_n = dh * (1 - z) * (1 - n * n)
        dz_z = dh * (h - n) * z * (1 - z)
        d_rh = dz_n @ w_n
        dz_r = d_rh * h * r * (1 - r)
        dh_old = dh * z + d_rh * r + dz_r @ w_r + dz_z @ w_z
        dz = np.concatenate([dz_r, dz_z, dz_n], axis=-1)
        dw.ih[...] += dz.T @ x
        dw.hh[...] += np.concatenate([dz_r.T @ h, dz_z.T @ h, dz_n.T @ (r * h)])
        dw.b_ih[...] += dz.sum(axis=0)
        dw.b_hh[...] += dz.sum(axis=0)
        return dz @ w.ih, (dh_old,)


class GRUResetAfter(GRU):
    """n = tanh(x Winᵀ + b_in + r⊙(h Whnᵀ + b_hn))"""

    def forward(self, w, x, state):
        (h,) = state
        zx = by_name(self.gates, x @ w.ih.T + w.b_ih)
        zh = by_name(self.gates, h @ w.hh.T + w.b_hh)
        r = sigmoid(zx["r"] + zh["r"])
        z = sigmoid(zx["z"] + zh["z"])
        n = np.tanh(zx["n"] + r * zh["n"])
        return (z * h + (1 - z) * n,), (x, h, r, z, n, zh["n"])

    def backward(self, w, saved, dstate, dw):
        x, h, r, z, n, zh_n = saved
        (dh,) = dstate
        dz_n = dh * (1 - z) * (1 - n * n)
        dz_z = dh * (h - n) * z * (1 - z)
        dz_r = dz_n * zh_n * r * (1 - r)
        dz_x = np.concatenate([dz_r, dz_z, dz_n], axis=-1)
        dz_h = np.concatenate([dz_r, dz_z, dz_n * r], axis=-1)
        dx, dh_product = add_product_gradients(w, dw, dz_x, dz_h, x, h)
        return dx, (dh * z + dh_product,)


CELLS = {
    "rnn_tanh": RNN("tanh"),
    "rnn_relu": RNN("relu"),
    "rnn_sigmoid": RNN("sigmoid"),
    "lstm": LSTM(),
    "lstm_peephole": LSTM(peephole=True),
    "lstm_coupled": LSTM(coupled=True),
    "lstm_peephole_coupled": LSTM(peephole=True, coupled=True),
    "gru_reset_before": GRUResetBefore(),
    "gru_reset_after": GRUResetAfter(),
}
