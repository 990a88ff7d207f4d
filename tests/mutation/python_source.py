"""Mutants of Python source: the CPU's kernels, their loops, cells and addresses.

Changes go into the text, at places that the syntax tree names, so that everything else stays as it was.
"""

from __future__ import annotations

import ast
import itertools
from collections.abc import Iterator
from pathlib import Path

from tests.mutation.mutant import Mutant

__all__ = ["mutants_of_python"]

_FLIPPED = {ast.Add: ("+", "-"), ast.Sub: ("-", "+"), ast.FloorDiv: ("//", "*"), ast.Mod: ("%", "//")}
_COMPARED = {
    ast.Lt: ("<", "<="), ast.LtE: ("<=", "<"), ast.Gt: (">", ">="), ast.GtE: (">=", ">"), ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
}  # fmt: skip
# Where arguments may change places and nothing else changes.
_COMMUTATIVE = {"min", "max", "zip"}
# What prefetches changes no result, only the time: neither these calls nor the places that they are for.
_PREFETCHING = {"prefetch", "fetch", "prefetch_at"}
_PREFETCHED = {"following", "next_x", "next_h", "x_line", "h_line", "line", "ahead", "rows_here"}
# First arguments that are types at run time: another one does not compile.
_TAGS = {"phase", "gates", "cell", "full", "tail", "panel", "like", "last", "zone", "gate_zone", "builder", "e", "self"}
_SKIPPED_CALLS = {"ValueError", "TypeError", "RuntimeError", "NotImplementedError", "super", "lru_cache", "VectorType"}


def mutants_of_python(root: Path, file: str, skipped_functions: frozenset[str] = frozenset()) -> list[Mutant]:
    """All mutants of a file under root, but of the functions named (by what makes no difference to a result)."""
    text = (root / file).read_text(encoding="utf-8")
    return list(_Source(text, file, skipped_functions).mutants())


class _Source:
    def __init__(self, text: str, file: str, skipped: frozenset[str]) -> None:
        self.text, self.file, self.skipped = text, file, skipped
        self.lines = [0]
        for line in text.splitlines(keepends=True):
            self.lines.append(self.lines[-1] + len(line))
        self._characters = text.splitlines(keepends=True)

    def _offset(self, line: int, column: int) -> int:
        """Of a node's position, whose columns count bytes."""
        before = self._characters[line - 1].encode()[:column].decode()
        return self.lines[line - 1] + len(before)

    def _span(self, node: ast.AST) -> tuple[int, int]:
        return self._offset(node.lineno, node.col_offset), self._offset(node.end_lineno, node.end_col_offset)

    def _text(self, node: ast.AST) -> str:
        start, end = self._span(node)
        return self.text[start:end]

    def mutants(self) -> Iterator[Mutant]:
        for node in ast.parse(self.text).body:
            if isinstance(node, ast.FunctionDef):
                yield from self._in_function(node, node.name)
            elif isinstance(node, ast.ClassDef):
                for inner in node.body:
                    if isinstance(inner, ast.FunctionDef):
                        yield from self._in_function(inner, f"{node.name}.{inner.name}")

    def _in_function(self, function: ast.FunctionDef, name: str) -> Iterator[Mutant]:
        if name.rpartition(".")[2] in self.skipped | _PREFETCHING or name in self.skipped:
            return
        for statement in function.body:
            for node, kind, start, end, after in self._within(statement):
                before = self.text[start:end]
                if before != after:
                    line = self._characters[node.lineno - 1].strip()
                    yield Mutant(
                        self.file,
                        name,
                        node.lineno,
                        start,
                        end,
                        before,
                        after,
                        kind,
                        line,
                        start - self.lines[node.lineno - 1],
                    )

    def _within(self, node: ast.AST) -> Iterator[tuple[ast.AST, str, int, int, str]]:
        if _no_matter(node):
            return
        for kind, start, end, after in self._changes(node):
            yield node, kind, start, end, after
        for field, value in ast.iter_fields(node):
            if field in ("annotation", "returns", "decorator_list", "type_comment"):
                continue
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    yield from self._within(child)

    def _between(self, left: ast.AST, right: ast.AST, old: str, new: str) -> tuple[int, int, str]:
        """The operator between two nodes."""
        start, end = self._span(left)[1], self._span(right)[0]
        at = self.text.index(old, start, end)
        return at, at + len(old), new

    def _changes(self, node: ast.AST) -> Iterator[tuple[str, int, int, str]]:
        if isinstance(node, ast.BinOp):
            yield from self._of_operator(node)
        elif isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in _COMPARED:
            old, new = _COMPARED[type(node.ops[0])]
            yield "other comparison", *self._between(node.left, node.comparators[0], old, new)
        elif isinstance(node, ast.BoolOp):
            old, new = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
            yield "other connective", *self._between(node.values[0], node.values[1], old, new)
        elif isinstance(node, (ast.If, ast.IfExp)):
            yield "condition the other way", *self._span(node.test), f"(not ({self._text(node.test)}))"
        elif isinstance(node, ast.Call):
            yield from self._of_call(node)
        elif isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
            if isinstance(node.slice.value, int):
                yield "next index", *self._span(node.slice), str(node.slice.value + 1)
        elif isinstance(node, ast.Return) and isinstance(node.value, ast.Tuple):
            yield from self._exchanged(node.value.elts, "results exchanged")
        elif isinstance(node, ast.Assign):
            if isinstance(node.value, ast.Tuple):
                yield from self._exchanged(node.value.elts, "values exchanged")
        elif isinstance(node, ast.AugAssign):
            yield "statement removed", *self._span(node), "pass"
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            yield "statement removed", *self._span(node), "pass"

    def _of_operator(self, node: ast.BinOp) -> Iterator[tuple[str, int, int, str]]:
        span = self._span(node)
        if type(node.op) in _FLIPPED:
            old, new = _FLIPPED[type(node.op)]
            yield "other operator", *self._between(node.left, node.right, old, new)
        if isinstance(node.op, (ast.Add, ast.Sub)):
            yield "term dropped", *span, self._text(node.left)
        elif isinstance(node.op, ast.Mult):
            yield "factor dropped", *span, f"({self._text(node.left)})"
            yield "factor dropped", *span, f"({self._text(node.right)})"
        for side in (node.left, node.right):
            if isinstance(side, ast.Constant) and isinstance(side.value, (int, float)):
                yield "other constant", *self._span(side), repr(side.value + 1)

    def _of_call(self, node: ast.Call) -> Iterator[tuple[str, int, int, str]]:
        name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
        if name in _SKIPPED_CALLS or any(isinstance(a, ast.Starred) for a in node.args):
            return
        if name == "range" and node.args:
            end = node.args[0] if len(node.args) == 1 else node.args[1]
            yield "range too short", *self._span(end), f"{self._text(end)} - 1"
            first = node.args[0]
            text = f"1, {self._text(first)}" if len(node.args) == 1 else f"{self._text(first)} + 1"
            yield "range from the second", *self._span(first), text
            return
        if name in ("min", "max"):
            yield "the other end", *self._span(node.func), "max" if name == "min" else "min"
        if name in _COMMUTATIVE:
            return
        arguments = list(node.args)
        if arguments and isinstance(arguments[0], ast.Name) and arguments[0].id in _TAGS:
            arguments = arguments[1:]
        if name in ("fma", "fma_at"):
            arguments = node.args[-2:]  # a * b + c: a and b may change places
        yield from self._exchanged(arguments, "arguments exchanged")
        for argument in arguments:
            if isinstance(argument, ast.Constant) and type(argument.value) in (int, float):
                yield "other constant", *self._span(argument), repr(argument.value + 1)

    def _exchanged(self, nodes: list[ast.expr], kind: str) -> Iterator[tuple[str, int, int, str]]:
        """Two neighbours."""
        for first, second in itertools.pairwise(nodes):
            one, two = self._text(first), self._text(second)
            if (isinstance(first, ast.Name) and first.id in _TAGS) or ast.dump(first) == ast.dump(second):
                continue
            (start, middle), (begin, end) = self._span(first), self._span(second)
            yield kind, start, end, two + self.text[middle:begin] + one


def _no_matter(node: ast.AST) -> bool:
    """Whether a change within can change no result."""
    if isinstance(node, (ast.Raise, ast.Assert, ast.JoinedStr)):
        return True
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return True  # a docstring
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        called = node.value.func
        return getattr(called, "id", getattr(called, "attr", "")) in _PREFETCHING
    if isinstance(node, ast.Assign) and len(node.targets) == 1:
        target = node.targets[0]
        names = target.elts if isinstance(target, ast.Tuple) else [target]
        return all(isinstance(n, ast.Name) and n.id in _PREFETCHED for n in names)
    return False
