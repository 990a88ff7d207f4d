"""Types without values: how a kernel is told, at compile time, which cell, dtype and panel shape it is for.

Numba caches a kernel by the types of its arguments. So a cell is an argument that carries nothing but its type, and
whatever depends on the cell is an overload that reads the type. The loop over time is written once.

A *panel* is what one register tile computes: ``units`` vectors of hidden units, for all slots of one phase, ordered
slot by slot. Cells with few slots take several units at once, so that every panel but the last few is 3 or 4
vectors wide. The panels of one phase cover the hidden units in two zones: the *full* zone with ``units`` vectors a
panel, up to a multiple of ``GROUP``, and the *tail* with one vector a panel.
"""

from __future__ import annotations

from functools import cached_property

from numba import types
from numba.extending import NativeValue, intrinsic, models, overload, register_model, typeof_impl, unbox

from fastrnn.cells import CELLS, Cell, Phase

from .jit import HELPER_OPTIONS, helper
from .simd import REGISTERS, VECTOR_BYTES

__all__ = [
    "DTYPES",
    "GROUP",
    "CellType",
    "ElementType",
    "PanelType",
    "Tag",
    "compile_time",
    "compiled_where",
    "element_bytes",
    "h_lines",
    "h_rows",
    "h_slots",
    "h_width",
    "has_c",
    "is_bf16",
    "is_last",
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


class PanelType(_TagType):
    """A panel of one phase of a cell, in the full zone or in the tail."""

    def __init__(self, cell: CellType, phase: int, full: bool) -> None:
        self.cell_type, self.index, self.full, self.dtype, self.bf16 = cell, phase, full, cell.dtype, cell.bf16
        super().__init__(name=f"Panel({cell.name}, {phase}, {'full' if full else 'tail'})")

    @property
    def cell(self) -> Cell:
        """The row of the cell table."""
        return self.cell_type.cell

    @property
    def phase(self) -> Phase:
        """The phase that the panel belongs to."""
        return self.cell.phases[self.index]

    @cached_property
    def units(self) -> int:
        """Vectors of hidden units."""
        return panel_units(self.phase) if self.full else 1


def panel_units(phase: Phase) -> int:
    """Vectors of hidden units in a full panel: as many as keep it within ``GROUP`` vectors."""
    return max(1, GROUP // len(phase.slots))


def panels_at_once(kind: PanelType) -> int:
    """Panels that a tile of one row takes together: two FMA units of four cycles' latency want eight sums."""
    return -(-8 // (kind.units * max(_count(kind.phase.x_range), _count(kind.phase.h_range))))


for _tag_type in (CellType, ElementType, PanelType):
    register_model(_tag_type)(models.OpaqueModel)


class Tag:
    """What Python hands to a kernel for an argument that is only a type."""

    def __init__(self, kind: types.Type) -> None:
        self.type = kind


@typeof_impl.register(Tag)
def _type_of_tag(tag, _context):
    return tag.type


@unbox(CellType)
@unbox(ElementType)
def _unbox_tag(_type, _object, context):
    return NativeValue(context.context.get_dummy_value())


@intrinsic(prefer_literal=True)
def panel(_typing, cell, phase, full):
    """The tag of phase ``phase`` (clipped to the last), in the full zone (1) or the tail (0); both literals."""
    index = min(phase.literal_value, len(cell.cell.phases) - 1)
    kind = PanelType(cell, index, bool(full.literal_value) or panel_units(cell.cell.phases[index]) == 1)
    return kind(cell, phase, full), lambda context, builder, sig, args: context.get_dummy_value()


def compile_time(of_type):
    """A function of a tag whose result, an integer or a tuple of them, is a constant of the compiled code."""

    @intrinsic
    def constant(_typing, tag):
        value = of_type(tag)
        value = tuple(map(int, value)) if isinstance(value, tuple) else int(value)
        kind = types.UniTuple(types.intp, len(value)) if isinstance(value, tuple) else types.intp
        return kind(tag), lambda context, builder, sig, args: context.get_constant_generic(builder, kind, value)

    return constant


def compiled_where(predicate):
    """Decorate a kernel's helper that only some cells have: for the others its calls compile to nothing.

    Both branches of an ``if`` must compile, even when the condition is a constant of the cell.
    """

    def decorate(function):
        compiled = helper(function)

        def conditional(tag, *arguments):
            raise NotImplementedError("only in compiled code")

        @overload(conditional, jit_options=HELPER_OPTIONS)
        def for_type(tag, *arguments):
            if predicate(tag):
                return lambda tag, *arguments: compiled(tag, *arguments)
            return lambda tag, *arguments: None

        return conditional

    return decorate


slots = compile_time(lambda tag: len(tag.phase.slots))
units = compile_time(lambda tag: tag.units)
x_slots = compile_time(lambda tag: tag.phase.x_range)
h_slots = compile_time(lambda tag: tag.phase.h_range)
x_width = compile_time(lambda tag: tag.units * _count(tag.phase.x_range))
h_width = compile_time(lambda tag: tag.units * _count(tag.phase.h_range))
x_rows = compile_time(lambda tag: tile_rows(tag.units * _count(tag.phase.x_range)))
h_rows = compile_time(lambda tag: tile_rows(tag.units * _count(tag.phase.h_range)))
wide = compile_time(lambda tag: panels_at_once(tag))
row_limit = compile_time(lambda tag: tile_rows(tag.units * _widest(tag.phase)))
is_last = compile_time(lambda tag: tag.index == len(tag.cell.phases) - 1)
two_phases = compile_time(lambda tag: len(tag.cell.phases) == 2)
has_c = compile_time(lambda tag: "c" in tag.cell.states)
# Peephole gates: the slot of each, and whether it sees the new cell state (the output gate) or the old.
peephole_slots = compile_time(lambda tag: tuple(tag.phase.slots.index(gate) for gate in tag.cell.peepholes))
peephole_sees_new = compile_time(lambda tag: tuple(gate == "o" for gate in tag.cell.peepholes))
vector_bytes = compile_time(lambda tag: VECTOR_BYTES)
is_bf16 = compile_time(lambda tag: tag.bf16)
weight_bytes = compile_time(lambda tag: weights_vector_bytes(tag.bf16))
x_lines = compile_time(lambda tag: _lines(tag, tag.phase.x_range))
h_lines = compile_time(lambda tag: _lines(tag, tag.phase.h_range))
element_bytes = compile_time(lambda tag: tag.dtype.bitwidth // 8)


def _count(fed: tuple[int, int]) -> int:
    return fed[1] - fed[0]


def weights_vector_bytes(bf16: bool) -> int:
    """Bytes that a vector of packed weights takes."""
    return VECTOR_BYTES // 2 if bf16 else VECTOR_BYTES


def _lines(panel: PanelType, fed: tuple[int, int]) -> int:
    """Cache lines of a panel's weights that one step of k reads."""
    return max(1, panel.units * _count(fed) * weights_vector_bytes(panel.bf16) // 64)


def _widest(phase: Phase) -> int:
    """Slots that one of the two products accumulates at once."""
    return max(_count(phase.x_range), _count(phase.h_range))
