"""Every public function, with good arguments for it: what each is, and how to call."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

import fastrnn
from fastrnn import cells, nn, weights
from tests.cases import LAYERS
from tests.reference import CELLS

__all__ = ["TARGETS", "Setting", "Target"]

I, H = 3, 5
T, B = 4, 3


class Setting(NamedTuple):
    """What a call is made for."""

    cell: str
    dtype: str
    batch_first: bool
    bidirectional: bool
    unbatched: bool
    layers: int


class Target(NamedTuple):
    """``arguments(setting)``: good ones, by name; ``kinds``: which forms each may take; ``call(setting, arguments)``.

    ``exact``: the same numbers give the same bits, however they lie in memory.
    """

    arguments: Callable[[Setting], dict[str, Any]]
    kinds: dict[str, str]
    call: Callable[[Setting, dict[str, Any]], Any]
    exact: bool = True


TARGETS: dict[str, Target] = {}


def _target(kinds: str, exact: bool = True):
    """Decorates a function of a setting that returns good arguments and the call; kinds: "x=floats lengths=lengths"."""
    by_name = dict(part.split("=") for part in kinds.split())

    def register(function):
        def call(setting, arguments):
            return function(setting)[1](**arguments)

        TARGETS[function.__name__] = Target(lambda setting: function(setting)[0], by_name, call, exact)
        return function

    return register


def numbers(*shape, dtype="float32", seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(dtype)


@functools.lru_cache(maxsize=256)
def _layer(s: Setting, frozen: bool = False, bidirectional: bool | None = None):
    kind, options = LAYERS[s.cell]
    both = s.bidirectional if bidirectional is None else bidirectional
    common = {"dtype": s.dtype, "batch_first": s.batch_first, "bidirectional": both}
    layer = getattr(fastrnn, kind)(I, H, s.layers, seed=1, **options, **common)
    return layer.freeze() if frozen else layer


def _parts(s: Setting, *shape, seed=0):
    """h, or (h, c)."""
    found = tuple(numbers(*shape, dtype=s.dtype, seed=seed + n) for n in range(CELLS[s.cell].states))
    return found if len(found) > 1 else found[0]


def _inputs(s: Setting, both: bool | None = None):
    rows = s.layers * (1 + (s.bidirectional if both is None else both))
    if s.unbatched:
        return {"x": numbers(T, I, dtype=s.dtype), "state": _parts(s, rows, H), "resets": np.arange(T) == 2}
    shape = (B, T, I) if s.batch_first else (T, B, I)
    return {
        "x": numbers(*shape, dtype=s.dtype),
        "state": _parts(s, rows, B, H),
        "lengths": np.array([2, 0, T][:B]),
        "resets": np.arange(T * B).reshape(T, B) % 5 == 3,
    }


def _gradients(s: Setting, both: bool | None = None):
    D = 1 + (s.bidirectional if both is None else both)
    if s.unbatched:
        return {"dy": numbers(T, D * H, dtype=s.dtype, seed=5), "dstate": _parts(s, s.layers * D, H, seed=6)}
    shape = (B, T, D * H) if s.batch_first else (T, B, D * H)
    return {"dy": numbers(*shape, dtype=s.dtype, seed=5), "dstate": _parts(s, s.layers * D, B, H, seed=6)}


_CALL = "x=floats state=states lengths=lengths resets=flags"


@_target(_CALL + " return_sequences=option")
def layer_call(s):
    return _inputs(s) | {"return_sequences": True}, _layer(s)


@_target(_CALL + " return_sequences=option")
def frozen_layer_call(s):
    return _inputs(s) | {"return_sequences": False}, _layer(s, True)


@_target(_CALL + " seed=option recompute=option dy=floats dstate=states input_grad=option keep_tape=option")
def layer_training(s):
    layer = _layer(s)

    def run(dy, dstate, input_grad, keep_tape, **inputs):
        y, state, tape = layer.forward(**inputs)
        grads = layer.backward(tape, dy, dstate, input_grad=input_grad, keep_tape=keep_tape)
        return y, state, grads.x, grads.state, grads.flat

    return _inputs(s) | {"seed": 3, "recompute": 0} | _gradients(s) | {"input_grad": True, "keep_tape": False}, run


@_target("batch_size=option state=states weights=option")
def stream(s):
    layer = _layer(s, bidirectional=False)
    state = _parts(s, s.layers, B, H)

    def run(**arguments):
        made = layer.stream(**arguments)
        return made.state

    return {"batch_size": B, "state": state, "weights": None}, run


@_target("x_t=floats out=floats state=states rows=integers")
def stream_steps(s):
    layer = _layer(s, bidirectional=False)

    def run(x_t, out, state, rows):
        made = layer.stream(B)
        made(x_t)
        made.state = state
        made(x_t, out=out)
        made.reset(rows)
        return made(x_t), made.state

    given = {"x_t": numbers(B, I, dtype=s.dtype), "out": np.zeros((B, H), s.dtype), "state": _parts(s, s.layers, B, H)}
    return given | {"rows": np.array([2, 0])}, run


@_target("mapping=floats other=floats")
def load_params(s):
    layer = _fresh(s)
    names = list(layer.params)
    arrays = {name: numbers(*layer.params[name].shape, dtype=s.dtype) for name in names}

    def run(mapping, other):
        layer.load_params(arrays | {names[0]: mapping, names[-1]: other})
        return layer.flat_params.copy()

    return {"mapping": arrays[names[0]], "other": arrays[names[-1]]}, run


def _fresh(s: Setting):
    kind, options = LAYERS[s.cell]
    return getattr(fastrnn, kind)(I, H, dtype=s.dtype, seed=1, **options)


_SIZES = "input_size=option hidden_size=option num_layers=option"


@_target(
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


@_target("nonlinearity=option peephole=option coupled=option reset_after=option weights=option precision=option")
def cell_options(s):
    given = {"nonlinearity": "relu", "peephole": True, "coupled": False, "reset_after": True, "weights": None}

    def run(nonlinearity, peephole, coupled, reset_after, weights, precision):
        rnn = fastrnn.RNN(2, 3, nonlinearity=nonlinearity, seed=0)
        rnn.precision = precision
        lstm = fastrnn.LSTM(2, 3, peephole=peephole, coupled=coupled, seed=0)
        gru = fastrnn.GRU(2, 3, reset_after=reset_after, seed=0).freeze(weights=weights)
        return rnn.flat_params, lstm.flat_params, gru.flat_params

    return given | {"precision": "exact"}, run


@_target("n=option T=option B=option training=option layer=option")
def threads_and_explain(s):
    def run(n, T, B, training, layer):
        before = fastrnn.get_num_threads()
        try:
            if type(n) is not int or n < 64:
                fastrnn.set_num_threads(n)
        finally:
            fastrnn.set_num_threads(before)
        return fastrnn.explain(layer, T, B, training=training).parts[0].kernel

    return {"n": 2, "T": T, "B": B, "training": False, "layer": _layer(s)}, run


# ---- single steps ----


def _weights(s: Setting):
    cell = CELLS[s.cell]
    rows = len(cell.gates) * H
    found = {"w_ih": numbers(rows, I, dtype=s.dtype), "w_hh": numbers(rows, H, dtype=s.dtype, seed=1)}
    found |= {"b_ih": numbers(rows, dtype=s.dtype, seed=2), "b_hh": numbers(rows, dtype=s.dtype, seed=3)}
    return found


def _step(s: Setting):
    kind, options = LAYERS[s.cell]
    options = dict(options)
    extra = {}
    if options.pop("peephole", False):
        extra["peephole"] = numbers(len(CELLS[s.cell].peepholes) * H, dtype=s.dtype, seed=4)
    shape = () if s.unbatched else (B,)
    given = {"x": numbers(*shape, I, dtype=s.dtype), "state": _parts(s, *shape, H)}
    outputs = tuple(np.zeros((*shape, H), s.dtype) for _ in range(CELLS[s.cell].states))
    given |= {"out": outputs if len(outputs) > 1 else outputs[0]}
    return kind, options, given, _weights(s) | extra


_WEIGHTS = "w_ih=floats w_hh=floats b_ih=floats b_hh=floats peephole=floats"


@_target("x=floats state=states out=states " + _WEIGHTS, exact=False)
def plain_cell(s):
    kind, options, given, arrays = _step(s)

    def run(x, state, out, **arrays):
        return getattr(cells, f"{kind.lower()}_cell")(x, state, **arrays, **options, out=out)

    return given | arrays, run


@_target("x=floats state=states out=states " + _WEIGHTS)
def packed_cell(s):
    kind, options, given, arrays = _step(s)

    def run(x, state, out, **arrays):
        return getattr(cells, f"{kind}Cell")(**arrays, **options)(x, state, out)

    return given | arrays, run


@_target("index=option reverse=option")
def cell_from_layer(s):
    def run(index, reverse):
        step = cells.from_layer(_layer(s), index, reverse=reverse)
        return step(numbers(step.input_size, dtype=s.dtype))

    return {"index": 0, "reverse": False}, run


# ---- fastrnn.nn ----

V = 6
_ENTRIES = "lengths=lengths mask=flags reduction=option batch_first=option gradient=option"


def _entries(s: Setting):
    shape = (B, T) if s.batch_first else (T, B)
    given = {"lengths": np.array([2, 0, T]), "mask": np.arange(T * B).reshape(shape) % 4 > 0}
    return shape, given | {"reduction": "mean", "batch_first": s.batch_first, "gradient": True}


@_target("logits=floats targets=integers ignore_index=option label_smoothing=option " + _ENTRIES, exact=False)
def softmax_cross_entropy(s):
    shape, given = _entries(s)
    given |= {"logits": numbers(*shape, V, dtype=s.dtype), "targets": np.arange(T * B).reshape(shape) % V}
    del given["mask"], given["lengths"]  # entries that do not count may hold any target
    return given | {"ignore_index": None, "label_smoothing": 0.1}, nn.softmax_cross_entropy


@_target("logits=floats targets=floats " + _ENTRIES, exact=False)
def sigmoid_cross_entropy(s):
    shape, given = _entries(s)
    targets = np.random.default_rng(1).random((*shape, V)).astype(s.dtype)
    return given | {"logits": numbers(*shape, V, dtype=s.dtype), "targets": targets}, nn.sigmoid_cross_entropy


@_target("outputs=floats targets=floats " + _ENTRIES, exact=False)
def mean_squared_error(s):
    shape, given = _entries(s)
    arrays = {"outputs": numbers(*shape, V, dtype=s.dtype), "targets": numbers(*shape, V, dtype=s.dtype, seed=1)}
    return given | arrays, nn.mean_squared_error


@_target("z=floats o=floats", exact=False)
def activations(s):
    def run(z, o):
        return nn.sigmoid(z), nn.softmax(o), nn.log_softmax(o)

    return {"z": numbers(T, V, dtype=s.dtype), "o": numbers(T, B, V, dtype=s.dtype)}, run


def _trained(part, x, dy, **options):
    y, tape = part.forward(x)
    grads = part.backward(tape, dy, **options)
    return part(x), y, grads.x, grads.flat


@_target("x=floats dy=floats input_grad=option keep_tape=option", exact=False)
def linear(s):
    part = nn.Linear(I, V, dtype=s.dtype, seed=1)
    given = {"x": numbers(T, B, I, dtype=s.dtype), "dy": numbers(T, B, V, dtype=s.dtype)}
    return given | {"input_grad": True, "keep_tape": False}, functools.partial(_trained, part)


@_target("x=integers dy=floats", exact=False)
def embedding(s):
    part = nn.Embedding(V, I, dtype=s.dtype, seed=1)
    given = {"x": np.arange(T * B).reshape(T, B) % V, "dy": numbers(T, B, I, dtype=s.dtype)}
    return given, functools.partial(_trained, part)


@_target("queries=floats memory=floats lengths=lengths dy=floats", exact=False)
def attention(s):
    part = nn.Attention(I, H, "additive" if s.batch_first else "general", dtype=s.dtype, seed=1)

    def run(queries, memory, lengths, dy):
        y, tape = part.forward(queries, memory, lengths)
        grads = part.backward(tape, dy)
        return y, grads.x, grads.memory, grads.flat

    given = {"queries": numbers(T, B, I, dtype=s.dtype), "memory": numbers(V, B, H, dtype=s.dtype, seed=1)}
    return given | {"lengths": np.array([2, 0, V]), "dy": numbers(T, B, H, dtype=s.dtype, seed=2)}, run


@_target("rate=option momentum=option weight_decay=option betas=option epsilon=option most=option")
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


@_target("x=floats window=option state=states lengths=lengths")
def truncated(s):
    s = s._replace(batch_first=False)
    layer = _layer(s, bidirectional=False)

    def run(**arguments):
        pieces = nn.truncated_bptt(layer, loss=lambda y, steps: (0.0, y), **arguments)
        return [(piece.grads.flat, piece.state) for piece in pieces]

    given = _inputs(s, both=False)
    del given["resets"]
    return given | {"window": 3}, run


@_target("x=floats dy=floats dstate=states state=states lengths=lengths")
def gradient_flow(s):
    layer = _layer(s, bidirectional=False)

    def run(**arguments):
        found = nn.gradient_flow(layer, **arguments)
        return [*found.states.values(), found.terms]

    given = _inputs(s, both=False)
    del given["resets"]
    return given | _gradients(s, both=False), run


@_target("x=floats state=states probes=option full=option seed=option")
def jacobian_flow(s):
    s = s._replace(unbatched=True)
    layer = _layer(s, bidirectional=False)

    def run(probes, **arguments):
        if type(probes) is int and probes > 1000:
            probes = 1000  # as many as memory holds are no error
        return nn.jacobian_flow(layer, probes=probes, **arguments).log10_norms

    given = _inputs(s, both=False)
    return {"x": given["x"], "state": given["state"], "probes": 2, "full": False, "seed": 0}, run


# ---- weights of others ----


@_target("weight_ih_l0=floats weight_hh_l0=floats bias_ih_l0=floats bias_hh_l0=floats")
def weights_from_torch(s):
    s = s._replace(cell={"rnn": "rnn_tanh", "lstm": "lstm", "gru": "gru_reset_after"}[s.cell.partition("_")[0]])
    given = {name + "_l0": array for name, array in _torch_names(_weights(s)).items()}
    return given, lambda **arrays: weights.from_torch(arrays).flat_params


def _torch_names(arrays):
    long = {"w_ih": "weight_ih", "w_hh": "weight_hh", "b_ih": "bias_ih", "b_hh": "bias_hh"}
    return {long[name]: array for name, array in arrays.items()}


@_target("kernel=floats recurrent=floats bias=floats")
def weights_from_keras(s):
    given = {"kernel": numbers(I, 4 * H, dtype=s.dtype), "recurrent": numbers(H, 4 * H, dtype=s.dtype)}
    given |= {"bias": numbers(4 * H, dtype=s.dtype)}
    return given, lambda kernel, recurrent, bias: weights.from_keras([kernel, recurrent, bias]).flat_params
