"""Which rows of a batch are alive at each step, and where in the caller's arrays they lie.

Kernels walk *steps* s = 0, 1, ... in a direction's own order, over *rows* sorted by length, longest first, so the
rows alive at a step are always the first ``active[s]``. All valid (step, row) pairs, step after step, are the
*packed rows*: what the tape stores, and what the products over all steps see. A ragged batch so costs its valid
steps, not T*B.

Row r is the caller's batch entry ``order[r]``. At step s it reads time t = s, or length - 1 - s in the reverse
direction: the reverse direction starts at the row's last valid step.
"""

from __future__ import annotations

import numpy as np

__all__ = ["Schedule"]


class Schedule:
    """Order, lengths and packed offsets of one direction's walk over a (T, B) batch.

    Attributes (all int64, C-contiguous, read-only)
    ----------
    order : (B,)        batch entry of row r; a stable sort, longest first
    lengths : (B,)      valid steps of row r, in row order (descending)
    active : (S + 1,)   rows alive at step s; S is the longest length, active[S] = 0
    offset : (S + 1,)   packed rows before step s; offset[S] is their total
    """

    def __init__(self, T: int, B: int, lengths: np.ndarray | None = None, reverse: bool = False) -> None:
        self.T, self.B, self.reverse = T, B, reverse
        self.ragged = lengths is not None and bool(np.any(np.asarray(lengths) != T))
        if lengths is not None and self.ragged:
            by_batch = np.asarray(lengths, dtype=np.int64)
            self.order = np.argsort(-by_batch, kind="stable").astype(np.int64)
            self.lengths = by_batch[self.order]
        else:
            self.order = np.arange(B, dtype=np.int64)
            self.lengths = np.full(B, T, dtype=np.int64)
        self.steps = int(self.lengths[0]) if B else 0
        finished = np.bincount(self.lengths, minlength=self.steps + 1)[: self.steps + 1]
        self.active = (B - np.cumsum(finished)).astype(np.int64)
        self.offset = np.concatenate(([0], np.cumsum(self.active[:-1]))).astype(np.int64)
        self.total = int(self.offset[-1])
        self.addresses: np.ndarray | None = None  # a backend's own note of where the arrays lie
        for array in (self.order, self.lengths, self.active, self.offset):
            array.flags.writeable = False

    def __getstate__(self) -> dict[str, object]:
        # A copy's arrays lie elsewhere.
        return {**self.__dict__, "addresses": None}

    def reversed(self) -> Schedule:
        """The same batch walked from each row's last valid step to its first."""
        twin = object.__new__(Schedule)
        twin.__dict__.update(self.__dict__, reverse=not self.reverse)
        return twin
