"""``python -m bench policies``: on a GPU, every policy that can run a layer, timed, beside what the model says."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from bench.cases import Case
from bench.devices import Timer, cupy_timer, missing
from bench.selection import cells_named, names_among
from bench.tables import Table, markdown

__all__ = ["add_policies", "policies"]

_KERNELS = ("cluster", "persistent", "stepwise")
_ROUNDS = 5


def add_policies(commands: Any) -> None:
    """Add the subcommand."""
    parser = commands.add_parser("policies", help="on a GPU: every policy's microseconds a step, beside the model's")
    parser.add_argument("--cells", default="lstm", help="all, or names and prefixes of cells")
    parser.add_argument("--dtypes", default="bfloat16", help="float32, float64, float16, bfloat16")
    parser.add_argument("--precision", default="exact", help="of float32: exact, tf32, 3xtf32")
    parser.add_argument("--sizes", default="128,256,512,1024", help="hidden units")
    parser.add_argument("--rows", default="1,16,64,256", help="batch sizes")
    parser.add_argument("--steps", type=int, default=512)
    parser.set_defaults(command=_policies)


def _policies(options: argparse.Namespace) -> int:
    from bench.terminal import print_table, terminal
    from fastrnn.kernels.cuda.layout import ELEMENTS

    cells, dtypes = cells_named(options.cells), names_among(options.dtypes, tuple(ELEMENTS), "dtypes")
    (precision,) = names_among(options.precision, ("exact", "tf32", "3xtf32"), "precision")
    sizes, rows = ([int(number) for number in text.split(",")] for text in (options.sizes, options.rows))
    reason = missing("cuda")
    if reason is not None:
        terminal.print(reason, markup=False)
        return 1
    for cell, dtype in itertools.product(cells, dtypes):
        cases = [Case(cell, options.steps, B, H, H, dtype=dtype, device="cuda") for H in sizes for B in rows]
        table = policies(cases, precision, cupy_timer())
        print_table(table)
        print(markdown(table))
    return 0


def policies(cases: Sequence[Case], precision: str, timer: Timer) -> Table:
    """Microseconds a step of cases of one cell and dtype, forward and backward: by each policy, measured / model.

    Backward is what a training step takes beyond its forward pass, products over all steps included.
    """
    about = f"{cases[0].cell} {cases[0].dtype} {precision}, T {cases[0].T}"
    ways = ("forward", "backward")
    columns = [f"{kernel} {way}" for way in ways for kernel in _KERNELS]
    table = Table(f"{about}: microseconds a step, measured / model; * what the model chooses", ["H, B", *columns])
    for case in cases:
        cells = [_times(case, precision, kernel, timer) for kernel in _KERNELS]
        table.rows.append([f"{case.H}, {case.B}", *(pair[way] for way in (0, 1) for pair in cells)])
    return table


def _times(case: Case, precision: str, kernel: str, timer: Timer) -> tuple[str, str]:
    """Forward and backward by one policy; "-" where it cannot run."""
    from fastrnn.kernels.cuda.plan import forced

    models = [_model(case, precision, kernel, backward) for backward in (False, True)]
    if models[0] is None and models[1] is None:
        return "-", "-"
    with forced(kernel):
        forward, training = _programs(case, precision)
        ahead, both = (_best(run, timer) for run in (forward, training))
    seconds = ahead, both - ahead
    found = [
        "-" if model is None else f"{s / case.T * 1e6:.2f} / {model}" for s, model in zip(seconds, models, strict=True)
    ]
    return found[0], found[1]


def _model(case: Case, precision: str, kernel: str, backward: bool) -> str | None:
    """What the model says of a step by this policy, with a star if it is the model's choice; None if it can't run."""
    from fastrnn.kernels.cuda.cuts import Problem
    from fastrnn.kernels.cuda.plan import candidates, current_chip

    found = candidates(Problem(case.cell, case.dtype, precision, case.H, case.B, backward), current_chip())
    seconds = next((seconds for seconds, policy in found if policy.kernel == kernel), None)
    return None if seconds is None else f"{seconds * 1e6:.2f}" + "*" * (found[0][1].kernel == kernel)


def _programs(case: Case, precision: str) -> tuple[Callable[[], Any], Callable[[], Any]]:
    import cupy

    from bench.peers.fastrnn_layers import make_layer

    problem = case.problem()
    layer = make_layer(case, problem.params)
    layer.precision = precision
    layer.freeze()
    x, dy = (cupy.asarray(np.ascontiguousarray(array)) for array in (problem.x, problem.dy))

    def training() -> None:
        layer.backward(layer.forward(x)[2], dy)

    return lambda: layer.forward(x), training


def _best(run: Callable[[], Any], timer: Timer) -> float:
    """Seconds of the quickest round; the first calls compile, and record graphs."""
    for _ in range(3):
        run()
    calls = max(1, round(timer.least_s / timer(run, 1)))
    return min(timer(run, calls) for _ in range(_ROUNDS))
