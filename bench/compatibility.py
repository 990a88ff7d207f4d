"""``python -m bench compatibility``: other libraries' outputs against those of layers with their weights.

The comparisons are those of ``tests/weights``. Each library is compared where it is installed; results of the others
are kept from the file's last run.
"""

from __future__ import annotations

import argparse
import importlib
import json
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bench import RESULTS
from bench.tables import Table, markdown

__all__ = ["PUBLISHED", "TITLE", "add_compatibility", "compared", "tables_of", "text_of"]

PUBLISHED = RESULTS / "compatibility.json"
TITLE = "Compatibility: largest difference from each library, relative to the largest entry"

# The module with each library's comparisons, and the packages that it needs.
_LIBRARIES = {
    "PyTorch": ("tests.weights.agree_torch", ("torch",)),
    "Keras": ("tests.weights.agree_keras", ("keras",)),
    "ONNX Runtime": ("tests.weights.agree_onnx", ("onnx", "onnxruntime")),
}


def add_compatibility(commands: Any) -> None:
    """Add the subcommand."""
    parser = commands.add_parser("compatibility", help="outputs with weights of PyTorch, Keras and ONNX: differences")
    parser.add_argument(
        "--json", type=Path, default=PUBLISHED, help=f"results, with a .md beside (default: {PUBLISHED})"
    )
    parser.set_defaults(command=_compatibility)


def compared() -> Iterator[tuple[str, dict[str, Any]]]:
    """Each installed library: its versions, and rows of [title, cell, option, dtype, difference, tolerance]."""
    for library, (module, packages) in _LIBRARIES.items():
        if any(find_spec(package) is None for package in packages):
            continue
        agreements = importlib.import_module(module).agreements()
        rows = [[a.library, a.cell, a.option, a.dtype, a.difference(), a.tolerance] for a in agreements]
        yield library, {"versions": {p: importlib.import_module(p).__version__ for p in packages}, "rows": rows}


def tables_of(results: dict[str, Any]) -> list[Table]:
    """A table for each way of each library: cells by options."""
    found: dict[str, Table] = {}
    for entry in results.values():
        versions = ", ".join(f"{name} {version}" for name, version in entry["versions"].items())
        for title in dict.fromkeys(row[0] for row in entry["rows"]):
            rows = [row for row in entry["rows"] if row[0] == title]
            cells = list(dict.fromkeys(row[1] for row in rows))
            by = {(row[1], row[2]): f"{row[4]:.1e}" for row in rows}
            table = found[title] = Table(title, ["option", *cells])
            for option in dict.fromkeys(row[2] for row in rows):
                table.rows.append([option, *(by.get((cell, option), "-") for cell in cells)])
            table.notes.append(f"{versions}; float32 unless the option is float64")
    return list(found.values())


def text_of(results: dict[str, Any]) -> str:
    """All tables in Markdown."""
    parts = [f"# {TITLE}\n\nWritten by `python -m bench compatibility`. T, B, I, H = 12, 5, 6, 19.\n"]
    parts += [f"## {table.title}\n\n{markdown(table)}\n" for table in tables_of(results)]
    return "\n".join(parts)


def _compatibility(options: argparse.Namespace) -> int:
    from bench.terminal import print_table, terminal

    path: Path = options.json
    results = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    for library, entry in compared():
        results[library] = entry
        worst = max(entry["rows"], key=lambda row: row[4])
        terminal.print(f"{library}: {len(entry['rows'])} compared, at most {worst[4]:.1e} ({worst[1]}, {worst[2]})")
    results = {library: results[library] for library in _LIBRARIES if library in results}
    for table in tables_of(results):
        print_table(table)
    path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    path.with_suffix(".md").write_text(text_of(results), encoding="utf-8")
    terminal.print(f"results: {path} and {path.with_suffix('.md').name}")
    beyond = [row for entry in results.values() for row in entry["rows"] if not row[4] <= row[5]]
    return 1 if beyond else 0
