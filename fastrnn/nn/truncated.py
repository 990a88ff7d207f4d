"""Truncated BPTT: long sequences in windows, the state carried on, the gradient stopped between them.

Williams and Peng, "An efficient gradient-based algorithm for on-line training of recurrent network trajectories",
Neural Computation 2, 1990. A state is a plain array, through which no gradient flows by itself; so all there is to
do is to cut.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastrnn import checks
from fastrnn.checks import State
from fastrnn.network import check_call
from fastrnn.recurrent import RecurrentLayer, recurrent_layer
from fastrnn.tape import Gradients

__all__ = ["Window", "truncated_bptt", "windows"]


_MOST_STEPS = 1 << 62  # what is added up here fits NumPy's integers


class Window(NamedTuple):
    """What ``truncated_bptt`` did with one window."""

    steps: slice  # of the whole sequence
    loss: Any
    grads: Gradients  # of this window alone
    state: State  # after it


def windows(T: int, window: int, lengths: Any = None) -> Iterator[tuple[slice, NDArray[np.int64] | None]]:
    """Cut T steps into windows, of which the last may be shorter: slices, and each row's valid steps in them.

        for steps, inside in nn.windows(len(x), 64, lengths):
            y, state, tape = layer.forward(x[steps], state, lengths=inside)

    A row that has ended has length 0 in the windows after, and keeps its state. lengths (B,) integers, or None for
    dense batches; then that is None too. Raises TypeError or ValueError for a window below 1 or other lengths.
    """
    T, window = checks.integer("T", T, 0, _MOST_STEPS), checks.integer("window", window, 1)
    window = min(window, _MOST_STEPS)
    whole = None if lengths is None else checks.lengths(lengths, T, _rows(lengths), False)
    for start in range(0, T, window):
        stop = min(start + window, T)
        yield slice(start, stop), None if whole is None else np.clip(whole - start, 0, stop - start)


def _rows(lengths: Any) -> int:
    """How many lengths there are; 0 of what has none, which is for its check to refuse."""
    try:
        return len(lengths)
    except TypeError:
        return 0


def _pair(found: Any) -> tuple[Any, Any]:
    if not isinstance(found, (tuple, list)) or len(found) != 2:
        raise TypeError(f"loss must return (loss, dy), got {type(found).__name__}")
    return found[0], found[1]


def truncated_bptt(
    layer: RecurrentLayer,
    x: NDArray[Any],
    loss: Callable[[NDArray[Any], slice], tuple[Any, NDArray[Any]]],
    window: int,
    state: State | None = None,
    *,
    lengths: Any = None,
) -> Iterator[Window]:
    """Forward and backward through x, a window at a time; each is run when it is asked for.

    So the parameters may be changed between two windows, which is the usual way::

        for piece in nn.truncated_bptt(layer, x, loss, window=64):
            optimizer.step(piece.grads)

    Else the sum of the windows' gradients is that of the whole sequence but for what flows back through the states
    between them; with ``window >= T`` it is that of the whole sequence.

    Parameters
    ----------
    layer : RNN, LSTM or GRU
        In one direction: a reverse one would begin at each window's end.
    x : (T, B, I), or as the layer takes it
    loss : function of y, the window's outputs, and the slice of steps that they are of
        Returns (loss, dy), as the losses of ``fastrnn.nn`` do.
    window : int >= 1
    state : as the layer takes it
    lengths : (B,) integers, optional

    Yields windows. Raises ValueError for a bidirectional layer, and what the layer raises.
    """
    checks.function("loss", loss)
    if recurrent_layer(layer).bidirectional:
        raise ValueError("truncated BPTT needs a layer in one direction, got a bidirectional one")
    check_call(layer, x, state, lengths, None)  # all of it at once: with no steps no window would be refused
    x = checks.array("x", x, layer.kind)
    axis = 1 if layer.batch_first and x.ndim == 3 else 0
    for steps, inside in windows(x.shape[axis], window, lengths):
        y, state, tape = layer.forward(x[(slice(None),) * axis + (steps,)], state, lengths=inside)
        value, dy = _pair(loss(y, steps))
        yield Window(steps, value, layer.backward(tape, dy), state)
