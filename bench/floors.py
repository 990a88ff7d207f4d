"""What the model that chooses among the CUDA policies says of a step (``python -m bench floors``), and of a whole case.

Its constants are estimates for an H100, until a file has measured ones: results/calibration.json, by the device's name,
``{"NVIDIA H100 80GB HBM3": {"grid_barrier": 0.9e-6, ...}}`` with fields of Costs in kernels/cuda/cost.py.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench import RESULTS
from bench.cases import Case
from bench.limits import nearer_limit
from bench.selection import names_among
from bench.tables import Table

__all__ = ["CALIBRATION", "ROWS", "SIZES", "add_floors", "calibrated", "case_floors", "floors"]

CALIBRATION = RESULTS / "calibration.json"

SIZES, ROWS = (128, 256, 512, 1024, 2048), (1, 16, 64, 256)
_KERNELS = ("cluster", "persistent", "split", "stepwise")


def add_floors(commands: Any) -> None:
    """Add the subcommand."""
    parser = commands.add_parser("floors", help="predicted microseconds a step of every CUDA policy; needs no GPU")
    parser.add_argument("--cells", default="lstm", help="names of cells, with commas")
    parser.add_argument("--dtypes", default="float32,bfloat16", help="float32, float64, float16, bfloat16")
    parser.add_argument("--precision", default="exact", help="of float32: exact, tf32, 3xtf32")
    parser.add_argument("--backward", action="store_true", help="the way back")
    parser.add_argument("--multiprocessors", type=int, default=132, help="of the chip; 132: H100, H200")
    parser.add_argument("--capability", type=int, default=90, help="its compute capability, 90: Hopper")
    parser.add_argument("--device", default="", help="a name in results/calibration.json, for its measured constants")
    parser.set_defaults(command=_floors)


def _floors(options: argparse.Namespace) -> int:
    from bench.terminal import print_table
    from fastrnn.cell_table import CELLS
    from fastrnn.kernels.cuda.cuts import Chip
    from fastrnn.kernels.cuda.layout import ELEMENTS

    cells = names_among(options.cells, tuple(CELLS), "cells")
    dtypes = names_among(options.dtypes, tuple(ELEMENTS), "dtypes")
    (precision,) = names_among(options.precision, ("exact", "tf32", "3xtf32"), "precision")
    chip = Chip(options.multiprocessors, 227 * 1024, options.capability)
    costs, measured = calibrated(options.device)
    if options.device and not measured:
        raise ValueError(f"device: {CALIBRATION} has no {options.device!r}")
    for cell, dtype in itertools.product(cells, dtypes):
        print_table(floors(cell, dtype, precision, options.backward, chip, costs))
    return 0


def calibrated(device: str, file: Path = CALIBRATION) -> tuple[Any, bool]:
    """The model's constants for a device: measured ones where the file has them, and whether it has.

    Raises ValueError for a file that names what the model does not have.
    """
    from fastrnn.kernels.cuda.cost import HOPPER

    measured = json.loads(file.read_text(encoding="utf-8")).get(device, {}) if file.exists() else {}
    try:
        return HOPPER._replace(**measured), bool(measured)
    except ValueError as error:
        raise ValueError(f"{file}, {device}: {error}") from None


def ranked(problem: Any, chip: Any, costs: Any) -> list[tuple[float, Any]]:
    """Seconds of a step of all that can run a problem, fastest first, by these constants."""
    from fastrnn.kernels.cuda.cost import step_seconds
    from fastrnn.kernels.cuda.plan import candidates

    found = [(step_seconds(policy, problem, chip, costs), policy) for _, policy in candidates(problem, chip)]
    return sorted(found, key=lambda pair: pair[0])


def case_floors(
    case: Case, about: dict[str, Any], limits: dict[str, Any], file: Path = CALIBRATION
) -> dict[str, dict[str, Any]]:
    """A GPU case's floor in each of its dtype's precisions: the model's steps, and the products over all steps.

    about, limits: of the device, as in a results file. Returns by precision ``seconds``; ``policy``, the fastest by the
    model; ``calibrated``, whether the model's constants were measured; and ``limit`` and ``limit_s`` as a row has them.
    Nothing for single steps.
    """
    if case.mode == "step":
        return {}
    return dict(_case_floors(case, about, limits, *calibrated(about["name"], file)))


def _case_floors(
    case: Case, about: dict[str, Any], limits: dict[str, Any], costs: Any, measured: bool
) -> Iterator[tuple[str, dict[str, Any]]]:
    from fastrnn.kernels.cuda.catalogue import precisions
    from fastrnn.kernels.cuda.cuts import Chip, Problem

    capability = int(about["compute_capability"].replace(".", ""))
    chip = Chip(about["multiprocessors"], about.get("shared_bytes", 227 * 1024), capability)
    for precision in precisions(case.dtype):
        ways = (False, True) if case.mode == "training" else (False,)
        found = [ranked(Problem(case.cell, case.dtype, precision, case.H, case.B, way), chip, costs)[0] for way in ways]
        rate = None if precision == "exact" else precision
        limit, limit_s = nearer_limit(case, limits, rate)
        # In training also dx, and both gradients of weights: all but what the steps multiply
        flops = 2 * case.T * case.B * case.gates * case.H * (case.I + (len(ways) - 1) * (2 * case.I + case.H))
        products = flops * nearer_limit(case, limits | {"bytes": {"memory": float("inf")}}, rate)[1] / case.flops
        yield (
            precision,
            {
                "seconds": case.T * sum(seconds for seconds, _ in found) + products,
                "policy": ", back ".join(policy.kernel for _, policy in found),
                "calibrated": measured,
                "limit": limit,
                "limit_s": limit_s,
            },
        )


def floors(cell: str, dtype: str, precision: str, backward: bool, chip: Any, costs: Any = None) -> Table:
    """Microseconds a step by H and B: of each policy, with how it would be cut, the fastest first."""
    from fastrnn.kernels.cuda.cost import HOPPER
    from fastrnn.kernels.cuda.cuts import Problem

    way = "backward" if backward else "forward"
    title = f"{cell} {dtype} {way}, {precision}: predicted microseconds a step (model, not measured)"
    table = Table(title, ["H, B", *_KERNELS, "chosen"])
    for H, B in itertools.product(SIZES, ROWS):
        found = ranked(Problem(cell, dtype, precision, H, B, backward), chip, costs or HOPPER)
        best = {policy.kernel: (seconds, policy) for seconds, policy in reversed(found)}
        row = [f"{H}, {B}"]
        for kernel in _KERNELS:
            row.append(f"{best[kernel][0] * 1e6:.2f}" if kernel in best else "-")
        chosen = found[0][1]
        cut = "" if chosen.shape is None else f", {chosen.shape.units} units, {chosen.blocks} x {chosen.columns} blocks"
        if chosen.kernel == "split":
            cut += f", by {chosen.shape.split}"
        table.rows.append([*row, chosen.kernel + cut])
    return table
