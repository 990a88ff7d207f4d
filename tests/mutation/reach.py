"""Which of the CPU's compiled kernels a change of one function can reach: the others need not be compiled anew.

By names: a kernel reaches what it names, what that names, and so on. What is found is too much rather than too little.
"""

from __future__ import annotations

import ast
import functools
from pathlib import Path

__all__ = ["kernels_reached"]

Name = tuple[str, str]  # of a module, and in it


def kernels_reached(root: Path, file: str, function: str) -> set[str]:
    """Kernels, as "backward.backward", that a function (or method, by its class) of a file reaches."""
    module = Path(file).stem
    uses, kernels = _graph(root / Path(file).parent)
    if module == "cell_math" and "." in function:
        # Looked up by the name of the cell: forward and gate are called in one kernel, their gradients in another.
        way = "backward" if "backward" in function.rpartition(".")[2] else "forward"
        return {f"{way}.{way}"}
    changed = (module, function.partition(".")[0])
    found = {f"{m}.{name}" for m, name in kernels if changed in _reached(uses, (m, name))}
    # What registers itself with Numba is named nowhere.
    return found or {f"{m}.{name}" for m, name in kernels}


def _reached(uses: dict[Name, set[Name]], start: Name) -> set[Name]:
    found, waiting = set(), [start]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += uses.get(name, ())
    return found


@functools.cache
def _graph(folder: Path) -> tuple[dict[Name, set[Name]], set[Name]]:
    """What every name of the modules of a folder uses, and which of them are kernels."""
    uses: dict[Name, set[Name]] = {}
    kernels: set[Name] = set()
    for path in folder.glob("*.py"):
        module, body = path.stem, ast.parse(path.read_text(encoding="utf-8")).body
        for node in body:
            if isinstance(node, ast.ImportFrom) and node.level == 1 and node.module:
                for alias in node.names:
                    uses[module, alias.asname or alias.name] = {(node.module, alias.name)}
            elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                uses[module, node.name] = _names(module, node)
                if any(isinstance(d, ast.Name) and d.id == "kernel" for d in node.decorator_list):
                    kernels.add((module, node.name))
            elif isinstance(node, (ast.Assign, ast.AnnAssign)):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                for name in {n.id for target in targets for n in ast.walk(target) if isinstance(n, ast.Name)}:
                    uses.setdefault((module, name), set()).update(_names(module, node))
    # Called through an overload, which no name shows.
    math = {name for name in uses if name[0] == "cell_math"}
    for name in ("forward", "backward", "gate", "gate_backward"):
        uses["cell_math", name] = uses["cell_math", name] | math
    return uses, kernels


def _names(module: str, node: ast.AST) -> set[Name]:
    return {(module, n.id) for n in ast.walk(node) if isinstance(n, ast.Name)}
