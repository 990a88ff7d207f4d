"""``python -m bench floors``: what a step costs under each CUDA policy by the model that chooses among them."""

from __future__ import annotations

import argparse
import itertools
from typing import Any

from bench.tables import Table

__all__ = ["ROWS", "SIZES", "add_floors", "floors"]

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
    parser.set_defaults(command=_floors)


def _floors(options: argparse.Namespace) -> int:
    from bench.cli import names_among
    from bench.terminal import print_table
    from fastrnn.cells import CELLS
    from fastrnn.kernels.cuda.cuts import Chip
    from fastrnn.kernels.cuda.layout import ELEMENTS

    cells = names_among(options.cells, tuple(CELLS), "cells")
    dtypes = names_among(options.dtypes, tuple(ELEMENTS), "dtypes")
    (precision,) = names_among(options.precision, ("exact", "tf32", "3xtf32"), "precision")
    chip = Chip(options.multiprocessors, 227 * 1024, options.capability)
    for cell, dtype in itertools.product(cells, dtypes):
        print_table(floors(cell, dtype, precision, options.backward, chip))
    return 0


def floors(cell: str, dtype: str, precision: str, backward: bool, chip: Any) -> Table:
    """Microseconds a step by H and B: of each policy, with how it would be cut, the fastest first."""
    from fastrnn.kernels.cuda.cuts import Problem
    from fastrnn.kernels.cuda.plan import candidates

    way = "backward" if backward else "forward"
    title = f"{cell} {dtype} {way}, {precision}: predicted microseconds a step (model, not measured)"
    table = Table(title, ["H, B", *_KERNELS, "chosen"])
    for H, B in itertools.product(SIZES, ROWS):
        found = candidates(Problem(cell, dtype, precision, H, B, backward), chip)
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
