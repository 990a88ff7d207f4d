"""A whole layer, forward and backward, on the stand-in: in a schedule, under a sanitizer, from other sources."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tests.checks import Results, as_public, as_tuple, make_layer
from tests.cuda import bridge, stand_in
from tests.cuda.stand_in import device

compiler = importlib.import_module("fastrnn.kernels.cuda.compiler")

__all__ = ["few_multiprocessors", "in_chunks", "layer_results", "results", "sources_from"]

# So few that a column of the grid has rows for two tiles already in small batches.
MULTIPROCESSORS = 4


@contextlib.contextmanager
def few_multiprocessors(count: int = MULTIPROCESSORS) -> Iterator[None]:
    """Of the stand-in's devices."""
    before, device.MULTIPROCESSORS = device.MULTIPROCESSORS, count
    try:
        yield
    finally:
        device.MULTIPROCESSORS = before


@contextlib.contextmanager
def in_chunks(steps: int | None) -> Iterator[None]:
    """So many steps a launch where layers go at the same time, which then always pays; None: as it is."""
    before = bridge.plan.wave
    if steps is not None:
        bridge.plan.wave = lambda seconds, all_steps, layers: (steps, 0.0)
    try:
        yield
    finally:
        bridge.plan.wave = before


@contextlib.contextmanager
def sources_from(folder: str | Path) -> Iterator[None]:
    """Kernels come from there; to be entered before the stand-in is installed, which forgets the others."""
    before, compiler._FOLDER = compiler._FOLDER, Path(folder)
    try:
        yield
    finally:
        compiler._FOLDER = before


def layer_results(problem: Any, precision: str = "exact") -> Results:
    """As `checks.layer_results`, where gradients of parameters may have another dtype; the layer is a bridged one."""
    layer = make_layer(problem)
    layer.layer.precision = precision
    options = {"lengths": problem.lengths, "resets": problem.resets}
    y, state, tape = layer.forward(problem.x, as_public(problem.state), **options)
    grads = layer.backward(tape, problem.dy, as_public(problem.dstate))
    return Results(y, as_tuple(state), grads.x, as_tuple(grads.state), grads.params)


def results(
    problem: Any, policy: str, precision: str = "exact", calls: list[stand_in.Call] | None = None,
    multiprocessors: int | None = None, members: int | None = None, shape: Iterable[tuple[str, int]] = (),
    chunk: int | None = None, **options: Any,
) -> Results:  # fmt: skip
    """On a stand-in of its own, with few multiprocessors; ``options`` are those of stand_in.install.

    ``shape``: what the cut of the policy must have. ``chunk``: steps of a launch of several layers. ``calls`` gets what
    the streams were asked for.
    """
    with (
        few_multiprocessors(MULTIPROCESSORS if multiprocessors is None else multiprocessors),
        stand_in.installed(**options),
        bridge.bridged(),
        bridge.only(policy, members, **dict(shape)),
        in_chunks(chunk),
    ):
        with stand_in.watch() as seen:
            found = layer_results(problem, precision)
    if calls is not None:
        calls += seen
    return found
