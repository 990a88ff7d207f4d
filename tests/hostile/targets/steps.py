"""Single steps."""

from __future__ import annotations

import numpy as np

from fastrnn import cells
from tests.cases import LAYERS
from tests.hostile.targets.common import B, H, I, Setting, layer_of, numbers, parts, target, weights_of
from tests.reference import CELLS


def _step(s: Setting):
    kind, options = LAYERS[s.cell]
    options = dict(options)
    extra = {}
    if options.pop("peephole", False):
        extra["peephole"] = numbers(len(CELLS[s.cell].peepholes) * H, dtype=s.dtype, seed=4)
    shape = () if s.unbatched else (B,)
    given = {"x": numbers(*shape, I, dtype=s.dtype), "state": parts(s, *shape, H)}
    outputs = tuple(np.zeros((*shape, H), s.dtype) for _ in range(CELLS[s.cell].states))
    given |= {"out": outputs if len(outputs) > 1 else outputs[0]}
    return kind, options, given, weights_of(s) | extra


_WEIGHTS = "w_ih=floats w_hh=floats b_ih=floats b_hh=floats peephole=floats"


@target("x=floats state=states out=states " + _WEIGHTS, exact=False)
def plain_cell(s):
    kind, options, given, arrays = _step(s)

    def run(x, state, out, **arrays):
        return getattr(cells, f"{kind.lower()}_cell")(x, state, **arrays, **options, out=out)

    return given | arrays, run


@target("x=floats state=states out=states " + _WEIGHTS)
def packed_cell(s):
    kind, options, given, arrays = _step(s)

    def run(x, state, out, **arrays):
        return getattr(cells, f"{kind}Cell")(**arrays, **options)(x, state, out)

    return given | arrays, run


@target("index=option reverse=option")
def cell_from_layer(s):
    def run(index, reverse):
        step = cells.from_layer(layer_of(s), index, reverse=reverse)
        return step(numbers(step.input_size, dtype=s.dtype))

    return {"index": 0, "reverse": False}, run


@target("layer=option nonlinearity=option coupled=option reset_after=option")
def step_options(s):
    plain = s._replace(cell="rnn_tanh"), s._replace(cell="lstm_coupled"), s._replace(cell="gru_reset_after")

    def run(layer, nonlinearity, coupled, reset_after):
        x, h = numbers(I, dtype=s.dtype), numbers(H, dtype=s.dtype, seed=1)
        rnn, lstm, gru = map(weights_of, plain)
        return (
            cells.from_layer(layer)(numbers(I, dtype=layer.dtype)),
            cells.RNNCell(**rnn, nonlinearity=nonlinearity)(x, h),
            cells.rnn_cell(x, h, **rnn, nonlinearity=nonlinearity),
            cells.LSTMCell(**lstm, coupled=coupled)(x, (h, h)),
            cells.lstm_cell(x, (h, h), **lstm, coupled=coupled),
            cells.GRUCell(**gru, reset_after=reset_after)(x, h),
            cells.gru_cell(x, h, **gru, reset_after=reset_after),
        )

    given = {"layer": layer_of(s._replace(cell="lstm")), "nonlinearity": "tanh", "coupled": True}
    return given | {"reset_after": True}, run
