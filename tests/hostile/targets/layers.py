"""Layers, their options and methods, streams, threads."""

from __future__ import annotations

import numpy as np

import fastrnn
from tests.cases import LAYERS
from tests.hostile.targets.common import ROWS, B, H, I, T, fresh, gradients, inputs, layer_of, numbers, parts, target

_CALL = "x=floats state=states lengths=lengths resets=flags"


@target(_CALL + " return_sequences=option")
def layer_call(s):
    return inputs(s) | {"return_sequences": True}, layer_of(s)


@target(_CALL + " return_sequences=option")
def frozen_layer_call(s):
    return inputs(s) | {"return_sequences": False}, layer_of(s, True)


@target(_CALL + " seed=option recompute=option dy=floats dstate=states input_grad=option keep_tape=option")
def layer_training(s):
    layer = layer_of(s)

    def run(dy, dstate, input_grad, keep_tape, **inputs):
        y, state, tape = layer.forward(**inputs)
        grads = layer.backward(tape, dy, dstate, input_grad=input_grad, keep_tape=keep_tape)
        return y, state, grads.x, grads.state, grads.flat

    return inputs(s) | {"seed": 3, "recompute": 0} | gradients(s) | {"input_grad": True, "keep_tape": False}, run


@target("batch_size=option state=states weights=option")
def stream(s):
    layer = layer_of(s, bidirectional=False)
    state = parts(s, s.layers, B, H)

    def run(**arguments):
        made = layer.stream(**arguments)
        return made.state

    return {"batch_size": B, "state": state, "weights": None}, run


@target("x_t=floats out=floats state=states rows=integers", accepted=ROWS)
def stream_steps(s):
    layer = layer_of(s, bidirectional=False)

    def run(x_t, out, state, rows):
        made = layer.stream(B)
        made(x_t)
        made.state = state
        made(x_t, out=out)
        made.reset(rows)
        return made(x_t), made.state

    given = {"x_t": numbers(B, I, dtype=s.dtype), "out": np.zeros((B, H), s.dtype), "state": parts(s, s.layers, B, H)}
    return given | {"rows": np.array([2, 0])}, run


# Any float precision, and whatever has the protocol of arrays.
@target("mapping=floats other=floats", accepted={"floats": "other_byte_order other_float pretender no_array"})
def load_params(s):
    layer = fresh(s)
    names = list(layer.params)
    arrays = {name: numbers(*layer.params[name].shape, dtype=s.dtype) for name in names}

    def run(mapping, other):
        layer.load_params(arrays | {names[0]: mapping, names[-1]: other})
        return layer.flat_params.copy()

    return {"mapping": arrays[names[0]], "other": arrays[names[-1]]}, run


_SIZES = "input_size=option hidden_size=option num_layers=option"


@target(
    _SIZES
    + " bias=option batch_first=option bidirectional=option dropout=option dtype=option device=option seed=option"
)
def layer_options(s):
    kind, options = LAYERS[s.cell]
    given = {"input_size": I, "hidden_size": H, "num_layers": 1, "bias": True, "batch_first": False}
    given |= {"bidirectional": False, "dropout": 0.5, "dtype": s.dtype, "device": "cpu", "seed": 1}

    def run(**arguments):
        if any(type(n) is int and n > 1 << 12 for n in arguments.values()):
            return ()  # a layer as large as memory is no error
        layer = getattr(fastrnn, kind)(**options, **arguments)
        return () if arguments["seed"] is None else layer.flat_params

    return given, run


@target("nonlinearity=option peephole=option coupled=option reset_after=option weights=option precision=option")
def cell_options(s):
    given = {"nonlinearity": "relu", "peephole": True, "coupled": False, "reset_after": True, "weights": None}

    def run(nonlinearity, peephole, coupled, reset_after, weights, precision):
        rnn = fastrnn.RNN(2, 3, nonlinearity=nonlinearity, seed=0)
        rnn.precision = precision
        lstm = fastrnn.LSTM(2, 3, peephole=peephole, coupled=coupled, seed=0)
        gru = fastrnn.GRU(2, 3, reset_after=reset_after, seed=0).freeze(weights=weights)
        return rnn.flat_params, lstm.flat_params, gru.flat_params

    return given | {"precision": "exact"}, run


@target("n=option T=option B=option training=option layer=option")
def threads_and_explain(s):
    def run(n, T, B, training, layer):
        before = fastrnn.get_num_threads()
        try:
            if type(n) is not int or n < 64:
                fastrnn.set_num_threads(n)
        finally:
            fastrnn.set_num_threads(before)
        return fastrnn.explain(layer, T, B, training=training).parts[0].kernel

    return {"n": 2, "T": T, "B": B, "training": False, "layer": layer_of(s)}, run


@target("dy=floats dstate=states out=gradients tape=option input_grad=option")
def layer_accumulation(s):
    layer = layer_of(s)
    x = inputs(s)["x"]
    _, _, tape = layer.forward(x)
    given = gradients(s)
    given |= {"out": layer.backward(tape, given["dy"], keep_tape=True), "tape": tape, "input_grad": True}

    def run(tape, **arguments):
        # A tape that an earlier call has used up would only be refused for that.
        kept = layer.forward(x)[2] if isinstance(tape, fastrnn.Tape) else tape
        grads = layer.backward(kept, **arguments)
        return grads.x, grads.state, grads.flat

    return given, run


@target("backward=option weights=option device=option frozen=option layer=option batch_size=option mapping=option")
def layer_methods(s):
    def run(backward, weights, device, frozen, layer, batch_size, mapping):
        made = fresh(s)
        made.to(device)
        made.freeze(weights=frozen)
        made.packed_weights(backward, weights)
        found = fastrnn.Stream(made if layer is None else layer, batch_size).state
        made.unfreeze().load_params(made.params if mapping is None else mapping)
        return found

    given = {"backward": True, "weights": None, "device": "cpu", "frozen": None, "layer": None, "batch_size": B}
    return given | {"mapping": None}, run
