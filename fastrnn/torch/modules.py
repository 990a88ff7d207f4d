"""The modules: PyTorch's arguments, parameters, packed sequences and errors around ``autograd.run``."""

from __future__ import annotations

from typing import Any, Self

import torch
from numpy.typing import NDArray
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from fastrnn.cell_table import CELLS, Cell, cell_for
from fastrnn.checks import flag
from fastrnn.parameters import Layout
from fastrnn.torch.autograd import Call, Tensors, run
from fastrnn.torch.stack import KeptPacks, Options, Stack

__all__ = ["GRU", "LSTM", "RNN"]


class _Recurrent(torch.nn.RNNBase):
    """What the three have in common; the names of parameters and their order are ``torch.nn.RNNBase``'s."""

    _cell: str  # a row of the cell table
    _kept: KeptPacks | None  # None: not frozen
    _stacks: dict[Any, Stack]

    def _become(self, cell: Cell, device: Any, dtype: Any) -> None:
        """Run this cell; register its parameters where they are not those that PyTorch's class has."""
        self._cell, self._kept, self._stacks = cell.name, None, {}
        if self.dropout == 1:
            raise ValueError("dropout must be a number with 0 <= dropout < 1, got 1")
        layout = Layout.of(cell, self.input_size, self.hidden_size, self.num_layers, 1 + self.bidirectional, self.bias)
        if [(entry.name, entry.shape) for entry in layout] == [(n, tuple(p.shape)) for n, p in self.named_parameters()]:
            return
        self._parameters.clear()
        for entry in layout:
            self.register_parameter(
                entry.name, torch.nn.Parameter(torch.empty(entry.shape, device=device, dtype=dtype))
            )
        self._flat_weights_names = [entry.name for entry in layout]
        self._all_weights = [[name for name in names if name is not None] for names in layout.names]
        self._init_flat_weights()
        self.reset_parameters()

    # Calls

    def forward(self, input: Any, hx: Any = None, *, resets: torch.Tensor | None = None) -> Any:
        """Run the stack: y and the final state, as ``torch.nn``'s class does.

        resets : (T, B) booleans, with batch_first too; (T,) for unbatched input; not with a PackedSequence
            Where True, the row's state is zeroed before step t, in its direction's order, and no gradient passes.
        """
        states = self._states(hx)
        if isinstance(input, PackedSequence):
            if resets is not None:
                raise ValueError("resets must be None with a PackedSequence: pass a padded batch")
            return self._packed(input, states)
        if not isinstance(input, torch.Tensor):
            raise TypeError(f"input must be a tensor or a PackedSequence, got {type(input).__name__}")
        if resets is not None and not isinstance(resets, torch.Tensor):
            raise TypeError(f"resets must be a tensor of booleans, got {type(resets).__name__}")
        if input.dim() not in (2, 3):
            raise ValueError(f"{self._get_name()}: Expected input to be 2D or 3D, got {input.dim()}D instead")
        rows = () if input.dim() == 2 else (input.size(0 if self.batch_first else 1),)
        y, *final = self._run(input, states, rows, None, resets, self.batch_first)
        return y, self._public(final)

    def _packed(self, sequence: PackedSequence, states: Tensors) -> tuple[PackedSequence, Any]:
        """Rows stay in the packed order, longest first, and are padded for the kernels, which skip the padding."""
        data, batch_sizes, order, back = sequence
        B, T = int(batch_sizes[0]), len(batch_sizes)
        if order is not None:
            states = tuple([s.index_select(1, order) for s in states])
        lengths = None
        if len(data) == T * B:
            x = data.unflatten(0, (T, B))
        else:
            x, lengths = pad_packed_sequence(PackedSequence(data, batch_sizes))
        counts = None if lengths is None else lengths.numpy()
        y, *final = self._run(x, states, (B,), counts, None, False)
        y = y.flatten(0, 1) if lengths is None else pack_padded_sequence(y, lengths).data
        if back is not None:
            final = [s.index_select(1, back) for s in final]
        return PackedSequence(y, batch_sizes, order, back), self._public(final)

    def _run(
        self,
        x: torch.Tensor,
        states: Tensors,
        rows: tuple[int, ...],
        lengths: NDArray[Any] | None,
        resets: torch.Tensor | None,
        batch_first: bool,
    ) -> Tensors:
        """y and the final states of a batch of ``rows`` = (B,), or of one unbatched sequence, ()."""
        own = self._parameters
        try:
            weights: list[Any] = [own[name] for name in self._flat_weights_names]
        except KeyError:  # parametrized, pruned or otherwise computed
            weights = [getattr(self, name) for name in self._flat_weights_names]
        dtype, device = weights[0].dtype, weights[0].device
        if x.dtype != dtype and torch.is_autocast_enabled(device.type):
            x, states = x.to(dtype), tuple([s.to(dtype) for s in states])
        shape = (self.num_layers * (1 + self.bidirectional), *rows, self.hidden_size)
        for tensor in (x, *states):
            fits = tensor.shape[-1] == self.input_size if tensor is x else tensor.shape == shape
            if not fits or tensor.dtype != dtype or tensor.device != device:
                self._refuse(x, states, rows, weights[0], batch_first)
        key = dtype, device, batch_first, self.dropout if self.training else 0.0
        stack = self._stacks.get(key)
        if stack is None:
            stack = self._stacks[key] = self._stack(*key)
        return run(stack, Call(x, states, lengths, resets), weights, self._kept)

    def _stack(self, dtype: torch.dtype, device: torch.device, batch_first: bool, dropout: float) -> Stack:
        sizes = self.input_size, self.hidden_size, self.num_layers
        options = Options(*sizes, self.bias, self.bidirectional, batch_first, dropout, dtype, device)
        return Stack(CELLS[self._cell], options)

    def _states(self, hx: Any) -> Tensors:
        """The initial states, none for zeros."""
        if hx is None:
            return ()
        if len(CELLS[self._cell].states) == 1:
            if not isinstance(hx, torch.Tensor):
                raise TypeError(f"hx must be a tensor, got {type(hx).__name__}")
            return (hx,)
        if not isinstance(hx, (tuple, list)) or len(hx) != 2:
            raise TypeError(f"hx must be a tuple of two tensors, (h, c), got {type(hx).__name__}")
        for part in hx:
            if not isinstance(part, torch.Tensor):
                raise TypeError(f"hx must be a tuple of two tensors, (h, c), got {type(part).__name__} in it")
        return tuple(hx)

    def _public(self, final: list[torch.Tensor]) -> Any:
        return final[0] if len(final) == 1 else tuple(final)

    def _refuse(
        self, x: torch.Tensor, states: Tensors, rows: tuple[int, ...], weight: torch.Tensor, batch_first: bool
    ) -> None:
        """Raise what PyTorch raises for these arguments."""
        for name, tensor in (("input", x), *[("hx", s) for s in states]):
            if tensor.device != weight.device:
                raise RuntimeError(f"{name} is on {tensor.device}, but the parameters are on {weight.device}")
        for s in states:
            if s.dim() != 2 + len(rows):
                what = "batched 3-D" if rows else "unbatched 2-D"
                raise RuntimeError(f"For {what} input, hx should also be {2 + len(rows)}-D but got {s.dim()}-D tensor")
        if not rows:
            x, states = x.unsqueeze(0 if self.batch_first else 1), tuple([s.unsqueeze(1) for s in states])
        self.check_input(x, None)
        B = x.size(0 if batch_first else 1)
        for s in states:
            self.check_hidden_size(s, (self.num_layers * (1 + self.bidirectional), B, self.hidden_size))
        found = ", ".join(str(s.dtype) for s in states)
        raise ValueError(f"hx must have the parameters' dtype {weight.dtype}, got {found}")

    # Packed weights

    def freeze(self) -> Self:
        """Keep the weights packed between calls that want no gradient: for many short calls. Returns the module.

        Each such call looks whether a parameter has been replaced or, by PyTorch's own count, written to, and packs
        anew if so. What PyTorch does not count, writes through ``parameter.data`` or a NumPy view, it does not see:
        call ``freeze()`` again after those. A module that is not frozen packs its weights in every call.
        """
        self._kept = KeptPacks()
        return self

    def unfreeze(self) -> Self:
        """Undo ``freeze``. Returns the module."""
        self._kept = None
        return self

    # What PyTorch expects of a module

    def flatten_parameters(self) -> None:
        """Nothing: that is cuDNN's."""

    def extra_repr(self) -> str:
        """PyTorch's, and the cell where it is not PyTorch's."""
        cell = CELLS[self._cell]
        shown: str = super().extra_repr()
        return shown + f", cell={cell.name!r}" * (cell.name not in _PYTORCHS)

    def __getstate__(self) -> dict[str, Any]:
        state: Any = super().__getstate__()
        return {**state, "_stacks": {}}


_PYTORCHS = ("rnn_tanh", "rnn_relu", "lstm", "gru_reset_after")


class RNN(_Recurrent, torch.nn.RNN):
    """``torch.nn.RNN`` on fastrnn's kernels; ``nonlinearity`` may also be "sigmoid".

        y, h = module(input, h=None, *, resets=None)

    Arguments, attributes, parameters, ``state_dict`` and errors are those of the class from which it derives. In
    float32 and float64 on the CPU, on a GPU also in float16 and bfloat16. Differentiable once.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        cell = cell_for("RNN", nonlinearity=nonlinearity)
        known = nonlinearity if cell.name in _PYTORCHS else "tanh"
        options = bias, batch_first, dropout, bidirectional
        super().__init__(input_size, hidden_size, num_layers, known, *options, device=device, dtype=dtype)
        self.nonlinearity, self.mode = nonlinearity, f"RNN_{nonlinearity.upper()}"
        self._become(cell, device, dtype)


class LSTM(_Recurrent, torch.nn.LSTM):
    """``torch.nn.LSTM`` on fastrnn's kernels; with ``peephole`` and ``coupled`` as ``fastrnn.LSTM`` has them.

        y, (h, c) = module(input, (h, c)=None, *, resets=None)

    Arguments, attributes, parameters, ``state_dict`` and errors are those of the class from which it derives; there are
    no projections: ``proj_size`` must be 0. The variants' parameters are those of ``fastrnn.LSTM``. In float32 and
    float64 on the CPU, on a GPU also in float16 and bfloat16. Differentiable once.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: Any = None,
        dtype: Any = None,
        *,
        peephole: bool = False,
        coupled: bool = False,
    ) -> None:
        if proj_size != 0:
            raise ValueError(f"proj_size must be 0, got {proj_size}: fastrnn has no projections")
        cell = cell_for("LSTM", peephole=flag("peephole", peephole), coupled=flag("coupled", coupled))
        first = device if cell.name in _PYTORCHS else "meta"  # parameters that take no memory and are replaced
        options = bias, batch_first, dropout, bidirectional
        super().__init__(input_size, hidden_size, num_layers, *options, device=first, dtype=dtype)
        self._become(cell, device, dtype)


class GRU(_Recurrent, torch.nn.GRU):
    """``torch.nn.GRU`` on fastrnn's kernels; with ``reset_after=False`` as ``fastrnn.GRU`` has it.

        y, h = module(input, h=None, *, resets=None)

    Arguments, attributes, parameters, ``state_dict`` and errors are those of the class from which it derives. In
    float32 and float64 on the CPU, on a GPU also in float16 and bfloat16. Differentiable once.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Any = None,
        dtype: Any = None,
        *,
        reset_after: bool = True,
    ) -> None:
        options = bias, batch_first, dropout, bidirectional
        super().__init__(input_size, hidden_size, num_layers, *options, device=device, dtype=dtype)
        self._become(cell_for("GRU", reset_after=flag("reset_after", reset_after)), device, dtype)
