"""No kernel reads or writes beyond an array, not even what it discards: each lies against a page without access."""

from __future__ import annotations

import sys

import pytest

from tests.cases import LAYERS
from tests.pages import SIDES
from tests.processes import run_python

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="pages are protected by mprotect")

EVERYTHING = """
import faulthandler
import importlib
import sys

import numpy as np

from fastrnn.places import HOST
from tests.cases import Case
from tests.checks import as_public, assert_close, layer_results, make_layer, reference_results
from tests.pages import Pages

faulthandler.enable()
cell, side = sys.argv[1:]
pages = Pages(side)
memory = importlib.import_module("fastrnn.kernels.cpu.memory")
aligned = memory.aligned


def paged(size, zero=False):
    # Whole cache lines; where the array begins at a page, so does its first line.
    array = (pages.zeros if zero else pages.empty)(-(-size // 64) * 64, np.uint8)
    return array, memory.address_of(array)


for module in list(sys.modules.values()):
    if getattr(module, "aligned", None) is aligned:
        module.aligned = paged
HOST.arrays = pages


def of_pages(layer):
    # Every parameter, too, is an array of its own.
    layer._parameters.weights = tuple(map(pages.copy, layer._parameters.weights))
    return layer


SIZES = dict(B=1, H=17, I=3), dict(B=7, H=35, I=21), dict(B=33, H=129, I=5), dict(B=2, T=30, H=130, I=9)
WAYS = {}, dict(bidirectional=True, ragged=True, num_layers=2), dict(resets=True, batch_first=True, bias=False)
for dtype in ("float32", "float64"):
    for sizes in SIZES:
        for way in WAYS:
            problem = Case(cell, dtype=dtype, **{"T": 4} | sizes | way).problem()
            for name in ("x", "state", "dy", "dstate", "resets"):
                setattr(problem, name, pages.copy(getattr(problem, name)))
            layer = of_pages(make_layer(problem))
            assert_close(layer_results(problem, layer), reference_results(problem), problem)
            if not layer.batch_first:
                options = {"lengths": problem.lengths, "resets": problem.resets}
                y, final, tape = layer.forward(problem.x, as_public(problem.state), recompute=2, **options)
                layer.backward(tape, problem.dy, input_grad=False)
                inferred, _ = layer(problem.x, as_public(problem.state), **options)
                np.testing.assert_array_equal(inferred, y)
            x_t, B = pages.copy(problem.x[0]), len(problem.x[0])
            for weights in (None, "bfloat16") if dtype == "float32" else (None,):
                layer.freeze(weights=weights)(problem.x)
                if not layer.bidirectional:
                    stream = layer.stream(B)
                    stream(x_t, out=pages.empty((B, layer.hidden_size), dtype))
                    stream(x_t)
                layer.unfreeze()
print("nothing found")
"""


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("cell", LAYERS)
def test_kernels_stay_within_their_arrays(cell, side):
    assert run_python(EVERYTHING, cell, side, timeout=600) == "nothing found\n"
