"""MyGrad: autograd on NumPy arrays; its one recurrent layer is the GRU with the reset before the product."""

from __future__ import annotations

from typing import Any

import mygrad
import numba
import numpy as np
from mygrad.nnet.layers import gru

from bench.cases import Case
from bench.checks import Outputs
from bench.peers.base import Peer, Program

__all__ = ["MyGradGRU"]


class MyGradGRU(Peer):
    """Numba-compiled pointwise loops around NumPy's products."""

    name = "mygrad"
    cells = ("gru_reset_before",)
    modes = ("forward", "training")

    def versions(self) -> dict[str, str]:
        return {"mygrad": mygrad.__version__, "numba": numba.__version__}

    def program(self, case: Case, variant: str) -> Program:
        problem = case.problem()
        p = problem.params
        bias = p["bias_ih_l0"] + p["bias_hh_l0"]
        constant = case.mode == "forward"
        x = mygrad.tensor(problem.x, constant=constant)
        weights = []  # U, W, b of z, r and h
        for gate in (1, 0, 2):
            rows = slice(gate * case.H, (gate + 1) * case.H)
            arrays = (p["weight_ih_l0"][rows].T.copy(), p["weight_hh_l0"][rows].T.copy(), bias[rows])
            weights += [mygrad.tensor(a, constant=constant) for a in arrays]
        initial = problem.state[0][0]

        def forward() -> Any:
            with mygrad.no_autodiff:
                return gru(x, *weights, s0=initial, constant=True)

        def training() -> Any:
            s = gru(x, *weights, s0=initial)
            s[1:].backward(problem.dy)
            return s

        def outputs(s: Any) -> Outputs:
            arrays = {"y": s.data[1:], "state0": s.data[-1:]}
            if not constant:
                z, r, n = (weights[k : k + 3] for k in (0, 3, 6))
                dw_ih, dw_hh = (np.concatenate([g[k].grad.T for g in (r, z, n)]) for k in (0, 1))
                db = np.concatenate([g[2].grad for g in (r, z, n)])
                arrays |= {"dx": x.grad, "dweight_ih_l0": dw_ih, "dweight_hh_l0": dw_hh}
                arrays |= {"dbias_ih_l0": db, "dbias_hh_l0": db}
            return arrays

        return Program(
            forward if constant else training,
            outputs,
            how="mygrad.nnet.layers.gru",
            lacks=("dstate0",),
        )
