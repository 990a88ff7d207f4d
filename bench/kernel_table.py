"""``python -m bench kernels``: what became of every CUDA kernel, by architecture. Needs NVRTC, but no GPU.

Two tables: registers, local memory and length of every kernel; and of the kernels that the cost model chooses for the
GPU grid, the step in machine code beside what the model counts.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bench import sass
from bench.floors import ROWS, SIZES
from bench.selection import cells_named, names_among
from bench.tables import Table, markdown

__all__ = ["add_kernels", "grid_problems", "model_products"]

_TITLE = "CUDA kernels by architecture: registers a thread / instructions"
_STEPS = "Steps in machine code: kernels that the cost model chooses for the GPU grid"


def add_kernels(commands: Any) -> None:
    """Add the subcommand."""
    parser = commands.add_parser("kernels", help="registers, memory and steps of every CUDA kernel; needs no GPU")
    parser.add_argument("--archs", default="all", help="all that the tests compile for, or names such as sm_90,sm_120")
    parser.add_argument("--cells", default="all", help="all, or names and prefixes of cells")
    parser.add_argument("--dtypes", default="float32,bfloat16,float16,float64")
    parser.add_argument("--sizes", default="100,512,1024", help="hidden units that kernels are cut for")
    parser.add_argument("--grid", default=",".join(map(str, SIZES)), help="hidden units of the steps' table")
    parser.add_argument("--units", default="", help="only units with this in their name, such as 'forward lstm'")
    parser.add_argument("--out", type=Path, default=None, help="also write Markdown here")
    parser.set_defaults(command=_kernels)


def _kernels(options: argparse.Namespace) -> int:
    from bench.terminal import print_table, terminal
    from fastrnn.kernels.cuda import catalogue, devices
    from fastrnn.kernels.cuda.cuts import Chip
    from fastrnn.kernels.cuda.layout import ELEMENTS

    archs: Sequence[str] = devices.ARCHITECTURES
    if options.archs != "all":
        archs = names_among(options.archs, devices.ARCHITECTURES, "archs")
    chosen = cells_named(options.cells), names_among(options.dtypes, tuple(ELEMENTS), "dtypes")
    sizes = [int(size) for size in options.sizes.split(",")]

    def asked_for(units: Iterable[Any]) -> list[Any]:
        return [unit for unit in units if options.units in unit.label]

    grid = [int(size) for size in options.grid.split(",")]
    units = {arch: asked_for(catalogue.every_unit(int(arch[3:]), sizes, *chosen)) for arch in archs}
    if not any(units.values()):
        raise ValueError(f"units: none has {options.units!r} in its name")
    try:
        version = ".".join(map(str, devices.nvrtc().getVersion()))
    except devices.GPUUnavailable as reason:
        terminal.print(str(reason), markup=False)
        return 1
    errors: list[str] = []
    tables = [_resources(units, errors)]
    tables[0].notes.insert(0, f"NVRTC {version}.")
    if sass.disassembler() is None:
        tables[0].notes.append(f"No instructions: pip install {sass.PACKAGE}")
    else:
        arch = "sm_90" if "sm_90" in archs else archs[0]
        chip = Chip(132, 227 * 1024, int(arch[3:]))
        tables.append(_steps(arch, asked_for(catalogue.chosen_units(chip, grid_problems(*chosen, grid))), errors))
    for table in tables:
        print_table(table)
    for error in errors:
        terminal.print(error, markup=False)
    if options.out is not None:
        text = "\n".join(f"# {table.title}\n\n{markdown(table)}\n" for table in tables)
        options.out.write_text(text + "".join(f"\n```\n{error}\n```\n" for error in errors), encoding="utf-8")
        terminal.print(f"table: {options.out}")
    return 1 if errors else 0


class _Read(NamedTuple):
    """What is known of a compiled unit, by kernel."""

    resources: Mapping[str, Any]
    loops: Mapping[str, sass.StepLoop | None]
    lengths: Mapping[str, int]


def _read(code: bytes, log: str) -> _Read:
    from fastrnn.kernels.cuda.compiler import resources

    kernels = sass.instructions(code) if sass.disassembler() else {}
    loops = {name: sass.step_loop(kernel) for name, kernel in kernels.items()}
    return _Read(resources(log), loops, {name: sass.length(kernel) for name, kernel in kernels.items()})


def _compiled(units: Mapping[str, Sequence[Any]], errors: list[str]) -> Iterable[tuple[str, Any, _Read]]:
    """Each architecture, unit, and what is known of it; what does not compile is added to the errors."""
    from bench.terminal import Bar
    from fastrnn.kernels.cuda.compiler import CompileError, of_each

    with Bar(sum(map(len, units.values()))) as bar:
        for arch, of_arch in units.items():
            bar.begin(arch, len(of_arch))
            for unit, found in zip(of_arch, of_each([u.source for u in of_arch], arch, _read), strict=True):
                bar.advance(1)
                if isinstance(found, CompileError):
                    errors.append(f"{unit.label}: {found}")
                else:
                    yield arch, unit, found


def _resources(units: Mapping[str, Sequence[Any]], errors: list[str]) -> Table:
    """A row for each kernel, a column for each architecture."""
    cells: dict[tuple[str, str], dict[str, str]] = {}
    for arch, unit, read in _compiled(units, errors):
        for kernel, used in sorted(read.resources.items()):
            local = max(used.spill_stores, used.stack)
            loop = read.loops.get(kernel)
            row = cells.setdefault((unit.label, kernel), {"shared": _shared(unit, used), "predicted": _predicted(unit)})
            row[arch] = str(used.registers) + f" + {local} B" * bool(local)
            if kernel in read.lengths:
                row[arch] += f" / {loop.total if loop and unit.policy else read.lengths[kernel]}"
    table = Table(_TITLE, ["unit", "kernel", "shared, B", "predicted us", *units])
    order = list(dict.fromkeys(unit.label for of_arch in units.values() for unit in of_arch))
    for (label, kernel), row in sorted(cells.items(), key=lambda item: order.index(item[0][0])):
        table.rows.append([label, kernel, row["shared"], row["predicted"], *(row.get(arch, "-") for arch in units)])
    table.notes += [
        "+ n B: bytes of a thread in local memory, spilled or indexed at run time. Instructions: of one step where a",
        "kernel walks all steps (inner loops once, both arms of branches), else of the kernel. Predicted: a step of 16",
        "rows on 132 multiprocessors, by the model of kernels/cuda/cost.py.",
    ]
    return table


def _shared(unit: Any, used: Any) -> str:
    return str(used.shared + (unit.policy.shared if unit.policy else 0))


def _predicted(unit: Any) -> str:
    return f"{_seconds(unit) * 1e6:.2f}" if unit.policy else "-"


def _seconds(unit: Any) -> float:
    from fastrnn.kernels.cuda.cost import step_seconds
    from fastrnn.kernels.cuda.cuts import Chip

    return step_seconds(unit.policy, unit.problem, Chip(132, 227 * 1024, 90))


# -- steps ------------------------------------------------------------------------------------------------------


def grid_problems(cells: Iterable[str], dtypes: Iterable[str], sizes: Sequence[int] = SIZES) -> Iterable[Any]:
    """Every problem of the GPU grid, of layers with so many units."""
    from fastrnn.kernels.cuda.catalogue import precisions
    from fastrnn.kernels.cuda.cuts import Problem

    for cell, dtype in itertools.product(cells, dtypes):
        for precision, backward, H, B in itertools.product(precisions(dtype), (False, True), sizes, ROWS):
            yield Problem(cell, dtype, precision, H, B, backward)


def model_products(unit: Any) -> float:
    """Product instructions of a warp for as many rows as are multiplied at once, as cost.py counts multiply-adds."""
    problem, shape = unit.problem, unit.policy.shape
    whole = 16 if shape.tensor else 1
    if problem.backward:
        outputs = sum(problem.fed) * -(-shape.units * shape.split // whole) * whole // shape.split
    else:
        outputs = sum(-(-count * shape.units // whole) * whole for count in problem.fed)
    if shape.tensor:  # of 16 outputs, 8 rows and a depth of 32 bytes
        return shape.tensor * outputs / 16 * problem.H / (32 // problem.itemsize) / (shape.threads // 32)
    return 4 * outputs * problem.H / shape.threads


def _steps(arch: str, units: Sequence[Any], errors: list[str]) -> Table:
    """A row for each kernel that walks all steps."""
    columns = ["unit", "cut", "instructions", "products", "model", "around them", "16-byte loads", "narrower"]
    columns += ["to other blocks", "narrower there", "local", "divisions", "meets by", "issue us", "predicted us"]
    table = Table(f"{_STEPS}, {arch}", columns)
    for _, unit, read in _compiled({arch: units}, errors):
        (loop,) = read.loops.values()
        table.rows.append(_step_row(unit, loop))
    table.notes += [
        "Instructions: of one step, inner loops once and both arms of branches. Products: HMMA, or FFMA and DFMA",
        "of the innermost loop; around them: the others of that loop. Model: the products that cost.py counts for",
        "as many rows as are multiplied at once (8 with tensor cores, 4 without); the compiler has unrolled the",
        "loop over rows where there are several times as many. Issue: the instructions of all warps, one a cycle",
        "and scheduler; too much by a step's rare branches, and by what only some warps do.",
    ]
    return table


def _step_row(unit: Any, loop: sass.StepLoop | None) -> list[str]:
    from fastrnn.kernels.cuda.cost import HOPPER

    shape = unit.policy.shape
    cut = f"{shape.units} units, {unit.policy.blocks} x {unit.policy.columns}"
    if loop is None:
        return [unit.label, cut, *["-"] * 11, "-", f"{_seconds(unit) * 1e6:.2f}"]
    meets = ", ".join(f"{name} {count}" for name, count in loop.meeting.items())
    issue = loop.total * shape.threads / 32 / 4 / HOPPER.clock
    counts = [loop.total, loop.products, round(model_products(unit)), loop.around, loop.wide, loop.narrow, loop.remote]
    counts += [loop.remote_narrow, loop.local, loop.divisions]
    return [unit.label, cut, *map(str, counts), meets, f"{issue * 1e6:.2f}", f"{_seconds(unit) * 1e6:.2f}"]
