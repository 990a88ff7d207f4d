"""The safetensors format, read and written with NumPy alone: https://github.com/huggingface/safetensors#format

A file is 8 bytes that say how long its header is (little-endian), the header (JSON: name -> dtype, shape and the
bytes' begin and end, and "__metadata__" of strings), and the tensors' bytes, one after the other without a hole.

Files may come from anybody. So the whole header is checked before anything is read by it: memory is bounded by
``MOST_HEADER`` and, for a tensor, by the size of the file.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import threading
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastrnn import checks

__all__ = ["MOST_HEADER", "SafetensorsError", "SafetensorsFile", "write_safetensors"]

# 16 MiB describe 100,000 tensors. JSON of that size can take 30 times as much memory once it is parsed.
MOST_HEADER = 16 << 20

_METADATA = "__metadata__"
_MOST_AXES = 32  # NumPy's limit before 2.0

# Names of dtypes, and NumPy's little-endian ones. BF16 is read as float32, which holds every one of its values.
_DTYPES = {
    "BOOL": "?",
    "U8": "u1",
    "I8": "i1",
    "U16": "<u2",
    "I16": "<i2",
    "F16": "<f2",
    "BF16": "<u2",
    "U32": "<u4",
    "I32": "<i4",
    "F32": "<f4",
    "U64": "<u8",
    "I64": "<i8",
    "F64": "<f8",
    "C64": "<c8",
}
_NAMES = {np.dtype(code).newbyteorder("="): name for name, code in _DTYPES.items() if name != "BF16"}


class SafetensorsError(ValueError):
    """A file is no safetensors file, or a broken one; the message names the file and what is wrong."""


class _Tensor(NamedTuple):
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


class SafetensorsFile(Mapping[str, NDArray[Any]]):
    """Name -> array of a file; the header is read and checked at once, a tensor when it is asked for.

    Arrays are the caller's own, in native byte order. Raises SafetensorsError (a ValueError), OSError from the system.
    """

    metadata: dict[str, str]

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = checks.path(path)
        with open(self.path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            length = self._header_length(file, size)
            header = self._parse(file.read(length))
        self._data = 8 + length
        self.metadata = self._checked_metadata(header.pop(_METADATA, {}))
        self._tensors = {name: self._checked(name, entry) for name, entry in header.items()}
        self._check_bytes(size - self._data)

    def __getitem__(self, name: str) -> NDArray[Any]:
        tensor = self._tensors[name]
        if tensor.dtype not in _DTYPES:
            raise self._error(f"tensor {name!r} has dtype {tensor.dtype!r}, known are {', '.join(_DTYPES)}")
        dtype = np.dtype(_DTYPES[tensor.dtype])
        count = (tensor.end - tensor.begin) // dtype.itemsize
        with open(self.path, "rb") as file:
            file.seek(self._data + tensor.begin)
            values: NDArray[Any] = np.fromfile(file, dtype, count)
        if len(values) != count:
            raise self._error(f"the file has become shorter: tensor {name!r} is cut off")
        if tensor.dtype == "BF16":
            values = (values.astype(np.uint32) << 16).view(np.float32)
        values = values.astype(values.dtype.newbyteorder("="), copy=False)
        try:
            return values.reshape(tensor.shape)
        except ValueError:  # an empty one with an axis beyond an address
            raise self._error(f"tensor {name!r} has the impossible shape {tensor.shape}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __contains__(self, name: object) -> bool:
        return name in self._tensors

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's shape, without reading it."""
        return self._tensors[name].shape

    def dtype(self, name: str) -> str:
        """A tensor's dtype by the format's name of it: "F32", "BF16"."""
        return self._tensors[name].dtype

    def _error(self, what: str) -> SafetensorsError:
        return SafetensorsError(f"{self.path}: {what}")

    def _header_length(self, file: BinaryIO, size: int) -> int:
        if size < 8:
            raise self._error(f"no safetensors file: it has {size} bytes, and 8 say how long the header is")
        length = int.from_bytes(file.read(8), "little")
        if length > MOST_HEADER:
            raise self._error(f"the header would have {length} bytes, at most {MOST_HEADER} are read")
        if length > size - 8:
            raise self._error(f"the header would have {length} bytes, but the file ends after {size - 8}")
        return length

    def _parse(self, text: bytes) -> dict[str, Any]:
        try:
            header = json.loads(text.decode(), object_pairs_hook=_without_duplicates)
        except (ValueError, RecursionError) as error:  # also what is no UTF-8, and integers of 4300 digits
            raise self._error(f"the header can't be read: {error}") from None
        if not isinstance(header, dict):
            raise self._error(f"the header must be an object, got {type(header).__name__}")
        return header

    def _checked_metadata(self, metadata: Any) -> dict[str, str]:
        if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
            raise self._error(f"{_METADATA} must map strings to strings")
        return metadata

    def _checked(self, name: str, entry: Any) -> _Tensor:
        """An entry of the header whose dtype, shape and number of bytes agree (Python's integers do not overflow)."""
        if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
            raise self._error(f"tensor {name!r} must have dtype, shape and data_offsets")
        dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
        if not isinstance(dtype, str):
            raise self._error(f"tensor {name!r}: dtype must be a string")
        if not _are_sizes(shape) or len(shape) > _MOST_AXES:
            raise self._error(f"tensor {name!r}: shape must be a list of at most {_MOST_AXES} sizes")
        if not _are_sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
            raise self._error(f"tensor {name!r}: data_offsets must be a begin and an end")
        if dtype in _DTYPES:
            need, have = math.prod(shape) * np.dtype(_DTYPES[dtype]).itemsize, offsets[1] - offsets[0]
            if need != have:
                raise self._error(f"tensor {name!r}: {dtype} of shape {tuple(shape)} takes {need} bytes, not {have}")
        return _Tensor(dtype, tuple(shape), offsets[0], offsets[1])

    def _check_bytes(self, size: int) -> None:
        """The tensors' bytes follow each other without overlap or hole and end where the file does."""
        reached, last = 0, ""
        for name, tensor in sorted(self._tensors.items(), key=lambda item: (item[1].begin, item[1].end)):
            if tensor.begin < reached:
                raise self._error(f"tensors {last!r} and {name!r} overlap")
            if tensor.begin > reached:
                raise self._error(f"a hole of {tensor.begin - reached} bytes before tensor {name!r}")
            reached, last = tensor.end, name
        if reached != size:
            raise self._error(f"the tensors take {reached} bytes, but {size} follow the header")


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name comes twice")
    return found


def _are_sizes(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 1 << 63 for value in values)


def write_safetensors(
    path: str | os.PathLike[str], arrays: Mapping[str, Any], metadata: Mapping[str, str] | None = None
) -> None:
    """Write arrays by name (NumPy's numbers and booleans, and ml_dtypes' bfloat16), and strings by name.

    The file appears only when it is whole. Raises TypeError for a dtype that the format lacks, ValueError for a name or
    a number of names that it does.
    """
    path = checks.path(path)
    entries: dict[str, Any] = {_METADATA: dict(metadata)} if metadata else {}
    data: list[NDArray[Any]] = []
    end = 0
    for name, value in arrays.items():
        if name == _METADATA:
            raise ValueError(f"no array can be called {_METADATA!r}")
        array = np.asarray(value)
        dtype = "BF16" if array.dtype.name == "bfloat16" else _NAMES.get(array.dtype.newbyteorder("="))
        if dtype is None:
            raise TypeError(f"{name} has dtype {array.dtype}, which safetensors has no name for")
        entries[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [end, end + array.nbytes]}
        data.append(array)
        end += array.nbytes
    header = json.dumps(entries, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # so that tensors are aligned
    if len(header) > MOST_HEADER:
        raise ValueError(f"the header would have {len(header)} bytes, at most {MOST_HEADER} can be read")
    with _appearing_whole(path) as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for array in data:
            if array.dtype.name != "bfloat16":  # which NumPy knows only in native order
                array = array.astype(array.dtype.newbyteorder("<"), copy=False)
            file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)


@contextlib.contextmanager
def _appearing_whole(path: str) -> Iterator[BinaryIO]:
    """A file beside path that takes its name at the end, and is removed if anything goes wrong."""
    beside = f"{path}.{os.getpid()}.{threading.get_ident()}.partial"
    try:
        with open(beside, "wb") as file:
            yield file
        os.replace(beside, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(beside)
        raise
