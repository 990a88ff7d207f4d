"""Changes that change no result, and why: they are not tried."""

from __future__ import annotations

import re

from tests.mutation.mutant import Mutant

__all__ = ["why_equivalent"]

# (file, function, the mutant's kind, text and line as a pattern, why)
_EQUIVALENT = [
    (
        "forward.py",
        "advance",
        r"other end: .* in .*following|following|x_line|h_line|next_x|next_h",
        "which panel is fetched ahead, which decides about the time alone",
    ),
    (
        "cell_math.cuh",
        "Lstm.backward",
        r"term dropped: \+= -> = in dp\[",
        "dp comes as zeros",
    ),
]


def why_equivalent(mutant: Mutant) -> str | None:
    """The reason, or None for a mutant that tests must find."""
    if mutant.kind == "arguments exchanged" and re.search(r"\bread\(|\b(Layer|Record|Batch), a\b", mutant.before):
        return "a type in place of a number: it does not compile"
    for file, function, pattern, why in _EQUIVALENT:
        if mutant.file.endswith(file) and mutant.function == function:
            if re.search(pattern, f"{mutant.kind}: {mutant.before} -> {mutant.after} in {mutant.source}"):
                return why
    return None
