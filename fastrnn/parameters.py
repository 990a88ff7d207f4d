"""Parameters: one flat buffer, and named views of it in a fixed order.

The order is that of PyTorch's recurrent modules, layer-major, then direction; within one layer and direction
``weight_ih``, ``weight_hh``, ``bias_ih``, ``bias_hh``, ``weight_peephole``, where each exists. Gradients use the
same layout, so an optimiser may work on two flat arrays.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, NoReturn, cast

import numpy as np
from numpy.typing import NDArray

from fastrnn.cell_table import Cell
from fastrnn.places import is_cupy

__all__ = ["FlatParameters", "Layout", "ParameterDict", "Weights", "initial_values", "mismatches", "read_mapping"]


# Parameters, or their gradients, of one layer in one direction, as a backend takes them: weight_ih (G*H, in),
# weight_hh (G*H, H), bias_ih and bias_hh (G*H,), weight_peephole (P*H,); None where there is none.
Weights = tuple[Any, Any, Any, Any, Any]
_KINDS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_peephole")


class Entry(NamedTuple):
    """One parameter: its public name, its shape, its place, and which of which Weights it is."""

    name: str
    shape: tuple[int, ...]
    start: int
    stop: int
    part: int  # layer * directions + direction
    kind: str  # "" for what no backend takes as Weights


class Layout(tuple[Entry, ...]):
    """The entries of a layer's parameters in the order of the flat buffer."""

    @classmethod
    def of(cls, cell: Cell, input_size: int, hidden_size: int, num_layers: int, directions: int, bias: bool) -> Layout:
        """The layout of a stack of one cell."""
        rows = len(cell.gates) * hidden_size
        entries: list[Entry] = []
        start = 0
        for index in range(num_layers * directions):
            layer, direction = divmod(index, directions)
            width = input_size if layer == 0 else directions * hidden_size
            shapes: dict[str, tuple[int, ...]] = {"weight_ih": (rows, width), "weight_hh": (rows, hidden_size)}
            if bias:
                shapes |= {"bias_ih": (rows,), "bias_hh": (rows,)}
            if cell.peepholes:
                shapes["weight_peephole"] = (len(cell.peepholes) * hidden_size,)
            for kind, shape in shapes.items():
                name = f"{kind}_l{layer}{'_reverse' * direction}"
                entries.append(Entry(name, shape, start, start + math.prod(shape), index, kind))
                start = entries[-1].stop
        return cls(entries)

    @classmethod
    def named(cls, shapes: Mapping[str, tuple[int, ...]]) -> Layout:
        """The layout of parameters that are no recurrent layer's, in the order of the mapping; there may be none."""
        entries: list[Entry] = []
        start = 0
        for name, shape in shapes.items():
            entries.append(Entry(name, shape, start, start + math.prod(shape), 0, ""))
            start = entries[-1].stop
        return cls(entries)

    @property
    def size(self) -> int:
        """Number of scalars of all parameters."""
        return self[-1].stop if self else 0

    @functools.cached_property
    def names(self) -> tuple[tuple[str | None, ...], ...]:
        """The names of all Weights' arrays, by layer * directions + direction; none but in a recurrent layer."""
        if not self or not self[0].kind:
            return ()
        found: list[dict[str, str]] = [{} for _ in range(self[-1].part + 1)]
        for entry in self:
            found[entry.part][entry.kind] = entry.name
        return tuple([tuple([part.get(kind) for kind in _KINDS]) for part in found])

    @functools.cached_property
    def _records(self) -> dict[np.dtype[Any], np.dtype[Any]]:
        return {}

    def record(self, dtype: np.dtype[Any]) -> np.dtype[Any]:
        """The buffer as one structure with a field a parameter: NumPy's quickest way to views, 0.05 us each."""
        found = self._records.get(dtype)
        if found is None:
            names, shapes, starts = zip(*[(e.name, e.shape, e.start * dtype.itemsize) for e in self], strict=True)
            formats = [(dtype, shape) for shape in shapes]
            found = self._records[dtype] = np.dtype({"names": names, "formats": formats, "offsets": starts})
        return found

    def __reduce__(self) -> tuple[Any, ...]:
        return Layout, (tuple(self),)


class ParameterDict(dict[str, NDArray[Any]]):
    """Name -> array, each a view of one flat buffer; write into the arrays, never into the dict.

    Putting another array under a name would cut it off from the buffer without a word, so that is a TypeError.
    ``params[name] -= step`` works: it writes in place and puts the same array back.
    """

    def __setitem__(self, name: str, value: NDArray[Any]) -> None:
        if name not in self or self[name] is not value:
            self._refuse(name)

    def _refuse(self, key: Any = None, *_: Any, **__: Any) -> NoReturn:
        name = key if isinstance(key, str) else "name"
        raise TypeError(
            "the entries are views of one flat buffer and can't be replaced or removed: "
            f"write into them, as in params[{name!r}][...] = value"
        )

    __delitem__ = pop = popitem = clear = update = setdefault = __ior__ = _refuse  # type: ignore[assignment]

    def __reduce__(self) -> tuple[Any, ...]:  # a copy stands for itself: a plain dict
        return dict, (dict(self),)


class FlatParameters:
    """A flat buffer and its views: ``weights`` by layer * directions + direction, ``views`` by public name."""

    __slots__ = ("_parts", "_views", "flat", "layout", "weights")

    def __init__(self, layout: Layout, flat: NDArray[Any]) -> None:
        self.layout = layout
        self.flat = flat
        parts: Any
        if type(flat) is np.ndarray and layout:
            parts = np.ndarray((), layout.record(flat.dtype), flat)
        else:
            parts = {entry.name: flat[entry.start : entry.stop].reshape(entry.shape) for entry in layout}
        weights: list[Weights] = []
        for names in layout.names:
            w_ih, w_hh, b_ih, b_hh, peephole = [None if name is None else parts[name] for name in names]
            weights.append((w_ih, w_hh, b_ih, b_hh, peephole))
        self.weights = tuple(weights)
        self._parts = parts
        self._views: ParameterDict | None = None

    @property
    def views(self) -> ParameterDict:
        """Public name -> view, in the flat buffer's order; made when first asked for."""
        if self._views is None:
            self._views = ParameterDict((e.name, self._view(e)) for e in self.layout)
        return self._views

    def _view(self, entry: Entry) -> NDArray[Any]:
        """The array that backends see, where one does: freezing has to reach it."""
        if not entry.kind:
            return cast(NDArray[Any], self._parts[entry.name])
        return cast(NDArray[Any], self.weights[entry.part][_KINDS.index(entry.kind)])

    def arrays(self) -> Iterator[NDArray[Any]]:
        """All arrays that show the buffer."""
        yield self.flat
        if isinstance(self._parts, np.ndarray):
            yield self._parts
        yield from self.views.values()


def initial_values(layout: Layout, hidden_size: int, dtype: np.dtype[Any], seed: int | None) -> NDArray[Any]:
    """A flat buffer of U(-1/sqrt(H), 1/sqrt(H)), PyTorch's law; the same numbers in every dtype but for rounding."""
    bound = 1 / math.sqrt(hidden_size)
    return np.random.default_rng(seed).uniform(-bound, bound, layout.size).astype(dtype)


def read_mapping(mapping: Mapping[str, Any], layout: Layout, dtype: np.dtype[Any]) -> NDArray[Any]:
    """A new flat buffer with the values of mapping, which must have exactly the layout's names and shapes.

    Raises ValueError that lists what is missing, unexpected and misshapen, or what overflows dtype; TypeError for
    what is no mapping or no array of floats. Nothing else is touched.
    """
    if not (hasattr(mapping, "keys") and hasattr(mapping, "__getitem__")):
        raise TypeError(f"mapping must map names to arrays, got {type(mapping).__name__}")
    known = {e.name for e in layout}
    given = {name: _floats(name, mapping[name]) for name in mapping.keys() if name in known}
    shapes = {name: given[name].shape if name in known else None for name in mapping.keys()}
    if problems := mismatches(layout, shapes):
        raise ValueError(f"mapping does not fit the layer: {problems}")
    flat = np.empty(layout.size, dtype)
    for e in layout:
        try:
            with np.errstate(over="raise"):
                flat[e.start : e.stop] = given[e.name].reshape(-1)
        except FloatingPointError:
            raise ValueError(f"mapping[{e.name!r}] has values too large for {dtype}") from None
    return flat


def mismatches(layout: Layout, given: Mapping[str, tuple[int, ...] | None]) -> str:
    """What is missing, unexpected or misshapen among given names and shapes; empty if they are the layout's."""
    shapes = {e.name: e.shape for e in layout}
    missing = [name for name in shapes if name not in given]
    unexpected = [name for name in given if name not in shapes]
    problems = [f"missing {', '.join(missing)}"] * bool(missing)
    problems += [f"unexpected {', '.join(map(str, unexpected))}"] * bool(unexpected)
    problems += [
        f"{name} must have shape {shapes[name]}, got {shape}"
        for name, shape in given.items()
        if name in shapes and shape != shapes[name]
    ]
    return "; ".join(problems)


def _floats(name: str, value: Any) -> NDArray[Any]:
    """Value as an array if it is one of floats (any precision, any library with ``__array__``)."""
    if not hasattr(value, "__array__") or isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"mapping[{name!r}] must be an array of floats, got {type(value).__name__}")
    array = value.get() if is_cupy(value) else np.asarray(value)
    # ml_dtypes' bfloat16 has kind "V" and its own name; NumPy's structured and raw void types are called otherwise.
    if array.dtype.kind != "f" and array.dtype.name != "bfloat16":
        raise TypeError(f"mapping[{name!r}] must be an array of floats, got dtype {array.dtype}")
    return array
