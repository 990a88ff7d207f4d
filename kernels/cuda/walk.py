"""What forward and backward share: the argument block of one direction of a layer, and how kernels are launched."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastrnn.cell_table import Cell

from . import compiler, devices, graphs, units
from .batch import Batch
from .cuts import Policy
from .gemm import Gemm, Matrix
from .layout import ELEMENTS, Run, arguments, member_arguments, runs, step_arguments, sum_arguments
from .packed import Packed

__all__ = ["Walk", "launch_persistent", "sum_of_rows"]

_MOST_DYNAMIC_SHARED_MEMORY, _LARGER_CLUSTERS_ALLOWED = 8, 14  # CUfunction_attribute
_PORTABLE_CLUSTER = 8
_PORTABLE_SHARED_MEMORY = 48 * 1024
# Chunks of rows that sum_rows adds apart: enough blocks to fill a chip, few enough to add up in one more pass.
_SUM_CHUNKS = 64


class Walk:
    """One layer, one direction, one call: buffers, the argument block that refers to them, and the kernels.

    Attributes: args (a record of Arguments), slab (R, S, H), hs, cs, operand as in layout.py.
    """

    def __init__(self, cell: Cell, packed: Packed, batch: Batch, resets: Any, keep: bool) -> None:
        self.cupy = devices.require()
        self.cell, self.packed, self.batch = cell, packed, batch
        self.slots, self.H, self.dtype = len(cell.slots), packed.H, packed.dtype
        self.element = packed.w_ih.dtype
        self.sums = ELEMENTS[packed.dtype].sums
        self.gemm = Gemm(packed.dtype, packed.precision)
        self.phases = runs(cell.name, "h")
        self.args = args = arguments()
        args["B"], args["H"], args["steps"], args["keep"] = batch.B, packed.H, batch.steps, keep
        args["begin"], args["reverse"] = batch.begin, batch.schedule.reverse
        for name, address in batch.tables.items():
            args[name] = address
        self._held: list[Any] = []  # arrays that nobody else keeps alive during the call
        self.point(w_hh=packed.w_hh, peephole=packed.peephole, bias=packed.bias, resets=resets)
        if resets is not None:
            args["resets_time"] = resets.shape[1]

    def point(self, **arrays: Any) -> None:
        """Write where arrays lie; None stays null."""
        for name, array in arrays.items():
            self.args[name] = 0 if array is None else array.data.ptr

    def point_sequence(self, name: str, array: Any) -> None:
        """As ``point``, with the strides of a (T, B, ·) array."""
        if array is not None:
            time, batch, _ = (stride // array.itemsize for stride in array.strides)
            self.point(**{name: array})
            self.args[f"{name}_time"], self.args[f"{name}_batch"] = time, batch

    def point_states(self, entering: Sequence[Any] | None, leaving: Sequence[Any]) -> None:
        """As ``point``, for the states (or gradients of states) that come in, and those that go out."""
        for part, states in (("in", entering), ("out", leaving)):
            for name, array in zip("hc", states or (), strict=False):
                self.point(**{f"{name}_{part}": array})

    def new(self, name: str, *shape: int, sums: bool = False, zero: bool = False) -> Any:
        """A new array, in the layer's dtype or in that of sums, and where the block has it."""
        make = self.cupy.zeros if zero else self.cupy.empty
        array = make(shape, self.sums if sums else self.element)
        self.point(**{name: array})
        self._held.append(array)
        return array

    # Rows of buffers as matrices

    def slab_columns(self, slab: Any, run: Run, row: int, rows: int) -> Matrix:
        """Some slots of some rows of the slab."""
        width = self.slots * self.H
        whole = Matrix(slab.data.ptr, slab.shape[0], width, width, self.dtype)
        return whole.part(row, rows, run.slot * self.H, run.count * self.H)

    def rows_of(self, array: Any, row: int, rows: int) -> Matrix:
        """Some rows of an (·, H) array."""
        width = array.shape[-1]
        return Matrix(array.data.ptr, 0, width, width, array.dtype.name).part(row, rows, 0, width)

    def gates(self, weights: Any, run: Run) -> Matrix:
        """The rows of w_ih or w_hh that feed a run of slots."""
        return Matrix.of(weights).part(run.gate * self.H, run.count * self.H, 0, weights.shape[1])

    # Launches

    def steps(self, name: str, first: int, last: int, *, h: bool) -> graphs.Steps:
        """The stepwise launches of the steps first to last - 1; h: those that multiply h, and not dz."""
        rows = self.batch.schedule.active.tobytes() if self.batch.ragged else b""
        weights = self.packed.w_hh.data.ptr
        size = self.batch.B, self.H, self.packed.precision
        return graphs.steps(
            (name, self.cell.name, self.dtype, *size, first, last, weights, rows), lambda: self._step_buffers(h)
        )

    def _step_buffers(self, h: bool) -> dict[str, Any]:
        empty, B, H = self.cupy.empty, self.batch.B, self.H
        buffers = {"block": empty(self.args.nbytes, "uint8")}
        if h:
            fed = max(run.count for run in self.phases)
            buffers |= {"h_step": empty((2, B, H), self.element), "operand_step": empty((B, H), self.element)}
        else:
            fed = 1
            buffers["dz_step"] = empty((B, self.slots, H), self.element)
        return buffers | {"product": empty((B, fed * H), self.sums)}

    def store_arguments(self) -> None:
        """Put the arguments where the stepwise kernels that follow find them."""
        self._launch("store_arguments", 1, 32, self.args)

    def launch_enter(self) -> None:
        """Set the states that enter the first step, and the final ones of rows that have none."""
        self._launch("enter", self._blocks(self.batch.B), units.STEP_THREADS, self.args)

    def launch_step(self, kernel: str, step: int, rows: int) -> None:
        """A stepwise kernel, for that many rows; a thread a unit."""
        args = step_arguments(self.args["block"], step)
        self._launch(kernel, self._blocks(rows), units.STEP_THREADS, args)

    def _blocks(self, rows: int) -> int:
        return -(-rows * self.H // units.STEP_THREADS)

    def _launch(self, kernel: str, blocks: int, threads: int, args: Any) -> None:
        if blocks:
            module = compiler.load(units.stepwise(self.cell.name, self.dtype))
            stream = self.cupy.cuda.get_current_stream()
            module.functions[kernel]((blocks,), (threads,), (args,), 0, stream)

    def set_steps(self, first: int, last: int) -> None:
        """Have the next launch walk the steps from first to last - 1."""
        self.args["first"], self.args["last"] = first, last

    def hold(self, array: Any) -> Any:
        """Keep an array alive as long as this walk."""
        self._held.append(array)
        return array


def launch_persistent(walks: Sequence[Walk], policy: Policy, backward: bool) -> None:
    """The steps that each walk is set to, as many walks side by side as the policy says."""
    assert policy.shape is not None
    one, cluster = walks[0], policy.shape.cluster
    for walk, flags in zip(walks, _flags(walks, policy), strict=True):
        walk.point(flags=flags)
    module = compiler.load(units.persistent(one.cell.name, one.dtype, policy.shape, backward, policy.members))
    function = module.functions["backward" if backward else "forward"]
    if policy.shared > _PORTABLE_SHARED_MEMORY:
        one.cupy.cuda.driver.funcSetAttribute(function.ptr, _MOST_DYNAMIC_SHARED_MEMORY, policy.shared)
    if cluster > _PORTABLE_CLUSTER:
        one.cupy.cuda.driver.funcSetAttribute(function.ptr, _LARGER_CLUSTERS_ALLOWED, 1)
    grid, block = (policy.blocks, policy.columns, policy.members), (policy.shape.threads,)
    # Blocks that wait for each other by flags go cooperatively: a grid of which a part would have to queue is
    # refused. Those of a cluster are on the chip together or not at all.
    stream = one.cupy.cuda.get_current_stream()
    for at in range(0, len(walks), policy.members):
        args = member_arguments([walk.args for walk in walks[at : at + policy.members]])
        function(grid, block, (args,), policy.shared, stream, enable_cooperative_groups=not cluster)


def _flags(walks: Sequence[Walk], policy: Policy) -> Sequence[Any]:
    """Flags that no block has raised yet, for each walk; none where a cluster's barrier does."""
    if policy.kernel == "cluster":
        return [None] * len(walks)
    return walks[0].hold(walks[0].cupy.zeros((len(walks), policy.columns, policy.blocks), "uint32"))


def sum_of_rows(array: Any, dtype: str) -> Any:
    """Sum (rows, columns) over its rows, always in the same order: (columns,) in the dtype of sums."""
    for chunks in (_SUM_CHUNKS, 1):
        array, dtype = _sum_rows(array, dtype, min(chunks, max(array.shape[0], 1))), ELEMENTS[dtype].sums
    return array[0]


def _sum_rows(array: Any, dtype: str, chunks: int) -> Any:
    cupy = devices.require()
    args, (rows, columns) = sum_arguments(), array.shape
    sums = cupy.empty((chunks, columns), ELEMENTS[dtype].sums)
    args["in"], args["sums"], args["rows"], args["columns"] = array.data.ptr, sums.data.ptr, rows, columns
    grid = -(-columns // units.STEP_THREADS), chunks
    function = compiler.load(units.sums(dtype)).functions["sum_rows"]
    function(grid, (units.STEP_THREADS,), (args,), 0, cupy.cuda.get_current_stream())
    return sums
