"""Every check of an argument, made before any work. Messages name the argument, what is expected, and what came.

TypeError: the wrong kind of thing (a list for an array, another dtype). ValueError: a value or shape that can't be.
"""

from __future__ import annotations

import operator
import os
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from fastrnn.places import Kind, Place, is_cupy

__all__ = [
    "array",
    "choice",
    "device",
    "dropout",
    "dtype",
    "flag",
    "fraction",
    "function",
    "index_rows",
    "integer",
    "kernel_ready",
    "lengths",
    "output",
    "path",
    "precision",
    "resets",
    "seed",
    "shaped",
    "states",
    "text",
]

# Beyond these no memory is large enough, and Python would first loop or overflow.
MOST_LAYERS = 1 << 16
MOST_SIZE = 1 << 24

DEVICES = ("cpu", "cuda")
PRECISIONS = ("exact", "tf32", "3xtf32")

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
    return fraction("dropout", value)


def fraction(name: str, value: Any) -> float:
    """A number from 0 on and below 1."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"{name} must be a number with 0 <= {name} < 1, got {value!r}")
    if not 0 <= value < 1:  # also refuses NaN
        raise ValueError(f"{name} must be a number with 0 <= {name} < 1, got {value!r}")
    return float(value)


def choice(name: str, value: Any, known: Sequence[str]) -> str:
    """One of a few words."""
    if not isinstance(value, str) or value not in known:  # an array is equal to nothing and everything
        raise ValueError(f"{name} must be one of {known}, got {value!r}")
    return value


def text(name: str, value: Any) -> str:
    """A string."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a string, got {value!r}")
    return value


def function(name: str, value: Any) -> Callable[..., Any]:
    """What can be called."""
    if not callable(value):
        raise TypeError(f"{name} must be a function, got {value!r}")
    return cast(Callable[..., Any], value)


def path(value: Any) -> str:
    """A file's name; never a number, which would be an open file of the process: 1 is its standard output."""
    if not isinstance(value, (str, bytes, os.PathLike)):
        raise TypeError(f"path must be a string or an os.PathLike, got {type(value).__name__}")
    found = os.fsdecode(value)
    try:
        os.fsencode(found)
    except UnicodeEncodeError:
        raise ValueError(f"path must have letters that the system's names can have, got {found!r}") from None
    if "\0" in found:
        raise ValueError(f"path must not have a null character, got {found!r}")
    return found


def dtype(value: Any, place: Place, name: str = "dtype") -> np.dtype[Any]:
    """The dtype of a layer at a place."""
    try:
        found: np.dtype[Any] | None = None if value is None else np.dtype(_named(value))
    except TypeError:
        found = None
    if found is None:
        raise TypeError(f"{name} must be one of {place.dtypes}, got {value!r}")
    if found.name not in place.dtypes or not found.isnative:
        where = "the CPU" if place.device == "cpu" else "a GPU"
        raise ValueError(f"{name} must be one of {place.dtypes} on {where}, got {found}")
    return found


def _named(value: Any) -> Any:
    """bfloat16 is a name that NumPy learns from ml_dtypes."""
    if isinstance(value, str) and value == "bfloat16":
        try:
            import ml_dtypes
        except ImportError:
            raise ValueError('dtype "bfloat16" needs the package ml_dtypes: pip install ml_dtypes') from None
        return ml_dtypes.bfloat16
    return value


def device(value: Any) -> str:
    """The name of a device."""
    if not isinstance(value, str):
        raise TypeError(f"device must be one of {DEVICES}, got {value!r}")
    if value not in DEVICES:
        raise ValueError(f"device must be one of {DEVICES}, got {value!r}")
    return value


def weights_storage(value: Any, kind: Kind) -> bool:
    """Whether weights are to be stored as bfloat16: None means the layer's own dtype."""
    layers = kind.dtype
    if value is None:
        return False
    if not isinstance(value, str):
        raise ValueError(f"weights must be None, {layers.name!r} or 'bfloat16', got {value!r}")
    if value == layers.name:
        return False
    if kind.place.device != "cpu":
        raise ValueError(f"weights must be None on a GPU, got {value!r}: make the layer with dtype='bfloat16'")
    if value != "bfloat16":
        raise ValueError(f"weights must be None, {layers.name!r} or 'bfloat16', got {value!r}")
    if layers != np.float32:
        raise ValueError(f"weights='bfloat16' needs a float32 layer, got dtype={layers.name!r}")
    return True


def precision(value: Any, place: Place) -> str:
    """How exactly products of float32 are taken."""
    found = choice("precision", value, PRECISIONS)
    if found != "exact" and place.device == "cpu":
        raise ValueError(f"precision must be 'exact' on the CPU, got {found!r}: only a GPU has TF32")
    return found


def seed(value: Any) -> int | None:
    """A seed, or None for a fresh one."""
    return None if value is None else integer("seed", value, 0)


# Arrays


def array(name: str, value: Any, kind: Kind) -> NDArray[Any]:
    """Value as an array of the layer's device and dtype. Never a copy."""
    found: NDArray[Any] = cast(Any, value) if type(value) is kind.plain else kind.place.own(name, value)
    if found.dtype != kind.dtype:
        cure = f"{name}.astype({kind.dtype.name!r})"
        if found.dtype.name in kind.place.dtypes and found.dtype.isnative:
            cure += f", or make the layer with dtype={found.dtype.name!r}"
        raise TypeError(f"{name} must have the layer's dtype {kind.dtype}, got {found.dtype}: use {cure}")
    return found


def shaped(name: str, value: Any, kind: Kind, shape: tuple[int, ...], what: str) -> NDArray[Any]:
    """An array of exactly this shape; ``what`` says it in letters."""
    found = array(name, value, kind)
    if found.shape != shape:
        raise ValueError(f"{name} must have shape {what} = {shape}, got {found.shape}")
    return found


def kernel_ready(values: NDArray[Any], kind: Kind) -> NDArray[Any]:
    """Values as kernels read them: aligned, the last axis contiguous. A copy only where they are not."""
    return values if kind.place.kernel_ready(values) else values.copy()


def sequence(x: Any, kind: Kind, input_size: int, batch_first: bool) -> tuple[NDArray[Any], bool]:
    """x as a (T, B, I) view that kernels can read, and whether it came as one unbatched (T, I)."""
    found = array("x", x, kind)
    if found.ndim not in (2, 3) or found.shape[-1] != input_size:
        batch = "(B, T, {0})" if batch_first else "(T, B, {0})"
        raise ValueError(
            f"x must have shape {batch} or, unbatched, (T, {{0}}), got {{1}}".format(input_size, found.shape)
        )
    found = kernel_ready(found, kind)
    if found.ndim == 2:
        return found[:, None], True
    return (found.transpose(1, 0, 2) if batch_first else found), False


def states(
    name: str,
    value: Any,
    kind: Kind,
    names: Sequence[str],
    shape: tuple[int, ...],
    what: str,
    holes: bool = False,
) -> tuple[NDArray[Any] | None, ...]:
    """A state as a tuple of C-contiguous arrays of this shape, one per name.

    The public form is h for one name and (h, c) for two; with holes, entries of (h, c) may be None.
    """
    parts = (value,) if len(names) == 1 else entries(name, value, names)
    found: list[NDArray[Any] | None] = []
    for part in parts:
        # Spelling labels and letters takes 0.8 us, so what fits is seen first.
        plain = type(part) is kind.plain
        if not plain or part.dtype != kind.dtype or part.shape != shape:
            if part is None and holes:
                found.append(None)
                continue
            k = len(found)
            part = shaped(name if len(names) == 1 else f"{name}[{k}] ({names[k]})", part, kind, shape, what)
        ready = part.flags.c_contiguous and kind.place.kernel_ready(part)
        found.append(part if ready else part.copy())
    return tuple(found)


def entries(name: str, value: Any, names: Sequence[str]) -> Sequence[Any]:
    if not isinstance(value, (tuple, list)):
        raise TypeError(f"{name} must be a tuple ({', '.join(names)}), got {type(value).__name__}")
    if len(value) != len(names):
        raise ValueError(f"{name} must be a tuple ({', '.join(names)}), got {len(value)} entries")
    return value


def lengths(value: Any, T: int, B: int, unbatched: bool, name: str = "lengths") -> NDArray[np.int64] | None:
    """Lengths as a (B,) int64 array of the host, or None for None."""
    if value is None:
        return None
    if unbatched:
        raise ValueError(f"{name} must be None for one unbatched x of shape (T, I), got {name}")
    if is_cupy(value):
        raise TypeError(f"{name} must be on the host, got a CuPy array: use cupy.asnumpy({name})")
    if isinstance(value, np.ma.MaskedArray) or not isinstance(value, (np.ndarray, list, tuple)):
        raise TypeError(f"{name} must be an array or a list of integers, got {type(value).__name__}")
    try:
        found = np.asarray(value)
    except ValueError:  # a ragged list
        raise TypeError(f"{name} must be an array or a list of integers, got a nested list") from None
    if found.dtype.kind not in "iu" and not (found.size == 0 and isinstance(value, (list, tuple))):
        raise TypeError(f"{name} must be integers, got dtype {found.dtype}")
    if found.shape != (B,):
        raise ValueError(f"{name} must have shape (B,) = ({B},), got {found.shape}")
    outside = (found < 0) | (found > T)
    if outside.any():
        row = int(np.argmax(outside))
        raise ValueError(f"{name} must lie in 0..{T} (T), got {name}[{row}] = {found[row]}")
    return found.astype(np.int64)


def resets(value: Any, T: int, B: int, unbatched: bool, place: Place) -> NDArray[np.bool_] | None:
    """Resets as a C-contiguous (T, B) array, or None for None."""
    if value is None:
        return None
    found: NDArray[np.bool_] = place.own("resets", value)
    if found.dtype != np.bool_:
        raise TypeError(f"resets must have dtype bool, got {found.dtype}: use resets.astype(bool)")
    what, shape = ("(T,)", (T,)) if unbatched else ("(T, B)", (T, B))
    if found.shape != shape:
        raise ValueError(f"resets must have shape {what} = {shape}, got {found.shape}")
    found = found.reshape(T, B)
    return found if found.flags.c_contiguous else found.copy()


def output(name: str, value: Any, kind: Kind, shape: tuple[int, ...], what: str) -> NDArray[Any]:
    """An array that a result may be written to."""
    found = shaped(name, value, kind, shape, what)
    if not kind.place.writeable(found):
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
