"""Between PyTorch's layout of the parameters and the order in which the kernels read them.

Legend: G gates, K columns (I or H), F slots fed by the product at hand, P unit vectors a panel, L lanes.

``(G*H, K)``                 PyTorch's: gate by gate, hidden unit by hidden unit
``[panel][K][F][P][L]``      ``pack_panels``: forward, each step of k reads the next F * P vectors
``[group][panel][F][P][L][columns]``  ``pack_columns``: backward, each slot value reads its row of a group of columns
``[panel][S][P][L]``         biases

Units past H are zeros. Which gate feeds which slot comes from the cell table, as an array of gate numbers, so these
kernels are compiled once a dtype, not once a cell.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fastrnn.cells import Cell, Phase

from .jit import helper, inlined, kernel
from .layout import share
from .memory import read, read_float, read_int, write_float
from .simd import VECTOR_BYTES, fill, lanes, load, load_part, store
from .tags import GROUP, element_bytes, panel_units, vector_bytes
from .threads import job, run_job

__all__ = ["Packing", "bias_places", "fed_gates", "pack_columns", "pack_panels", "packing_of", "unpack_panels"]

# Columns copied at a time: this many rows of a panel stay in the L1 cache while its slots are written in turn.
_BLOCK = 64


class Packing(NamedTuple):
    """Argument block of the packing kernels; addresses, byte strides and sizes."""

    plain: int
    plain_stride: int
    packed: int
    gates: int
    H: int
    K: int
    U: int
    F: int
    P: int


def fed_gates(cell: Cell, names: tuple[str | None, ...]) -> np.ndarray:
    """Number of the gate that feeds each slot, for the slots that are fed."""
    return np.array([cell.gates.index(name) for name in names if name is not None], dtype=np.int64)


def packing_of(phase: Phase, plain: np.ndarray, packed: int, gates: np.ndarray, H: int, U: int) -> Packing:
    """The argument block for one weight matrix of one phase."""
    return Packing(
        plain=plain.__array_interface__["data"][0],
        plain_stride=plain.strides[0],
        packed=packed,
        gates=gates.__array_interface__["data"][0],
        H=H,
        K=plain.shape[1],
        U=U,
        F=len(gates),
        P=panel_units(phase),
    )


@inlined
def _panel_of(u, U, P):
    """First unit vector of the panel that holds u, and the panel's width in the zone where u lies."""
    if P > 1 and u < U // GROUP * GROUP:
        return u // P * P, P
    return u, 1


@helper
def _slot_vectors(like, v, u, f):
    """Address of slot f of unit vector u at k = 0 in a packed matrix, and the bytes from one k to the next."""
    start, width = _panel_of(u, v.U, v.P)
    first = v.packed + (start * v.F * v.K + f * width + u - start) * vector_bytes(like)
    return first, v.F * width * vector_bytes(like)


@helper
def _pack_panels_share(like, a, w, n):
    v = read(Packing, a)
    begin, end = share(v.U, w, n)
    for u in range(begin, end):
        for k_begin in range(0, v.K, _BLOCK):
            k_end = min(v.K, k_begin + _BLOCK)
            for f in range(v.F):
                first, step = _slot_vectors(like, v, u, f)
                for lane in range(lanes(like)):
                    unit = u * lanes(like) + lane
                    target = first + lane * element_bytes(like)
                    if unit < v.H:
                        source = v.plain + (read_int(v.gates + f * 8) * v.H + unit) * v.plain_stride
                        for k in range(k_begin, k_end):
                            write_float(like, target + k * step, read_float(like, source + k * element_bytes(like)))
                    else:
                        for k in range(k_begin, k_end):
                            write_float(like, target + k * step, 0.0)


@helper
def _unpack_panels_share(like, a, w, n):
    v = read(Packing, a)
    begin, end = share(v.U, w, n)
    for u in range(begin, end):
        for k_begin in range(0, v.K, _BLOCK):
            k_end = min(v.K, k_begin + _BLOCK)
            for f in range(v.F):
                first, step = _slot_vectors(like, v, u, f)
                for lane in range(min(lanes(like), v.H - u * lanes(like))):
                    unit = u * lanes(like) + lane
                    source = first + lane * element_bytes(like)
                    target = v.plain + (read_int(v.gates + f * 8) * v.H + unit) * v.plain_stride
                    for k in range(k_begin, k_end):
                        there = target + k * element_bytes(like)
                        write_float(like, there, read_float(like, there) + read_float(like, source + k * step))


@helper
def _pack_columns_share(like, a, w, n):
    v = read(Packing, a)
    count = (v.K + lanes(like) - 1) // lanes(like)
    groups = count // GROUP
    depth = v.U * v.F * lanes(like)
    zero = fill(like, 0.0)
    begin, end = share(groups + count % GROUP, w, n)
    for group in range(begin, end):
        width, column = GROUP, group * GROUP
        if group >= groups:
            width, column = 1, group + groups * (GROUP - 1)
        for u in range(v.U):
            start, panel_width = _panel_of(u, v.U, v.P)
            for f in range(v.F):
                row = (start * v.F + f * panel_width + u - start) * lanes(like)
                for lane in range(lanes(like)):
                    unit = u * lanes(like) + lane
                    source = v.plain + (read_int(v.gates + f * 8) * v.H + unit) * v.plain_stride
                    for k in range(width):
                        target = v.packed + (column * depth + (row + lane) * width + k) * vector_bytes(like)
                        valid = min(lanes(like), v.K - (column + k) * lanes(like))
                        if unit >= v.H:
                            store(zero, target)
                        elif valid == lanes(like):
                            store(load(like, source + (column + k) * vector_bytes(like)), target)
                        else:
                            store(load_part(like, source + (column + k) * vector_bytes(like), valid), target)


_pack_panels_job = job(_pack_panels_share)
_unpack_panels_job = job(_unpack_panels_share)
_pack_columns_job = job(_pack_columns_share)


@kernel
def pack_panels(like, a, pool, threads):
    """PyTorch's matrix -> panels."""
    run_job(_pack_panels_job(like), a, pool, threads)


@kernel
def unpack_panels(like, a, pool, threads):
    """Panels, added into PyTorch's matrix."""
    run_job(_unpack_panels_job(like), a, pool, threads)


@kernel
def pack_columns(like, a, pool, threads):
    """PyTorch's matrix -> groups of columns."""
    run_job(_pack_columns_job(like), a, pool, threads)


def panel_order(phase: Phase, U: int) -> list[tuple[int, int]]:
    """The vectors of a packed bias in order: the slot and the unit vector of each."""
    P, S = panel_units(phase), len(phase.slots)
    full = U // GROUP * GROUP if P > 1 else U
    starts = [(u, P) for u in range(0, full, P)] + [(u, 1) for u in range(full, U)]
    return [(slot, u + j) for u, width in starts for slot in range(S) for j in range(width)]


def bias_places(cell: Cell, phase: Phase, which: str, H: int, U: int, L: int) -> tuple[np.ndarray, np.ndarray]:
    """Where the elements of ``bias_ih`` (which="x") or ``bias_hh`` ("h") stand in the packed bias of a phase.

    Returns two index arrays of equal length: into the packed bias, and into PyTorch's.
    """
    fed = getattr(phase, which)
    packed, plain = [], []
    for position, (slot, u) in enumerate(panel_order(phase, U)):
        if fed[slot] is not None:
            units = np.arange(u * L, min((u + 1) * L, H))
            packed.append(position * L + units - u * L)
            plain.append(cell.gates.index(fed[slot]) * H + units)
    return np.concatenate(packed), np.concatenate(plain)
