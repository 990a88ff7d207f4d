"""The output layer: O = H Whq + bq."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from fastrnn import checks
from fastrnn.nn.arguments import rows_of
from fastrnn.nn.part import Part

__all__ = ["Linear"]


class Linear(Part):
    """An affine map of the last axis, any number of axes before it: y = x weightᵀ + bias.

    With h of a recurrent layer for x this is the sources' O = H Whq + bq, weight being Whqᵀ, as PyTorch has it.

    Parameters
    ----------
    in_size, out_size : int >= 1
    bias : bool
    dtype : "float32" or "float64"
        Of parameters, inputs and results; nothing is cast silently.
    device : "cpu" or "cuda"
    seed : int, optional
        Of the initial parameters, U(-1/√in_size, 1/√in_size), PyTorch's law.

    The parameters: ``weight`` (out_size, in_size), ``bias`` (out_size,). x is (…, in_size), y (…, out_size).

    Raises TypeError for an option of another type, ValueError for one out of range. Calls raise TypeError for
    arrays of another kind or dtype, ValueError for a last axis that does not fit.
    """

    def __init__(
        self,
        in_size: int,
        out_size: int,
        *,
        bias: bool = True,
        dtype: Any = "float32",
        device: str = "cpu",
        seed: int | None = None,
    ) -> None:
        self.in_size = checks.integer("in_size", in_size, 1, checks.MOST_SIZE)
        self.out_size = checks.integer("out_size", out_size, 1, checks.MOST_SIZE)
        self.bias = checks.flag("bias", bias)
        rng, bound = np.random.default_rng(checks.seed(seed)), 1 / math.sqrt(self.in_size)
        values = {"weight": rng.uniform(-bound, bound, (self.out_size, self.in_size))}
        if self.bias:
            values["bias"] = rng.uniform(-bound, bound, self.out_size)
        self._create(values, dtype, device)

    def settings(self) -> dict[str, Any]:
        return {"in_size": self.in_size, "out_size": self.out_size, "bias": self.bias, "dtype": self.dtype.name}

    def _train(self, x: Any) -> tuple[NDArray[Any], NDArray[Any]]:
        x = rows_of("x", x, self.kind, self.in_size, "in_size")
        rows, bias = x.reshape(-1, self.in_size), self.params["bias"] if self.bias else None
        y = self.kind.place.product(rows, self.params["weight"].T, bias=bias)
        return y.reshape(*x.shape[:-1], self.out_size), x

    def _gradients(self, x: Any, dy: Any, params: Mapping[str, Any], input_grad: bool) -> NDArray[Any] | None:
        shape = (*x.shape[:-1], self.out_size)
        dy = checks.shaped("dy", dy, self.kind, shape, "(…, out_size)").reshape(-1, self.out_size)
        product = self.kind.place.product
        product(dy.T, x.reshape(-1, self.in_size), out=params["weight"])
        if self.bias:
            dy.sum(axis=0, out=params["bias"])
        return cast(NDArray[Any], product(dy, self.params["weight"])).reshape(x.shape) if input_grad else None
