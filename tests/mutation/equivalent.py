"""Changes that change no result, and why: they are not tried."""

from __future__ import annotations

import re

from tests.mutation.mutant import Mutant

__all__ = ["why_equivalent"]

# (file, function, the mutant's kind, text and line as a pattern, why)
# fmt: off
_EQUIVALENT = [
    (
        "forward.py", "advance", r"other end: .* in .*following|following|x_line|h_line|next_x|next_h",
        "which panel is fetched ahead decides about the time alone",
    ),
    ("backward.py", "input_columns", r"range .* in for e in range\(m\)", "the loop fetches ahead, and nothing else"),
    (
        "backward.py", "input_gradient", r"constant: 0 -> 1 in table = table_row",
        "the table lies an entry further on, where nothing else lies at that time",
    ),
    (
        "column_sums.py", "project_panels", r"begin \* vector_bytes\(tail\)",
        "the one cell whose products begin past the first slot, reset-after GRU, has no tail: panels of one vector",
    ),
    ("", "", r"removed: reconsider\(", "who computes a step when a core is taken away decides about the time alone"),
    (
        "column_sums.py", "blocks_of", "other (comparison|connective)",
        "in how many blocks a sum is taken decides about the time alone: its order is the same",
    ),
    (
        "", "", r"comparison: > -> >= in if units\(full\) > 1",
        "where panels have one vector the full zone is all, and the tail is empty",
    ),
    ("packing.py", "_transposed", "range too short: count -> count - 1", "the last row is never the upper of a pair"),
    ("forward.py", "forward_share", "constant: 63 -> 64", "the scratch may begin a line later: it has room for that"),
    ("", "", r"constant: 1 -> 2 in .*panel\(cell", "panel() takes the last phase for any beyond, 2 for true"),
    (
        "layout.py", "unit_share", r"comparison: < -> <= in if (first|last) < full",
        "a boundary at the end of the full zone is rounded to where it is",
    ),
    ("packed.py", "PackedLayout.move", r"comparison: > -> >= in threads", "with how many threads a layer is packed"),
    (
        "backward.py", "backward_share", r"range from the second: v\.steps ->",
        "a step more, of no rows: active[steps] is 0",
    ),
    (
        "backward.py", "", r"operator: - -> \+ in count = \(v\.I \+",
        "a vector of columns more at times, of which nothing is stored",
    ),
    ("simd.py", "call", r"index: 0 -> 1", "where no type of the result is given, all arguments have one"),
    ("tiles.py", "_outer", r"other end: min -> max in limit", "tiles are compiled that nobody asks for"),
    (
        "", "", r"constant: 0 -> 1 in .*threadIdx\.x == 0\) (mbarrier_expect\(arrived \+ \w+, u32|store_release)",
        "one thread, whichever",
    ),
    (
        "persistent.cuh", "", r"(dropped|operator|comparison): .* in if \(tile \+ S::ROWS < rows\) __syncthreads",
        "a barrier more than it takes",
    ),
    ("persistent.cuh", "store_totals", r"connective: && -> \|\| in .*!upper", "both lanes store the same sums"),
    (
        "exchange.cuh", "", r"comparison: == -> != in if \(threadIdx\.x == 0\) store_release",
        "all others store the same number",
    ),
    (
        "tensor_cores.cuh", "", r"(comparison|constant|exchanged): .* in .* AHEAD = MOST_AHEAD",
        "how much is loaded ahead decides about the time alone",
    ),
    ("cluster.cuh", "ClusterExchange.pitch_of", r"dropped: \+ 64 ", "another bank: of time alone"),
    ("cluster.cuh", "", r"constant: 0 -> 1 in if \(units\(\) <= 0", "a block has no unit, or a vector of them"),
    ("cell_math.cuh", "Lstm.backward", r"term dropped: \+= -> = in .*dp\[", "dp comes as zeros"),
]
# fmt: on


def why_equivalent(mutant: Mutant) -> str | None:
    """The reason, or None for a mutant that tests must find."""
    if mutant.kind == "arguments exchanged" and re.search(r"\bread\(|\b(Layer|Record|Batch), a\b", mutant.before):
        return "a type in place of a number: it does not compile"
    if mutant.kind == "arguments exchanged":
        sums = rf"\b(builder|b)\.(add|mul|and_|or_|fadd|fmul)\({re.escape(mutant.before)}\)"
        if re.search(sums, mutant.source):
            return "the order of two numbers that are added or multiplied"
    change = " ".join(f"{mutant.kind}: {mutant.before} -> {mutant.after} in {mutant.source}".split())
    for file, function, pattern, why in _EQUIVALENT:
        if mutant.file.endswith(file) and function in ("", mutant.function) and re.search(pattern, change):
            return why
    return None
