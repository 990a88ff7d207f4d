"""The kernels' one argument, and the cell table as C++: both are stated once, in Python, and generated from there.

Letters: T element of the layer's dtype, A type of sums (float, or double for float64).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from fastrnn.cell_table import CELLS, Cell

__all__ = [
    "ELEMENTS",
    "Element",
    "Run",
    "arguments",
    "mask_arguments",
    "member_arguments",
    "prologue",
    "runs",
    "step_arguments",
    "sum_arguments",
]


class Element(NamedTuple):
    """A dtype of layers on a GPU."""

    name: str  # of the type in numbers.cuh
    itemsize: int
    sums: str  # dtype of sums, of gradients of parameters, and of states that carry over
    cuda: int  # cudaDataType_t, as cuBLAS wants it


ELEMENTS = {
    "float32": Element("float", 4, "float32", 0),
    "float64": Element("double", 8, "float64", 1),
    "float16": Element("Half", 2, "float32", 2),
    "bfloat16": Element("Bfloat16", 2, "float32", 14),
}

# (kind, names). Shapes of what pointers point to; R packed rows, S slots, F fed slots of a phase, P peepholes.
_FIELDS = (
    # slab (R, S, H): the input product, then activations, then dz. hs (R, H) or (2, B, H): h that enters a step.
    # operand (R, H) or (B, H): what the second phase multiplies. w_hh (gates * H, H) as the caller has it.
    ("T*", "slab hs operand w_hh peephole"),
    # Copies of one step's rows, where cuBLAS multiplies them; null elsewhere: h_step (2, B, H) by turns, operand_step
    # (B, H), dz_step (B, S, H).
    ("T*", "h_step operand_step dz_step"),
    # y, dy (T, B, ·) by strides. States (B, H): forward's initial and final, backward's final and initial gradients.
    ("T*", "y dy h_in c_in h_out c_out"),
    # bias (S, H); cs (R, H) or (B, H); product (B, F, H) of one step; carry (B, H); d_peephole (B, P, H).
    ("A*", "bias cs product carry d_peephole"),
    ("unsigned char*", "resets"),  # (T, B)
    # Tables of a ragged batch, as in fastrnn/sequences.py; null in a dense one.
    ("long long*", "order start active offset"),
    ("unsigned int*", "flags"),  # (columns of the grid, blocks), zeros
    # slab_first: packed row with which the slab begins. Strides are in elements.
    ("long long", "slab_first y_time y_batch dy_time dy_batch resets_time"),
    # begin: time of step 0 in a dense batch. first, last: steps to walk.
    ("int", "B H steps first last begin keep reverse"),
    ("void*", "block"),  # where store_arguments puts these arguments
)
# One step of a stepwise kernel, whose arguments lie on the device: so they may change under a graph.
_STEP_FIELDS = (("const Arguments<T, A>*", "all"), ("int", "step"))
_SUM_FIELDS = (("T*", "in"), ("A*", "sums"), ("long long", "rows"), ("int", "columns"))
_MASK_FIELDS = (
    ("T*", "elements"),
    ("long long", "count first"),  # elements; the mask's element that is the first of them
    ("unsigned long long", "key0 key1"),
    ("A", "scale"),
    ("float", "p"),
)


_KINDS = {"long long": "int64", "unsigned long long": "uint64", "int": "int32", "float": "float32"}


def _structure(fields: tuple[tuple[str, str], ...], sums: str = "") -> np.dtype[Any]:
    """The record as NumPy has it; ``sums`` is the dtype of A, where a field is one."""
    kinds = {**_KINDS, "A": sums}
    members = [(name, kinds.get(kind, "uint64")) for kind, names in fields for name in names.split()]
    return np.dtype(members, align=True)


def _declaration(name: str, fields: tuple[tuple[str, str], ...]) -> str:
    members = "\n".join(f"    {kind} {member};" for kind, names in fields for member in names.split())
    return f"template <class T, class A> struct {name} {{\n{members}\n}};\n"


ARGUMENTS, STEP_ARGUMENTS, SUM_ARGUMENTS = (_structure(f) for f in (_FIELDS, _STEP_FIELDS, _SUM_FIELDS))


def arguments() -> Any:
    """An argument block of zeros: a record that kernels take by value."""
    return np.zeros((), ARGUMENTS)


def member_arguments(blocks: Sequence[Any]) -> Any:
    """The argument of a launch of several members: their blocks, as Members in persistent.cuh."""
    args = np.zeros((), np.dtype([("at", ARGUMENTS, (len(blocks),))]))
    args["at"] = blocks
    return args


def step_arguments(block: int, step: int) -> Any:
    """As ``arguments``, for stepwise kernels; block: address of the arguments on the device."""
    args = np.zeros((), STEP_ARGUMENTS)
    args["all"], args["step"] = block, step
    return args


def sum_arguments() -> Any:
    """As ``arguments``, for sum_rows."""
    return np.zeros((), SUM_ARGUMENTS)


def mask_arguments(dtype: str) -> Any:
    """As ``arguments``, for apply_mask."""
    return np.zeros((), _structure(_MASK_FIELDS, ELEMENTS[dtype].sums))


class Run(NamedTuple):
    """Neighbouring slots that neighbouring gates feed: one product serves them."""

    slot: int
    gate: int
    count: int


@functools.cache
def runs(name: str, source: str) -> tuple[Run, ...]:
    """The slots of a cell by what feeds them: ``source`` is "x" or "h". Phases stay apart for "h"."""
    cell, found, slot = CELLS[name], list[Run](), 0
    for phase in cell.phases:
        fresh = source == "h"
        for gate in getattr(phase, source):
            if gate is not None:
                number = cell.gates.index(gate)
                last = found[-1] if found and not fresh else None
                if last and (last.slot + last.count, last.gate + last.count) == (slot, number):
                    found[-1] = last._replace(count=last.count + 1)
                else:
                    found.append(Run(slot, number, 1))
                fresh = False
            slot += 1
    return tuple(found)


def _slots(cell: Cell) -> str:
    """The cell table's row as the structure from which the cell's math inherits."""

    def constants(**values: int) -> str:
        return f"static constexpr int {', '.join(f'{name} = {value}' for name, value in values.items())};"

    slots = {slot: index for index, slot in enumerate(cell.slots)}
    peepholes = {f"p_{gate}": index for index, gate in enumerate(cell.peepholes)}
    counts = {"SLOTS": len(slots), "PEEPHOLES": len(peepholes), "STATES": len(cell.states), "PHASES": len(cell.phases)}
    lines = ["struct Slots {", f"    {constants(**slots)}"]
    lines += [f"    {constants(**peepholes)}"] * bool(peepholes)
    lines += [f"    {constants(**counts)}", "    template <int> struct Phase;", "};"]
    first = 0
    for index, (phase, run) in enumerate(zip(cell.phases, runs(cell.name, "h"), strict=True)):
        x, h = (tuple(first + i for i in fed) for fed in (phase.x_range, phase.h_range))
        if (run.slot, run.slot + run.count) != h:
            raise ValueError(f"the gates that h feeds in a phase of {cell.name} must be neighbours, in order")
        places = constants(SLOT=first, SLOTS=len(phase.slots), X=x[0], X_END=x[1], H=h[0], H_END=h[1], GATE=run.gate)
        lines.append(f"template <> struct Slots::Phase<{index}> {{ {places} }};")
        first += len(phase.slots)
    return "\n".join(lines) + "\n"


@functools.cache
def prologue(name: str | None = None) -> str:
    """What a translation unit begins with: the argument blocks, and the slots of the cell of that name."""
    blocks = _declaration("Arguments", _FIELDS) + _declaration("StepArguments", _STEP_FIELDS)
    blocks += _declaration("SumArguments", _SUM_FIELDS) + _declaration("MaskArguments", _MASK_FIELDS)
    return f"namespace fastrnn {{\n{blocks}{_slots(CELLS[name]) if name else ''}}}\n"
