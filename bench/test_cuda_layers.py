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
        for variant in peer.variants.get(mode, ("",)):
            program = peer.program(case, variant)
            got = within(case, program.outputs(program.run()))
            error, place = error_and_place(got, within(case, reference_outputs(case)), dtype)
            assert error <= tolerance(dtype, ours=True), (place, error)
