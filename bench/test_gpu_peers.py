"""The adapters of libraries that exist for GPUs only, on stand-ins that keep those libraries' documented layouts."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

import pytest

from bench.cases import Case
from bench.checks import largest_error, reference_outputs

torch = pytest.importorskip("torch")


def flashrnn(Wx, R, b, states, function, backend, dtype):
    """Wx (B, T, gates, heads, H), R (gates, heads, H, H), b (gates, heads, H), states (S, B, 1, heads, H).

    Returns states of all steps (S, B, T, heads, H) and the last ones. GRU: R n r z, Wx r z n, b recurrent n, r, z, n.
    """
    assert (backend, dtype) in {("cuda_fused", "float64"), ("cuda", "float64")}
    h, rest = states[0, :, 0], states[1:, :, 0]
    steps = []
    for w in Wx.unbind(1):
        product = torch.einsum("ghdp,bhp->bghd", R, h)
        if function == "gru":
            n, r, z = product.unbind(1)
            wr, wz, wn = w.unbind(1)
            r, z = torch.sigmoid(wr + r + b[1]), torch.sigmoid(wz + z + b[2])
            h = z * h + (1 - z) * torch.tanh(wn + b[3] + r * (n + b[0]))
        elif function == "elman":
            h = torch.tanh((w + product + b)[:, 0])
        else:
            i, f, g, o = (w + product + b).unbind(1)
            c = torch.sigmoid(f) * rest[0] + torch.sigmoid(i) * torch.tanh(g)
            h, rest = torch.sigmoid(o) * torch.tanh(c), c[None]
        steps.append(torch.cat([h[None], rest]))
    return torch.stack(steps, 2), steps[-1][:, :, None]


class HasteLayer(torch.nn.Module):
    """Kernels (I, gates*H) and (H, gates*H), gates in the order of ``order``; computes by way of torch.nn."""

    def __init__(self, input_size, hidden_size):
        super().__init__()

    def from_native_weights(self, w_ih, w_hh, b_ih, b_hh):
        def theirs(w):
            gates = (w.mT if w.ndim == 2 else w).chunk(len(self.order), -1)
            return torch.nn.Parameter(torch.cat([gates[k] for k in self.order], -1).contiguous())

        self.kernel, self.recurrent_kernel = theirs(w_ih), theirs(w_hh)
        if self.biases == 1:
            self.bias = theirs(b_ih + b_hh)
        else:
            self.bias, self.recurrent_bias = theirs(b_ih), theirs(b_hh)

    def forward(self, x, state):
        assert self.training == torch.is_grad_enabled()

        def native(w):
            gates = dict(zip(self.order, w.chunk(len(self.order), -1), strict=True))
            whole = torch.cat([gates[k] for k in sorted(gates)], -1)
            return whole.mT if w.ndim == 2 else whole

        names = ("kernel", "recurrent_kernel", "bias", "recurrent_bias")
        none = torch.zeros_like(self.bias)
        weights = [native(getattr(self, name, none)) for name in names]
        run = torch.lstm if self.biases == 1 else torch.gru
        y, *final = run(x, state, weights, True, 1, 0.0, self.training, False, False)
        return y, tuple(final) if len(final) == 2 else final[0]


class HasteLSTM(HasteLayer):
    order, biases = (0, 2, 1, 3), 1


class HasteGRU(HasteLayer):
    order, biases = (1, 0, 2), 2


@pytest.fixture
def adapters(monkeypatch):
    """Classes of the adapters, imported over the stand-ins, for arrays on the host."""
    flash, haste = ModuleType("flashrnn"), ModuleType("haste_pytorch")
    flash.flashrnn = flashrnn
    haste.LSTM, haste.GRU, haste.__version__ = HasteLSTM, HasteGRU, "stand-in"
    found = {}
    for library, module, name in ((flash, "flashrnn_layers", "FlashRnn"), (haste, "haste_layers", "Haste")):
        monkeypatch.setitem(sys.modules, library.__name__, library)
        monkeypatch.delitem(sys.modules, f"bench.peers.{module}", raising=False)
        found[name] = getattr(importlib.import_module(f"bench.peers.{module}"), name)
        monkeypatch.delitem(sys.modules, f"bench.peers.{module}")
        monkeypatch.setattr(found[name], "devices", ("cpu",))
    return found


@pytest.mark.parametrize("mode", ["forward", "training"])
@pytest.mark.parametrize("name", ["FlashRnn", "Haste"])
def test_gates_weights_and_gradients_go_where_they_belong(adapters, name, mode):
    peer = adapters[name](1, "cpu")
    for cell in peer.cells:
        case = Case(cell, 6, 3, 5, 8, dtype="float64", mode=mode)
        if name == "FlashRnn":
            with pytest.raises(Exception, match="no float64"):
                peer.program(case, "alternating")
        for variant in peer.variants_of(case):
            program = _program(peer, case, variant)
            error, where = largest_error(program.outputs(program.run()), reference_outputs(case))
            assert error < 1e-12, (cell, variant, where)


def _program(peer, case, variant):
    """FlashRNN's adapter refuses float64, which tells most here: what it builds on does not."""
    if hasattr(peer, "_backend"):
        peer._backend = {"fused": "cuda_fused", "alternating": "cuda"}[variant]
        return super(type(peer), peer).program(case, variant)
    return peer.program(case, variant)
