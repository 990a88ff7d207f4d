"""npz files read without trust: no pickles, and no more memory than the size of the file justifies.

``numpy.load`` allocates what a member's header claims before it looks at the data, and inflates whatever a member
holds. Here a member's shape must take exactly the bytes that the archive declares for it, and those must be at most
``MOST_RATIO`` times the file: weights hardly compress, zeros do by 1,000.
"""

from __future__ import annotations

import contextlib
import math
import os
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastrnn import checks

__all__ = ["NpzError", "NpzFile"]

MOST_RATIO = 100
# Below this a ratio is no matter: a small model may be mostly zeros.
_SMALL = 16 << 20
_MOST_MEMBERS = 100_000

_READERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}

# A broken archive may also look encrypted (RuntimeError), of an unknown kind (NotImplementedError is one), end early.
_BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, UnicodeDecodeError)


class NpzError(ValueError):
    """A file is no npz file, or a broken or dangerous one; the message names the file and what is wrong."""


class _Member(NamedTuple):
    info: zipfile.ZipInfo
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    fortran: bool


class NpzFile(Mapping[str, NDArray[Any]]):
    """Name -> array of a file; headers are read and checked at once, an array when it is asked for.

    Raises NpzError (a ValueError), OSError from the system.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = checks.path(path)
        with self._open() as archive:
            infos = archive.infolist()
            self._check_sizes(infos)
            self._members = {info.filename.removesuffix(".npy"): self._member(archive, info) for info in infos}
        if len(self._members) != len(infos):
            raise self._error("a name comes twice")

    def __getitem__(self, name: str) -> NDArray[Any]:
        member = self._members[name]
        with self._open() as archive, archive.open(member.info) as file:
            _header(file)
            data = file.read()
        flat = np.frombuffer(bytearray(data), member.dtype)
        array = flat.reshape(member.shape, order="F" if member.fortran else "C")
        return array.astype(member.dtype.newbyteorder("="), copy=False)

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)

    def __contains__(self, name: object) -> bool:
        return name in self._members

    def shape(self, name: str) -> tuple[int, ...]:
        """An array's shape, without reading it."""
        return self._members[name].shape

    def dtype(self, name: str) -> str:
        """An array's dtype by NumPy's name, without reading it."""
        return self._members[name].dtype.name

    def _error(self, what: str) -> NpzError:
        return NpzError(f"{self.path}: {what}")

    @contextlib.contextmanager
    def _open(self) -> Iterator[zipfile.ZipFile]:
        try:
            with zipfile.ZipFile(self.path) as archive:
                yield archive
        # A broken archive may also look encrypted (RuntimeError), of an unknown kind, or end early.
        except (
            zipfile.BadZipFile,
            zlib.error,
            EOFError,
            NotImplementedError,
            RuntimeError,
            UnicodeDecodeError,
        ) as error:
            raise self._error(f"no readable npz file: {error}") from None

    def _check_sizes(self, infos: list[zipfile.ZipInfo]) -> None:
        if len(infos) > _MOST_MEMBERS:
            raise self._error(f"{len(infos)} members, at most {_MOST_MEMBERS} are read")
        for info in infos:
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise self._error(f"member {info.filename!r} is compressed by another method than deflate")
        # Members may lie over each other, so that it is the file that their sum is compared with.
        total, most = sum(info.file_size for info in infos), _SMALL + MOST_RATIO * os.path.getsize(self.path)
        if total > most:
            raise self._error(f"would inflate to {total} bytes, at most {most} are read from a file of this size")

    def _member(self, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> _Member:
        try:
            with archive.open(info) as file:
                shape, fortran, dtype = _header(file)
                start = file.tell()
        except (OSError, *_BROKEN):
            raise
        except Exception as error:  # whatever a hostile header makes of NumPy's parsers
            raise self._error(f"member {info.filename!r} is no array: {error}") from None
        if dtype.hasobject:
            raise self._error(f"member {info.filename!r} holds pickled objects, which are never loaded")
        need, have = math.prod(shape) * dtype.itemsize, info.file_size - start
        if need != have or min(shape, default=0) < 0 or not dtype.itemsize or len(shape) > 32:
            raise self._error(f"member {info.filename!r}: {dtype} of shape {shape} takes {need} bytes, not {have}")
        if max(shape, default=0) > np.iinfo(np.intp).max:
            raise self._error(f"member {info.filename!r} has the impossible shape {shape}")
        return _Member(info, dtype, shape, fortran)


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, order and dtype at the start of an npy file, which is left at its data."""
    version = np.lib.format.read_magic(file)
    if version not in _READERS:
        raise ValueError(f"version {version} of the format is unknown")
    return _READERS[version](file)
