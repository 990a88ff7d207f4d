"""PyTorch, eager: its own modules where it has the cell, the equations in autograd where it has not."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from bench.cases import Case
from bench.checks import Outputs
from bench.peers.base import PUBLISHED_CELLS, Peer, Program

__all__ = ["PyTorch"]

State = tuple[Tensor, ...]

_NATIVE = {
    "rnn_tanh": (nn.RNN, {"nonlinearity": "tanh"}),
    "rnn_relu": (nn.RNN, {"nonlinearity": "relu"}),
    "lstm": (nn.LSTM, {}),
    "gru_reset_after": (nn.GRU, {}),
}


class WrittenOut(nn.Module):
    """A cell that torch.nn lacks: the input product for all steps at once, then a loop over time."""

    def __init__(self, cell: str, params: dict[str, Tensor]) -> None:
        super().__init__()
        self.cell = cell
        for name, value in params.items():
            setattr(self, name, nn.Parameter(value))

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """x (T, B, I), each state (B, H): y (T, B, H) and the final states."""
        zx = x @ self.weight_ih_l0.T + (self.bias_ih_l0 + self.bias_hh_l0)
        step = {"rnn": self._rnn, "lstm": self._lstm, "gru": self._gru}[self.cell.split("_")[0]]
        rows = []
        for z in zx:
            state = step(z, state)
            rows.append(state[0])
        return torch.stack(rows), state

    def _rnn(self, z: Tensor, state: State) -> State:
        return (torch.sigmoid(torch.addmm(z, state[0], self.weight_hh_l0.T)),)

    def _lstm(self, z: Tensor, state: State) -> State:
        h, c = state
        peephole, coupled = "peephole" in self.cell, "coupled" in self.cell
        parts = torch.addmm(z, h, self.weight_hh_l0.T).chunk(3 if coupled else 4, dim=1)
        zi = None if coupled else parts[0]
        zf, zg, zo = parts[-3:]
        if peephole:
            p = self.weight_peephole_l0.chunk(2 if coupled else 3)
            zf = zf + p[-2] * c
            zi = None if zi is None else zi + p[0] * c
        f = torch.sigmoid(zf)
        i = 1 - f if zi is None else torch.sigmoid(zi)
        c = f * c + i * torch.tanh(zg)
        o = torch.sigmoid(zo + p[-1] * c if peephole else zo)
        return o * torch.tanh(c), c

    def _gru(self, z: Tensor, state: State) -> State:
        (h,) = state
        H = h.shape[1]
        zr, zz = torch.addmm(z[:, : 2 * H], h, self.weight_hh_l0[: 2 * H].T).chunk(2, dim=1)
        r, update = torch.sigmoid(zr), torch.sigmoid(zz)
        n = torch.tanh(torch.addmm(z[:, 2 * H :], r * h, self.weight_hh_l0[2 * H :].T))
        return (update * h + (1 - update) * n,)


class Native(nn.Module):
    """A torch.nn module behind the same signature as WrittenOut."""

    def __init__(self, cell: str, params: dict[str, Tensor]) -> None:
        super().__init__()
        kind, options = _NATIVE[cell]
        w_ih, w_hh = params["weight_ih_l0"], params["weight_hh_l0"]
        self.layer = kind(w_ih.shape[1], w_hh.shape[1], dtype=w_ih.dtype, **options)
        self.layer.load_state_dict(params)

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        lifted = tuple(s[None] for s in state)
        y, final = self.layer(x, lifted if len(lifted) == 2 else lifted[0])
        return y, tuple(s[0] for s in (final if isinstance(final, tuple) else (final,)))


class PyTorch(Peer):
    """PyTorch in eager mode: ``inference_mode`` for forward, autograd for training."""

    name = "torch"
    cells = PUBLISHED_CELLS

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        torch.set_num_threads(threads)

    def versions(self) -> dict[str, str]:
        return {"torch": torch.__version__}

    def settings(self) -> dict[str, Any]:
        return {
            "threads": torch.get_num_threads(),
            "mode": "eager",
            "float32_matmul_precision": torch.get_float32_matmul_precision(),
            "mkldnn": torch.backends.mkldnn.is_available(),
        }

    def program(self, case: Case, variant: str) -> Program:
        problem = case.problem()
        native = case.cell in _NATIVE
        module = (Native if native else WrittenOut)(
            case.cell, {name: torch.from_numpy(p) for name, p in problem.params.items()}
        )
        x, dy = torch.from_numpy(problem.x), torch.from_numpy(problem.dy)
        state = tuple(torch.from_numpy(s[0]) for s in problem.state)
        run = {"forward": _forward, "training": _training, "step": _step}[case.mode](module, x, state, dy)
        how = f"torch.nn.{_NATIVE[case.cell][0].__name__}" if native else "loop in torch operations"
        return Program(run, _outputs, how=how, native=native)


def _forward(module: nn.Module, x: Tensor, state: State, dy: Tensor) -> Any:
    def run() -> Any:
        with torch.inference_mode():
            return *module(x, state), {}

    return run


def _step(module: nn.Module, x: Tensor, state: State, dy: Tensor) -> Any:
    def run() -> Any:
        with torch.inference_mode():
            rows, carried = [], state
            for t in range(len(x)):
                y, carried = module(x[t : t + 1], carried)
                rows.append(y)
            return torch.cat(rows), carried, {}

    return run


def _training(module: nn.Module, x: Tensor, state: State, dy: Tensor) -> Any:
    inputs = {"dx": x.requires_grad_()}
    inputs |= {f"dstate{k}": s.requires_grad_() for k, s in enumerate(state)}
    inputs |= {f"d{name.removeprefix('layer.')}": p for name, p in module.named_parameters()}

    def run() -> Any:
        y, final = module(x, state)
        grads = torch.autograd.grad(y, list(inputs.values()), dy)
        return y, final, dict(zip(inputs, grads, strict=True))

    return run


def _outputs(ran: Any) -> Outputs:
    y, final, grads = ran
    tensors = {"y": y} | {f"state{k}": s for k, s in enumerate(final)} | grads
    arrays = {name: tensor.detach().numpy() for name, tensor in tensors.items()}
    return {name: a[None] if "state" in name else a for name, a in arrays.items()}
