"""Mutants of CUDA source by tokens: comments, directives and what only a GPU compiles are left alone."""

from __future__ import annotations

import re
from pathlib import Path

from tests.mutation.mutant import Mutant

__all__ = ["mutants_of_cuda"]

_TERM = r"[A-Za-z_][\w:]*(?:(?:\.|->)\w+)*(?:\[[^\[\]]*\]|\((?:[^()]|\([^()]*\))*\))?"
# A pattern and what its matches become, where that is not None.
_RULES: list[tuple[str, str, object]] = [
    ("other operator", r"(?<=[\w\)\]]) \+ (?=[\w\(])", " - "),
    ("other operator", r"(?<=[\w\)\]]) - (?=[\w\(])", " + "),
    ("other operator", r"(?<=[\w\)\]]) \+= ", " -= "),
    ("term dropped", r"(?<=[\w\)\]]) \+= ", " = "),
    ("term dropped", rf"(?<=[\w\)\]]) [+-] (?:{_TERM}|\d+)(?! [*/%])", ""),
    ("factor dropped", rf"(?<=[\w\)\]]) \* (?:{_TERM}|\d+)", ""),
    ("factor dropped", rf"(?<![\w\.>\]]){_TERM} \* (?=[\w\(])", ""),
    ("other comparison", r"(?<=[\w\)\]]) < (?=[\w\(:])", " <= "),
    ("other comparison", r" <= ", " < "),
    ("other comparison", r"(?<=[\w\)\]]) > (?=[\w\(:])", " >= "),
    ("other comparison", r" >= ", " > "),
    ("other comparison", r" == ", " != "),
    ("other connective", r" && ", " || "),
    ("other connective", r" \|\| ", " && "),
    ("other constant", r"(?<= )0(?=[;,:\)\]])", "1"),
    ("other constant", r"(?<=[\(\[ ])1(?=[;,:\)\] ])(?! <)", "2"),
    ("other constant", r"(?<= )2(?=[;,:\)\] ])", "3"),
    ("another gate", r"K::(p_)?[ifgorzn]\b|K::hn\b", "gate"),
    ("results of a choice exchanged", rf"\? ({_TERM}) : ({_TERM})(?=[;,\)\]])", r"? \2 : \1"),
    ("arguments exchanged", r"(?<=[\(\s])(\w+), (\w+)(?=[,\)])", r"\2, \1"),
    ("statement removed", r"(?m)^ +(?:else )?[\w\[\]\.:\*\(\)>-]+(?:<[\w, :]+>)?\([^;{}]*\);$", ";"),
    ("statement removed", r"(?m)^ +[\w\[\]\.:>\(\)\* +-]+? [+\-\*^]?= [^;{}]*;$", ";"),
]
_NEXT_GATE = {
    "i": "f", "f": "g", "g": "o", "o": "g", "r": "z", "z": "r", "n": "z", "hn": "n", "p_i": "p_f", "p_f": "p_o",
    "p_o": "p_f",
}  # fmt: skip
_DECLARATION = re.compile(
    r"^\s*(const|constexpr|static|using|template|auto|return|case|typename|union|struct|extern)\b"
)


def mutants_of_cuda(root: Path, file: str) -> list[Mutant]:
    """All mutants of a file under root."""
    text = (root / file).read_text(encoding="utf-8")
    code = _without_comments(text)
    found = []
    for kind, pattern, change in _RULES:
        for match in re.finditer(pattern, code):
            line = code[code.rfind("\n", 0, match.start() + 1) + 1 : code.find("\n", match.start() + 1)]
            if _left_alone(kind, line, match.group()):
                continue
            after = _changed(match, change)
            if kind == "statement removed":
                after = match.group()[: len(match.group()) - len(match.group().lstrip(" "))] + ";"
            number = text.count("\n", 0, match.start()) + 1
            if after != match.group():
                place = _function_at(code, match.start())
                column = match.start() - text.rfind("\n", 0, match.start() + 1)
                found.append(
                    Mutant(file, place, number, *match.span(), match.group(), after, kind, line.strip(), column)
                )
    return found


def _changed(match: re.Match[str], change: object) -> str:
    if change == "gate":
        name = match.group().removeprefix("K::")
        return "K::" + _NEXT_GATE[name]
    assert isinstance(change, str)
    return match.expand(change)


def _left_alone(kind: str, line: str, found: str) -> bool:
    if line.lstrip().startswith(("#", "template <", "template<", "using ", "static_assert", "asm")):
        return True
    if kind == "statement removed":
        return bool(_DECLARATION.match(found.lstrip("\n"))) or "SPIN" in found
    if kind == "arguments exchanged":
        return "DEVICE" in line or "[&]" in line or "int" in found
    return "template" in line and kind != "other operator"


def _without_comments(text: str) -> str:
    """Spaces in place of comments, strings, and of what the emulator does not compile; offsets stay."""
    blank = lambda match: re.sub(r"[^\n]", " ", match.group())  # noqa: E731
    text = re.sub(r"//[^\n]*|\"(?:[^\"\\\n]|\\.)*\"", blank, text)
    return re.sub(r"(?s)#ifdef __CUDACC__.*?#else.*?#endif", blank, text)


def _function_at(code: str, offset: int) -> str:
    """Name of the struct and the function that an offset lies in, as far as indentation shows."""
    names: list[str] = []
    for line in reversed(code[:offset].splitlines()):
        if not line.strip() or line.startswith(("#", "}")):
            continue
        indent = len(line) - len(line.lstrip())
        if indent in (0, 4) and ("DEVICE" in line or "struct " in line):
            if indent == 4 and not names and "DEVICE" in line:
                names.append(_name_of(line))
            elif indent == 0:
                names.append(_name_of(line))
                break
    return ".".join(reversed(names))


def _name_of(line: str) -> str:
    if struct := re.search(r"struct (\w+)", line):
        return struct.group(1)
    words = re.findall(r"(\w+)\s*\(", line.partition("DEVICE")[2])
    return words[0] if words else "?"
