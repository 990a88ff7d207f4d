"""From the final state of one recurrent layer to the initial state of another, whatever the two are."""

from __future__ import annotations

from typing import Any, NamedTuple, cast

from numpy.typing import NDArray

from fastrnn import checks
from fastrnn.checks import State
from fastrnn.nn.linear import Linear
from fastrnn.nn.model import Model, ModelGradients
from fastrnn.recurrent import RecurrentLayer, recurrent_layer
from fastrnn.tape import Tape, tape_of

__all__ = ["Bridge", "check_kinds", "fits"]


def fits(encoder: RecurrentLayer, decoder: RecurrentLayer) -> bool:
    """Whether the decoder can start from the encoder's final state as it is."""

    def form(layer: RecurrentLayer) -> tuple[Any, ...]:
        return layer.num_layers, layer.num_directions, layer.hidden_size, layer.cell.states

    return form(encoder) == form(decoder)


def check_kinds(encoder: Any, decoder: Any) -> None:
    """Raise TypeError unless both are layers, ValueError unless of one dtype and device."""
    if recurrent_layer(encoder, "encoder").kind != recurrent_layer(decoder, "decoder").kind:
        ours, theirs = (f"{layer.dtype} on {layer.device!r}" for layer in (decoder, encoder))
        raise ValueError(f"decoder must have the encoder's dtype and device, {theirs}, got {ours}")


class _Record(NamedTuple):
    tapes: dict[str, Tape]
    outputs: tuple[NDArray[Any], ...]  # of tanh, each (L, B, H) of the decoder
    inputs: tuple[NDArray[Any], ...]  # each (L*D, B, H) of the encoder


class Bridge(Model):
    """tanh(W s + b), of one layer and one kind of state at a time.

    The decoder's layers stand on the encoder's, the topmost on the topmost; layers below the encoder's lowest start
    from that one. Where the encoder has two directions, W takes both, side by side. h comes from h, and c from c, or
    from h where the encoder has no c.

    The parts: ``h_l0``, ``h_l1``, …, and ``c_l0``, …, each a ``Linear(D*H_encoder, H_decoder)``.

        state = bridge(final)                   h or (h, c), each (L*D, B, H) of the encoder -> (L, B, H) of the decoder
        state, tape = bridge.forward(final)
        grads = bridge.backward(tape, dstate)   grads.x is shaped as final
    """

    def __init__(self, encoder: RecurrentLayer, decoder: RecurrentLayer, *, seed: int | None = None) -> None:
        check_kinds(encoder, decoder)
        seed = checks.seed(seed)
        self._from, self._to = encoder, decoder
        wide = encoder.num_directions * encoder.hidden_size
        linears: dict[str, Linear] = {}
        for name in decoder.cell.states:
            for k in range(decoder.num_layers):
                own = None if seed is None else seed + len(linears)
                linears[f"{name}_l{k}"] = Linear(
                    wide, decoder.hidden_size, dtype=encoder.dtype, device=encoder.device, seed=own
                )
        super().__init__(**linears)

    def __call__(self, final: State) -> State:
        """The decoder's initial state."""
        return self.forward(final)[0]

    def forward(self, final: State) -> tuple[State, Tape]:
        """The same, and a tape."""
        arrays = self._from.kind.place.arrays
        inputs = self._states("final", final, self._from, None)
        tapes, outputs = {}, []
        with self._from.kind.place.current():
            for p, name in enumerate(self._to.cell.states):
                source = inputs[min(p, len(inputs) - 1)]
                layers = []
                for k in range(self._to.num_layers):
                    x = arrays.concatenate(list(source[self._rows(k)]), axis=-1)
                    y, tapes[f"{name}_l{k}"] = self.parts[f"{name}_l{k}"].forward(x)
                    layers.append(y)
                outputs.append(arrays.tanh(arrays.stack(layers)))
        state = tuple(outputs)
        return (state if len(state) > 1 else state[0]), Tape(cast(Any, self), _Record(tapes, state, inputs), None)

    def backward(self, tape: Tape, dstate: State, *, keep_tape: bool = False) -> ModelGradients:
        """The gradients of the encoder's final state (``grads.x``) and of every parameter."""
        keep_tape = checks.flag("keep_tape", keep_tape)
        record = tape_of(tape).peek(cast(Any, self))
        given = self._states("dstate", dstate, self._to, record.outputs[0].shape[1])
        if not keep_tape:
            record = tape.take()
        arrays, H = self._from.kind.place.arrays, self._from.hidden_size
        grads: dict[str, Any] = {}
        with self._from.kind.place.current():
            back = [arrays.zeros_like(part) for part in record.inputs]
            for p, (name, y) in enumerate(zip(self._to.cell.states, record.outputs, strict=True)):
                d = given[p] * (1 - y * y)
                target = back[min(p, len(back) - 1)]
                for k in range(self._to.num_layers):
                    linear = f"{name}_l{k}"
                    grads[linear] = self.parts[linear].backward(record.tapes[linear], d[k], keep_tape=keep_tape)
                    for direction, rows in enumerate(target[self._rows(k)]):
                        rows += grads[linear].x[:, direction * H : (direction + 1) * H]
        return self.gradients(tuple(back) if len(back) > 1 else back[0], **grads)

    @staticmethod
    def _states(name: str, value: Any, layer: RecurrentLayer, B: int | None) -> tuple[Any, ...]:
        """The parts of a state of a layer, of B rows, or of as many as the first has."""
        if B is None:
            first = value[0] if isinstance(value, (tuple, list)) and value else value
            B = first.shape[1] if getattr(first, "ndim", 0) == 3 else 0
        rows = layer.num_layers * layer.num_directions
        shape = (rows, B, layer.hidden_size)
        return checks.states(name, value, layer.kind, layer.cell.states, shape, "(num_layers*D, B, H)")

    def settings(self) -> dict[str, Any]:
        return {"encoder": self._from, "decoder": self._to}

    def _rows(self, k: int) -> slice:
        """Where, in the encoder's states, both directions of the layer below the decoder's k-th lie."""
        D = self._from.num_directions
        layer = max(0, k + self._from.num_layers - self._to.num_layers)
        return slice(layer * D, (layer + 1) * D)
