"""The checks that ``fastrnn.nn`` adds to those of the layers; messages as there."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastrnn import checks
from fastrnn.places import HOST, Kind, Place, is_cupy, place_of, type_name

__all__ = ["floats", "indices", "number", "place_of_array", "rows_of", "within"]

_DTYPES = ("float32", "float64")


def rows_of(name: str, value: Any, kind: Kind, width: int, letters: str) -> NDArray[Any]:
    """An array (…, width) of the part's dtype."""
    found = checks.array(name, value, kind)
    if found.ndim < 1 or found.shape[-1] != width:
        raise ValueError(f"{name} must have shape (…, {letters}) = (…, {width}), got {found.shape}")
    return found


def place_of_array(value: Any) -> Place:
    """Where an array lies."""
    return place_of("cuda") if is_cupy(value) else HOST


def floats(name: str, value: Any) -> tuple[NDArray[Any], Place]:
    """A float32 or float64 array of either place, and which."""
    place = place_of_array(value)
    if place is HOST and not isinstance(value, np.ndarray):
        raise TypeError(f"{name} must be a NumPy or CuPy array, got {type_name(value)}")
    found: NDArray[Any] = place.own(name, value)
    if found.dtype.name not in _DTYPES or not found.dtype.isnative:
        raise TypeError(f"{name} must have one of the dtypes {_DTYPES}, got {found.dtype}: use {name}.astype(...)")
    return found, place


def indices(
    name: str, value: Any, place: Place, size: int, what: str, valid: Any = None, known: Any = None
) -> NDArray[Any]:
    """Integers in 0..size-1 at this place; ``what`` is the size in letters.

    A GPU's user may give them on the host, where they are looked at without waiting for the GPU; those of a CuPy
    array are waited for. ``valid``: a mask, at the place, of those that count: others come back as 0; ``known``: the
    same on the host, where it is known there.

    One integer is as good as an array without axes. Raises TypeError for other than integers; ValueError that names
    the first one out of range.
    """
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool):
        value = np.asarray(value)
    host = not is_cupy(value)
    found = HOST.own(name, value) if host else place.own(name, value)
    if found.dtype.kind not in "iu":
        raise TypeError(f"{name} must be integers, got dtype {found.dtype}")
    if valid is not None:
        if host and place is not HOST:
            valid = place.to_host(valid) if known is None else known
        found = (HOST if host else place).arrays.where(valid, found, found.dtype.type(0))
    if found.size:
        # Two reductions, of which the usual case takes nothing else: a mask and its search cost four times as much.
        least, most = found.min(), found.max()
        if not (0 <= int(least) and int(most) < size):
            found = found if host else place.to_host(found)
            label = _label(name, found, (found < 0) | (found >= size))
            raise ValueError(f"{name} must lie in 0..{size - 1} ({what} - 1), got {label}")
    result: NDArray[Any] = place.from_host(found) if host else found
    return result


def within(name: str, values: NDArray[Any], valid: Any, place: Place, least: float, most: float) -> None:
    """Raise ValueError that names the first of values (…, K) outside least..most, among those entries that count."""
    if valid is not None:
        inside = place.arrays.asarray(least, values.dtype)
        values = place.arrays.where(valid[..., None], values, inside)
    if not values.size or (least <= float(values.min()) and float(values.max()) <= most):
        return
    found = place.to_host(values)
    label = _label(name, found, ~((found >= least) & (found <= most)))
    raise ValueError(f"{name} must lie in {least}..{most}, got {label}")


def _label(name: str, found: NDArray[Any], outside: NDArray[np.bool_]) -> str:
    """The first entry outside, as Python would write it, and its value."""
    where = np.unravel_index(int(np.argmax(outside)), found.shape)
    place = ", ".join(str(int(k)) for k in where)
    return f"{name}[{place}] = {found[where]}" if place else f"{name} = {found[where]}"


def number(name: str, value: Any, least: float) -> float:
    """A number from ``least`` on."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"{name} must be a number >= {least}, got {value!r}")
    if not value >= least:  # also refuses NaN
        raise ValueError(f"{name} must be a number >= {least}, got {value!r}")
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"{name} must be a number that a float can be, got an integer beyond") from None
