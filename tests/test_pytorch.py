"""An outside oracle: PyTorch in float64, outputs, states and all gradients.

``torch.nn`` where it has the cell; every cell written with PyTorch's operations, so that its autograd derives the
gradients which the kernels were given by hand.
"""

from __future__ import annotations

import numpy as np
import pytest

from tests.cases import Case
from tests.checks import Results, assert_close, layer_results, make_layer
from tests.reference import CELLS

torch = pytest.importorskip("torch", reason="the oracle is PyTorch")

TOLERANCE = 1e-10


def leaves(arrays):
    """Tensors that want a gradient."""
    return [torch.tensor(a, requires_grad=True) for a in arrays]


def results(problem, x, state, params, y, final):
    """Send the problem's gradients back, and collect everything as arrays."""
    dy = torch.tensor(np.nan_to_num(problem.dy))
    loss = (y * dy).sum() + sum((s * torch.tensor(d)).sum() for s, d in zip(final, problem.dstate, strict=True))
    loss.backward()

    def gradient(leaf):
        return np.zeros(leaf.shape) if leaf.grad is None else leaf.grad.numpy()

    return Results(
        y.detach().numpy(),
        tuple(s.detach().numpy() for s in final),
        gradient(x),
        tuple(gradient(s) for s in state),
        {name: gradient(p) for name, p in params.items()},
    )


MODULES = {
    "rnn_tanh": lambda *args, **kw: torch.nn.RNN(*args, **kw),
    "rnn_relu": lambda *args, **kw: torch.nn.RNN(*args, nonlinearity="relu", **kw),
    "lstm": lambda *args, **kw: torch.nn.LSTM(*args, **kw),
    "gru_reset_after": lambda *args, **kw: torch.nn.GRU(*args, **kw),
}


def module_results(problem):
    """torch.nn, which takes no lengths of 0 and no resets."""
    case = problem.case
    options = {"bias": case.bias, "bidirectional": case.bidirectional, "dtype": torch.float64}
    module = MODULES[case.cell](case.I, case.H, case.num_layers, **options)
    module.load_state_dict({name: torch.from_numpy(p) for name, p in problem.params.items()})
    x, *state = leaves([problem.x, *problem.state])
    inputs = x
    if problem.lengths is not None:
        lengths = torch.as_tensor(problem.lengths)
        inputs = torch.nn.utils.rnn.pack_padded_sequence(x, lengths, enforce_sorted=False)
    y, final = module(inputs, tuple(state) if len(state) > 1 else state[0])
    if problem.lengths is not None:
        y, _ = torch.nn.utils.rnn.pad_packed_sequence(y, total_length=case.T)
    final = final if isinstance(final, tuple) else (final,)
    return results(problem, x, state, dict(module.named_parameters()), y, final)


def step(cell, p, x, state):
    """One step of a cell with PyTorch's operations; p: parameters by their names without layer and direction."""
    h, c = state[0], state[-1]
    zero = x.new_zeros(())
    zx = x @ p["weight_ih"].T + p.get("bias_ih", zero)
    if cell.startswith("gru"):
        r, z, n = zx.chunk(3, 1)
        b = p.get("bias_hh", x.new_zeros(3 * h.shape[1])).chunk(3)
        w_r, w_z, w_n = p["weight_hh"].chunk(3)
        r = torch.sigmoid(r + h @ w_r.T + b[0])
        z = torch.sigmoid(z + h @ w_z.T + b[1])
        before = cell == "gru_reset_before"
        n = torch.tanh(n + ((r * h) @ w_n.T + b[2] if before else r * (h @ w_n.T + b[2])))
        return ((1 - z) * n + z * h,)
    total = zx + h @ p["weight_hh"].T + p.get("bias_hh", zero)
    if cell.startswith("rnn"):
        return (getattr(torch, cell.removeprefix("rnn_"))(total),)
    gates = dict(zip(CELLS[cell].gates, total.chunk(len(CELLS[cell].gates), 1), strict=True))
    w = dict.fromkeys("ifo", zero)
    if "peephole" in cell:
        names = CELLS[cell].peepholes
        w |= zip(names, p["weight_peephole"].chunk(len(names)), strict=True)
    f = torch.sigmoid(gates["f"] + w["f"] * c)
    i = 1 - f if "coupled" in cell else torch.sigmoid(gates["i"] + w["i"] * c)
    c = f * c + i * torch.tanh(gates["g"])
    return torch.sigmoid(gates["o"] + w["o"] * c) * torch.tanh(c), c


def written_results(problem):
    """The whole network as a loop over time, rows that have ended keeping their state."""
    case = problem.case
    x, *state = leaves([problem.x, *problem.state])
    params = dict(zip(problem.params, leaves(problem.params.values()), strict=True))
    resets = np.zeros((case.T, case.B), bool) if problem.resets is None else problem.resets
    resets, alive = (torch.tensor(a)[:, :, None] for a in (resets, ~problem.padding))
    y, finals = x, []
    for layer in range(case.num_layers):
        outputs = []
        for d, direction in enumerate(("", "_reverse")[: case.directions]):
            suffix = f"_l{layer}{direction}"
            p = {name.removesuffix(suffix): t for name, t in params.items() if name.endswith(suffix)}
            s = tuple(part[layer * case.directions + d] for part in state)
            out = [None] * case.T
            for t in range(case.T)[:: -1 if d else 1]:
                entering = tuple(torch.where(resets[t], 0.0, part) for part in s)
                leaving = step(case.cell, p, y[t], entering)
                s = tuple(torch.where(alive[t], new, old) for new, old in zip(leaving, s, strict=True))
                out[t] = torch.where(alive[t], leaving[0], 0.0)
            outputs.append(torch.stack(out))
            finals.append(s)
        y = torch.cat(outputs, 2)
    return results(problem, x, state, params, y, [torch.stack(part) for part in zip(*finals, strict=True)])


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize("cell", MODULES)
def test_torch_nn(cell, num_layers, bidirectional, ragged):
    for bias in (True, False):
        case = Case(
            cell, T=9, B=5, I=6, H=37, num_layers=num_layers, bidirectional=bidirectional, ragged=ragged, bias=bias
        )
        problem = case.problem()
        if ragged:
            problem.lengths = np.maximum(problem.lengths, 1)
            problem.dy[0] = 1.0
        assert_close(layer_results(problem), module_results(problem), problem, TOLERANCE)


@pytest.mark.parametrize("resets", [False, True])
@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("structure", [{}, {"num_layers": 2, "bidirectional": True}], ids=["plain", "deep"])
@pytest.mark.parametrize("cell", CELLS)
def test_autograd(cell, structure, ragged, resets):
    for bias in (True, False):
        problem = Case(cell, T=9, B=5, I=6, H=37, ragged=ragged, resets=resets, bias=bias, **structure).problem()
        assert_close(layer_results(problem), written_results(problem), problem, TOLERANCE)


@pytest.mark.parametrize("cell", MODULES)
def test_state_dicts_load_as_they_are(cell):
    """Names, shapes and gate order are PyTorch's; a float32 checkpoint loads without a word."""
    module = MODULES[cell](4, 17, 2, bidirectional=True)
    problem = Case(cell, num_layers=2, bidirectional=True, dtype="float32").problem()
    layer = make_layer(problem)
    layer.load_params({name: p.numpy() for name, p in module.state_dict().items()})
    assert list(layer.params) == list(module.state_dict())
    with torch.no_grad():
        want, _ = module(torch.from_numpy(problem.x))
    np.testing.assert_allclose(layer(problem.x)[0], want.numpy(), rtol=0, atol=1e-6)
