"""PyTorch's modules: their weights in a layer, a layer's weights in them."""

from __future__ import annotations

import torch

from fastrnn.weights import from_torch, to_torch
from tests.checks import make_layer
from tests.weights.agreement import OPTIONS, Agreement, largest, layer_outputs, problem_of

CLASSES = {"rnn_tanh": "RNN", "rnn_relu": "RNN", "lstm": "LSTM", "gru_reset_after": "GRU"}


def module_of(cell, case, **options):
    """A module of PyTorch with random weights."""
    torch.manual_seed(len(cell))
    given = {name: getattr(case, name) for name in ("bias", "batch_first", "bidirectional", "num_layers")}
    given |= {"nonlinearity": cell.removeprefix("rnn_")} if cell.startswith("rnn") else {}
    return getattr(torch.nn, CLASSES[cell])(case.I, case.H, dtype=getattr(torch, case.dtype), **(given | options))


def module_outputs(module, problem):
    """y, time-major, and the final states of a module for a problem."""
    x, state = torch.from_numpy(problem.x), tuple(torch.from_numpy(s) for s in problem.state)
    x = x.transpose(0, 1) if module.batch_first else x
    if problem.lengths is not None:
        x = torch.nn.utils.rnn.pack_padded_sequence(
            x, torch.as_tensor(problem.lengths), module.batch_first, enforce_sorted=False
        )
    with torch.no_grad():
        y, final = module(x, state if len(state) > 1 else state[0])
    if problem.lengths is not None:
        y, _ = torch.nn.utils.rnn.pad_packed_sequence(y, module.batch_first, total_length=problem.case.T)
    y = y.transpose(0, 1) if module.batch_first else y
    return [part.numpy() for part in (y, *(final if isinstance(final, tuple) else (final,)))]


def difference(cell, option, dtype):
    problem = problem_of(cell, option, dtype)
    module = module_of(cell, problem.case)
    nonlinearity = {"nonlinearity": module.nonlinearity} if cell.startswith("rnn") else {}
    state = from_torch({f"a.b.{k}": v for k, v in module.state_dict().items()} | {"a.head.w": 0}, **nonlinearity)
    imported = from_torch(module)
    assert (state.flat_params == imported.flat_params).all() and imported.batch_first == module.batch_first
    exported = make_layer(problem)
    return max(
        largest(layer_outputs(imported, problem), module_outputs(module, problem)),
        largest(layer_outputs(exported, problem), module_outputs(to_torch(exported), problem)),
    )


def agreements():
    found = []
    for cell in CLASSES:
        for option in (*OPTIONS, "float64"):
            dtype = "float64" if option == "float64" else "float32"
            run = lambda cell=cell, option=option, dtype=dtype: difference(cell, option, dtype)  # noqa: E731
            found.append(Agreement("PyTorch", cell, option, run, dtype))
    return found
