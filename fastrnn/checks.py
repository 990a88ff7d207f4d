"""Every check of an argument, made before any work. Messages name the argument, what is expected, and what came.

TypeError: the wrong kind of thing (a list for an array, another dtype). ValueError: a value or shape that can't be.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "array",
    "device",
    "dropout",
    "dtype",
    "flag",
    "index_rows",
    "integer",
    "kernel_ready",
    "lengths",
    "output",
    "resets",
    "seed",
    "shaped",
    "states",
]

# Beyond these no memory is large enough, and Python would first loop or overflow.
MOST_LAYERS = 1 << 16
MOST_SIZE = 1 << 24

DTYPES = ("float32", "float64")
DEVICES = ("cpu", "cuda")

State = NDArray[Any] | tuple[NDArray[Any], ...]


# Options


def integer(name: str, value: Any, least: int, most: int | None = None) -> int:
    """A Python int between two bounds."""
    if isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {value!r}") from None
    if number < least:
        raise ValueError(f"{name} must be at least {least}, got {number}")
    if most is not None and number > most:
        raise ValueError(f"{name} must be at most {most}, got {number}")
    return number


def flag(name: str, value: Any) -> bool:
    """A Python bool; nothing else counts as one."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return bool(value)


def dropout(value: Any) -> float:
    """A probability, 1 excluded."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"dropout must be a number with 0 <= dropout < 1, got {value!r}")
    if not 0 <= value < 1:  # also refuses NaN
        raise ValueError(f"dropout must be a number with 0 <= dropout < 1, got {value!r}")
    return float(value)


def dtype(value: Any) -> np.dtype[Any]:
    """The dtype of a layer on the CPU."""
    try:
        found: np.dtype[Any] | None = None if value is None else np.dtype(value)
    except TypeError:
        found = None
    if found is None:
        raise TypeError(f"dtype must be one of {DTYPES}, got {value!r}")
    if found.name not in DTYPES or not found.isnative:
        raise ValueError(f"dtype must be one of {DTYPES} on the CPU, got {found}")
    return found


def device(value: Any) -> str:
    """The name of a device."""
    if not isinstance(value, str):
        raise TypeError(f"device must be one of {DEVICES}, got {value!r}")
    if value not in DEVICES:
        raise ValueError(f"device must be one of {DEVICES}, got {value!r}")
    return value


def weights_storage(value: Any, layers: np.dtype[Any]) -> bool:
    """Whether weights are to be stored as bfloat16: None means the layer's own dtype."""
    if value is None or value == layers.name:
        return False
    if value != "bfloat16":
        raise ValueError(f"weights must be None, {layers.name!r} or 'bfloat16', got {value!r}")
    if layers != np.float32:
        raise ValueError(f"weights='bfloat16' needs a float32 layer, got dtype={layers.name!r}")
    return True


def seed(value: Any) -> int | None:
    """A seed, or None for a fresh one."""
    return None if value is None else integer("seed", value, 0)


# Arrays


def _is_cupy(value: Any) -> bool:
    return type(value).__module__.partition(".")[0] == "cupy"


def _plain(name: str, value: Any) -> NDArray[Any]:
    """Value as a plain ndarray, if it is an ndarray of any subclass that has no meaning of its own."""
    if _is_cupy(value):
        raise TypeError(
            f"{name} is a CuPy array, but the layer is on the CPU: "
            f'move the layer with layer.to("cuda"), or the array with cupy.asnumpy({name})'
        )
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{name} must be a NumPy array without a mask, got a masked array: use {name}.filled(...)")
    if not isinstance(value, np.ndarray):
        kind = type(value)
        where = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
        raise TypeError(f"{name} must be a NumPy array, got {where}{kind.__qualname__}")
    return np.asarray(value)


def array(name: str, value: Any, expected: np.dtype[Any]) -> NDArray[Any]:
    """Value as an ndarray of the layer's dtype. Never a copy."""
    found: NDArray[Any] = value if type(value) is np.ndarray else _plain(name, value)
    if found.dtype != expected:
        cure = f"{name}.astype({expected.name!r})"
        if found.dtype.name in DTYPES and found.dtype.isnative:
            cure += f", or make the layer with dtype={found.dtype.name!r}"
        raise TypeError(f"{name} must have the layer's dtype {expected}, got {found.dtype}: use {cure}")
    return found


def shaped(name: str, value: Any, expected: np.dtype[Any], shape: tuple[int, ...], what: str) -> NDArray[Any]:
    """An array of exactly this shape; ``what`` says it in letters."""
    found = array(name, value, expected)
    if found.shape != shape:
        raise ValueError(f"{name} must have shape {what} = {shape}, got {found.shape}")
    return found


def kernel_ready(values: NDArray[Any]) -> NDArray[Any]:
    """Values as kernels read them: aligned, the last axis contiguous. A copy only where they are not."""
    flags = values.flags
    ready = flags.aligned and (flags.c_contiguous or values.strides[-1] == values.itemsize)
    return values if ready else values.copy()


def sequence(x: Any, expected: np.dtype[Any], input_size: int, batch_first: bool) -> tuple[NDArray[Any], bool]:
    """x as a (T, B, I) view that kernels can read, and whether it came as one unbatched (T, I)."""
    found = array("x", x, expected)
    if found.ndim not in (2, 3) or found.shape[-1] != input_size:
        batch = "(B, T, {0})" if batch_first else "(T, B, {0})"
        raise ValueError(
            f"x must have shape {batch} or, unbatched, (T, {{0}}), got {{1}}".format(input_size, found.shape)
        )
    found = kernel_ready(found)
    if found.ndim == 2:
        return found[:, None], True
    return (found.transpose(1, 0, 2) if batch_first else found), False


def states(
    name: str,
    value: Any,
    expected: np.dtype[Any],
    names: Sequence[str],
    shape: tuple[int, ...],
    what: str,
    holes: bool = False,
) -> tuple[NDArray[Any] | None, ...]:
    """A state as a tuple of C-contiguous arrays of this shape, one per name.

    The public form is h for one name and (h, c) for two; with holes, entries of (h, c) may be None.
    """
    parts = (value,) if len(names) == 1 else _entries(name, value, names)
    found: list[NDArray[Any] | None] = []
    for part in parts:
        # Spelling labels and letters takes 0.8 us, so what fits is seen first.
        if type(part) is not np.ndarray or part.dtype != expected or part.shape != shape:
            if part is None and holes:
                found.append(None)
                continue
            k = len(found)
            part = shaped(name if len(names) == 1 else f"{name}[{k}] ({names[k]})", part, expected, shape, what)
        flags = part.flags
        found.append(part if flags.c_contiguous and flags.aligned else part.copy())
    return tuple(found)


def _entries(name: str, value: Any, names: Sequence[str]) -> Sequence[Any]:
    if not isinstance(value, (tuple, list)):
        raise TypeError(f"{name} must be a tuple ({', '.join(names)}), got {type(value).__name__}")
    if len(value) != len(names):
        raise ValueError(f"{name} must be a tuple ({', '.join(names)}), got {len(value)} entries")
    return value


def lengths(value: Any, T: int, B: int, unbatched: bool) -> NDArray[np.int64] | None:
    """Lengths as a (B,) int64 array of the host, or None for None."""
    if value is None:
        return None
    if unbatched:
        raise ValueError("lengths must be None for one unbatched x of shape (T, I), got lengths")
    if _is_cupy(value):
        raise TypeError("lengths must be on the host, got a CuPy array: use cupy.asnumpy(lengths)")
    if isinstance(value, np.ma.MaskedArray) or not isinstance(value, (np.ndarray, list, tuple)):
        raise TypeError(f"lengths must be an array or a list of integers, got {type(value).__name__}")
    try:
        found = np.asarray(value)
    except ValueError:  # a ragged list
        raise TypeError("lengths must be an array or a list of integers, got a nested list") from None
    if found.dtype.kind not in "iu" and not (found.size == 0 and isinstance(value, (list, tuple))):
        raise TypeError(f"lengths must be integers, got dtype {found.dtype}")
    if found.shape != (B,):
        raise ValueError(f"lengths must have shape (B,) = ({B},), got {found.shape}")
    outside = (found < 0) | (found > T)
    if outside.any():
        row = int(np.argmax(outside))
        raise ValueError(f"lengths must lie in 0..{T} (T), got lengths[{row}] = {found[row]}")
    return found.astype(np.int64)


def resets(value: Any, T: int, B: int, unbatched: bool) -> NDArray[np.bool_] | None:
    """Resets as a C-contiguous (T, B) array, or None for None."""
    if value is None:
        return None
    found = value if type(value) is np.ndarray else _plain("resets", value)
    if found.dtype != np.bool_:
        raise TypeError(f"resets must have dtype bool, got {found.dtype}: use resets.astype(bool)")
    what, shape = ("(T,)", (T,)) if unbatched else ("(T, B)", (T, B))
    if found.shape != shape:
        raise ValueError(f"resets must have shape {what} = {shape}, got {found.shape}")
    return np.ascontiguousarray(found.reshape(T, B))


def output(name: str, value: Any, expected: np.dtype[Any], shape: tuple[int, ...], what: str) -> NDArray[Any]:
    """An array that a result may be written to."""
    found = shaped(name, value, expected, shape, what)
    if not found.flags.writeable:
        raise ValueError(f"{name} must be writeable, got a read-only array")
    return found


def index_rows(value: Any, B: int) -> NDArray[np.int64]:
    """Rows of a batch: an integer, integers 0..B-1, or a (B,) mask of booleans; as integers."""
    try:
        found = np.asarray(value)
    except ValueError:  # a ragged list
        raise TypeError("rows must be integers or booleans, got a nested list") from None
    if found.dtype == np.bool_:
        if found.shape != (B,):
            raise ValueError(f"rows as booleans must have shape (B,) = ({B},), got {found.shape}")
        return np.flatnonzero(found)
    if found.dtype.kind not in "iu" and found.size:
        raise TypeError(f"rows must be integers or booleans, got dtype {found.dtype}")
    outside = (found < 0) | (found >= B)
    if outside.any():
        raise ValueError(f"rows must lie in 0..{B - 1}, got {found[outside].flat[0]}")
    return found.astype(np.int64).reshape(-1)
