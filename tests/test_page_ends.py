"""No kernel reads or writes beyond an array, not even what it discards: each lies against a page without access."""

from __future__ import annotations

import sys

import pytest

from tests.cases import LAYERS
from tests.pages import SIDES
from tests.processes import run_python

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="pages are protected by mprotect")

SETUP = """
import faulthandler
import importlib
import sys

import numpy as np

from fastrnn.places import HOST
from fastrnn.sequences import Schedule
from tests.pages import Pages

faulthandler.enable()
pages = Pages(sys.argv[1])
memory = importlib.import_module("fastrnn.kernels.cpu.memory")
aligned, seal = memory.aligned, Schedule._seal


def paged(size, zero=False):
    # Whole cache lines; where the array begins at a page, so does its first line.
    array = (pages.zeros if zero else pages.empty)(-(-size // 64) * 64, np.uint8)
    return array, memory.address_of(array)


def sealed(schedule):
    for name in ("order", "start", "lengths", "active", "offset"):
        setattr(schedule, name, pages.copy(getattr(schedule, name)))
    seal(schedule)


for module in list(sys.modules.values()):
    if getattr(module, "aligned", None) is aligned:
        module.aligned = paged
HOST.arrays, Schedule._seal = pages, sealed
"""

CELL = """
from tests.cases import Case
from tests.checks import as_public, assert_close, layer_results, make_layer, reference_results

cell = sys.argv[2]


def of_pages(layer):
    # Every parameter, too, is an array of its own.
    layer._parameters.weights = tuple(map(pages.copy, layer._parameters.weights))
    return layer


SIZES = dict(B=1, H=17, I=3), dict(B=7, H=35, I=21), dict(B=33, H=129, I=5)
SIZES += dict(B=2, T=30, H=130, I=9), dict(B=5, H=260, I=60)  # steps taken ahead in two pieces; units shared by threads
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

PRODUCTS = """
random = np.random.default_rng(0)
for dtype in ("float32", "float64"):
    for m, k, n in ((70, 65, 67), (1, 513, 401), (33, 129, 50), (6, 700, 64), (129, 1, 1601)):
        a, b, bias = (pages.copy(random.standard_normal(shape).astype(dtype)) for shape in ((m, k), (k, n), n))
        for sides in ((a, b), (pages.copy(a.T).T, pages.copy(b.T).T)):
            np.testing.assert_allclose(HOST.product(*sides, bias=bias), a @ b + bias, rtol=1e-3, atol=1e-3)
    for count in (2000, 2001, 4099):
        masked = pages.zeros(count, dtype)
        masked += 1
        HOST.apply_mask(masked, 0.5, 3, 0)
        assert set(np.unique(masked)) == {0, 2}
print("nothing found")
"""


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("cell", LAYERS)
def test_layers(cell, side):
    assert run_python(SETUP + CELL, side, cell, timeout=600) == "nothing found\n"


@pytest.mark.parametrize("side", SIDES)
def test_products_and_masks(side):
    assert run_python(SETUP + PRODUCTS, side, timeout=600) == "nothing found\n"
