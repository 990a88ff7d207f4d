"""Stacked and bidirectional recurrence over parameters named as PyTorch names them."""

from __future__ import annotations

import numpy as np

from tests.reference.cells import CELLS, Weights
from tests.reference.recurrence import scan, scan_backward


class Network:
    """A stack of one cell; how many layers and directions, the names of the parameters tell.

    params maps ``weight_ih_l{k}{_reverse}``, ``weight_hh_…``, ``bias_ih_…``, ``bias_hh_…`` (both or none) and
    ``weight_peephole_…`` to arrays of one dtype. D is the number of directions, L that of layers; every state is
    (L*D, B, H), layer-major then direction, and always in a tuple: (h,) or (h, c).
    """

    def __init__(self, cell, params):
        self.cell = CELLS[cell]
        self.params = params
        self.directions = ("", "_reverse") if "weight_ih_l0_reverse" in params else ("",)
        self.layers = sum(f"weight_ih_l{k}" in params for k in range(len(params)))
        self.hidden_size = params["weight_hh_l0"].shape[1]

    def weights(self, params, suffix):
        """The Weights of one layer and direction; parameters that do not exist are zeros."""
        hh = params[f"weight_hh_{suffix}"]
        no_bias, no_peephole = np.zeros(len(hh), hh.dtype), np.zeros(0, hh.dtype)
        return Weights(
            ih=params[f"weight_ih_{suffix}"],
            hh=hh,
            b_ih=params.get(f"bias_ih_{suffix}", no_bias),
            b_hh=params.get(f"bias_hh_{suffix}", no_bias),
            peephole=params.get(f"weight_peephole_{suffix}", no_peephole),
        )

    def forward(self, x, state=None, lengths=None, resets=None, masks=None):
        """Return y (T, B, D*H), the final states, and a tape.

        x (T, B, I); lengths (B,) (default: all T); resets (T, B) (default: none); masks: for each layer but
        the last what its output (T, B, D*H) is multiplied with before the next layer sees it (default: 1).
        """
        T, B, _ = x.shape
        D = len(self.directions)
        zeros = np.zeros((self.layers * D, B, self.hidden_size), x.dtype)
        state = (zeros,) * self.cell.states if state is None else state
        lengths = np.full(B, T) if lengths is None else np.asarray(lengths)
        resets = np.zeros((T, B), bool) if resets is None else resets
        masks = [1] * (self.layers - 1) if masks is None else masks
        final = tuple(np.empty_like(zeros) for _ in state)
        tape, y = [], x
        for layer in range(self.layers):
            inputs = y if layer == 0 else y * masks[layer - 1]
            outputs, tapes = [], []
            for d, direction in enumerate(self.directions):
                w = self.weights(self.params, f"l{layer}{direction}")
                initial = tuple(s[layer * D + d] for s in state)
                out, last, steps = scan(self.cell, w, inputs, initial, lengths, resets, reverse=d == 1)
                for f, s in zip(final, last, strict=True):
                    f[layer * D + d] = s
                outputs.append(out)
                tapes.append(steps)
            y = np.concatenate(outputs, axis=2)
            tape.append((inputs, tapes))
        return y, final, (tape, masks)

    def backward(self, tape, dy, dfinal):
        """Return the gradients of x, of the initial states (a tuple), and of the parameters (a dict by name).

        dy (T, B, D*H), ignored past a row's length; dfinal a tuple with an array per state.
        """
        layers, masks = tape
        D = len(self.directions)
        dstate = tuple(np.empty_like(d) for d in dfinal)
        dparams = {name: np.zeros_like(p) for name, p in self.params.items()}
        for layer in reversed(range(self.layers)):
            inputs, tapes = layers[layer]
            dinputs = np.zeros_like(inputs)
            for d, direction in enumerate(self.directions):
                suffix = f"l{layer}{direction}"
                H = self.hidden_size
                dx, dinitial = scan_backward(
                    self.cell,
                    self.weights(self.params, suffix),
                    inputs,
                    tapes[d],
                    dy[:, :, d * H : (d + 1) * H],
                    tuple(df[layer * D + d] for df in dfinal),
                    self.weights(dparams, suffix),
                )
                dinputs += dx
                for ds, di in zip(dstate, dinitial, strict=True):
                    ds[layer * D + d] = di
            dy = dinputs * masks[layer - 1] if layer else dinputs
        return dy, dstate, dparams

    def last_output(self, final):
        """What ``return_sequences=False`` returns: each direction's output after its last step, (B, D*H)."""
        return np.concatenate(final[0][-len(self.directions) :], axis=-1)
