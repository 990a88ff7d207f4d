"""Drop-ins for torch.nn.RNN, torch.nn.LSTM and torch.nn.GRU, with autograd through fastrnn's kernels.

    from fastrnn.torch import GRU              # in place of: from torch.nn import GRU

The classes derive from PyTorch's own, and so take the same arguments, hold the same parameters under the same names,
draw the same initial values after ``torch.manual_seed``, and load and save the same ``state_dict``. On the CPU kernels
read tensors and write results and gradients in place, without a copy; on a GPU arrays change hands by DLPack. Needs
PyTorch: ``pip install "fastrnn[torch]"``.

    modules.py      the classes: what PyTorch expects of a module, packed sequences
    autograd.py     one call of a stack as a torch.autograd.Function
    stack.py        what ``fastrnn.network`` asks of a layer, on weights that a module owns
    exchange.py     tensors as arrays, arrays as tensors
    openmp.py       our kernels on PyTorch's threads
"""

from __future__ import annotations

try:
    import torch as _torch  # noqa: F401
except ImportError as error:
    raise ImportError('fastrnn.torch needs PyTorch: pip install "fastrnn[torch]"') from error

from fastrnn.torch.modules import GRU, LSTM, RNN
from fastrnn.torch.openmp import set_shared_threads

__all__ = ["GRU", "LSTM", "RNN", "set_shared_threads"]
