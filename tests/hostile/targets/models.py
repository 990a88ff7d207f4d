"""Models: their parts, parameters and gradients; what is saved of them."""

from __future__ import annotations

import numpy as np

from fastrnn import nn
from tests.hostile.targets.common import H, I, V, fresh, numbers, target


def _model(s):
    return nn.Model(lstm=fresh(s), output=nn.Linear(H, V, dtype=s.dtype, seed=1))


# Any float precision, and whatever has the protocol of arrays.
_ANY_FLOATS = {"floats": "other_byte_order other_float pretender no_array"}


@target("mapping=option weight=floats bias=floats", also="lstm output", accepted=_ANY_FLOATS)
def model_params(s):
    def run(mapping, weight, bias):
        model = _model(s)
        given = dict(model.params) | {"output.weight": weight, "output.bias": bias}
        model.load_params(given if mapping is None else mapping)
        part = nn.Linear(H, V, dtype=s.dtype, seed=1)
        part.load_params({"weight": weight, "bias": bias} if mapping is None else mapping)
        return [*model.params.values(), part.flat_params]

    return {"mapping": None, "weight": numbers(V, H, dtype=s.dtype), "bias": numbers(V, dtype=s.dtype)}, run


@target("part=option device=option output=option", also="grads")
def model_parts(s):
    def run(part, device, output):
        model = _model(s).to(device)
        grouped = nn.Model(first=model, part=part)
        x = numbers(3, 2, I, dtype=s.dtype)
        y, _, tape = model.lstm.forward(x)
        o, after = model.output.forward(y)
        behind = model.output.backward(after, o)
        grads = model.gradients(lstm=model.lstm.backward(tape, behind.x), output=behind if output is None else output)
        nn.SGD(model, 0.1).step(grads)
        return [*grouped.params.values(), *grads.params.values(), *grads.flats]

    return {"part": nn.Linear(2, 3, dtype=s.dtype, seed=1), "device": "cpu", "output": None}, run


@target("encoder=option decoder=option seed=option")
def bridge_options(s):
    def run(encoder, decoder, seed):
        bridge = nn.Bridge(encoder, decoder, seed=seed)
        settings = bridge.settings()
        assert settings["encoder"] is encoder and settings["decoder"] is decoder
        return () if seed is None else [np.array(p) for p in bridge.params.values()]

    return {"encoder": fresh(s, bidirectional=s.bidirectional), "decoder": fresh(s), "seed": 1}, run
