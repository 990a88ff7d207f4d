"""fastrnn.torch against torch.nn and finite differences: outputs, states and every gradient."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="fastrnn.torch needs PyTorch")

from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pack_sequence  # noqa: E402

import fastrnn  # noqa: E402
import fastrnn.torch  # noqa: E402
from tests.cases import LAYERS  # noqa: E402

CLASSES = ("RNN", "LSTM", "GRU")
STRUCTURES = {
    "plain": {},
    "nobias": {"bias": False},
    "batch_first": {"batch_first": True},
    "deep": {"num_layers": 2, "bidirectional": True, "batch_first": True},
}
# Here the form of GRU is always named: the modules' default is PyTorch's, which is not that of the layers.
VARIANTS = {
    cell: (name, {"reset_after": False} | options if name == "GRU" else options)
    for cell, (name, options) in LAYERS.items()
}


def pair(name, *sizes, **options):
    """torch.nn's module and ours with the same parameters."""
    theirs = getattr(torch.nn, name)(*sizes, **options)
    ours = getattr(fastrnn.torch, name)(*sizes, **options)
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def states(module, B, rows=()):
    """h, or (h, c), that want a gradient."""
    shape = (module.num_layers * (1 + module.bidirectional), *((B,) if B else ()), module.hidden_size)
    count = 2 if isinstance(module, torch.nn.LSTM) else 1
    found = [torch.randn(shape, dtype=module.weight_ih_l0.dtype).requires_grad_() for _ in range(count)]
    return tuple(found) if count == 2 else found[0]


def flattened(results):
    """All tensors of (y, state), a packed y by its data."""
    y, state = results
    y = y.data if isinstance(y, PackedSequence) else y
    return [y, *(state if isinstance(state, tuple) else (state,))]


def everything(module, x, hx):
    """Results and gradients of x, hx and the parameters, for gradients drawn from a seed."""
    results = flattened(module(x, hx))
    generator = torch.Generator().manual_seed(1)
    incoming = [torch.randn(r.shape, dtype=r.dtype, generator=generator) for r in results]
    leaf = x.data if isinstance(x, PackedSequence) else x
    leaves = [leaf, *(hx if isinstance(hx, tuple) else (hx,) if hx is not None else ()), *module.parameters()]
    return results + list(torch.autograd.grad(results, leaves, incoming))


def assert_same(theirs, ours, x, hx):
    for want, got in zip(everything(theirs, x, hx), everything(ours, x, hx), strict=True):
        assert got.shape == want.shape and got.dtype == want.dtype and got.is_contiguous()
        torch.testing.assert_close(got, want, rtol=0, atol=1e-10)


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("name", CLASSES)
def test_as_torch_nn(name, structure):
    torch.manual_seed(0)
    theirs, ours = pair(name, 4, 17, dtype=torch.float64, **STRUCTURES[structure])
    x = torch.randn(5, 5, 4, dtype=torch.float64, requires_grad=True)
    for hx in (None, states(ours, 5)):
        assert_same(theirs, ours, x, hx)


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("name", CLASSES)
def test_unbatched(name, structure):
    torch.manual_seed(0)
    theirs, ours = pair(name, 4, 17, dtype=torch.float64, **STRUCTURES[structure])
    x = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    for hx in (None, states(ours, None)):
        assert_same(theirs, ours, x, hx)


@pytest.mark.parametrize("lengths", [(5, 5, 3, 1), (2, 5, 1, 4), (3, 3, 3, 3)], ids=["sorted", "unsorted", "equal"])
@pytest.mark.parametrize("structure", ["plain", "deep"])
@pytest.mark.parametrize("name", CLASSES)
def test_packed_sequences(name, structure, lengths):
    """Whether sorting was enforced or not; out comes the same structure."""
    torch.manual_seed(0)
    theirs, ours = pair(name, 4, 17, dtype=torch.float64, **STRUCTURES[structure])
    enforced = [True, False] if list(lengths) == sorted(lengths, reverse=True) else [False]
    for enforce_sorted in enforced:
        data = torch.randn(sum(lengths), 4, dtype=torch.float64)
        packed = pack_sequence(list(data.split(lengths)), enforce_sorted=enforce_sorted)
        packed = PackedSequence(packed.data.requires_grad_(), *packed[1:])
        for hx in (None, states(ours, 4)):
            assert_same(theirs, ours, packed, hx)
        y, _ = ours(packed)
        for mine, given in zip(y[1:], packed[1:], strict=True):
            assert mine is given or torch.equal(mine, given)


@pytest.mark.parametrize("kind", ["padded", "packed"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_gradcheck(variant, kind):
    """Finite differences in float64: of the input, the initial state and every parameter."""
    torch.manual_seed(0)
    name, options = VARIANTS[variant]
    module = getattr(fastrnn.torch, name)(2, 3, 2, bidirectional=True, dtype=torch.float64, **options)
    x, hx = torch.randn(4, 3, 2, dtype=torch.float64, requires_grad=True), states(module, 3)
    resets = torch.rand(4, 3) < 0.3
    names = [n for n, _ in module.named_parameters()]

    def run(x, *rest):
        given = rest[: len(rest) - len(names)]
        parameters = dict(zip(names, rest[len(given) :], strict=True))
        inputs, keywords = x, {"resets": resets}
        if kind == "packed":
            inputs, keywords = pack_padded_sequence(x, torch.tensor([2, 4, 1]), enforce_sorted=False), {}
        arguments = inputs, given if len(given) > 1 else given[0]
        return tuple(flattened(torch.func.functional_call(module, parameters, arguments, keywords)))

    leaves = [x, *(hx if isinstance(hx, tuple) else (hx,)), *module.parameters()]
    assert torch.autograd.gradcheck(run, leaves, eps=1e-6, atol=1e-7, rtol=1e-5, fast_mode=True)


def test_gradcheck_entry_by_entry():
    """The slow mode asks for one row of the Jacobian after the other, from one graph that is kept."""
    torch.manual_seed(0)
    module = fastrnn.torch.GRU(2, 2, dtype=torch.float64)
    x, h = torch.randn(2, 2, 2, dtype=torch.float64, requires_grad=True), states(module, 2)
    assert torch.autograd.gradcheck(module, (x, h))


@pytest.mark.parametrize("variant", VARIANTS)
def test_as_the_layer(variant):
    """Bitwise what the fastrnn layer of the same parameters gives, in both dtypes, with resets."""
    name, options = VARIANTS[variant]
    for dtype in (torch.float32, torch.float64):
        torch.manual_seed(0)
        module = getattr(fastrnn.torch, name)(4, 17, 2, dtype=dtype, **options)
        layer = getattr(fastrnn, name)(4, 17, 2, dtype=str(dtype).removeprefix("torch."), **options)
        layer.load_params({key: value.numpy() for key, value in module.state_dict().items()})
        x, resets = torch.randn(6, 5, 4, dtype=dtype), torch.rand(6, 5) < 0.2
        y, state, tape = layer.forward(x.numpy(), resets=resets.numpy())
        grads = layer.backward(tape, y)
        results = flattened(module(x, resets=resets))
        results[0].backward(results[0].detach())
        for got, want in zip(results, flattened((y, state)), strict=True):
            assert torch.equal(got, torch.from_numpy(want))
        for key, parameter in module.named_parameters():
            assert torch.equal(parameter.grad, torch.from_numpy(grads.params[key]))


@pytest.mark.parametrize("name", CLASSES)
def test_a_training_run(name):
    """Adam on both from the same start: the same losses."""
    torch.manual_seed(0)
    modules = pair(name, 4, 17, 2, dtype=torch.float64)
    x, target = torch.randn(6, 5, 4, dtype=torch.float64), torch.randn(6, 5, 17, dtype=torch.float64)
    losses = []
    for module in modules:
        optimizer, found = torch.optim.Adam(module.parameters(), 0.01), []
        for _ in range(6):
            optimizer.zero_grad()
            loss = torch.nn.functional.mse_loss(module(x)[0], target)
            loss.backward()
            optimizer.step()
            found.append(loss.item())
        losses.append(found)
    assert losses[0] == pytest.approx(losses[1], rel=1e-10)
    assert losses[0][-1] < losses[0][0]
