"""fastrnn.torch: modules that take tensors, and raise what PyTorch's own raise (for shapes a RuntimeError)."""

from __future__ import annotations

import contextlib
import functools

import numpy as np
import torch

from fastrnn import torch as modules
from fastrnn import weights
from tests.cases import LAYERS
from tests.hostile.targets.common import H, I, Setting, inputs, target
from tests.hostile.targets.weights import of_torch, torch_names


@functools.lru_cache(maxsize=64)
def _module(s: Setting):
    kind, options = LAYERS[s.cell]
    torch.manual_seed(1)
    return getattr(modules, kind)(
        I,
        H,
        s.layers,
        batch_first=s.batch_first,
        bidirectional=s.bidirectional,
        dtype=getattr(torch, s.dtype),
        **options,
    )


def _tensor(value):
    """On the array's memory where PyTorch can have it so, a copy of what has negative strides; else the value."""
    if isinstance(value, tuple):
        return tuple(map(_tensor, value))
    if type(value) is not np.ndarray:
        return value
    for array in (value, value.copy()):
        with contextlib.suppress(ValueError, TypeError):
            return torch.from_numpy(array)
    return value


# Tensors of read-only memory, of subclasses and of bytes in another order are arrays as good as any, or none.
@target(
    "input=floats hx=states resets=flags",
    accepted={
        "floats": "subclass memory_map matrix masked", "states": "subclass memory_map matrix masked",
        "flags": "subclass memory_map matrix masked",
    },
)  # fmt: skip
def torch_modules(s):
    module = _module(s)

    def run(input, hx, resets):
        x = _tensor(input)
        if isinstance(x, torch.Tensor) and x.is_floating_point() and x.numel() < 1 << 30:
            x = x.detach().requires_grad_()
        try:
            y, state = module(x, _tensor(hx), resets=_tensor(resets))
            y.sum().backward()
            found = [y, *(state if isinstance(state, tuple) else (state,)), x.grad]
            with torch.no_grad():
                found.append(module(x, _tensor(hx), resets=_tensor(resets))[0])
        except RuntimeError as error:
            raise ValueError(f"input, hx: {error}") from None
        return [tensor.detach().numpy().copy() for tensor in found]

    given = inputs(s)
    return {"input": given["x"], "hx": given["state"], "resets": given["resets"]}, run


@target("enabled=option")
def shared_threads(s):
    def run(enabled):
        try:
            modules.set_shared_threads(enabled)
        finally:
            modules.set_shared_threads(True)
        return ()

    return {"enabled": True}, run


# Sizes, dropout and the like are PyTorch's own to look at.
@target("nonlinearity=option peephole=option coupled=option reset_after=option")
def torch_options(s):
    def run(nonlinearity, peephole, coupled, reset_after):
        made = (
            modules.RNN(I, H, nonlinearity=nonlinearity),
            modules.LSTM(I, H, peephole=peephole, coupled=coupled),
            modules.GRU(I, H, reset_after=reset_after),
        )
        return [name.encode() for module in made for name, _ in module.freeze().unfreeze().named_parameters()]

    return {"nonlinearity": "sigmoid", "peephole": True, "coupled": True, "reset_after": False}, run


@target("source=option prefix=option dtype=option bias=option reset_after=option layer=option")
def from_and_to_torch(s):
    s = of_torch(s)._replace(cell="gru_reset_after")
    arrays = {"a." + name: array for name, array in torch_names(s).items()}

    def run(source, layer, **options):
        made = weights.from_torch(arrays if source is None else source, **options)
        again = weights.from_torch(weights.to_torch(made if layer is None else layer))
        return made.flat_params, again.flat_params

    given = {"source": None, "prefix": "a.", "dtype": s.dtype, "bias": True, "reset_after": True, "layer": None}
    return given, run
