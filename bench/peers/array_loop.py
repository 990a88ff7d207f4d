"""Every cell as a loop of array operations, forward and backward, over any array module with NumPy's functions.

The equations, one operation after the other, as a CuPy user writes them down who has no recurrent layer. Only what
is obvious is done for speed: products over all steps stand outside of the loops.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Array = Any
State = tuple[Array, ...]
Params = dict[str, Array]

__all__ = ["Loop"]


def _sigmoid(xp: Any, z: Array) -> Array:
    return 0.5 * xp.tanh(0.5 * z) + 0.5  # one operation fewer than with exp, and no overflow


_SLOPE = {
    "rnn_tanh": lambda h: 1 - h * h,
    "rnn_relu": lambda h: (h > 0).astype(h.dtype),
    "rnn_sigmoid": lambda h: h * (1 - h),
}


@dataclass
class Loop:
    """One layer: ``forward`` returns y, the final state and a tape, ``backward`` all gradients.

    xp : the array module. params: PyTorch's names and shapes. x (T, B, I), y and dy (T, B, H), states (B, H).
    """

    xp: Any
    cell: str
    params: Params

    def __post_init__(self) -> None:
        self.coupled = "coupled" in self.cell
        self.step, self.back = {
            "rnn": (self._rnn, self._rnn_back),
            "lstm": (self._lstm, self._lstm_back),
            "gru": (self._gru, self._gru_back),
        }[self.cell.split("_")[0]]
        peephole = self.params.get("weight_peephole_l0")
        parts = [] if peephole is None else self.xp.split(peephole, 2 if self.coupled else 3)
        self.peephole = dict(zip("fo" if self.coupled else "ifo", parts, strict=False))

    def forward(self, x: Array, state: State, keep: bool = True) -> tuple[Array, State, list[Any]]:
        p = self.params
        zx = x @ p["weight_ih_l0"].T + p["bias_ih_l0"]
        rows, tape = [], []
        for z in zx:
            new, saved = self.step(z, state)
            if keep:
                tape.append((state, saved))
            rows.append(new[0])
            state = new
        return self.xp.stack(rows), state, tape

    def backward(self, x: Array, tape: list[Any], dy: Array) -> dict[str, Array]:
        """Gradients by name: "dx", "dstate0", ..., "d" and a parameter's name."""
        xp, p = self.xp, self.params
        dstate = tuple(xp.zeros_like(s) for s in tape[0][0])
        dzx, dzh, operands, extra = [], [], [], []
        for (state, saved), d in zip(reversed(tape), dy[::-1], strict=True):
            dx_part, dh_part, operand, peepholes, dstate = self.back(state, saved, (dstate[0] + d, *dstate[1:]))
            dzx.append(dx_part)
            dzh.append(dh_part)
            operands.append(operand)
            extra.append(peepholes)
        dz, dh = xp.stack(dzx[::-1]), xp.stack(dzh[::-1])
        flat, flat_h = dz.reshape(-1, dz.shape[-1]), dh.reshape(-1, dh.shape[-1])
        grads = {
            "dx": dz @ p["weight_ih_l0"],
            "dweight_ih_l0": flat.T @ x.reshape(-1, x.shape[-1]),
            "dweight_hh_l0": self._recurrent_gradient(flat_h, operands[::-1]),
            "dbias_ih_l0": flat.sum(axis=0),
            "dbias_hh_l0": flat_h.sum(axis=0),
        }
        if self.peephole:
            grads["dweight_peephole_l0"] = sum(xp.concatenate(parts) for parts in extra)
        return grads | {f"dstate{k}": s for k, s in enumerate(dstate)}

    def _recurrent_gradient(self, dz: Array, operands: list[State]) -> Array:
        """dWhh: each block of rows times what its product took, h or, for n of a reset before it, r * h."""
        xp = self.xp
        taken = [xp.stack(list(arrays)).reshape(len(dz), -1) for arrays in zip(*operands, strict=True)]
        if len(taken) == 1:
            return dz.T @ taken[0]
        H = taken[0].shape[1]
        return xp.concatenate([dz[:, : 2 * H].T @ taken[0], dz[:, 2 * H :].T @ taken[1]])

    def _product(self, h: Array) -> Array:
        return h @ self.params["weight_hh_l0"].T + self.params["bias_hh_l0"]

    # Each step returns the new state and what its way back needs. Each way back returns dz of the input's and of the
    # recurrent product, what the latter took, the peepholes' gradients, and the gradient of the entering state.

    def _rnn(self, z: Array, state: State) -> tuple[State, Any]:
        z = z + self._product(state[0])
        if self.cell == "rnn_tanh":
            h = self.xp.tanh(z)
        else:
            h = self.xp.maximum(z, 0) if self.cell == "rnn_relu" else _sigmoid(self.xp, z)
        return (h,), h

    def _rnn_back(self, state: State, h: Array, dstate: State) -> tuple[Any, ...]:
        dz = dstate[0] * _SLOPE[self.cell](h)
        return dz, dz, state, (), (dz @ self.params["weight_hh_l0"],)

    def _lstm(self, z: Array, state: State) -> tuple[State, Any]:
        xp, p = self.xp, self.peephole
        h, c_old = state
        *zi, zf, zg, zo = xp.split(z + self._product(h), 3 if self.coupled else 4, axis=1)
        f = _sigmoid(xp, zf + p["f"] * c_old if p else zf)
        i = 1 - f if self.coupled else _sigmoid(xp, zi[0] + p["i"] * c_old if p else zi[0])
        g = xp.tanh(zg)
        c = f * c_old + i * g
        o = _sigmoid(xp, zo + p["o"] * c if p else zo)
        tanh_c = xp.tanh(c)
        return (o * tanh_c, c), (i, f, g, o, c, tanh_c)

    def _lstm_back(self, state: State, saved: Any, dstate: State) -> tuple[Any, ...]:
        xp, p = self.xp, self.peephole
        h_old, c_old = state
        i, f, g, o, c, tanh_c = saved
        dh, dc = dstate
        dzo = dh * tanh_c * o * (1 - o)
        dc = dc + dh * o * (1 - tanh_c * tanh_c) + (p["o"] * dzo if p else 0)
        dzg = dc * i * (1 - g * g)
        if self.coupled:
            parts = [dc * (c_old - g) * f * (1 - f), dzg, dzo]
            seen = {"f": (parts[0], c_old), "o": (dzo, c)}
        else:
            parts = [dc * g * i * (1 - i), dc * c_old * f * (1 - f), dzg, dzo]
            seen = {"i": (parts[0], c_old), "f": (parts[1], c_old), "o": (dzo, c)}
        dc_old = dc * f
        if p:
            dc_old = dc_old + sum(p[k] * dz for k, (dz, _) in seen.items() if k != "o")
        dz = xp.concatenate(parts, axis=1)
        peepholes = tuple((dz_k * cell).sum(axis=0) for dz_k, cell in seen.values()) if p else ()
        return dz, dz, (h_old,), peepholes, (dz @ self.params["weight_hh_l0"], dc_old)

    def _gru(self, z: Array, state: State) -> tuple[State, Any]:
        xp = self.xp
        (h,) = state
        H = h.shape[1]
        weights, bias = self.params["weight_hh_l0"], self.params["bias_hh_l0"]
        if self.cell == "gru_reset_after":
            product = self._product(h)
            r, update = xp.split(_sigmoid(xp, z[:, : 2 * H] + product[:, : 2 * H]), 2, axis=1)
            inner = product[:, 2 * H :]
            n = xp.tanh(z[:, 2 * H :] + r * inner)
        else:
            gates = _sigmoid(xp, z[:, : 2 * H] + h @ weights[: 2 * H].T + bias[: 2 * H])
            r, update = xp.split(gates, 2, axis=1)
            inner = r * h
            n = xp.tanh(z[:, 2 * H :] + inner @ weights[2 * H :].T + bias[2 * H :])
        return (update * h + (1 - update) * n,), (r, update, n, inner)

    def _gru_back(self, state: State, saved: Any, dstate: State) -> tuple[Any, ...]:
        xp, weights = self.xp, self.params["weight_hh_l0"]
        (h,), (dh,) = state, dstate
        r, update, n, inner = saved
        H = h.shape[1]
        dzz = dh * (h - n) * update * (1 - update)
        dzn = dh * (1 - update) * (1 - n * n)
        if self.cell == "gru_reset_after":
            dz = xp.concatenate([dzn * inner * r * (1 - r), dzz, dzn], axis=1)
            dzh = xp.concatenate([dz[:, : 2 * H], dzn * r], axis=1)
            return dz, dzh, (h,), (), (dh * update + dzh @ weights,)
        reset = dzn @ weights[2 * H :]
        dz = xp.concatenate([reset * h * r * (1 - r), dzz, dzn], axis=1)
        dh_old = dh * update + reset * r + dz[:, : 2 * H] @ weights[: 2 * H]
        return dz, dz, (h, inner), (), (dh_old,)
