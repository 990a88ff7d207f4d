"""fastrnn.torch as modules: PyTorch's construction, state_dict, autograd's rules, copies, errors; what is shared."""

from __future__ import annotations

import copy
import io
import itertools
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch", reason="fastrnn.torch needs PyTorch")

from torch.nn.utils import prune  # noqa: E402

import fastrnn.torch  # noqa: E402
from fastrnn import network  # noqa: E402
from fastrnn.backend import load  # noqa: E402
from fastrnn.torch import stack  # noqa: E402
from tests.processes import run_python  # noqa: E402
from tests.test_torch_values import CLASSES, VARIANTS, flattened, pair, states  # noqa: E402


def make(variant="gru_reset_after", *sizes, **options):
    name, of_variant = VARIANTS[variant]
    torch.manual_seed(0)
    return getattr(fastrnn.torch, name)(*(sizes or (3, 8)), **of_variant, **options)


X = torch.linspace(-2, 2, 4 * 2 * 3).reshape(4, 2, 3)


# Construction


@pytest.mark.parametrize(
    "options", [{}, {"num_layers": 2, "bidirectional": True, "bias": False, "dtype": torch.float64}]
)
@pytest.mark.parametrize("name", CLASSES)
def test_the_same_seed_gives_the_same_parameters(name, options):
    made = []
    for library in (torch.nn, fastrnn.torch):
        torch.manual_seed(3)
        made.append(getattr(library, name)(4, 7, **options))
    assert list(made[0].state_dict()) == list(made[1].state_dict())
    for theirs, ours in zip(made[0].parameters(), made[1].parameters(), strict=True):
        assert torch.equal(theirs, ours)
    assert repr(made[0]) == repr(made[1]) and isinstance(made[1], getattr(torch.nn, name))


def test_positional_arguments_are_in_pytorchs_order():
    for name, arguments in (
        ("RNN", (4, 7, 2, "relu", False, True, 0.5, True)),
        ("LSTM", (4, 7, 2, False, True, 0.5, True)),
        ("GRU", (4, 7, 2, False, True, 0.5, True)),
    ):
        assert repr(getattr(fastrnn.torch, name)(*arguments)) == repr(getattr(torch.nn, name)(*arguments))


@pytest.mark.parametrize("variant", VARIANTS)
def test_state_dicts_are_the_layers(variant):
    """Names, shapes and order of fastrnn's layers, for the variants too; and strict."""
    name, options = VARIANTS[variant]
    module = make(variant, 3, 8, 2, bidirectional=True)
    layer_options = {"reset_after": True} if variant == "gru_reset_after" else options
    layer = getattr(fastrnn, name)(3, 8, 2, bidirectional=True, **layer_options)
    assert [(key, tuple(value.shape)) for key, value in module.state_dict().items()] == [
        (key, value.shape) for key, value in layer.params.items()
    ]
    bound = 8**-0.5
    assert all(p.abs().max() <= bound and p.std() > bound / 4 for p in module.parameters())
    module.load_state_dict({key: torch.from_numpy(value) for key, value in layer.params.items()})
    assert torch.equal(module(X)[0], torch.from_numpy(layer(X.numpy())[0]))
    with pytest.raises(RuntimeError, match="weight_hh_l0"):
        module.load_state_dict({key: value for key, value in module.state_dict().items() if key != "weight_hh_l0"})


def test_a_variant_can_be_seen():
    assert repr(make("gru_reset_before")) == "GRU(3, 8, cell='gru_reset_before')"
    assert repr(make("lstm_peephole", 3, 8, 2)) == "LSTM(3, 8, num_layers=2, cell='lstm_peephole')"


def test_options_that_there_are_not():
    with pytest.raises(ValueError, match="proj_size must be 0"):
        fastrnn.torch.LSTM(3, 8, proj_size=4)
    with pytest.raises(ValueError, match="dropout < 1"):
        fastrnn.torch.LSTM(3, 8, 2, dropout=1.0)
    with pytest.raises(ValueError, match="nonlinearity"):
        fastrnn.torch.RNN(3, 8, nonlinearity="gelu")
    with pytest.raises(TypeError, match="bfloat16"):
        make().to(torch.bfloat16)(X.to(torch.bfloat16))
    with pytest.raises(ValueError, match="hidden_size"):
        fastrnn.torch.GRU(3, 0)
    with pytest.warns(UserWarning, match="num_layers greater than 1"):
        fastrnn.torch.GRU(3, 8, dropout=0.5)


def test_without_pytorch_the_message_says_what_to_install():
    code = """
import sys, fastrnn
assert "fastrnn.torch" not in sys.modules and "torch" not in sys.modules
sys.modules["torch"] = None
try:
    import fastrnn.torch
except ImportError as error:
    assert 'pip install "fastrnn[torch]"' in str(error)
else:
    raise AssertionError
"""
    run_python(code)


# Autograd


@pytest.mark.parametrize("by", ["input", "parameter"])
@pytest.mark.parametrize("name", CLASSES)
def test_no_second_derivatives(name, by):
    """A clear error, and not a gradient penalty without effect; asking for the graph alone is no error."""
    module, x = make({"RNN": "rnn_relu", "LSTM": "lstm", "GRU": "gru_reset_before"}[name]), X.clone()
    leaf = x.requires_grad_() if by == "input" else module.weight_hh_l0
    want = torch.autograd.grad(module(x)[0].sum(), leaf)[0]
    gradient = torch.autograd.grad(module(x)[0].sum(), leaf, create_graph=True)[0]
    assert torch.equal(gradient, want)
    with pytest.raises(RuntimeError, match="differentiable once"):
        (gradient.norm() + 1).backward()


def test_a_kept_graph_gives_the_same_again():
    module, x = make(num_layers=2), X.clone().requires_grad_()
    loss = module(x)[0].square().sum()
    runs = [torch.autograd.grad(loss, [x, *module.parameters()], retain_graph=keep) for keep in (True, True, False)]
    for later in runs[1:]:
        assert all(map(torch.equal, runs[0], later))
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


@pytest.mark.parametrize("what", ["parameter", "input"])
def test_writing_between_forward_and_backward_is_an_error(what):
    module, x = make(), (X * 1).requires_grad_(False)
    loss = module(x)[0].sum()
    with torch.no_grad():
        (x if what == "input" else module.weight_hh_l0).add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_results_may_be_written_to():
    """They share no memory with the tape."""
    module, x = make("lstm"), X.clone().requires_grad_()
    y, (h, c) = module(x)
    (want,) = torch.autograd.grad(y.sum(), x)
    y, (h, c) = module(x)
    loss = y.sum()
    with torch.no_grad():
        for result in (y, h, c):
            result.fill_(5)
    assert torch.equal(torch.autograd.grad(loss, x)[0], want)


@pytest.mark.parametrize("used", ["y", "h", "c"])
def test_gradients_of_one_result_alone(used):
    theirs, ours = pair("LSTM", 3, 8)
    for want, got in zip(*[_gradients(m, used) for m in (theirs, ours)], strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=1e-5)


def _gradients(module, used):
    hx = tuple(torch.ones(1, 2, 8, requires_grad=True) for _ in range(2))
    y, (h, c) = module(X, hx)
    return torch.autograd.grad({"y": y, "h": h, "c": c}[used].sum(), [*hx, *module.parameters()])


def test_only_what_wants_a_gradient_gets_one():
    module, x = make("lstm").requires_grad_(False), X.clone().requires_grad_()
    module(x)[0].sum().backward()
    assert x.grad is not None and all(p.grad is None for p in module.parameters())
    h = torch.zeros(1, 2, 8, requires_grad=True)
    module(X, (h, torch.zeros(1, 2, 8)))[0].sum().backward()
    assert h.grad.abs().min() > 0
    module.weight_hh_l0.requires_grad_()
    module(X)[0].sum().backward()
    assert [name for name, p in module.named_parameters() if p.grad is not None] == ["weight_hh_l0"]


def test_without_gradients_nothing_is_kept(monkeypatch):
    def train(*_):
        raise AssertionError("a tape was asked for")

    monkeypatch.setattr(network, "train", train)
    module = make(num_layers=2, dropout=0.5).eval()
    for context in (torch.no_grad(), torch.inference_mode()):
        with context:
            assert not module(X)[0].requires_grad
    assert not module.requires_grad_(False)(X)[0].requires_grad


def test_parameters_shared_between_modules():
    theirs, ours = pair("GRU", 8, 8, 2)
    x = torch.randn(3, 2, 8)
    for module in (theirs, ours):
        for kind in ("weight_ih", "weight_hh"):
            setattr(module, f"{kind}_l1", getattr(module, f"{kind}_l0"))
        module(x)[0].sum().backward()
    assert len(list(ours.parameters())) == len(list(theirs.parameters())) == 6
    for want, got in zip(theirs.parameters(), ours.parameters(), strict=True):
        torch.testing.assert_close(got.grad, want.grad, rtol=0, atol=1e-5)


@pytest.mark.parametrize("how", ["weight_norm", "pruned", "functional_call"])
def test_parameters_that_are_computed(how):
    results = []
    for module in pair("GRU", 3, 8):
        if how == "weight_norm":
            torch.nn.utils.parametrizations.weight_norm(module, "weight_hh_l0")
        elif how == "pruned":
            prune.l1_unstructured(module, "weight_hh_l0", 0.5)
        if how == "functional_call":
            given = {name: p.detach() * 2 for name, p in module.named_parameters()}
            y, _ = torch.func.functional_call(module, given, (X,))
        else:
            y, _ = module(X)
            y.sum().backward()
        results.append([y, *(p.grad for p in module.parameters() if p.grad is not None)])
    for want, got in zip(*results, strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=1e-5)


# Dropout


def test_dropout_follows_the_generator_and_the_mode():
    module = make("lstm", 3, 64, 2, dropout=0.25)
    twice = []
    for _ in range(2):
        torch.manual_seed(7)
        x = X.clone().requires_grad_()
        y, _ = module(x)
        twice.append((y, *torch.autograd.grad(y.sum(), [x, *module.parameters()])))
        later = module(X)[0]
        with torch.no_grad():
            torch.manual_seed(7)
            assert torch.equal(module(X)[0], y)
    assert all(map(torch.equal, *twice)) and not torch.equal(later, twice[0][0])
    kept = module.eval()(X)[0]
    module.dropout = 0.0
    assert torch.equal(kept, module.train()(X)[0]) and not torch.equal(kept, later)


# Memory


def count_packs(monkeypatch):
    """A list of the arguments of every packing from now on."""
    calls, pack = [], load("cpu").pack
    monkeypatch.setattr(stack, "load", lambda _: SimpleNamespace(pack=lambda *args: calls.append(args) or pack(*args)))
    return calls


def test_no_copies_on_the_way_in_and_out(monkeypatch):
    """Kernels see the tensors' own memory; results and gradients are the arrays that they wrote."""
    seen = {}

    def train(layer, x, state, *rest):
        found = original(layer, x, state, *rest)
        seen.update(x=x, h=state, y=found[0])
        return found

    original = network.train
    monkeypatch.setattr(network, "train", train)
    packed = count_packs(monkeypatch)
    module, x, h = make(), X.clone(), torch.zeros(1, 2, 8)
    y, _ = module(x, h)
    assert y.data_ptr() == seen["y"].ctypes.data and x.data_ptr() == seen["x"].ctypes.data
    assert h.data_ptr() == seen["h"].ctypes.data
    assert [w.ctypes.data for w in packed[0][1:5]] == [p.data_ptr() for p in module.parameters()]
    y.sum().backward()
    ends = [(p.grad.data_ptr(), p.grad.data_ptr() + p.grad.nbytes) for p in module.parameters()]
    assert all(stop == start for (_, stop), (start, _) in itertools.pairwise(ends)), "one buffer, no copies"


def test_inputs_of_any_strides():
    theirs, ours = pair("LSTM", 3, 8)
    wide = torch.randn(8, 4, 6)
    for x in (wide[::2, :, 1:4], wide[..., ::2], wide.transpose(0, 1)[:, :, 3:], wide[:1, :, :3].expand(5, 4, 3)):
        torch.testing.assert_close(ours(x)[0], theirs(x)[0], rtol=0, atol=1e-5)
    hx = tuple(torch.randn(2, 1, 8).transpose(0, 1) for _ in range(2))
    torch.testing.assert_close(ours(X, hx)[0], theirs(X, hx)[0], rtol=0, atol=1e-5)


# Copies and moves


@pytest.mark.parametrize("variant", ["lstm_peephole", "gru_reset_after"])
def test_copies_and_files(variant):
    module = make(variant, num_layers=2).freeze()
    want = module(X)[0]
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    loaded = make(variant, num_layers=2)
    with torch.no_grad():
        loaded.weight_hh_l0.zero_()
    loaded.load_state_dict(torch.load(io.BytesIO(file.getvalue()), weights_only=True))
    whole = io.BytesIO()
    torch.save(module, whole)
    pickled = torch.load(io.BytesIO(whole.getvalue()), weights_only=False)
    for other in (loaded, pickled, copy.deepcopy(module)):
        assert torch.equal(other(X)[0], want)
        with torch.no_grad():
            other.weight_hh_l0.zero_()
            assert not torch.equal(other(X)[0], want) and torch.equal(module(X)[0], want)


def test_to_another_dtype_and_back():
    module = make("lstm", num_layers=2)
    want = module(X)[0]
    wide = module.double()(X.double())[0]
    assert wide.dtype == torch.float64
    torch.testing.assert_close(wide.float(), want, rtol=0, atol=1e-6)
    assert torch.equal(module.to(torch.float32)(X)[0], want)


def test_autocast_casts_to_the_parameters():
    module, x = make("lstm"), X.to(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(module(x)[0], module(x.float())[0])
    with pytest.raises(ValueError, match="dtype"):
        module(x)


# Frozen modules


def test_a_frozen_module_packs_once_and_sees_what_pytorch_counts(monkeypatch):
    module = make("lstm").eval().freeze()
    packs = count_packs(monkeypatch)
    optimizer = torch.optim.SGD(module.parameters(), 0.1)

    def check(packed):
        packs.clear()
        with torch.no_grad():
            found = module(X)[0]
            assert torch.equal(module(X)[0], found)
            assert len(packs) == packed
            # ... and what it computed is what a new module computes.
            plain = make("lstm").to(module.weight_ih_l0.dtype)
            plain.load_state_dict(module.state_dict())
            assert torch.equal(plain(X)[0], found)

    check(1)
    check(0)
    module(X)[0].sum().backward()
    optimizer.step()
    check(1)
    module.load_state_dict(make("lstm").state_dict())
    check(1)
    module.weight_hh_l0 = torch.nn.Parameter(torch.zeros(32, 8))
    check(1)
    module.weight_hh_l0.data = torch.ones(32, 8)
    check(1)
    module.weight_hh_l0.data.mul_(2)  # which PyTorch does not count
    module.freeze()
    check(1)
    module.unfreeze()
    check(2)


# Errors


@pytest.mark.parametrize(
    "x, hx",
    [
        (torch.zeros(4, 2, 5), None),
        (torch.zeros(3), None),
        (torch.zeros(4, 2, 3, 1), None),
        (torch.zeros(4, 2, 3, dtype=torch.float64), None),
        (torch.zeros(4, 2, 3), torch.zeros(1, 3, 8)),
        (torch.zeros(4, 2, 3), torch.zeros(2, 2, 8)),
        (torch.zeros(4, 2, 3), torch.zeros(2, 8)),
        (torch.zeros(4, 3), torch.zeros(1, 2, 8)),
        (torch.zeros(4, 3), torch.zeros(2, 8)),
    ],
)
def test_errors_are_pytorchs(x, hx):
    theirs, ours = pair("GRU", 3, 8)
    errors = []
    for module in (theirs, ours):
        with pytest.raises((RuntimeError, ValueError)) as caught:
            module(x, hx)
        errors.append(caught)
    assert errors[0].type is errors[1].type
    assert str(errors[0].value).split("hx")[0][:30] == str(errors[1].value).split("hx")[0][:30]


def test_other_errors():
    module = make("lstm")
    for hx in (torch.zeros(1, 2, 8), (torch.zeros(1, 2, 8),)):
        with pytest.raises(TypeError, match="hx must be a tuple"):
            module(X, hx)
    with pytest.raises(ValueError, match="dtype"):
        module(X, (torch.zeros(1, 2, 8), torch.zeros(1, 2, 8, dtype=torch.float64)))
    packed = torch.nn.utils.rnn.pack_sequence([X[:, 0]])
    with pytest.raises(ValueError, match="resets"):
        module(packed, resets=torch.zeros(4, 1, dtype=torch.bool))
    with pytest.raises(ValueError, match="resets must have shape"):
        module(X, resets=torch.zeros(4, 3, dtype=torch.bool))
    module.weight_hh_l0 = torch.nn.Parameter(torch.zeros(32, 9))
    with pytest.raises(RuntimeError, match="weight_hh_l0 must have shape"):
        module(X)
    meta = fastrnn.torch.GRU(3, 8, device="meta")
    with pytest.raises(ValueError, match="meta"):
        meta(X.to("meta"))


def test_states_come_back_as_pytorchs():
    for name in CLASSES:
        theirs, ours = pair(name, 3, 8, 2, bidirectional=True)
        for want, got in zip(flattened(theirs(X, states(ours, 2))), flattened(ours(X, states(ours, 2))), strict=True):
            assert want.shape == got.shape and want.dtype == got.dtype
