"""A batch as the device sees it: tables of a schedule, and packed rows of the caller's (T, B, ·) arrays.

Packed rows are in the order of steps, or in that of time in a dense batch, where they are the caller's own rows as they
lie: no copy is made unless strides forbid. A ragged batch is gathered, and gradients are scattered back.
"""

from __future__ import annotations

from typing import Any

from fastrnn.sequences import Schedule

from . import devices
from .gemm import Matrix

__all__ = ["Batch"]

_TABLES = ("order", "start", "active", "offset")


class Batch:
    """One direction's schedule on the current device. Kept with the schedule, as all layers share it."""

    def __init__(self, schedule: Schedule) -> None:
        cupy = devices.require()
        self.schedule, self.ragged = schedule, schedule.ragged
        self.steps, self.total, self.B = schedule.steps, schedule.total, schedule.B
        self.begin = int(schedule.start[0]) if schedule.B else 0
        self.tables: dict[str, int] = {}
        if self.ragged:
            self._arrays = [cupy.asarray(getattr(schedule, name)) for name in _TABLES]
            self.tables = {name: array.data.ptr for name, array in zip(_TABLES, self._arrays, strict=True)}
            times, entries = schedule.packed_rows()
            self._rows = cupy.asarray(times), cupy.asarray(entries)

    @staticmethod
    def of(schedule: Schedule) -> Batch:
        """The schedule's batch on the current device."""
        device = devices.require().cuda.runtime.getDevice()
        batch = schedule.notes.get(("cuda", device))
        if batch is None:
            batch = schedule.notes["cuda", device] = Batch(schedule)
        return batch

    def alive(self, step: int) -> int:
        """Rows with a step of that number."""
        return int(self.schedule.active[step])

    def packed_range(self, first: int, last: int) -> tuple[int, int]:
        """Packed rows of the steps first to last - 1."""
        if self.ragged or not self.schedule.reverse:
            return int(self.schedule.offset[first]), int(self.schedule.offset[last])
        return (self.steps - last) * self.B, (self.steps - first) * self.B

    def _times(self, begin: int, end: int) -> slice:
        """The times of a dense batch's packed rows."""
        start = self.begin - self.steps + 1 if self.schedule.reverse else self.begin
        return slice(start + begin // self.B, start + end // self.B)

    def gather(self, array: Any, begin: int, end: int) -> tuple[Matrix, Any]:
        """Packed rows begin to end - 1 of a (T, B, ·) array, and what must stay alive while they are read."""
        if self.ragged:
            times, entries = self._rows
            rows = array[times[begin:end], entries[begin:end]]
        else:
            block = array[self._times(begin, end)]
            if _collapses(block):
                return _collapsed(block), block
            rows = block.reshape(end - begin, -1)
        return Matrix.of(rows), rows

    def target(self, array: Any, begin: int, end: int) -> Matrix | None:
        """Packed rows begin to end - 1 of a (T, B, ·) array to write to in place, or None if ``scatter`` is needed."""
        if not self.ragged:
            block = array[self._times(begin, end)]
            if _collapses(block):
                return _collapsed(block)
        return None

    def scatter(self, rows: Any, array: Any, begin: int, end: int, add: bool) -> None:
        """Write packed rows begin to end - 1 to their places in a (T, B, ·) array, or add them."""
        if self.ragged:
            times, entries = self._rows
            places = times[begin:end], entries[begin:end]
            if add:
                array[places] += rows
            else:
                array[places] = rows
            return
        block = array[self._times(begin, end)]
        if add:
            block += rows.reshape(block.shape)
        else:
            block[...] = rows.reshape(block.shape)

    def clear_padding(self, array: Any) -> None:
        """Zeros past every row's length, unless the schedule is a segment, which leaves alone what is not in it."""
        if self.ragged and self.schedule.clears:
            array[...] = 0  # all of it: cheaper than picking the rows


def _collapses(block: Any) -> bool:
    """Whether times and entries of a (t, B, ·) array are one axis of rows, that go up and do not overlap."""
    t, B, width = block.shape
    if width > 1 and block.strides[2] != block.itemsize:
        return False
    if t > 1 and B > 1 and block.strides[0] != B * block.strides[1]:
        return False
    return t * B == 1 or block.strides[1 if B > 1 else 0] >= width * block.itemsize


def _collapsed(block: Any) -> Matrix:
    t, B, width = block.shape
    stride = block.strides[1 if B > 1 else 0] // block.itemsize if t * B > 1 else width
    return Matrix(block.data.ptr, t * B, width, stride, block.dtype.name)
