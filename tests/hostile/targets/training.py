"""Optimizers, clipping, truncated BPTT, gradient flow, the training loop."""

from __future__ import annotations

import itertools

import numpy as np

from fastrnn import nn
from tests.hostile.targets.common import T, gradients, inputs, layer_of, numbers, target


@target("rate=option momentum=option weight_decay=option betas=option epsilon=option most=option")
def optimizers(s):
    def run(rate, momentum, weight_decay, betas, epsilon, most):
        parts = [nn.Linear(2, 3, dtype=s.dtype, seed=1) for _ in range(2)]
        chosen = [
            nn.SGD(parts[0], rate, momentum=momentum, weight_decay=weight_decay),
            nn.Adam(parts[1], rate, betas=betas, epsilon=epsilon, weight_decay=weight_decay),
        ]
        for part, optimizer in zip(parts, chosen, strict=True):
            y, tape = part.forward(numbers(4, 2, dtype=s.dtype))
            grads = part.backward(tape, y)
            nn.clip_grad_norm(grads, most)
            optimizer.step(grads)
        return [part.flat_params for part in parts]

    given = {"rate": 0.1, "momentum": 0.9, "weight_decay": 0.01, "betas": (0.9, 0.99), "epsilon": 1e-8, "most": 1.0}
    return given, run


# The words of ``type``, which is a function too, are its own.
@target(
    "x=floats window=option state=states lengths=lengths loss=option layer=option returned=option",
    also="type dy",
    patient=True,
)
def truncated(s):
    s = s._replace(batch_first=False)

    def run(layer, loss, returned, **arguments):
        loss = loss if returned is None else lambda y, steps: returned
        pieces = nn.truncated_bptt(layer, loss=loss, **arguments)
        return [(piece.grads.flat, piece.state) for piece in pieces]

    given = inputs(s, both=False)
    del given["resets"]
    given |= {"window": 3, "loss": lambda y, steps: (0.0, y), "returned": None}
    given |= {"layer": layer_of(s, bidirectional=False)}
    return given, run


@target("x=floats dy=floats dstate=states state=states lengths=lengths layer=option", patient=True)
def gradient_flow(s):
    def run(**arguments):
        found = nn.gradient_flow(**arguments)
        return [*found.states.values(), found.terms]

    given = inputs(s, both=False)
    del given["resets"]
    return given | gradients(s, both=False) | {"layer": layer_of(s, bidirectional=False)}, run


@target("x=floats state=states probes=option full=option seed=option layer=option", patient=True)
def jacobian_flow(s):
    s = s._replace(unbatched=True)

    def run(probes, **arguments):
        if type(probes) is int and probes > 1000:
            probes = 1000  # as many as memory holds are no error
        found = nn.jacobian_flow(probes=probes, **arguments)
        return () if arguments["seed"] is None else (found.log10_norms, found.decades_per_step)

    given = inputs(s, both=False)
    return {"x": given["x"], "state": given["state"], "probes": 2, "full": False} | {
        "seed": 0,
        "layer": layer_of(s, bidirectional=False),
    }, run


@target("T=option window=option lengths=lengths")
def windows(s):
    def run(**arguments):
        """The first few: there may be as many as T says."""
        found = itertools.islice(nn.windows(**arguments), 10)
        return [([steps.start, steps.stop], inside) for steps, inside in found]

    return {"T": T, "window": 3, "lengths": np.array([2, 0, T])}, run


@target("parts=option step=option steps=option keep_every=option loss=option")
def fit(s):
    part = nn.Linear(2, 3, dtype=s.dtype, seed=1)

    def run(parts, step, steps, keep_every, loss):
        if type(steps) is int and steps > 100:
            steps = 100  # as many as were asked for are no error
        try:
            return nn.fit(parts, (lambda k: loss) if step is None else step, steps, keep_every=keep_every)
        except nn.Diverged as error:
            return error.step, error.loss

    return {"parts": part, "step": None, "steps": 3, "keep_every": 1, "loss": 0.5}, run


@target("parts=option optimized=option flat=floats grads=option most=option", patient=True)
def flat_gradients(s):
    def run(parts, optimized, flat, grads, most):
        part = nn.Linear(2, 3, dtype=s.dtype, seed=1)
        given = [flat] if grads is None else grads
        norm = nn.clip_grad_norm(given, most)
        for chosen in (nn.SGD, nn.Adam):
            chosen([part] if optimized is None else optimized, 0.1).step(given)
        nn.Optimizer(part if parts is None else parts, 0.1)
        return norm, part.flat_params

    given = {"parts": None, "optimized": None, "flat": numbers(9, dtype=s.dtype), "grads": None, "most": np.inf}
    return given, run
