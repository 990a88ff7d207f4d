"""fastrnn's own adapter on a GPU, by the stand-in: what it runs is what the reference says, in every mode and dtype."""

from __future__ import annotations

import pytest

from bench.cases import Case
from bench.checks import error_and_place, reference_outputs, tolerance, within
from bench.peers.fastrnn_layers import FastrnnLayers
from tests.cuda import emulator, stand_in

pytestmark = pytest.mark.skipif(bool(emulator.available()), reason=emulator.available() or "-")


@pytest.mark.parametrize("mode", ["forward", "training", "step"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
@pytest.mark.parametrize("cell", ["lstm", "gru_reset_before"])
def test_the_adapter_on_cuda(cell, dtype, mode):
    case = Case(cell, 5, 3, 16, 16, dtype=dtype, device="cuda", mode=mode)
    with stand_in.installed():
        peer = FastrnnLayers(1, "cuda")
        variants = peer.variants_of(case)
        assert len({v for v in variants if "tf32" in v}) == (2 if dtype == "float32" and mode != "step" else 0)
        for variant in variants:
            program = peer.program(case, variant)
            got = within(case, program.outputs(program.run()))
            precision = program.precision or dtype
            error, place = error_and_place(got, within(case, reference_outputs(case)), precision)
            assert error <= tolerance(precision, ours=True), (variant, place, error)
            if precision == "tf32":
                assert error > 1e-5, "it is TF32, and nothing finer"
