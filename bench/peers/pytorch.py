"""PyTorch, eager, on either device: its own modules where it has the cell (cuDNN on a GPU), else autograd.

Where it has none the equations are written out in its operations. On a GPU the precision is a variant of its own:
"fp32" with TF32 off and "tf32" for a float32 case, "fp16" and "bf16" for cases of those dtypes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bench.cases import Case
from bench.checks import Outputs
from bench.devices import WallTimer, torch_timer
from bench.peers.base import PUBLISHED_CELLS, Memory, Peer, Program, UnsupportedError

__all__ = ["PyTorch", "State", "WrittenOut"]

State = tuple[Tensor, ...]

_NATIVE = {
    "rnn_tanh": (nn.RNN, {"nonlinearity": "tanh"}),
    "rnn_relu": (nn.RNN, {"nonlinearity": "relu"}),
    "lstm": (nn.LSTM, {}),
    "gru_reset_after": (nn.GRU, {}),
}


# The precisions in which a case of each dtype is timed on a GPU.
_PRECISIONS = {"float32": ("fp32", "tf32"), "float16": ("fp16",), "bfloat16": ("bf16",), "float64": ("fp64",)}


def _as_tensor(array: np.ndarray, device: str) -> Tensor:
    """A tensor of the same numbers and dtype; bfloat16 by way of float32, since torch reads NumPy's own dtypes only."""
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.astype(np.float32)).to(device, torch.bfloat16)
    return torch.from_numpy(array).to(device)


def _use_tf32(allowed: bool) -> None:
    """Allow TF32 in products of float32, cuDNN's and cuBLAS's, or forbid it."""
    torch.backends.cudnn.allow_tf32 = allowed
    torch.backends.cuda.matmul.allow_tf32 = allowed


class _TorchMemory:
    """Device bytes of torch's allocator, workspaces of cuDNN among them."""

    def __init__(self) -> None:
        self._before = 0

    def release(self) -> None:
        torch.cuda.empty_cache()

    def reset(self) -> None:
        self.release()
        torch.cuda.reset_peak_memory_stats()
        self._before = torch.cuda.memory_allocated()

    def peak(self) -> int | None:
        return torch.cuda.max_memory_allocated() - self._before


class WrittenOut(nn.Module):
    """A cell that torch.nn lacks: the input product for all steps at once, then a loop over time."""

    def __init__(self, cell: str, params: dict[str, Tensor], wrap: Callable[[Any], Any] | None = None) -> None:
        """``wrap`` is put around the function of one step."""
        super().__init__()
        self.cell = cell
        for name, value in params.items():
            setattr(self, name, nn.Parameter(value))
        step = {"rnn": self._rnn, "lstm": self._lstm, "gru": self._gru}[cell.split("_")[0]]
        self.step = step if wrap is None else wrap(step)

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """x (T, B, I), each state (B, H): y (T, B, H) and the final states."""
        zx = x @ self.weight_ih_l0.T + (self.bias_ih_l0 + self.bias_hh_l0)
        rows = []
        for z in zx:
            state = self.step(z, state)
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
    devices = ("cpu", "cuda")

    def __init__(self, threads: int, device: str = "cpu") -> None:
        super().__init__(threads, device)
        torch.set_num_threads(threads)
        if device == "cuda" and not torch.cuda.is_available():
            raise UnsupportedError(f"torch {torch.__version__} finds no CUDA device")

    def memory(self) -> Memory:
        return super().memory() if self.device == "cpu" else _TorchMemory()

    def variants_of(self, case: Case) -> tuple[str, ...]:
        return ("",) if case.device == "cpu" else _PRECISIONS[case.dtype]

    def versions(self) -> dict[str, str]:
        found = {"torch": torch.__version__}
        if self.device == "cuda":
            found |= {"cuda": str(torch.version.cuda), "cudnn": str(torch.backends.cudnn.version())}
        return found

    def settings(self) -> dict[str, Any]:
        if self.device == "cuda":
            return {"mode": "eager", "precision": "the variant's", "timing": "events"}
        return {
            "threads": torch.get_num_threads(),
            "mode": "eager",
            "float32_matmul_precision": torch.get_float32_matmul_precision(),
            "mkldnn": torch.backends.mkldnn.is_available(),
        }

    def _module(self, cell: str, params: dict[str, Tensor]) -> nn.Module:
        return (Native if self._is_native(cell) else WrittenOut)(cell, params)

    def _named(self, cell: str, outputs: Outputs) -> Outputs:
        """The outputs under PyTorch's names; others who build on this class may have their own."""
        return outputs

    def _is_native(self, cell: str) -> bool:
        return cell in _NATIVE

    def _how(self, cell: str) -> str:
        return f"torch.nn.{_NATIVE[cell][0].__name__}" if self._is_native(cell) else "loop in torch operations"

    def program(self, case: Case, variant: str) -> Program:
        problem, device = case.problem(), self.device
        module = self._module(case.cell, {name: _as_tensor(p, device) for name, p in problem.params.items()}).to(device)
        module.train(case.mode == "training")  # else its kernels keep what only a way back needs
        x, dy = _as_tensor(problem.x, device), _as_tensor(problem.dy, device)
        state = tuple(_as_tensor(s[0], device) for s in problem.state)
        run = {"forward": _forward, "training": _training, "step": _step}[case.mode](module, x, state, dy)
        tf32 = variant == "tf32"

        def with_precision() -> Any:
            _use_tf32(tf32)  # global, and the variants take turns
            return run()

        on_gpu = device == "cuda"
        return Program(
            with_precision if on_gpu else run,
            lambda ran: self._named(case.cell, _outputs(ran)),
            how=self._how(case.cell),
            native=self._is_native(case.cell),
            precision="tf32" if tf32 else None,
            timer=torch_timer() if on_gpu else WallTimer(),
        )


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
    arrays = {name: _to_host(tensor.detach()) for name, tensor in tensors.items()}
    return {name: a[None] if "state" in name else a for name, a in arrays.items()}


def _to_host(tensor: Tensor) -> np.ndarray:
    """A NumPy array; 16-bit numbers as float32, which holds them exactly."""
    return (tensor.float() if tensor.dtype.itemsize == 2 else tensor).cpu().numpy()
