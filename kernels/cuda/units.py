"""Translation units: which kernels are compiled together, and from what text.

A unit is a cell in a dtype under a policy; ``sums`` and ``dropout`` are one a dtype. Each is compiled when first
called for.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

from fastrnn.cell_table import CELLS

from .compiler import flatten
from .layout import ELEMENTS, prologue

__all__ = ["STEP_THREADS", "Shape", "clusters", "dropout", "persistent", "stepwise", "sums"]

STEP_THREADS = 256


class Shape(NamedTuple):
    """How a persistent kernel is cut; see Shape in persistent.cuh."""

    vector: int
    units: int
    threads: int
    rounds: int
    tensor: int = 0  # 1: products by tensor cores, 3: each by three products; 0 without
    cluster: int = 0  # blocks that are one; 0 without clusters
    split: int = 1  # blocks, a cluster too, among which the depth of backward's products is split

    @property
    def rows(self) -> int:
        """Rows of a tile."""
        return min(self.threads // self.units, 32 if self.split > 1 else 16)


def _unit(name: str | None, dtype: str, files: tuple[str, ...], kernels: str, block: str = "Arguments") -> str:
    aliases = f"using T = {ELEMENTS[dtype].name};\nusing Block = {block}<T, SumOf<T>>;\n"
    if name:
        aliases += f"using Cell = cells::{name}<Slots>;\n"
    return prologue(name) + flatten(files, f"namespace fastrnn {{\n{aliases}}}\n{kernels}")


def _kernel(name: str, threads: int, body: str, cluster: int = 1, block: str = "Block") -> str:
    kind, size = ("CLUSTER_KERNEL", f"{threads}, {cluster}") if cluster > 1 else ("KERNEL", f"{threads}")
    return f"{kind}({name}, {size}, fastrnn::{block}) {{ using namespace fastrnn; {body} }}\n"


@functools.cache
def stepwise(name: str, dtype: str) -> str:
    """forward_0, backward; of two phases also forward_1 and gate_backward: one step each. enter, store_arguments."""
    phases = len(CELLS[name].phases)
    whole = {"enter": "enter_rows<Cell, T>", "store_arguments": "store_arguments<T>"}
    steps = {f"forward_{p}": f"forward_step<Cell, {p}, T>" for p in range(phases)}
    steps["backward"] = "backward_step<Cell, T>"
    if phases == 2:
        steps["gate_backward"] = "gate_backward_step<Cell, T>"
    kernels = [_kernel(kernel, STEP_THREADS, f"{call}(a);") for kernel, call in whole.items()]
    kernels += [_kernel(kernel, STEP_THREADS, f"{call}(a);", block="StepBlock") for kernel, call in steps.items()]
    text = "namespace fastrnn { using StepBlock = StepArgs<T>; }\n" + "".join(kernels)
    return _unit(name, dtype, ("stepwise",), text)


@functools.cache
def persistent(name: str, dtype: str, shape: Shape, backward: bool, members: int = 1) -> str:
    """forward or backward: all steps in one launch, of that many walks side by side."""
    kernel = "backward" if backward else "forward"
    shaped = f"using Cut = Shape<{', '.join(str(int(value)) for value in shape)}>;"
    shaped += f" using Whole = Members<Block, {members}>;"
    call = f"{kernel}_persistent<Cell, Cut, T>"
    calls = [f"if (blockIdx.z == {member}) {call}(a.at[{member}]);" for member in range(members)]
    body = " else ".join(calls) if members > 1 else f"{call}(a.at[0]);"
    cluster = shape.cluster or shape.split
    text = f"namespace fastrnn {{ {shaped} }}\n{_kernel(kernel, shape.threads, body, cluster, 'Whole')}"
    files = ("tensor_cores",) * (shape.tensor > 0) + ("cluster",) * (shape.cluster > 0)
    files += ("split",) * (shape.split > 1) + ("persistent",)
    return _unit(name, dtype, files, text)


@functools.cache
def sums(dtype: str) -> str:
    """sum_rows."""
    return _unit(None, dtype, ("sums",), _kernel("sum_rows", STEP_THREADS, "sum_rows<T>(a);"), "SumArguments")


@functools.cache
def clusters(sizes: tuple[int, ...]) -> str:
    """cluster_4 and so on, of the sizes: kernels that do nothing, to ask the driver about."""
    kernels = "".join(_kernel(f"cluster_{size}", STEP_THREADS, "static_cast<void>(a);", size) for size in sizes)
    return _unit(None, "float32", ("numbers",), kernels, "SumArguments")


@functools.cache
def dropout(dtype: str) -> str:
    """apply_mask."""
    return _unit(None, dtype, ("dropout",), _kernel("apply_mask", STEP_THREADS, "apply_mask<T>(a);"), "MaskArguments")
