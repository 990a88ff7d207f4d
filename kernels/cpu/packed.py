"""A layer's parameters as the kernels read them, and its gradients on the way back: one piece of memory each.

What goes where depends only on the cell, the dtype and the sizes, so it is worked out once (``PackedLayout``);
packing then fills in addresses and runs one kernel.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numba import types

from fastrnn.cell_table import CELLS, Cell

from .layout import Template
from .memory import Addressed, address_of, aligned
from .packing import BATCH_BYTES, SOURCES, Kind, Record, fed_gates, move
from .simd import VECTOR_BYTES
from .tags import DTYPES, ElementType, Tag, panel_units, weights_vector_bytes
from .threads import get_num_threads, mailboxes

__all__ = ["Accumulators", "Packed", "PackedLayout", "accumulators", "row_bytes", "vectors"]

_NAMES = {np.dtype(name).char: name for name in DTYPES}  # dtype.name takes a microsecond

# Below this size a second thread costs more than it brings.
_SMALLEST_SHARED = 1 << 18
_BRIEF = 1 << 19  # keeps the GIL: up to 200 us, see plan.py


def vectors(count: int, dtype: str) -> int:
    """Vectors that hold ``count`` elements."""
    return -(-count * np.dtype(dtype).itemsize // VECTOR_BYTES)


def row_bytes(U: int) -> int:
    """Bytes of a state row. Rows a multiple of 2 KB apart would share the sets of the L1 cache."""
    size = U * VECTOR_BYTES
    return size + VECTOR_BYTES if size % 2048 == 0 else size


class PackedLayout:
    """Where the packed parameters of one cell, dtype and size lie, and the records that fill or empty them.

    The first ``sums_size`` bytes are what forward reads and backward does not; the gradients' sums have the same places
    in as many bytes. ``launchers``: a backend's own note of compiled kernels.
    """

    def __init__(
        self, name: str, dtype: str, I: int, H: int, has_bias: bool, backward: bool, bf16: bool = False
    ) -> None:
        self.cell, self.dtype, self.bf16 = CELLS[name], dtype, bf16
        self.I, self.H, self.U = I, H, vectors(H, dtype)
        self.state_stride = row_bytes(self.U)
        self.size = 0
        self.launchers: dict[Any, tuple[Any, Any]] = {}
        self._weights: dict[str, int] = {}  # offsets by name
        self._sums: dict[str, int] = {}
        self._packing: list[Record] = []
        self._unpacking: list[Record] = []
        self._keep_alive: list[np.ndarray] = []
        self._place_panels()
        self._place_biases(has_bias)
        if self.cell.peepholes:
            self._sums["peephole"] = self._peepholes(self._unpacking, Kind.UNPACK_VECTORS)
        self.batch = self._reserve(BATCH_BYTES + 8 * len(SOURCES))
        self.sums_size = self.size
        if self.cell.peepholes:
            self._weights["peephole"] = self._peepholes(self._packing, Kind.PACK_VECTORS)
        if backward:
            self._place_columns()
        self.pack_records, self.unpack_records = map(self._table, (self._packing, self._unpacking))
        self._make_templates()
        tag = Tag(ElementType(DTYPES[dtype], bf16))
        self._mover = move.entry_point(tag.type, *[types.intp] * 13), tag

    def _make_templates(self) -> None:
        """The fields of an argument block for the weights, and for the sums of their gradients."""
        weights = dict(self._weights)
        if len(self.cell.phases) == 1:  # then the last phase is the first
            weights |= {f"{name}2": at for name, at in weights.items() if name != "peephole"}
        # The zero row also stands in for rows of dy.
        zeros, one = np.zeros(self.state_stride, np.uint8), np.ones(1, self.dtype)
        numbers = {"zero_row": self._address(zeros), "ones": self._address(one)}
        self.weights = Template("zero_row", "back_wh2", numbers, weights)
        sums = {f"gradient_{name}": at for name, at in self._sums.items()}
        self.sums = Template("gradient_bias", "gradient_peephole", {}, sums)

    def _place_panels(self) -> None:
        for number, side, weight, common in self._matrices():
            size = self.U * common["F"] * common["K"] * weights_vector_bytes(self.bf16)
            at = self._weights[f"w{side}{number}"] = self._sums[f"w{side}{number}"] = self._reserve(size)
            self._packing.append(self._record(Kind.PACK_PANELS, weight, at, common))
            self._unpacking.append(self._record(Kind.UNPACK_PANELS, weight, at, common))

    def _place_columns(self) -> None:
        lanes = VECTOR_BYTES // np.dtype(self.dtype).itemsize
        for number, side, weight, common in self._matrices():
            size = self.U * common["F"] * lanes * vectors(common["K"], self.dtype) * VECTOR_BYTES
            at = self._weights[f"back_w{side}{number}"] = self._reserve(size)
            self._packing.append(self._record(Kind.PACK_COLUMNS, weight, at, common))

    def _matrices(self) -> list[tuple[str, str, str, dict[str, int]]]:
        """Number of the phase as the fields have it, side, source and sizes of every phase's two matrices."""
        found = []
        for index, phase in enumerate(self.cell.phases):
            for side, source, K in (("x", "w_ih", self.I), ("h", "w_hh", self.H)):
                fed = getattr(phase, side)
                gates = self._address(fed_gates(self.cell, fed))
                F = sum(gate is not None for gate in fed)
                common = {"gates": gates, "H": self.H, "K": K, "U": self.U, "F": F, "P": panel_units(phase)}
                found.append(("2" if index else "", side, source, common))
        return found

    def _place_biases(self, exist: bool) -> None:
        for index, phase in enumerate(self.cell.phases):
            name, F = "bias2" if index else "bias", len(phase.slots)
            at = self._weights[name] = self._sums[name] = self._reserve(self.U * F * VECTOR_BYTES)
            for source, fed, kind in (("b_ih", phase.x, Kind.PACK_VECTORS), ("b_hh", phase.h, Kind.ADD_VECTORS)):
                gates = fed_gates(self.cell, fed, all_slots=True)
                if not exist:
                    gates[:] = -1  # zeros
                common = {"gates": self._address(gates), "H": self.H, "K": 0, "U": self.U, "F": F}
                common["P"] = panel_units(phase)
                self._packing.append(self._record(kind, source, at, common))
                self._unpacking.append(self._record(Kind.UNPACK_VECTORS, source, at, common))

    def _peepholes(self, records: list[Record], kind: Kind) -> int:
        F, stride = len(self.cell.peepholes), self.state_stride
        at = self._reserve(F * stride)
        gates = self._address(np.arange(F, dtype=np.int64))
        common = {"gates": gates, "H": self.H, "K": stride, "U": self.U, "F": F, "P": 0}
        records.append(self._record(kind, "peephole", at, common))
        return at

    def _record(self, kind: Kind, source: str, at: int, common: dict[str, int]) -> Record:
        return Record(kind=int(kind), source=SOURCES.index(source), packed=at, **common)

    def _table(self, records: list[Record]) -> tuple[int, int]:
        return self._address(np.array(records, np.int64)), len(records)

    def _address(self, array: np.ndarray) -> int:
        self._keep_alive.append(array)
        return address_of(array)

    def _reserve(self, size: int) -> int:
        at = self.size
        self.size += -(-size // 64) * 64
        return at

    def move(
        self, records: tuple[int, int], base: int, arrays: tuple[np.ndarray | None, ...], add: bool = False
    ) -> None:
        """Bring ``arrays``, in the order of ``SOURCES``, into the packed memory at ``base``, or that into them."""
        entry, tag = self._mover
        w_ih, w_hh, b_ih, b_hh, peephole = arrays
        threads = get_num_threads() if self.size > _SMALLEST_SHARED else 1
        entry(
            tag, base + self.batch, *records, base, add, id(w_ih), id(w_hh), 0 if b_ih is None else id(b_ih),
            0 if b_hh is None else id(b_hh), 0 if peephole is None else id(peephole), mailboxes(threads), threads,
            self.size <= _BRIEF,
        )  # fmt: skip


_layout = lru_cache(maxsize=256)(PackedLayout)


class Packed(Addressed):
    """A snapshot of one direction's parameters.

    Attributes: ``layout``, ``base``, the address of the memory that is laid out so, and ``once``: the snapshot is for a
    single backward that consumes its tape, and may keep the sums of gradients in place of what forward alone reads.
    """

    __slots__ = ("base", "layout", "memory", "once")

    def __init__(
        self,
        cell: Cell,
        parameters: tuple[np.ndarray | None, ...],
        backward: bool,
        bf16: bool = False,
        once: bool = False,
    ) -> None:
        w_ih, w_hh, b_ih, *_ = parameters
        assert w_ih is not None and w_hh is not None
        I, H, dtype = w_ih.shape[1], w_hh.shape[1], _NAMES[w_ih.dtype.char]
        self.layout = _layout(cell.name, dtype, I, H, b_ih is not None, backward, bf16)
        self.memory, self.base = aligned(self.layout.size)
        self.once = once
        self.layout.move(self.layout.pack_records, self.base, parameters)


class Accumulators(Addressed):
    """Sums that become the gradients of packed parameters; ``store_in`` brings them into PyTorch's layout.

    in_place: the sums take the memory of the parameters, but for what backward still reads of them.
    """

    __slots__ = ("base", "layout", "memory", "summed")

    def __init__(self, packed: Packed, in_place: bool = False) -> None:
        self.layout = packed.layout
        self.memory, self.base = (packed.memory, packed.base) if in_place else aligned(self.layout.sums_size)
        self.summed = False  # the memory holds whatever it held

    def store_in(self, arrays: tuple[np.ndarray | None, ...], add: bool) -> None:
        """Bring the sums into arrays shaped as the parameters are, or add them; in the order w_ih, w_hh, b_ih, ..."""
        if not self.summed:
            start = self.base - address_of(self.memory)
            self.memory[start : start + self.layout.sums_size] = 0
        self.layout.move(self.layout.unpack_records, self.base, arrays, add)


def accumulators(packed: Packed) -> Accumulators:
    """Gradients that several calls of ``backward`` add into."""
    return Accumulators(packed)
