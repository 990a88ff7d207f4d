"""A layer's parameters as the kernels read them, and its gradients on the way back: one piece of memory each.

What goes where depends only on the cell, the dtype and the sizes, so it is worked out once (``_Map``); packing
then fills in addresses and runs one kernel.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numba import types

from fastrnn.cells import CELLS, Cell

from .layout import Layer
from .memory import Addressed, address_of, aligned
from .packing import BATCH_BYTES, SOURCES, Kind, Record, fed_gates, move
from .simd import VECTOR_BYTES
from .tags import DTYPES, ElementType, Tag, panel_units, weights_vector_bytes
from .threads import get_num_threads, mailboxes

__all__ = ["Accumulators", "Packed", "accumulators", "row_bytes", "vectors"]

_NAMES = {np.dtype(name).char: name for name in DTYPES}  # dtype.name takes a microsecond

# Below this size a second thread costs more than it brings.
_SMALLEST_SHARED = 1 << 18


def vectors(count: int, dtype: str) -> int:
    """Vectors that hold ``count`` elements."""
    return -(-count * np.dtype(dtype).itemsize // VECTOR_BYTES)


def row_bytes(U: int) -> int:
    """Bytes of a state row. Rows a multiple of 2 KB apart would share the sets of the L1 cache."""
    size = U * VECTOR_BYTES
    return size + VECTOR_BYTES if size % 2048 == 0 else size


class _Map:
    """Where the packed parameters of one cell, dtype and size lie, and the records that fill or empty them."""

    def __init__(
        self, name: str, dtype: str, I: int, H: int, backward: bool, has_bias: bool, bf16: bool = False
    ) -> None:
        self.cell, self.dtype, self.bf16 = CELLS[name], dtype, bf16
        weight_bytes = weights_vector_bytes(bf16)
        self.H, self.U = H, vectors(H, dtype)
        self.stride = row_bytes(self.U)
        self.size = 0
        self.place: dict[str, int] = {}
        self._packing: list[Record] = []
        self._unpacking: list[Record] = []
        self.keep_alive: list[np.ndarray] = []
        for index, phase in enumerate(self.cell.phases):
            number = "2" if index else ""
            P = panel_units(phase)
            for side, K in (("x", I), ("h", H)):
                gates = self._address(fed_gates(self.cell, getattr(phase, side)))
                F = sum(gate is not None for gate in getattr(phase, side))
                common = {"gates": gates, "H": H, "K": K, "U": self.U, "F": F, "P": P}
                weight = "w_ih" if side == "x" else "w_hh"
                at = self._reserve(f"w{side}{number}", self.U * F * K * weight_bytes)
                self._record(weight, at, Kind.PACK_PANELS, Kind.UNPACK_PANELS, common)
                if backward:
                    columns = vectors(K, dtype)
                    at = self._reserve(f"back_w{side}{number}", self.U * F * columns * VECTOR_BYTES * self._lanes)
                    self._record(weight, at, Kind.PACK_COLUMNS, None, common)
            S = len(phase.slots)
            at = self._reserve(f"bias{number}", self.U * S * VECTOR_BYTES)
            if has_bias:
                for bias, fed, kind in (("b_ih", phase.x, Kind.PACK_VECTORS), ("b_hh", phase.h, Kind.ADD_VECTORS)):
                    gates = self._address(fed_gates(self.cell, fed, all_slots=True))
                    common = {"gates": gates, "H": H, "K": 0, "U": self.U, "F": S, "P": P}
                    self._record(bias, at, kind, Kind.UNPACK_VECTORS, common)
        if self.cell.peepholes:
            count = len(self.cell.peepholes)
            at = self._reserve("peephole", count * self.stride)
            gates = self._address(np.arange(count, dtype=np.int64))
            common = {"gates": gates, "H": H, "K": self.stride, "U": self.U, "F": count, "P": 0}
            self._record("peephole", at, Kind.PACK_VECTORS, Kind.UNPACK_VECTORS, common)
        self.batch = self._reserve("batch", BATCH_BYTES + 8 * len(SOURCES))
        tables = [np.array(records, np.int64) for records in (self._packing, self._unpacking)]
        self.records = [(self._address(table), len(table)) for table in tables]
        self._map_fields()

    def _map_fields(self) -> None:
        """Which fields of an argument block hold which offset: of the weights, and of their gradients."""
        single = len(self.cell.phases) == 1  # then the last phase is the first
        offsets = dict(self.place)
        if single:
            offsets |= {
                f"{name}2": offsets[name] for name in ("bias", "wx", "wh", "back_wx", "back_wh") if name in offsets
            }
        self.weights = _Fields("zero_row", "back_wh2", offsets)
        self.gradients = _Fields(
            "gradient_bias", "gradient_peephole", {f"gradient_{name}": at for name, at in self.place.items()}
        )

    @property
    def _lanes(self) -> int:
        return VECTOR_BYTES // np.dtype(self.dtype).itemsize

    def _address(self, array: np.ndarray) -> int:
        self.keep_alive.append(array)
        return address_of(array)

    def _reserve(self, name: str, size: int) -> int:
        self.place[name] = self.size
        self.size += -(-size // 64) * 64
        return self.place[name]

    def _record(self, source: str, at: int, pack: Kind, unpack: Kind | None, common: dict[str, int]) -> None:
        record = Record(kind=int(pack), source=SOURCES.index(source), packed=at, **common)
        self._packing.append(record)
        if unpack is not None:
            self._unpacking.append(record._replace(kind=int(unpack)))


class _Fields:
    """A run of fields of the argument block, some of which are addresses in one piece of memory."""

    def __init__(self, first: str, last: str, offsets: dict[str, int]) -> None:
        names = Layer._fields[Layer._fields.index(first) : Layer._fields.index(last) + 1]
        self.present = np.array([name in offsets for name in names], np.int64)
        self.offsets = np.array([offsets.get(name, 0) for name in names], np.int64)

    def at(self, base: int) -> np.ndarray:
        """The addresses for memory at ``base``; 0 where a field is absent."""
        addresses: np.ndarray = self.present * base
        addresses += self.offsets
        return addresses


_map = lru_cache(maxsize=256)(_Map)


@lru_cache(maxsize=64)
def _entry(dtype: str, bf16: bool) -> tuple[Any, Tag]:
    tag = Tag(ElementType(DTYPES[dtype], bf16))
    return move.entry_point(tag.type, *[types.intp] * 11), tag


def _move(layout: _Map, unpack: bool, base: int, arrays: tuple[np.ndarray | None, ...]) -> None:
    """Bring ``arrays``, in the order of ``SOURCES``, into the packed memory at ``base``; or add that to them."""
    address, count = layout.records[unpack]
    w_ih, w_hh, b_ih, b_hh, peephole = arrays
    threads = get_num_threads() if layout.size > _SMALLEST_SHARED else 1
    entry, tag = _entry(layout.dtype, layout.bf16)
    entry(
        tag, base + layout.batch, address, count, base, address_of(w_ih), address_of(w_hh), address_of(b_ih),
        address_of(b_hh), address_of(peephole), mailboxes(threads), threads,
    )  # fmt: skip


@lru_cache(maxsize=64)
def _constants(dtype: str, size: int) -> tuple[np.ndarray, np.ndarray, tuple[int, int]]:
    """A row of zeros and a one, and the addresses of both, in the order of the argument block."""
    zeros, one = np.zeros(size // np.dtype(dtype).itemsize, dtype), np.ones(1, dtype)
    return zeros, one, (address_of(zeros), address_of(one))


class Packed(Addressed):
    """An immutable snapshot of one direction's parameters.

    Attributes: cell, dtype, bf16 (how weights are stored), I, H, U (vectors of hidden units), state_stride (bytes of
    a state row), and ``addresses``, what belongs in the parameters' part of a kernel's argument block
    (``Packed.fields``), which itself lies at ``address``.
    """

    fields = slice(Layer._fields.index("zero_row"), Layer._fields.index("back_wh2") + 1)

    def __init__(
        self, cell: Cell, parameters: tuple[np.ndarray | None, ...], backward: bool, bf16: bool = False
    ) -> None:
        w_ih, w_hh, b_ih, *_ = parameters
        assert w_ih is not None and w_hh is not None
        self.cell, self.dtype = cell, _NAMES[w_ih.dtype.char]
        self.I, self.H = w_ih.shape[1], w_hh.shape[1]
        self.has_bias = b_ih is not None
        self.bf16 = bf16
        layout = _map(cell.name, self.dtype, self.I, self.H, backward, self.has_bias, bf16)
        self.U, self.state_stride = layout.U, layout.stride
        self._memory, base = aligned(layout.size)
        if not self.has_bias:
            self._memory[:] = 0
        _move(layout, False, base, parameters)
        # The zero row also stands in for rows of dy.
        self._zeros, self._one, constants = _constants(self.dtype, self.state_stride)
        self.addresses = layout.weights.at(base)
        self.addresses[:2] = constants
        self.address = address_of(self.addresses)
        # What a backend's call found out last; calls of one shape follow each other.
        self.latest: tuple[Any, ...] = (None,)
        self.launchers: dict[Any, tuple[Any, Any]] = {}


class Accumulators:
    """Packed gradients, zeros at first; ``add_to`` brings them back to PyTorch's layout.

    ``addresses``: what belongs in the gradients' part of a kernel's argument block (``Accumulators.fields``).
    """

    fields = slice(Layer._fields.index("gradient_bias"), Layer._fields.index("gradient_peephole") + 1)

    def __init__(self, packed: Packed) -> None:
        self._map = _map(packed.cell.name, packed.dtype, packed.I, packed.H, False, packed.has_bias)
        self._memory, self._base = aligned(self._map.size, zero=True)
        self.addresses = self._map.gradients.at(self._base)

    def add_to(self, arrays: tuple[np.ndarray | None, ...]) -> None:
        """Add into arrays shaped as the parameters are, in the order w_ih, w_hh, b_ih, b_hh, peephole."""
        _move(self._map, True, self._base, arrays)


def accumulators(packed: Packed) -> Accumulators:
    """Gradients that several calls of ``backward`` add into."""
    return Accumulators(packed)
