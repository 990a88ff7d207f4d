"""One small change of one source file."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

__all__ = ["Mutant"]


class Mutant(NamedTuple):
    """The text between two offsets of a file, replaced."""

    file: str  # from the repository's root
    function: str  # where it lies, as "_LSTM.backward"
    line: int
    start: int
    end: int
    before: str
    after: str
    kind: str  # of change
    source: str  # the line
    column: int  # in it

    @property
    def key(self) -> str:
        """Names the mutant, also where other lines of the file have changed."""
        return f"{self.file} {self.function} {self.kind}: {self.column} {self.before} -> {self.after} in {self.source}"

    def __str__(self) -> str:
        def short(text: str) -> str:
            line = " ".join(text.split())
            return line if len(line) < 70 else line[:33] + " … " + line[-33:]

        return f"{self.file}:{self.line} {self.function}: {self.kind}: {short(self.before)} -> {short(self.after)}"

    def plant(self, root: Path) -> None:
        """Into the copy of the sources under root."""
        path = root / self.file
        text = path.read_text(encoding="utf-8")
        assert text[self.start : self.end] == self.before, f"{self.file} has changed"
        path.write_text(text[: self.start] + self.after + text[self.end :], encoding="utf-8")
