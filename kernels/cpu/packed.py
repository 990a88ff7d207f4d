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
from .packing import Batch, Kind, Record, fed_gates, move
from .simd import VECTOR_BYTES
from .tags import DTYPES, ElementType, Tag, panel_units
from .threads import get_num_threads, mailboxes

__all__ = ["Accumulators", "Packed", "accumulators", "row_bytes", "vectors"]

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

    def __init__(self, name: str, dtype: str, I: int, H: int, backward: bool, has_bias: bool) -> None:
        self.cell, self.dtype = CELLS[name], dtype
        self.H, self.U = H, vectors(H, dtype)
        self.stride = row_bytes(self.U)
        self.size = 0
        self.place: dict[str, int] = {}
        self.pack_records: list[tuple[str, Record]] = []
        self.unpack_records: list[tuple[str, Record]] = []
        self.keep_alive: list[np.ndarray] = []
        for index, phase in enumerate(self.cell.phases):
            number = "2" if index else ""
            P = panel_units(phase)
            for side, K in (("x", I), ("h", H)):
                gates = self._address(fed_gates(self.cell, getattr(phase, side)))
                F = sum(gate is not None for gate in getattr(phase, side))
                common = {"gates": gates, "H": H, "K": K, "U": self.U, "F": F, "P": P}
                weight = "w_ih" if side == "x" else "w_hh"
                at = self._reserve(f"w{side}{number}", self.U * F * K * VECTOR_BYTES)
                self._record(weight, at, Kind.SET_PANELS, Kind.ADD_PLAIN, common)
                if backward:
                    columns = vectors(K, dtype)
                    at = self._reserve(f"back_w{side}{number}", self.U * F * columns * VECTOR_BYTES * self._lanes)
                    self._record(weight, at, Kind.SET_COLUMNS, None, common)
            S = len(phase.slots)
            at = self._reserve(f"bias{number}", self.U * S * VECTOR_BYTES)
            if has_bias:
                for bias, fed, kind in (("b_ih", phase.x, Kind.SET_PANELS), ("b_hh", phase.h, Kind.ADD_PANELS)):
                    gates = self._address(fed_gates(self.cell, fed, all_slots=True))
                    common = {"gates": gates, "H": H, "K": 1, "U": self.U, "F": S, "P": P}
                    self._record(bias, at, kind, Kind.ADD_PLAIN, common)
        if self.cell.peepholes:
            count = len(self.cell.peepholes)
            at = self._reserve("peephole", count * self.stride)
            common = {"gates": 0, "H": H, "K": self.stride, "U": self.U, "F": count, "P": 0}
            self._record("peephole", at, Kind.SET_ROWS, Kind.ADD_ROWS, common)
        self.fields = {name: offset for name, offset in self.place.items() if name in Layer._fields}

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
        record = Record(kind=int(pack), plain=0, plain_stride=0, packed=at, **common)
        self.pack_records.append((source, record))
        if unpack is not None:
            self.unpack_records.append((source, record._replace(kind=int(unpack))))


_map = lru_cache(maxsize=256)(_Map)


@lru_cache(maxsize=64)
def _entry(dtype: str) -> tuple[Any, Tag]:
    tag = Tag(ElementType(DTYPES[dtype]))
    return move.entry_point(tag.type, types.intp, types.intp, types.intp), tag


_PLAIN, _STRIDE, _PACKED = (Record._fields.index(name) for name in ("plain", "plain_stride", "packed"))


def _move(records: list[tuple[str, Record]], base: int, size: int, arrays: dict[str, Any], dtype: str) -> None:
    """Run the records between the plain ``arrays`` and the packed memory at ``base``."""
    table = np.array([record for _, record in records], np.int64)
    table[:, _PACKED] += base
    table[:, _PLAIN] = [address_of(arrays[source]) for source, _ in records]
    table[:, _STRIDE] = [arrays[source].strides[0] for source, _ in records]
    batch = np.array(Batch(address_of(table), len(table)), np.int64)
    threads = get_num_threads() if size > _SMALLEST_SHARED else 1
    entry, tag = _entry(dtype)
    entry(tag, address_of(batch), mailboxes(threads), threads)


@lru_cache(maxsize=64)
def _constants(dtype: str, size: int) -> tuple[np.ndarray, np.ndarray]:
    zeros, one = np.zeros(size // np.dtype(dtype).itemsize, dtype), np.ones(1, dtype)
    return zeros, one


_FIRST_FIELD = Layer._fields.index("zero_row")
_LAST_FIELD = Layer._fields.index("back_wh2")


class Packed(Addressed):
    """An immutable snapshot of one direction's parameters.

    Attributes: cell, dtype, I, H, U (vectors of hidden units), state_stride (bytes of a state row), and
    ``addresses``, what belongs in the parameters' part of a kernel's argument block (``Packed.fields``).
    """

    fields = slice(_FIRST_FIELD, _LAST_FIELD + 1)

    def __init__(self, cell: Cell, parameters: dict[str, np.ndarray | None], backward: bool) -> None:
        w_ih, w_hh = parameters["w_ih"], parameters["w_hh"]
        assert w_ih is not None and w_hh is not None
        self.cell, self.dtype = cell, w_ih.dtype.name
        self.I, self.H = w_ih.shape[1], w_hh.shape[1]
        self.has_bias = parameters["b_ih"] is not None
        layout = _map(cell.name, self.dtype, self.I, self.H, backward, self.has_bias)
        self.U, self.state_stride = layout.U, layout.stride
        self._memory, base = aligned(layout.size)
        if not self.has_bias:
            self._memory[:] = 0
        _move(layout.pack_records, base, layout.size, parameters, self.dtype)
        # The zero row also stands in for rows of dy.
        self._zeros, self._one = _constants(self.dtype, self.state_stride)
        places = {name: base + offset for name, offset in layout.fields.items()}
        if len(cell.phases) == 1:
            places |= {
                name + "2": places[name] for name in ("bias", "wx", "wh", "back_wx", "back_wh") if name in places
            }
        places |= {"zero_row": address_of(self._zeros), "ones": address_of(self._one)}
        self.addresses = np.array([places.get(name, 0) for name in Layer._fields[self.fields]], np.int64)


class Accumulators:
    """Packed gradients, zeros at first; ``add_to`` brings them back to PyTorch's layout."""

    def __init__(self, packed: Packed) -> None:
        self._map = _map(packed.cell.name, packed.dtype, packed.I, packed.H, False, packed.has_bias)
        self._memory, self._base = aligned(self._map.size, zero=True)
        self.addresses = {f"gradient_{name}": self._base + at for name, at in self._map.fields.items()}

    def add_to(self, arrays: dict[str, np.ndarray | None]) -> None:
        """Add into arrays shaped as the parameters are."""
        _move(self._map.unpack_records, self._base, self._map.size, arrays, self._map.dtype)


def accumulators(packed: Packed) -> Accumulators:
    """Gradients that several calls of ``backward`` add into."""
    return Accumulators(packed)
