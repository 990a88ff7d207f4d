"""Types without values: how a kernel is told, at compile time, which cell, dtype and panel shape it is for.

Numba caches a kernel by the types of its arguments. So a cell is an argument that carries nothing but its type, and
whatever depends on the cell is an overload that reads the type. The loop over time is written once.

A *panel* is what one register tile computes: ``units`` vectors of hidden units, for all slots of one phase, ordered
slot by slot. Cells with few slots take several units at once, so that every panel but the last few is 3 or 4
vectors wide. The panels of one phase cover the hidden units in two zones: the *full* zone with ``units`` vectors a
panel, up to a multiple of ``GROUP``, and the *tail* with one vector a panel.

Which panel of its cell is at hand is a value, not a type: helpers are compiled once for all panels (as types, they
took up to four times as long for a cell with two phases). A cell with only one kind of panel has constants instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import NativeValue, intrinsic, models, overload, register_model, typeof_impl, unbox

from fastrnn.cell_table import CELLS, Cell, Phase

from .jit import HELPER_OPTIONS, helper
from .simd import REGISTERS, VECTOR_BYTES

__all__ = [
    "DTYPES",
    "GROUP",
    "MOST_AT_ONCE",
    "CellType",
    "ElementType",
    "Panel",
    "PanelType",
    "Tag",
    "by_panel",
    "compile_time",
    "compiled_where",
    "element_bytes",
    "for_elements",
    "h_lines",
    "h_rows",
    "h_slots",
    "h_width",
    "has_c",
    "is_bf16",
    "is_last",
    "of_panel",
    "panel",
    "peephole_sees_new",
    "peephole_slots",
    "row_limit",
    "slots",
    "tile_rows",
    "two_phases",
    "units",
    "vector_bytes",
    "weight_bytes",
    "weights_vector_bytes",
    "wide",
    "x_lines",
    "x_rows",
    "x_slots",
    "x_width",
]  # fmt: skip

# Vectors of columns that one tile of the backward product takes; threads own hidden units in such groups.
GROUP = 4

# Panels that a tile of one row takes at most: the last two or three of a zone stay together.
MOST_AT_ONCE = 3

DTYPES = {"float32": types.float32, "float64": types.float64}


def tile_rows(vectors: int) -> int:
    """Rows of a register tile ``vectors`` wide: accumulators take three quarters of the registers.

    Measured on AVX-512: 6 x 4 reaches 98 % of the FMA peak, 2 x 4 86 %, 1 x 4 53 % (the latency of the FMA).
    """
    return min(8, REGISTERS * 3 // 4 // vectors)


class _TagType(types.Type):
    """A type with no value; all there is to know hangs on the type."""


class CellType(_TagType):
    """A cell and its dtype, and whether its packed weights are bfloat16."""

    def __init__(self, name: str, dtype: types.Float, bf16: bool = False) -> None:
        self.cell_name, self.dtype, self.bf16 = name, dtype, bf16
        super().__init__(name=f"{name}[{dtype}{', bf16' * bf16}]")

    @property
    def cell(self) -> Cell:
        """The row of the cell table."""
        return CELLS[self.cell_name]


class ElementType(_TagType):
    """A dtype, and whether weights of it are packed as bfloat16."""

    def __init__(self, dtype: types.Float, bf16: bool = False) -> None:
        self.dtype, self.bf16 = dtype, bf16
        super().__init__(name=f"Element({dtype}{', bf16' * bf16})")


@dataclass(frozen=True)
class Panel:
    """A panel of one phase of a cell, in the full zone or in the tail."""

    cell: Cell
    index: int  # of the phase
    units: int  # vectors of hidden units
    weight_bytes: int  # of a vector of packed weights

    @property
    def phase(self) -> Phase:
        """The phase that the panel belongs to."""
        return self.cell.phases[self.index]

    def width(self, fed: tuple[int, int]) -> int:
        """Vectors of so many slots."""
        return self.units * (fed[1] - fed[0])

    def lines(self, fed: tuple[int, int]) -> int:
        """Cache lines of the panel's weights that one step of k reads."""
        return max(1, self.width(fed) * self.weight_bytes // 64)

    @property
    def rows(self) -> int:
        """Rows of a register tile of the wider of the two products."""
        return tile_rows(max(self.width(self.phase.x_range), self.width(self.phase.h_range)))

    @property
    def at_once(self) -> int:
        """Panels that a tile of one row takes together: two FMA units of four cycles' latency want eight sums."""
        return min(MOST_AT_ONCE, -(-8 // max(self.width(self.phase.x_range), self.width(self.phase.h_range))))


class PanelType(types.Type):
    """One of the panels of a cell: at run time its number among ``panels``."""

    def __init__(self, cell: CellType) -> None:
        self.cell, self.dtype, self.bf16 = cell.cell, cell.dtype, cell.bf16
        zones = [(index, full) for index in range(len(self.cell.phases)) for full in (True, False)]
        self.panels = tuple(dict.fromkeys(self.of_zone(*zone) for zone in zones))
        super().__init__(name=f"Panel({cell.name})")

    def of_zone(self, index: int, full: bool) -> Panel:
        """The panel of a phase in the full zone or the tail."""
        units = panel_units(self.cell.phases[index]) if full else 1
        return Panel(self.cell, index, units, weights_vector_bytes(self.bf16))


@register_model(PanelType)
class _PanelModel(models.PrimitiveModel):
    def __init__(self, manager, kind):
        super().__init__(manager, kind, ir.IntType(64))


def panel_units(phase: Phase) -> int:
    """Vectors of hidden units in a full panel: as many as keep it within ``GROUP`` vectors."""
    return max(1, GROUP // len(phase.slots))


for _tag_type in (CellType, ElementType):
    register_model(_tag_type)(models.OpaqueModel)


class Tag:
    """What Python hands to a kernel for an argument that is only a type."""

    def __init__(self, kind: types.Type) -> None:
        self.type = kind


@cache
def for_elements(kernel: Any, dtype: str, integers: int) -> tuple[Any, Tag]:
    """The entry point of a kernel that takes a dtype's tag and so many integers, and the tag."""
    tag = Tag(ElementType(DTYPES[dtype]))
    return kernel.entry_point(tag.type, *[types.intp] * integers), tag


@typeof_impl.register(Tag)
def _type_of_tag(tag, _context):
    return tag.type


@unbox(CellType)
@unbox(ElementType)
def _unbox_tag(_type, _object, context):
    return NativeValue(context.context.get_dummy_value())


@intrinsic(prefer_literal=True)
def panel(_typing, cell, phase, full):
    """The panel of phase ``phase`` (clipped to the last), in the full zone (1) or the tail (0); both literals."""
    kind = PanelType(cell)
    index = min(phase.literal_value, len(cell.cell.phases) - 1)
    number = kind.panels.index(kind.of_zone(index, bool(full.literal_value)))
    return kind(cell, phase, full), lambda context, builder, sig, args: ir.Constant(ir.IntType(64), number)


def by_panel(builder: ir.IRBuilder, number: ir.Value, values: Sequence[int]) -> ir.Value:
    """The entry of ``values`` for a panel's number: a constant where there is no choice."""
    chosen = ir.Constant(ir.IntType(64), values[-1])
    for n in range(len(values) - 2, -1, -1):
        if values[n] != values[n + 1]:
            below = builder.icmp_signed("<=", number, ir.Constant(ir.IntType(64), n))
            chosen = builder.select(below, ir.Constant(ir.IntType(64), values[n]), chosen)
    return chosen


def compile_time(of_type):
    """A function of a tag whose result, an integer or a tuple of them, is a constant of the compiled code."""

    @intrinsic
    def constant(_typing, tag):
        value = of_type(tag)
        value = tuple(map(int, value)) if isinstance(value, tuple) else int(value)
        kind = types.UniTuple(types.intp, len(value)) if isinstance(value, tuple) else types.intp
        return kind(tag), lambda context, builder, sig, args: context.get_constant_generic(builder, kind, value)

    return constant


def of_panel(of_kind):
    """A function of a panel whose result, an integer or a pair of them, is one of a few constants."""

    @intrinsic
    def chosen(_typing, panel):
        values = [of_kind(kind) for kind in panel.panels]
        pair = isinstance(values[0], tuple)
        kind = types.UniTuple(types.intp, 2) if pair else types.intp

        def codegen(context, builder, sig, args):
            if not pair:
                return by_panel(builder, args[0], values)
            ends = [by_panel(builder, args[0], end) for end in zip(*values, strict=True)]
            return context.make_tuple(builder, kind, ends)

        return kind(panel), codegen

    return chosen


def compiled_where(predicate):
    """Decorate a kernel's helper that only some cells have: for the others its calls compile to nothing.

    Both branches of an ``if`` must compile, even when the condition is a constant of the cell.
    """

    def decorate(function):
        compiled = helper(function, forceinline=True)

        def conditional(tag, *arguments):
            raise NotImplementedError("only in compiled code")

        @overload(conditional, jit_options=HELPER_OPTIONS)
        def for_type(tag, *arguments):
            if predicate(tag):
                return lambda tag, *arguments: compiled(tag, *arguments)
            return lambda tag, *arguments: None

        return conditional

    return decorate


slots = of_panel(lambda kind: len(kind.phase.slots))
units = of_panel(lambda kind: kind.units)
x_slots = of_panel(lambda kind: kind.phase.x_range)
h_slots = of_panel(lambda kind: kind.phase.h_range)
x_width = of_panel(lambda kind: kind.width(kind.phase.x_range))
h_width = of_panel(lambda kind: kind.width(kind.phase.h_range))
x_rows = of_panel(lambda kind: tile_rows(kind.width(kind.phase.x_range)))
h_rows = of_panel(lambda kind: tile_rows(kind.width(kind.phase.h_range)))
wide = of_panel(lambda kind: kind.at_once)
x_lines = of_panel(lambda kind: kind.lines(kind.phase.x_range))
h_lines = of_panel(lambda kind: kind.lines(kind.phase.h_range))
row_limit = of_panel(lambda kind: kind.rows)
is_last = of_panel(lambda kind: int(kind.index == len(kind.cell.phases) - 1))
two_phases = compile_time(lambda tag: len(tag.cell.phases) == 2)
has_c = compile_time(lambda tag: "c" in tag.cell.states)
# Peephole gates: the slot of each, and whether it sees the new cell state (the output gate) or the old.
peephole_slots = compile_time(lambda tag: tuple(tag.cell.slots.index(gate) for gate in tag.cell.peepholes))
peephole_sees_new = compile_time(lambda tag: tuple(gate == "o" for gate in tag.cell.peepholes))
vector_bytes = compile_time(lambda tag: VECTOR_BYTES)
is_bf16 = compile_time(lambda tag: tag.bf16)
weight_bytes = compile_time(lambda tag: weights_vector_bytes(tag.bf16))
element_bytes = compile_time(lambda tag: tag.dtype.bitwidth // 8)


def weights_vector_bytes(bf16: bool) -> int:
    """Bytes that a vector of packed weights takes."""
    return VECTOR_BYTES // 2 if bf16 else VECTOR_BYTES
