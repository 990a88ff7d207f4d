"""``python -m bench kernels``: registers and memory of every CUDA kernel, by architecture. Needs NVRTC, but no GPU."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.tables import Table, markdown

__all__ = ["add_kernels"]

_TITLE = "CUDA kernels: registers a thread by architecture"


def add_kernels(commands: Any) -> None:
    """Add the subcommand."""
    parser = commands.add_parser("kernels", help="registers and memory of every CUDA kernel; needs no GPU")
    parser.add_argument("--archs", default="all", help="all that the tests compile for, or names such as sm_90,sm_120")
    parser.add_argument("--units", default="", help="only units with this in their name, such as 'lstm float32'")
    parser.add_argument("--out", type=Path, default=None, help="also write Markdown here")
    parser.set_defaults(command=_kernels)


def _kernels(options: argparse.Namespace) -> int:
    from bench.cli import names_among
    from bench.terminal import print_table, terminal
    from fastrnn.kernels.cuda import devices
    from fastrnn.kernels.cuda.catalogue import every_unit

    archs: Sequence[str] = devices.ARCHITECTURES
    if options.archs != "all":
        archs = names_among(options.archs, devices.ARCHITECTURES, "archs")
    units = {arch: [unit[:2] for unit in every_unit(int(arch[3:])) if options.units in unit[0]] for arch in archs}
    if not any(units.values()):
        raise ValueError(f"units: none has {options.units!r} in its name")
    try:
        version = ".".join(map(str, devices.nvrtc().getVersion()))
    except devices.GPUUnavailable as reason:
        terminal.print(str(reason), markup=False)
        return 1
    table, errors = _measured(units)
    table.notes.append(f"NVRTC {version}. + n B: bytes of a thread in local memory, spilled or indexed at run time.")
    print_table(table)
    for error in errors:
        terminal.print(error, markup=False)
    if options.out is not None:
        text = f"# {table.title}\n\n{markdown(table)}\n" + "".join(f"\n```\n{error}\n```\n" for error in errors)
        options.out.write_text(text, encoding="utf-8")
        terminal.print(f"table: {options.out}")
    return 1 if errors else 0


def _measured(units: Mapping[str, Sequence[tuple[str, str]]]) -> tuple[Table, list[str]]:
    """The table, with a row for each kernel of each architecture's units (label, source); what did not compile."""
    from bench.terminal import Bar
    from fastrnn.kernels.cuda.compiler import CompileError, resources_of_each

    cells: dict[tuple[str, str], dict[str, str]] = {}
    errors = []
    with Bar(sum(map(len, units.values()))) as bar:
        for arch, of_arch in units.items():
            bar.begin(arch, len(of_arch))
            each = resources_of_each([source for _, source in of_arch], arch)
            for (label, _), found in zip(of_arch, each, strict=True):
                bar.advance(1)
                if isinstance(found, CompileError):
                    errors.append(f"{label}: {found}")
                    continue
                for kernel, used in sorted(found.items()):
                    local = max(used.spill_stores, used.stack)
                    row = cells.setdefault((label, kernel), {"shared": str(used.shared)})
                    row[arch] = str(used.registers) + f" + {local} B" * bool(local)
    table = Table(_TITLE, ["unit", "kernel", "static shared, B", *units])
    order = list(dict.fromkeys(label for of_arch in units.values() for label, _ in of_arch))
    for (label, kernel), row in sorted(cells.items(), key=lambda item: order.index(item[0][0])):
        table.rows.append([label, kernel, row["shared"], *(row.get(arch, "-") for arch in units)])
    return table, errors
