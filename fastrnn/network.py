"""From one layer in one direction to a network: stacking, directions, dropout, layouts; forward and backward.

Inside, everything is time-major: (T, B, ·) views of whatever layout the caller uses.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from fastrnn import checks
from fastrnn.backend import MOST_LAYERS, Backward, Dropout, Forward, LayeredBackend, load
from fastrnn.checks import State
from fastrnn.dropout import fresh_seed
from fastrnn.places import Place
from fastrnn.recompute import kernels
from fastrnn.sequences import Schedule
from fastrnn.tape import Gradients, LayerRecord, Record, Tape, tape_of

if TYPE_CHECKING:
    from fastrnn.recurrent import RecurrentLayer

__all__ = ["backward", "infer", "train"]

# A dense schedule of up to this many steps and rows is kept: making one costs more than a small call.
_KEPT_SCHEDULE = 1024


_STATE_LETTERS = {
    (False, False): "(num_layers, B, H)",
    (False, True): "(num_layers, H)",
    (True, False): "(num_layers*2, B, H)",
    (True, True): "(num_layers*2, H)",
}


# The checked arguments of a forward call: x (T, B, I), states (L*D, B, H), a schedule a direction, resets (T, B), and
# whether x came unbatched. A plain tuple: as a class with names it takes 0.2 us of a call.
Call = tuple[
    NDArray[Any], tuple[NDArray[Any], ...] | None, tuple[Schedule, ...], NDArray[np.bool_] | None, bool
]  # fmt: skip


def _both(schedule: Schedule) -> tuple[Schedule, Schedule]:
    return schedule, schedule.reversed()


@functools.lru_cache(maxsize=32)
def _dense_schedules(T: int, B: int) -> tuple[Schedule, Schedule]:
    return _both(Schedule(T, B))


def _schedules(T: int, B: int, lengths: NDArray[np.int64] | None) -> tuple[Schedule, Schedule]:
    if lengths is None and T + B <= _KEPT_SCHEDULE:
        return _dense_schedules(T, B)
    return _both(Schedule(T, B, lengths))


def check_call(layer: RecurrentLayer, x: Any, state: Any, lengths: Any, resets: Any) -> Call:
    """All checks of the arguments that inference and training share."""
    x, unbatched = checks.sequence(x, layer.kind, layer.input_size, layer.batch_first)
    T, B, _ = x.shape
    initial = None
    if state is not None:
        initial = _state_argument(layer, "state", state, B, unbatched)
    if lengths is not None:
        lengths = checks.lengths(lengths, T, B, unbatched)
    if resets is not None:
        resets = checks.resets(resets, T, B, unbatched, layer.kind.place)
    return x, initial, _schedules(T, B, lengths), resets, unbatched  # type: ignore[return-value]


def _state_argument(
    layer: RecurrentLayer, name: str, value: Any, B: int, unbatched: bool, holes: bool = False
) -> tuple[NDArray[Any] | None, ...]:
    """A state of the public form as (L*D, B, H) arrays."""
    rows, H = layer.num_layers * layer.num_directions, layer.hidden_size
    shape = (rows, H) if unbatched else (rows, B, H)
    what = _STATE_LETTERS[layer.bidirectional, unbatched]
    parts = checks.states(name, value, layer.kind, layer.cell.states, shape, what, holes)
    if unbatched:
        parts = tuple(None if part is None else part[:, None] for part in parts)
    return parts


def _public_state(parts: tuple[NDArray[Any], ...], unbatched: bool) -> State:
    """States as the caller sees them: h, or (h, c)."""
    if unbatched:
        parts = tuple([part[:, 0] for part in parts])
    return parts[0] if len(parts) == 1 else parts


def _public_sequence(values: NDArray[Any], unbatched: bool, batch_first: bool) -> NDArray[Any]:
    """(T, B, ·) in the caller's layout, a view. Its inverse is ``_time_major``."""
    if unbatched:
        return values[:, 0]
    return values.transpose(1, 0, 2) if batch_first else values


def _time_major(values: NDArray[Any], unbatched: bool, batch_first: bool) -> NDArray[Any]:
    if unbatched:
        return values[:, None]
    return values.transpose(1, 0, 2) if batch_first else values


def _empty_sequence(place: Place, T: int, B: int, width: int, dtype: np.dtype[Any], batch_first: bool) -> NDArray[Any]:
    """A (T, B, width) view of new memory that is contiguous in the caller's layout."""
    new: NDArray[Any] = place.arrays.empty((B, T, width) if batch_first else (T, B, width), dtype)
    return new.transpose(1, 0, 2) if batch_first else new


def _of(parts: tuple[Any, ...], index: int) -> tuple[Any, ...]:
    """Layer and direction ``index`` of states whose entries may be None."""
    return tuple([None if part is None else part[index] for part in parts])


def infer(
    layer: RecurrentLayer, x: Any, state: Any, lengths: Any, resets: Any, return_sequences: Any
) -> tuple[NDArray[Any], State]:
    """Forward that keeps nothing. See ``RecurrentLayer.__call__``."""
    return_sequences = checks.flag("return_sequences", return_sequences)
    call = check_call(layer, x, state, lengths, resets)
    unbatched = call[-1]
    packed = layer.packed_weights(False)
    y, finals, _ = _forward(layer, call, packed, layer.batch_first, return_sequences, None)
    if y is None:
        # Each direction's last output is the last layer's final h.
        last = layer.kind.place.arrays.concatenate(finals[0][-layer.num_directions :], axis=-1)
        return (last[0] if unbatched else last), _public_state(finals, unbatched)
    return _public_sequence(y, unbatched, layer.batch_first), _public_state(finals, unbatched)


def train(
    layer: RecurrentLayer, x: Any, state: Any, lengths: Any, resets: Any, seed: Any, recompute: Any
) -> tuple[NDArray[Any], State, Tape]:
    """Forward that keeps a tape. See ``RecurrentLayer.forward``."""
    seed = checks.seed(seed)
    recompute = checks.integer("recompute", recompute, 0)
    call = check_call(layer, x, state, lengths, resets)
    batch_first, dropout = layer.batch_first, layer.dropout
    masked = dropout > 0 and layer.num_layers > 1
    seed = (fresh_seed() if seed is None else seed) if masked else None
    packed = layer.packed_weights(True)
    y, finals, layers = _forward(layer, call, packed, batch_first, True, seed, dropout, True, recompute)
    _, _, schedules, resets, unbatched = call
    place = layer.kind.place
    record = Record(layers, packed, schedules, resets, unbatched, batch_first, dropout, recompute, place)
    assert y is not None
    return (
        _public_sequence(y, unbatched, batch_first),
        _public_state(finals, unbatched),
        Tape(layer, record, seed),
    )


def _forward(
    layer: RecurrentLayer,
    call: Call,
    packed: tuple[Any, ...],
    batch_first: bool,
    return_sequences: bool,
    seed: int | None,
    dropout: float = 0.0,
    keep: bool = False,
    recompute: int = 0,
) -> tuple[NDArray[Any] | None, tuple[NDArray[Any], ...], tuple[LayerRecord, ...]]:
    """Run the stack: y (T, B, D*H) or None, the final states (L*D, B, H), and the layers' records if keep."""
    cell, D, H, dtype = layer.cell, layer.num_directions, layer.hidden_size, layer.dtype
    x, initial, schedules, resets, unbatched = call
    T, B, _ = x.shape
    place = layer.kind.place
    forward = kernels(place, recompute).forward
    shape, top = (layer.num_layers * D, B, H), layer.num_layers - 1
    finals = tuple([place.arrays.empty(shape, dtype) for _ in cell.states])
    together = top and D == 1 and place.side_by_side and not recompute

    def directions(k: int) -> tuple[NDArray[Any] | None, list[Forward]]:
        """The output of layer k, and what the backend takes."""
        y = None
        if return_sequences or k < top:
            y = _empty_sequence(place, T, B, D * H, dtype, batch_first and k == top and not unbatched)
        found = []
        for d in range(D):
            index = k * D + d
            y_d = y if D == 1 or y is None else y[:, :, d * H : (d + 1) * H]
            state = None if initial is None else _of(initial, index)
            final = tuple([part[index] for part in finals])
            found.append((packed[index], state, schedules[d], y_d, final))
        return y, found

    records = list[LayerRecord]()
    k = 0
    while k <= top:
        count, wave = _together(layer, packed[k], schedules[0], top + 1 - k, False) if together else (1, None)
        if wave is None:
            y, ways = directions(k)
            saved = forward(cell, x, resets, ways, keep)
            if keep:
                records.append(LayerRecord(x, tuple(saved)))
        else:
            # So even without a tape the outputs of all these layers exist at a time.
            outputs, layers = zip(*map(directions, range(k, k + count)), strict=True)
            masks = None if seed is None else (dropout, seed, k)
            backend = cast(LayeredBackend, load(place.device))
            saved = backend.forward_layers(cell, x, resets, [way for (way,) in layers], keep, wave, masks)
            if keep:
                records += [LayerRecord(*pair) for pair in zip((x, *outputs[:-1]), zip(saved), strict=True)]
            y = outputs[-1]
        k += count
        if y is not None and k <= top:
            if seed is not None:
                place.apply_mask(y, dropout, seed, k - 1)
            x = y
    return y, finals, tuple(records)


def _together(layer: RecurrentLayer, packed: Any, schedule: Schedule, layers: int, backward: bool) -> tuple[int, Any]:
    """How many of the next layers are walked at the same time, and how; (1, None): one after the other."""
    count, backend = min(layers, MOST_LAYERS), cast(LayeredBackend, load(layer.kind.place.device))
    wave = backend.wavefront(layer.cell, packed, schedule, count, backward) if count > 1 else None
    return (1, None) if wave is None else (count, wave)


def backward(
    layer: RecurrentLayer, tape: Any, dy: Any, dstate: Any, input_grad: Any, keep_tape: Any, out: Any
) -> Gradients:
    """See ``RecurrentLayer.backward``."""
    tape = tape_of(tape)
    input_grad = checks.flag("input_grad", input_grad)
    keep_tape = checks.flag("keep_tape", keep_tape)
    record = tape.peek(layer)
    if record.place != layer.kind.place:
        raise ValueError("tape must be of a forward() on the device the layer is on, got one from before layer.to()")
    dy, dfinals = _incoming(layer, record, dy, dstate)
    grads, dx, dinitials = _outgoing(layer, record, input_grad, out)
    if not keep_tape:
        record = tape.take()
    # Kernels write only to what they can read, which the caller's array need not be.
    target = dx if dx is None or out is None else checks.kernel_ready(dx, layer.kind)
    _backward(layer, record, tape.seed, dy, dfinals, grads, target, dinitials, keep_tape, accumulate=out is not None)
    if target is not dx:
        cast(Any, dx)[...] = target
    if out is not None:
        for total, part in zip(_as_parts(out.state), dinitials, strict=True):
            total += part[:, 0] if record.unbatched else part
    return grads


def _as_parts(state: State) -> tuple[NDArray[Any], ...]:
    return state if isinstance(state, tuple) else (state,)


def _incoming(
    layer: RecurrentLayer, record: Record, dy: Any, dstate: Any
) -> tuple[NDArray[Any] | None, tuple[NDArray[Any] | None, ...] | None]:
    """The checked gradients that come in: dy (T, B, D*H) and those of the final states."""
    T, B, _ = record.layers[0].x.shape
    dfinals = None
    if dstate is not None:
        dfinals = _state_argument(layer, "dstate", dstate, B, record.unbatched, holes=True)
        if all(part is None for part in dfinals):
            dfinals = None
    if dy is None and dfinals is None:
        raise ValueError("dy and dstate are both None: at least one gradient must come in")
    if dy is not None:
        width = layer.num_directions * layer.hidden_size
        shape, what = _sequence_shape(record, T, B, width, "D*H")
        dy = checks.kernel_ready(checks.shaped("dy", dy, layer.kind, shape, what), layer.kind)
        dy = _time_major(dy, record.unbatched, record.batch_first)
    return dy, dfinals


def _sequence_shape(record: Record, T: int, B: int, width: int, letters: str) -> tuple[tuple[int, ...], str]:
    """The caller's shape of a sequence, and the same in letters."""
    if record.unbatched:
        return (T, width), f"(T, {letters})"
    return ((B, T, width), f"(B, T, {letters})") if record.batch_first else ((T, B, width), f"(T, B, {letters})")


def _outgoing(
    layer: RecurrentLayer, record: Record, input_grad: bool, out: Any
) -> tuple[Gradients, NDArray[Any] | None, tuple[NDArray[Any], ...]]:
    """Where gradients go: the result (``out``, checked, or a new one), dx (T, B, I) of it, and (L*D, B, H) arrays."""
    T, B, I = record.layers[0].x.shape
    place, dtype, unbatched = layer.kind.place, layer.dtype, record.unbatched
    gradient_dtype = place.gradient_dtype(dtype)
    shape = (layer.num_layers * layer.num_directions, B, layer.hidden_size)
    dinitials = tuple([place.arrays.empty(shape, dtype) for _ in layer.cell.states])
    if out is None:
        dx = _empty_sequence(place, T, B, I, dtype, record.batch_first and not unbatched) if input_grad else None
        public_dx = None if dx is None else _public_sequence(dx, unbatched, record.batch_first)
        flat = place.arrays.empty(layer.layout.size, gradient_dtype)
        return Gradients(layer.layout, flat, public_dx, _public_state(dinitials, unbatched)), dx, dinitials
    if not isinstance(out, Gradients):
        raise TypeError(f"out must be the Gradients of an earlier backward, got {type(out).__name__}")
    if out.parameters.layout != layer.layout or out.flat.dtype != gradient_dtype:
        raise ValueError("out must hold the gradients of this layer's parameters, got those of another layer")
    what = "(num_layers*D, H)" if unbatched else "(num_layers*D, B, H)"
    names = layer.cell.states
    for part in (out.state,) if len(names) == 1 else checks.entries("out.state", out.state, names):
        checks.output("out.state", part, layer.kind, (shape[0], shape[2]) if unbatched else shape, what)
    if not input_grad:
        return out, None, dinitials
    if out.x is None:
        raise ValueError("out.x must be an array with input_grad=True, got None: pass input_grad=False")
    public, what = _sequence_shape(record, T, B, I, "I")
    checks.output("out.x", out.x, layer.kind, public, what)
    return out, _time_major(out.x, unbatched, record.batch_first), dinitials


def _backward(
    layer: RecurrentLayer,
    record: Record,
    seed: int | None,
    dy: NDArray[Any] | None,
    dfinals: tuple[NDArray[Any] | None, ...] | None,
    grads: Gradients,
    dx: NDArray[Any] | None,
    dinitials: tuple[NDArray[Any], ...],
    keep: bool,
    accumulate: bool,
) -> None:
    """Run the stack back: fill or add to dx and the gradients of parameters, fill dinitials."""
    cell, D, H = layer.cell, layer.num_directions, layer.hidden_size
    place = layer.kind.place
    kernel = kernels(place, record.recompute).backward
    together = layer.num_layers > 1 and D == 1 and place.side_by_side and not record.recompute

    def directions(k: int, dy: Any) -> list[Backward]:
        found: list[Backward] = []
        for d in range(D):
            index = k * D + d
            dy_d = dy if D == 1 or dy is None else dy[:, :, d * H : (d + 1) * H]
            dfinal = None if dfinals is None else _of(dfinals, index)
            dinitial = tuple([part[index] for part in dinitials])
            weights, saved = grads.parameters.weights[index], record.layers[k].saved[d]
            found.append((record.packed[index], saved, record.schedules[d], dy_d, dfinal, dinitial, weights))
        return found

    schedule, end = record.schedules[0], layer.num_layers
    while end:
        count, wave = _together(layer, record.packed[end - 1], schedule, end, True) if together else (1, None)
        k = end - count
        inputs = [one.x for one in record.layers[k:end]]
        # Of layers that go at the same time all gradients in between exist at a time.
        dys = [*(place.arrays.empty(x.shape, layer.dtype) for x in inputs[1:]), dy]
        below = place.arrays.empty(inputs[0].shape, layer.dtype) if k else dx
        how = not keep, accumulate and k == 0, accumulate
        if wave is None:
            kernel(cell, inputs[0], record.resets, directions(k, dy), below, *how)
        else:
            layers = [directions(k + i, dys[i])[0] for i in range(count)]
            masks: Dropout | None = None if seed is None else (record.dropout, seed, k)
            backend = cast(LayeredBackend, load(place.device))
            backend.backward_layers(cell, inputs, record.resets, layers, below, wave, masks, *how)
        end = k
        if k and below is not None:
            if seed is not None:
                place.apply_mask(below, record.dropout, seed, k - 1)
            dy = below
