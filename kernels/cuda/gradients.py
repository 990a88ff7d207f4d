"""Gradients of parameters and of x, after the steps: products and ordered sums over all packed rows of dz."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import devices
from .gemm import Matrix
from .layout import ELEMENTS, runs
from .packed import Packed
from .walk import Walk, sum_of_rows

if TYPE_CHECKING:
    from .forward import Saved

__all__ = ["Accumulators", "accumulators", "add_gradients", "input_gradient"]


class Accumulators:
    """Gradients of one layer's parameters, zeros at first, in the parameters' own order."""

    def __init__(self, packed: Packed) -> None:
        cupy = devices.require()
        sums, H = ELEMENTS[packed.dtype].sums, packed.H
        shapes = [packed.w_ih.shape, packed.w_hh.shape]
        shapes += [packed.w_hh.shape[:1] if packed.bias is not None else None] * 2
        shapes += [(len(packed.cell.peepholes) * H,) if packed.cell.peepholes else None]
        self.arrays = tuple(None if shape is None else cupy.zeros(shape, sums) for shape in shapes)

    def store_in(self, arrays: tuple[Any, ...], add: bool) -> None:
        """See ``fastrnn.backend.Accumulators``."""
        for mine, target in zip(self.arrays, arrays, strict=True):
            if mine is not None:
                _store(target, mine, add)


def accumulators(packed: Packed) -> Accumulators:
    """See ``fastrnn.backend.Backend``."""
    return Accumulators(packed)


def add_gradients(
    walk: Walk, saved: Saved, x: Any, d_peephole: Any, dx: Any, accumulate_dx: bool,
    grads: tuple[Any, ...] | Accumulators, add: bool,
) -> None:  # fmt: skip
    """Fill or add to grads (w_ih, w_hh, b_ih, b_hh, peephole), and dx. saved.slab has dz."""
    if isinstance(grads, Accumulators):
        grads, add = grads.arrays, True
    w_ih, w_hh, b_ih, b_hh, peephole = grads
    cell, batch, H = walk.cell, walk.batch, walk.H
    rows = batch.total

    def dz(run: Any) -> Matrix:
        return walk.slab_columns(saved.slab, run, 0, rows)

    if dx is not None:
        if not accumulate_dx:
            batch.clear_padding(dx)
        input_gradient(walk, saved, dx, 0, rows, accumulate_dx)
    if not rows:
        if not add:
            for array in grads:
                if array is not None:
                    array[...] = 0
        return
    inputs, _alive = batch.gather(x, 0, rows)
    for run in runs(cell.name, "x"):
        walk.gemm(dz(run), inputs, walk.gates(w_ih, run), a_transposed=True, add=add)
    for run, multiplied in zip(walk.phases, (saved.hs, saved.operand), strict=False):
        walk.gemm(dz(run), walk.rows_of(multiplied, 0, rows), walk.gates(w_hh, run), a_transposed=True, add=add)
    if b_ih is not None:
        sums = sum_of_rows(saved.slab.reshape(rows, -1), walk.dtype).reshape(-1, H)
        for source, bias in (("x", b_ih), ("h", b_hh)):
            by_gate = bias.reshape(-1, H)
            for run in runs(cell.name, source):
                _store(by_gate[run.gate : run.gate + run.count], sums[run.slot : run.slot + run.count], add)
    if peephole is not None:
        _store(peephole, sum_of_rows(d_peephole, walk.sums), add)


def _store(target: Any, values: Any, add: bool) -> None:
    if add:
        target += values
    else:
        target[...] = values


def input_gradient(walk: Walk, saved: Saved, dx: Any, begin: int, end: int, add: bool) -> None:
    """dz Wih of the packed rows begin to end - 1, to their places in dx."""
    if begin == end:
        return
    batch = walk.batch
    target, rows = batch.target(dx, begin, end), None
    if target is None:
        rows = walk.cupy.empty((end - begin, dx.shape[2]), walk.element)
        target = Matrix.of(rows)
    for index, run in enumerate(runs(walk.cell.name, "x")):
        dz = walk.slab_columns(saved.slab, run, begin, end - begin)
        walk.gemm(dz, walk.gates(walk.packed.w_ih, run), target, add=index > 0 or (add and rows is None))
    if rows is not None:
        batch.scatter(rows, dx, begin, end, add)
