"""One layer in one direction: a cell carried over time, and back through it.

Step s is the s-th step that a row takes in its direction. The forward direction reads time t = s; the reverse
direction starts at the row's last valid step and reads t = length - 1 - s. A row takes as many steps as its
length, so at step s only the rows longer than s take part, and the others keep their state.
"""

from __future__ import annotations

import numpy as np


def steps(lengths, reverse):
    """Yield (times, rows) of every step: entry k says that row rows[k] reads time times[k]."""
    for s in range(max(lengths, default=0)):
        rows = np.flatnonzero(lengths > s)
        yield (lengths[rows] - 1 - s if reverse else np.full(len(rows), s)), rows


def scan(cell, w, x, state, lengths, resets, reverse=False):
    """Return y (T, B, H), the final states, and the tape that ``scan_backward`` takes.

    x (T, B, I); state a tuple of (B, H); lengths (B,) integers; resets (T, B) booleans: the state is zeroed
    before the steps that read a True. y is 0 past a row's length. Nothing passed in is written to.
    """
    T, B, _ = x.shape
    state = tuple(s.copy() for s in state)
    y = np.zeros((T, B, state[0].shape[1]), x.dtype)
    tape = []
    for times, rows in steps(lengths, reverse):
        reset = resets[times, rows]
        entering = tuple(np.where(reset[:, None], np.zeros_like(s[rows]), s[rows]) for s in state)
        leaving, saved = cell.forward(w, x[times, rows], entering)
        for s, new in zip(state, leaving, strict=True):
            s[rows] = new
        y[times, rows] = leaving[0]
        tape.append((times, rows, reset, saved))
    return y, state, tape


def scan_backward(cell, w, x, tape, dy, dfinal, dw):
    """Return dx (T, B, I) and the gradients of the initial states; add those of the parameters into dw.

    dy (T, B, H), of which only the valid steps are read; dfinal a tuple of (B, H).
    """
    dx = np.zeros_like(x)
    dstate = tuple(d.copy() for d in dfinal)
    for times, rows, reset, saved in reversed(tape):
        dleaving = [d[rows] for d in dstate]
        dleaving[0] = dleaving[0] + dy[times, rows]
        dx[times, rows], dentering = cell.backward(w, saved, dleaving, dw)
        for d, new in zip(dstate, dentering, strict=True):
            d[rows] = np.where(reset[:, None], np.zeros_like(new), new)
    return dx, dstate
