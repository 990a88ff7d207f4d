"""Training in less memory: keep a state now and then instead of the tape, and compute the tape again, in pieces.

A direction's walk of S steps is cut into segments of K. Forward runs them one after the other as inference does and
keeps the state that enters each. Backward takes the segments from the last to the first, runs each forward once more,
now with a tape, and goes back over it at once. Alive at a time are so S/K states and the tape of K steps, in place of
the tape of S steps: least near K = sqrt(S), at the price of a second forward pass (Chen et al., "Training deep nets
with sublinear memory cost", arXiv:1604.06174, 2016). Both directions of a layer together where the backend walks them
side by side, else one after the other. Only the segment with which the backward pass begins, the last
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
from fastrnn.cell_table import Cell
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
        self._together = place.side_by_side
        self._latest: list[list[Any]] = []

    def _groups(self, directions: Sequence[Any]) -> Sequence[Sequence[Any]]:
        """Directions that go through their segments together, each with a tape; one by one if that gains nothing."""
        return [directions] if self._together else [[direction] for direction in directions]

    def forward(
        self,
        cell: Cell,
        x: NDArray[Any],
        resets: NDArray[np.bool_] | None,
        directions: Sequence[Forward],
        keep: bool,
    ) -> list[Kept]:
        """As ``Backend.forward``."""
        return [kept for group in self._groups(directions) for kept in self._forward(cell, x, resets, group)]

    def _forward(
        self, cell: Cell, x: NDArray[Any], resets: NDArray[np.bool_] | None, group: Sequence[Forward]
    ) -> list[Kept]:
        kept = []
        for _, state, schedule, y, final in group:
            segments = schedule.segments(self.every)
            _set(final, state)
            _clear_padding(y, schedule)
            states = tuple([self.arrays.empty((len(segments), *part.shape), part.dtype) for part in final])
            kept.append(Kept(segments, states, []))
        # The forward direction is in the group with which backward begins a layer.
        begins = not group[0][2].reverse
        if begins:
            for latest in self._latest:  # what the layer below left must go
                latest.clear()
            self._latest = [one.latest for one in kept]
        for k in range(len(kept[0].segments)):
            leaves_tape = begins and k == len(kept[0].segments) - 1
            walks = []
            for one, (packed, _, _, y, final) in zip(kept, group, strict=True):
                for entering, part in zip(one.states, final, strict=True):
                    entering[k] = part
                # A row that has ended is in no further segment: it keeps its final state.
                walks.append((packed, final, one.segments[k], y, final))
            tapes = self.backend.forward(cell, x, resets, walks, leaves_tape)
            if leaves_tape:
                for one, tape in zip(kept, tapes, strict=True):
                    one.latest.append(tape)
        return kept

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
        for group in self._groups(directions):
            self._backward(cell, x, resets, group, dx, accumulate_dx, accumulate)
            accumulate_dx = True

    def _backward(
        self,
        cell: Cell,
        x: NDArray[Any],
        resets: NDArray[np.bool_] | None,
        group: Sequence[Backward],
        dx: NDArray[Any] | None,
        accumulate_dx: bool,
        accumulate: bool,
    ) -> None:
        backend, kept = self.backend, [one[1] for one in group]
        if dx is not None and not accumulate_dx:
            if len(group) > 1:  # which come by a time in different segments
                dx[...] = 0
                accumulate_dx = True
            else:
                _clear_padding(dx, group[0][2])
        sums, unused = [], []
        for packed, _, _, _, dfinal, dinitial, _ in group:
            _set(dinitial, dfinal)
            sums.append(backend.accumulators(packed))
            unused.append(tuple([self.arrays.empty_like(part) for part in dinitial]))
        tapes: Sequence[Any] | None = _taken([one.latest for one in kept])
        for k in reversed(range(len(kept[0].segments))):
            segments = [one.segments[k] for one in kept]
            if tapes is None:
                again = []
                for (packed, saved, *_), segment, final in zip(group, segments, unused, strict=True):
                    again.append((packed, tuple([part[k] for part in saved.states]), segment, None, final))
                tapes = backend.forward(cell, x, resets, again, True)
            walks: list[Backward] = []
            for (packed, _, _, dy, _, dinitial, _), tape, segment, total in zip(
                group, tapes, segments, sums, strict=True
            ):
                incoming = dinitial  # of a row that goes on after this segment; of others that of their final state
                walks.append((packed, tape, segment, dy, incoming, dinitial, total))
            tapes = tape = None  # gone before the next ones are made
            backend.backward(cell, x, resets, walks, dx, accumulate_dx=accumulate_dx)
            del walks
        for (*_, grads), total in zip(group, sums, strict=True):
            assert isinstance(grads, tuple)  # Accumulators are made here
            total.store_in(grads, accumulate)


def kernels(place: Place, recompute: int) -> Backend | Recomputing:
    """What runs a place's layers forward and backward, keeping the state every ``recompute`` steps unless 0."""
    return Recomputing(place, recompute) if recompute else load(place.device)


def _taken(lists: Sequence[list[Any]]) -> list[Any] | None:
    """The tapes that lie there, taken out; None if another thread was faster, or there are none."""
    try:
        return [tapes.pop() for tapes in lists]
    except IndexError:
        return None


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
