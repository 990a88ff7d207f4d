"""JAX: every cell as a function of one step under ``lax.scan``, compiled by ``jit``; gradients by ``vjp``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jaxlib
import numpy as np
from jax import lax
from jax import numpy as jnp

from bench.cases import Case
from bench.checks import Outputs
from bench.peers.base import PUBLISHED_CELLS, Memory, Peer, Program, UnsupportedError

__all__ = ["JaxScan"]

Params = dict[str, Any]
State = tuple[Any, ...]

_PHI = {"rnn_tanh": jnp.tanh, "rnn_relu": jax.nn.relu, "rnn_sigmoid": jax.nn.sigmoid}


def _rnn(cell: str, p: Params, z: Any, state: State) -> State:
    return (_PHI[cell](z + state[0] @ p["weight_hh_l0"].T),)


def _lstm(cell: str, p: Params, z: Any, state: State) -> State:
    h, c = state
    coupled = "coupled" in cell
    parts = jnp.split(z + h @ p["weight_hh_l0"].T, 3 if coupled else 4, axis=1)
    zf, zg, zo = parts[-3:]
    peephole = jnp.split(p["weight_peephole_l0"], 2 if coupled else 3) if "peephole" in cell else None
    f = jax.nn.sigmoid(zf if peephole is None else zf + peephole[-2] * c)
    if coupled:
        i = 1 - f
    else:
        i = jax.nn.sigmoid(parts[0] if peephole is None else parts[0] + peephole[0] * c)
    c = f * c + i * jnp.tanh(zg)
    o = jax.nn.sigmoid(zo if peephole is None else zo + peephole[-1] * c)
    return o * jnp.tanh(c), c


def _gru(cell: str, p: Params, z: Any, state: State) -> State:
    (h,) = state
    zr, zz, zn = jnp.split(z, 3, axis=1)
    if cell == "gru_reset_after":
        hr, hz, hn = jnp.split(h @ p["weight_hh_l0"].T, 3, axis=1)
        # the recurrent bias of n is inside the product with r; z carries only that of the input
        r, update = jax.nn.sigmoid(zr + hr), jax.nn.sigmoid(zz + hz)
        n = jnp.tanh(zn + r * (hn + jnp.split(p["bias_hh_l0"], 3)[2]))
    else:
        w_r, w_z, w_n = jnp.split(p["weight_hh_l0"], 3)
        r, update = jax.nn.sigmoid(zr + h @ w_r.T), jax.nn.sigmoid(zz + h @ w_z.T)
        n = jnp.tanh(zn + (r * h) @ w_n.T)
    return (update * h + (1 - update) * n,)


_STEPS = {"rnn": _rnn, "lstm": _lstm, "gru": _gru}


def _sequence(cell: str, precision: str) -> Callable[[Params, Any, State], tuple[Any, State]]:
    """(params, x (T, B, I), state) -> y (T, B, H), final state; products of float32 in the precision given."""
    step = _STEPS[cell.split("_")[0]]

    @jax.default_matmul_precision(precision)
    def run(p: Params, x: Any, state: State) -> tuple[Any, State]:
        b_hh = p["bias_hh_l0"]
        if cell == "gru_reset_after":
            b_hh = b_hh.at[-b_hh.shape[0] // 3 :].set(0)
        z = x @ p["weight_ih_l0"].T + (p["bias_ih_l0"] + b_hh)

        def body(carried: State, z_t: Any) -> tuple[State, Any]:
            new = step(cell, p, z_t, carried)
            return new, new[0]

        final, y = lax.scan(body, state, z)
        return y, final

    return run


class JaxMemory:
    """Device bytes of XLA's allocator, whose peak cannot be reset: one below an earlier peak remains unknown."""

    def __init__(self) -> None:
        self._device = jax.devices()[0]
        self.reset()

    def release(self) -> None:
        pass  # XLA keeps what it has

    def reset(self) -> None:
        stats = self._device.memory_stats() or {}
        self._held, self._peak = stats.get("bytes_in_use", 0), stats.get("peak_bytes_in_use", 0)

    def peak(self) -> int | None:
        peak = (self._device.memory_stats() or {}).get("peak_bytes_in_use", 0)
        return peak - self._held if peak > self._peak else None


class JaxScan(Peer):
    """XLA. Its compiling is the first call; on the CPU the thread pool takes its size from NPROC.

    On a GPU products of float32 are in TF32 unless the precision is asked for: two variants there.
    """

    name = "jax"
    cells = PUBLISHED_CELLS
    devices = ("cpu", "cuda")

    def __init__(self, threads: int, device: str = "cpu") -> None:
        super().__init__(threads, device)
        jax.config.update("jax_enable_x64", True)
        jax.config.update("jax_platforms", device)
        try:
            jax.devices()
        except RuntimeError as error:
            raise UnsupportedError(f"jaxlib {jaxlib.__version__} has no {device} backend") from error

    def memory(self) -> Memory:
        return super().memory() if self.device == "cpu" else JaxMemory()

    def variants_of(self, case: Case) -> tuple[str, ...]:
        return ("fp32", "tf32") if (case.device, case.dtype) == ("cuda", "float32") else ("",)

    def versions(self) -> dict[str, str]:
        return {"jax": jax.__version__, "jaxlib": jaxlib.__version__}

    def settings(self) -> dict[str, Any]:
        if self.device == "cuda":
            return {"jit": True, "matmul_precision": "the variant's", "timing": "the host's clock, until ready"}
        return {"NPROC": self.threads, "jit": True, "matmul_precision": "float32"}

    def program(self, case: Case, variant: str) -> Program:
        problem = case.problem()
        precision = "tensorfloat32" if variant == "tf32" else "float32"
        params = {name: jnp.asarray(p) for name, p in problem.params.items()}
        x, dy = jnp.asarray(problem.x), jnp.asarray(problem.dy)
        state = tuple(jnp.asarray(s[0]) for s in problem.state)
        plain = _sequence(case.cell, precision)
        sequence = jax.jit(plain)

        @jax.jit
        def train(params: Params, x: Any, state: State, dy: Any) -> Any:
            (y, final), back = jax.vjp(plain, params, x, state)
            return y, final, back((dy, tuple(jnp.zeros_like(s) for s in final)))

        def forward() -> Any:
            return jax.block_until_ready(sequence(params, x, state))

        def training() -> Any:
            return jax.block_until_ready(train(params, x, state, dy))

        def step() -> Any:
            rows, carried = [], state
            for t in range(case.T):
                y, carried = sequence(params, x[t : t + 1], carried)
                rows.append(np.asarray(y))
            return np.concatenate(rows), carried

        run = {"forward": forward, "training": training, "step": step}[case.mode]
        return Program(run, _outputs, how="lax.scan under jit", precision="tf32" if variant == "tf32" else None)


def _outputs(ran: Any) -> Outputs:
    y, final, *rest = ran
    arrays = {"y": y} | {f"state{k}": s[None] for k, s in enumerate(final)}
    if rest:
        ((dparams, dx, dstate),) = rest
        arrays |= {"dx": dx} | {f"dstate{k}": s[None] for k, s in enumerate(dstate)}
        arrays |= {f"d{name}": gradient for name, gradient in dparams.items()}
    # 16-bit numbers as float32, which holds them exactly
    return {name: np.asarray(a, np.float32 if a.dtype.itemsize == 2 else None) for name, a in arrays.items()}
