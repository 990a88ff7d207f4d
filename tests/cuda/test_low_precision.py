"""float16, bfloat16 and TF32 on a GPU: at most twice the error of a plain implementation in that precision.

Plain is the reference with the result of every operation rounded, products with their operands rounded and summed
exactly; only the gradients of parameters, which are float32 in a layer of 16 bits, add up unrounded.
"""

from __future__ import annotations

import numpy as np
import pytest

from tests import checks
from tests.cases import LAYERS, Case
from tests.checks import Results, as_public, as_tuple, make_layer, reference_results, relative_error
from tests.cuda import bridge, emulator

ml_dtypes = pytest.importorskip("ml_dtypes", reason="bfloat16 needs ml_dtypes")
pytestmark = [
    pytest.mark.gpu
    if bridge.GPU
    else pytest.mark.skipif(bool(emulator.available()), reason=emulator.available() or "-"),
]


def to_tf32(x):
    """The nearest number of 10 bits of mantissa, ties away from zero; x is exact in float32."""
    bits = (np.asarray(x, np.float32).view(np.uint32) + np.uint32(0x1000)) & np.uint32(0xFFFFE000)
    return np.where(np.isfinite(x), bits.view(np.float32), x).astype(np.float64)


def rounding_to(dtype):
    return lambda x: x.astype(dtype).astype(np.float64)


def same(x):
    return x


# Name -> dtype of the layer, its precision, how a result is rounded, and how an operand of a product.
PRECISIONS = {
    "float16": ("float16", "exact", rounding_to(np.float16), same),
    "bfloat16": ("bfloat16", "exact", rounding_to(ml_dtypes.bfloat16), same),
    "tf32": ("float32", "tf32", rounding_to(np.float32), to_tf32),
}


def plain_arrays(precision):
    """An array of float64 on which every operation rounds."""
    _, _, rounded, operand = PRECISIONS[precision]

    class Plain(np.ndarray):
        def __array_ufunc__(self, ufunc, method, *inputs, out=None, **options):
            inputs = [np.asarray(value) for value in inputs]
            if ufunc is np.matmul:
                inputs = [operand(value) for value in inputs]
            result = getattr(ufunc, method)(*inputs, **options)
            parameter_gradient = out is not None and result.ndim < 3
            if result.dtype != bool and not parameter_gradient:
                result = rounded(result).view(Plain)
            if out is not None:
                np.asarray(out[0])[...] = result
                return out[0]
            return result

        def __array_function__(self, function, types, arguments, options):
            result = super().__array_function__(function, types, arguments, options)
            if function in (np.where, np.concatenate):  # which else forget the class
                result = result.view(Plain)
            return result

    return Plain


def plain_results(problem, precision):
    """What `reference_results` gives, in the precision."""
    kind = plain_arrays(precision)

    def cast(array):
        return array.astype(np.float64).view(kind)

    network = problem.network()
    network.params = {name: cast(p) for name, p in network.params.items()}
    y, state, tape = network.forward(cast(problem.x), tuple(map(cast, problem.state)), problem.lengths, problem.resets)
    dx, dstate, dparams = network.backward(tape, cast(problem.dy), tuple(map(cast, problem.dstate)))
    return Results(y, state, dx, dstate, dparams)


def device_results(problem, layer):
    """What `layer_results` gives."""
    y, state, tape = layer.forward(problem.x, as_public(problem.state), lengths=problem.lengths, resets=problem.resets)
    grads = layer.backward(tape, problem.dy, as_public(problem.dstate))
    return Results(y, as_tuple(state), grads.x, as_tuple(grads.state), grads.params)


def errors_of(results, want):
    expected = want.named()
    return {name: relative_error(array.astype(np.float64), expected[name]) for name, array in results.named().items()}


def structures():
    """Every structure once for each cell and precision; H = 40 is for tensor cores, in several blocks and columns."""
    for k, case in enumerate(structure for cell in LAYERS for structure in of_cell(cell)):
        for j, precision in enumerate(PRECISIONS):
            yield precision, case, 40 if precision == "tf32" or (k + k // 16 + j) % 2 else 17


def of_cell(cell):
    for k in range(16):
        layers, bidirectional, ragged, bias = 1 + k % 2, bool(k & 2), bool(k & 4), bool(k & 8)
        yield {"cell": cell, "num_layers": layers, "bidirectional": bidirectional, "ragged": ragged, "bias": bias}


@pytest.mark.parametrize(
    "precision, options, H",
    [
        pytest.param(precision, options, H, id=f"{precision}-{Case(**options, H=H, B=9)}")
        for precision, options, H in structures()
    ],
)
def test_at_most_twice_the_error_of_a_plain_implementation(precision, options, H, monkeypatch):
    dtype, layer_precision, _, _ = PRECISIONS[precision]
    resets = options["ragged"] != options["bias"]
    case = Case(**options, T=5, B=9, I=6, H=H, resets=resets, dtype=dtype)
    problem = case.problem()
    if case.cell == "rnn_relu":
        away_from_the_kink(problem)
    want = reference_results(problem)
    plain = errors_of(plain_results(problem, precision), want)
    for policy in ("stepwise", "persistent", "cluster") if H == 40 else ("stepwise", "persistent"):
        with bridge.device(), bridge.bridged(), bridge.only(policy):
            layer = make_layer(problem)
            layer.layer.precision = layer_precision
            got = device_results(problem, layer)
        assert got.y.dtype == got.dx.dtype == case.dtype
        assert {array.dtype.name for array in got.dparams.values()} == {"float32"}
        errors = errors_of(got, want)
        monkeypatch.setattr(checks, "WHERE", f"{'GPU' if bridge.GPU else 'emulated'} {policy}")
        checks.note_errors(case, errors.values(), precision)
        bad = {
            name: f"{error:.1e}, plain {plain[name]:.1e}" for name, error in errors.items() if error > 2 * plain[name]
        }
        assert not bad, f"{case}, {policy}: {bad}"
        # It is that precision, and not a finer one by mistake: then the bound would say nothing.
        assert errors["y"] > (1e-5 if precision == "tf32" else 1e-4)


def away_from_the_kink(problem):
    """Every unit is clearly on or clearly off at every step: one that rounding turns on has another gradient.

    Its weights have one sign, and all that they multiply is positive.
    """
    for array in (problem.x, *problem.state):
        array[...] = np.abs(array)
    for parameter in problem.params.values():
        sign = np.where(np.arange(len(parameter)) % 2, -1, 1).astype(parameter.dtype)
        parameter[...] = np.abs(parameter) * sign.reshape(-1, *[1] * (parameter.ndim - 1))


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
@pytest.mark.parametrize("cell", LAYERS)
def test_recomputed_and_streamed(cell, precision):
    """The states that recomputing keeps, and those of a stream, are of 16 bits: no worse than plain ones."""
    problem = Case(cell, T=7, B=9, I=6, H=24, dtype=precision).problem()
    if cell == "rnn_relu":
        away_from_the_kink(problem)
    want = reference_results(problem)
    plain = errors_of(plain_results(problem, precision), want)
    with bridge.device(), bridge.bridged():
        layer = make_layer(problem)
        y, state, tape = layer.forward(problem.x, as_public(problem.state), recompute=3)
        grads = layer.backward(tape, problem.dy, as_public(problem.dstate))
        got = Results(y, as_tuple(state), grads.x, as_tuple(grads.state), grads.params)
        stream = layer.stream(9, state=as_public(problem.state))
        streamed = np.stack([stream(x_t) for x_t in problem.x])
    errors = errors_of(got, want) | {"streamed": relative_error(streamed.astype(np.float64), want.y)}
    plain["streamed"] = plain["y"]
    bad = {name: f"{error:.1e}, plain {plain[name]:.1e}" for name, error in errors.items() if error > 2 * plain[name]}
    assert not bad
