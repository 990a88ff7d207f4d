"""fastrnn.torch on the CUDA backend: on the stand-in and the emulator, so without DLPack and PyTorch's own streams."""

from __future__ import annotations

import contextlib

import pytest

torch = pytest.importorskip("torch", reason="fastrnn.torch needs PyTorch")

import fastrnn.torch  # noqa: E402
from fastrnn.places import place_of  # noqa: E402
from fastrnn.torch import stack  # noqa: E402
from tests.cuda import emulator, stand_in  # noqa: E402
from tests.test_torch_values import VARIANTS, flattened, states  # noqa: E402

pytestmark = pytest.mark.skipif(bool(emulator.available()), reason=emulator.available() or "-")


class ByCopies:
    """An exchange with the stand-in's memory."""

    def __init__(self):
        self.place = place_of("cuda")

    def array(self, tensor):
        return self.place.arrays.asarray(tensor.detach().numpy())

    def tensor(self, array):
        return torch.from_numpy(array.get())

    def entered(self):
        return contextlib.nullcontext()


def results(module, x, hx, monkeypatch=None, **options):
    """y, the states, and all gradients; with monkeypatch on the stand-in."""
    with contextlib.ExitStack() as context:
        if monkeypatch is not None:
            context.enter_context(stand_in.installed())
            exchange = ByCopies()
            context.enter_context(monkeypatch.context()).setattr(stack, "exchange_for", lambda _: exchange)
        module._stacks.clear()
        found = flattened(module(x, hx, **options))
        leaves = [x, *(hx if isinstance(hx, tuple) else (hx,)), *module.parameters()]
        gradients = torch.autograd.grad(found, leaves, [torch.ones_like(f) for f in found])
        with torch.no_grad():
            assert torch.equal(flattened(module.freeze()(x, hx, **options))[0], found[0])
        module.unfreeze()._stacks.clear()
        return found, gradients


@pytest.mark.parametrize("variant", ["lstm_peephole", "gru_reset_after"])
def test_as_on_the_cpu(variant, monkeypatch):
    torch.manual_seed(0)
    name, options = VARIANTS[variant]
    module = getattr(fastrnn.torch, name)(5, 16, 2, bidirectional=True, batch_first=True, **options)
    x, hx, resets = torch.randn(3, 4, 5, requires_grad=True), states(module, 3), torch.rand(4, 3) < 0.2
    want = results(module, x, hx, resets=resets)
    found = results(module, x, hx, monkeypatch, resets=resets)
    for theirs, ours in zip([*want[0], *want[1]], [*found[0], *found[1]], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-5)


def test_half_precision(monkeypatch):
    """Gradients of parameters come in the parameters' dtype, though they are summed in float32."""
    torch.manual_seed(0)
    module = fastrnn.torch.LSTM(5, 16)
    x, hx = torch.randn(4, 3, 5), states(module, 3)
    want = results(module, x.requires_grad_(), hx)
    half = [t.detach().half().requires_grad_() for t in (x, *hx)]
    found = results(module.half(), half[0], tuple(half[1:]), monkeypatch)
    for theirs, ours in zip([*want[0], *want[1]], [*found[0], *found[1]], strict=True):
        assert ours.dtype == torch.float16
        torch.testing.assert_close(ours.float(), theirs, rtol=0, atol=2e-2)
