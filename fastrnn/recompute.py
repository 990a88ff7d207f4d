"""Training in less memory: keep a state now and then instead of the tape, and compute the tape again, in pieces.

A direction's walk of S steps is cut into segments of K. Forward runs them one after the other as inference does and
keeps the state that enters each. Backward takes the segments from the last to the first, runs each forward once more,
now with a tape, and goes back over it at once. Alive at a time are so S/K states and the tape of K steps, in place of
the tape of S steps: least near K = sqrt(S), at the price of a second forward pass (Chen et al., "Training deep nets
with sublinear memory cost", arXiv:1604.06174, 2016). Only the segment with which the backward pass begins, the last
one of the last layer, leaves its tape already in the first pass: no memory is needed at that time that is not later.

The steps' arithmetic does not depend on where a segment begins, so outputs, states, and the gradients of x and of
the initial state are bitwise those of one piece. The gradients of the parameters are summed in another order. On a GPU
products over fewer rows may be, too, and a state between two segments is rounded to the layer's dtype.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastrnn.backend import Backend, Backward, Forward, load
from fastrnn.cells import Cell
from fastrnn.places import Place
from fastrnn.sequences import Schedule

__all__ = ["Recomputing", "kernels"]


class Kept(NamedTuple):
    """What a direction keeps in place of a tape."""

    segments: tuple[Schedule, ...]
    states: tuple[NDArray[Any], ...]  # one a state of the cell, (segments, B, H): what enters each segment
    latest: list[Any]  # the tape of the last segment, if it is there: for the first backward that takes it out


class Recomputing:
    """A backend's ``forward`` and ``backward`` for one call, keeping the state every ``every`` steps."""

    def __init__(self, place: Place, every: int) -> None:
        self.backend, self.arrays, self.every = load(place.device), place.arrays, every
        self._latest: list[Any] = []

    def forward(
        self,
        cell: Cell,
        x: NDArray[Any],
        resets: NDArray[np.bool_] | None,
        directions: Sequence[Forward],
        keep: bool,
    ) -> list[Kept]:
        """As ``Backend.forward``, one direction after the other: so is only one segment's tape alive at a time."""
        return [self._forward(cell, x, resets, *direction) for direction in directions]

    def _forward(
        self,
        cell: Cell,
        x: NDArray[Any],
        resets: NDArray[np.bool_] | None,
        packed: Any,
        state: tuple[NDArray[Any], ...] | None,
        schedule: Schedule,
        y: NDArray[Any] | None,
        final: tuple[NDArray[Any], ...],
    ) -> Kept:
        segments = schedule.segments(self.every)
        _set(final, state)
        _clear_padding(y, schedule)
        states = tuple([self.arrays.empty((len(segments), *part.shape), part.dtype) for part in final])
        latest: list[Any] = []
        if not schedule.reverse:
            # The forward direction is the one with which backward begins a layer. What the layer below left must go.
            self._latest.clear()
            self._latest = latest
        for k, segment in enumerate(segments):
            leaves_tape = not schedule.reverse and k == len(segments) - 1
            for kept, part in zip(states, final, strict=True):
                kept[k] = part
            # A row that has ended is in no further segment: it keeps its final state.
            latest += self.backend.forward(cell, x, resets, [(packed, final, segment, y, final)], leaves_tape)
        return Kept(segments, states, latest)

    def backward(
        self,
        cell: Cell,
        x: NDArray[Any],
        resets: NDArray[np.bool_] | None,
        directions: Sequence[Backward],
        dx: NDArray[Any] | None,
        consume: bool = True,
        accumulate_dx: bool = False,
        accumulate: bool = True,
    ) -> None:
        """As ``Backend.backward``; consumes nothing that it could not make again."""
        for direction in directions:
            self._backward(cell, x, resets, direction, dx, accumulate_dx, accumulate)
            accumulate_dx = True

    def _backward(
        self,
        cell: Cell,
        x: NDArray[Any],
        resets: NDArray[np.bool_] | None,
        direction: Backward,
        dx: NDArray[Any] | None,
        accumulate_dx: bool,
        accumulate: bool,
    ) -> None:
        packed, saved, schedule, dy, dfinal, dinitial, grads = direction
        assert isinstance(grads, tuple)  # Accumulators are made here
        backend = self.backend
        _set(dinitial, dfinal)
        if not accumulate_dx:
            _clear_padding(dx, schedule)
        sums = backend.accumulators(packed)
        unused = tuple([self.arrays.empty_like(part) for part in dinitial])
        try:
            tape = saved.latest.pop()
        except IndexError:
            tape = None
        for k in reversed(range(len(saved.segments))):
            segment, state = saved.segments[k], tuple([part[k] for part in saved.states])
            if tape is None:
                (tape,) = backend.forward(cell, x, resets, [(packed, state, segment, None, unused)], True)
            incoming = dinitial  # of a row that goes on after this segment; of others still that of their final state
            walk = packed, tape, segment, dy, incoming, dinitial, sums
            tape = None  # gone before the next one is made
            backend.backward(cell, x, resets, [walk], dx, accumulate_dx=accumulate_dx)
            del walk
        sums.store_in(grads, accumulate)


def kernels(place: Place, recompute: int) -> Backend | Recomputing:
    """What runs a place's layers forward and backward, keeping the state every ``recompute`` steps unless 0."""
    return Recomputing(place, recompute) if recompute else load(place.device)


def _set(states: tuple[NDArray[Any], ...], values: Sequence[NDArray[Any] | None] | None) -> None:
    """Copy values into states; zeros where there is none."""
    for index, part in enumerate(states):
        value = None if values is None else values[index]
        part[...] = 0 if value is None else value


def _clear_padding(array: NDArray[Any] | None, schedule: Schedule) -> None:
    """Zeros past every row's length in a (T, B, ·) array: segments do not know where the whole ends."""
    if array is not None and schedule.ragged:
        for b, length in zip(schedule.order.tolist(), schedule.lengths.tolist(), strict=True):
            array[length:, b] = 0
