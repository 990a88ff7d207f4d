"""What every area of targets is made of: settings, good arguments for them, and how a target is registered."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

import fastrnn
from tests.cases import LAYERS
from tests.reference import CELLS

__all__ = [
    "ROWS", "TARGETS", "B", "H", "I", "Setting", "T", "Target", "V", "fresh", "gradients", "inputs", "layer_of",
    "numbers", "parts", "target", "weights_of",
]  # fmt: skip

I, H = 3, 5
T, B = 4, 3
V = 6  # symbols, outputs


class Setting(NamedTuple):
    """What a call is made for."""

    cell: str
    dtype: str
    batch_first: bool
    bidirectional: bool
    unbatched: bool
    layers: int


class Target(NamedTuple):
    """``arguments(setting)``: good ones, by name; ``kinds``: which forms each may take; ``call(setting, arguments)``.

    ``exact``: the same numbers give the same bits, however they lie in memory. ``also``: what an error may name in
    place of an argument: arrays inside one, which have names of their own. ``accepted``: by kind, forms that layers
    refuse and this function takes on purpose. ``patient``: it goes through what takes no memory, an element repeated
    without end, as long as that takes.
    """

    arguments: Callable[[Setting], dict[str, Any]]
    kinds: dict[str, str]
    call: Callable[[Setting, dict[str, Any]], Any]
    exact: bool
    also: tuple[str, ...]
    accepted: dict[str, frozenset[str]]
    patient: bool


TARGETS: dict[str, Target] = {}

# Rows of a batch, chosen: booleans say which.
ROWS = {"integers": "booleans list_of_nothing masked no_array"}


def target(
    kinds: str, exact: bool = True, also: str = "", accepted: dict[str, str] | None = None, patient: bool = False
):
    """Decorates a function of a setting that returns good arguments and the call; kinds: "x=floats lengths=lengths"."""
    by_name = dict(part.split("=") for part in kinds.split())
    taken = {kind: frozenset(forms.split()) for kind, forms in (accepted or {}).items()}

    def register(function):
        def call(setting, arguments):
            return function(setting)[1](**arguments)

        assert function.__name__ not in TARGETS
        TARGETS[function.__name__] = Target(
            lambda setting: function(setting)[0], by_name, call, exact, tuple(also.split()), taken, patient
        )
        return function

    return register


def numbers(*shape, dtype="float32", seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(dtype)


@functools.lru_cache(maxsize=256)
def layer_of(s: Setting, frozen: bool = False, bidirectional: bool | None = None):
    kind, options = LAYERS[s.cell]
    both = s.bidirectional if bidirectional is None else bidirectional
    common = {"dtype": s.dtype, "batch_first": s.batch_first, "bidirectional": both}
    layer = getattr(fastrnn, kind)(I, H, s.layers, seed=1, **options, **common)
    return layer.freeze() if frozen else layer


def fresh(s: Setting, **options):
    """A layer that nobody else has, of one direction unless the options say otherwise."""
    kind, own = LAYERS[s.cell]
    return getattr(fastrnn, kind)(I, H, dtype=s.dtype, seed=1, **own, **options)


def parts(s: Setting, *shape, seed=0):
    """h, or (h, c)."""
    found = tuple(numbers(*shape, dtype=s.dtype, seed=seed + n) for n in range(CELLS[s.cell].states))
    return found if len(found) > 1 else found[0]


def inputs(s: Setting, both: bool | None = None):
    """What a layer of this setting is called with."""
    rows = s.layers * (1 + (s.bidirectional if both is None else both))
    if s.unbatched:
        return {"x": numbers(T, I, dtype=s.dtype), "state": parts(s, rows, H), "resets": np.arange(T) == 2}
    shape = (B, T, I) if s.batch_first else (T, B, I)
    return {
        "x": numbers(*shape, dtype=s.dtype),
        "state": parts(s, rows, B, H),
        "lengths": np.array([2, 0, T][:B]),
        "resets": np.arange(T * B).reshape(T, B) % 5 == 3,
    }


def gradients(s: Setting, both: bool | None = None):
    """What goes into its backward."""
    D = 1 + (s.bidirectional if both is None else both)
    if s.unbatched:
        return {"dy": numbers(T, D * H, dtype=s.dtype, seed=5), "dstate": parts(s, s.layers * D, H, seed=6)}
    shape = (B, T, D * H) if s.batch_first else (T, B, D * H)
    return {"dy": numbers(*shape, dtype=s.dtype, seed=5), "dstate": parts(s, s.layers * D, B, H, seed=6)}


def weights_of(s: Setting):
    """One layer's arrays, in one direction."""
    rows = len(CELLS[s.cell].gates) * H
    found = {"w_ih": numbers(rows, I, dtype=s.dtype), "w_hh": numbers(rows, H, dtype=s.dtype, seed=1)}
    return found | {"b_ih": numbers(rows, dtype=s.dtype, seed=2), "b_hh": numbers(rows, dtype=s.dtype, seed=3)}
