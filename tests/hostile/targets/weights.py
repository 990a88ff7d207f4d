"""Weights of others, and back; the reverse direction alone."""

from __future__ import annotations

from fastrnn import weights
from tests.hostile.targets.common import H, I, Setting, gradients, inputs, layer_of, numbers, target, weights_of

# Any float precision, and whatever has the protocol of arrays.
_ANY_FLOATS = "other_byte_order other_float pretender no_array integers text"


def torch_names(s: Setting):
    long = {"w_ih": "weight_ih_l0", "w_hh": "weight_hh_l0", "b_ih": "bias_ih_l0", "b_hh": "bias_hh_l0"}
    return {long[name]: array for name, array in weights_of(s).items()}


def of_torch(s: Setting):
    return s._replace(cell={"rnn": "rnn_tanh", "lstm": "lstm", "gru": "gru_reset_after"}[s.cell.partition("_")[0]])


@target(
    "weight_ih_l0=floats weight_hh_l0=floats bias_ih_l0=floats bias_hh_l0=floats",
    also="input_size hidden_size mapping",
    accepted={"floats": _ANY_FLOATS},
)
def weights_from_torch(s):
    return torch_names(of_torch(s)), lambda **arrays: weights.from_torch(arrays).flat_params


@target(
    "kernel=floats recurrent=floats bias=floats",
    also="input_size hidden_size mapping gates arrays",
    accepted={"floats": _ANY_FLOATS + " as_list booleans objects masked"},
)
def weights_from_keras(s):
    given = {"kernel": numbers(I, 4 * H, dtype=s.dtype), "recurrent": numbers(H, 4 * H, dtype=s.dtype)}
    given |= {"bias": numbers(4 * H, dtype=s.dtype)}
    return given, lambda kernel, recurrent, bias: weights.from_keras([kernel, recurrent, bias]).flat_params


@target("source=option layer=option dtype=option bias=option reset_after=option keras=option", also="arrays gates")
def from_and_to_keras(s):
    kernel, recurrent = numbers(I, 3 * H, dtype=s.dtype), numbers(H, 3 * H, dtype=s.dtype)

    def run(source, layer, keras, **options):
        made = weights.from_keras([kernel, recurrent] if source is None else source, **options)
        if keras is not None:  # Keras itself need not be there to refuse what is no layer
            weights.to_keras(keras)
        return made.flat_params, weights.to_keras_weights(made if layer is None else layer)

    given = {"source": None, "layer": None, "dtype": s.dtype, "bias": False, "reset_after": True, "keras": None}
    return given, run


_CALL = "x=floats state=states lengths=lengths resets=flags"


@target(_CALL + " return_sequences=option layer=option")
def reverse_call(s):
    given = inputs(s, both=False) | {"return_sequences": True, "layer": layer_of(s, bidirectional=False)}
    return given, lambda layer, **arguments: weights.Reverse(layer)(**arguments)


@target(_CALL + " dy=floats dstate=states input_grad=option tape=option out=option")
def reverse_training(s):
    reverse = weights.Reverse(layer_of(s, bidirectional=False))

    def run(dy, dstate, input_grad, tape, out, **arguments):
        y, state, own = reverse.forward(**arguments)
        tape = own if tape is None else tape
        grads = reverse.backward(tape, dy, dstate, input_grad=input_grad, out=out)
        return y, state, grads.x, grads.state, grads.flat

    given = inputs(s, both=False) | gradients(s, both=False)
    return given | {"input_grad": True, "tape": None, "out": None}, run
