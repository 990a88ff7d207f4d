"""Plants mutants one after the other, runs their tests, and lists what becomes of them.

    python -m tests.mutation cpu --count 200 --results cpu.jsonl
    python -m tests.mutation cuda --count 100 --results cuda.jsonl --through "nice -n 10"
    python -m tests.mutation report cpu.jsonl cuda.jsonl

A run that was stopped goes on where it stood: what the results file has is not repeated. Outcomes: "killed" (by the
test named), "crashed", "hung" (both found, too), "no code" (the change does not compile: counts for nothing),
"undecided" (it waits for ever, or the machine was too busy: tried again) and "survived", to be explained or to be met
by a new test. Compiled kernels of the sources as they are, from
FASTRNN_CACHE_DIR, serve what a mutant does not reach. ``--survivors`` runs these once more, all compiled anew.
"""

from __future__ import annotations

import argparse
import importlib
import json
import shlex
import tempfile
from collections import Counter
from pathlib import Path

from tests.mutation.equivalent import why_equivalent
from tests.mutation.mutant import Mutant
from tests.mutation.trials import LIMIT_S, Copy, all_mutants, drawn

# Of the limit, where every kernel is compiled anew for many more tests.
COMPILED_ANEW = 10


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("cpu", "cuda", "report"))
    parser.add_argument("files", nargs="*", type=Path, help="results, to be reported")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path)
    parser.add_argument("--through", default="", help="a command that runs each mutant's tests, such as nice")
    parser.add_argument("--only", default="", help="mutants whose description has this")
    parser.add_argument("--part", default="0/1", help="k/n: the k-th of n runs side by side, counted from 0")
    parser.add_argument("--limit", type=int, default=LIMIT_S, help="seconds of computing, past which a mutant hangs")
    parser.add_argument("--list", action="store_true", help="mutants, and run nothing")
    parser.add_argument("--survivors", action="store_true", help="run those of the results once more")
    options = parser.parse_args()
    if options.what == "report":
        report(options.files)
        return
    mutants = [m for m in drawn(options.what, options.count, options.seed) if options.only in str(m)]
    if options.list:
        print(*mutants, sep="\n")
        return
    run(mutants, options)


def run(mutants: list[Mutant], options: argparse.Namespace) -> None:
    done = _results([options.results]) if options.results else {}
    part, parts = map(int, options.part.split("/"))
    mutants = mutants[part::parts]
    if options.survivors:
        mutants = [m for m in mutants if done.get(m.key, {}).get("outcome") == "survived"]
    else:
        mutants = [m for m in mutants if done.get(m.key, {}).get("outcome", "undecided") == "undecided"]
    cache = importlib.import_module("fastrnn.kernels.cpu.jit").cache_folder()
    with tempfile.TemporaryDirectory() as folder:
        limit = options.limit * (COMPILED_ANEW if options.survivors else 1)
        copy = Copy(Path(folder), cache, shlex.split(options.through), limit)
        for k, mutant in enumerate(mutants):
            found = copy.judge(mutant, everything=options.survivors)
            print(f"{k + 1}/{len(mutants)} {found['outcome']:9}{mutant}  [{found['by']}]", flush=True)
            if options.results:
                line = {"key": mutant.key, "what": str(mutant), "kind": mutant.kind, "file": mutant.file, **found}
                with options.results.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(line, ensure_ascii=False) + "\n")


def _results(paths: list[Path]) -> dict[str, dict[str, str]]:
    """The latest of every mutant."""
    lines = [line for path in paths if path.exists() for line in path.read_text(encoding="utf-8").splitlines()]
    return {found["key"]: found for found in map(json.loads, lines)}


def report(paths: list[Path]) -> None:
    """Counts by file and outcome, and the survivors. "equal": one that ``equivalent`` has come to explain."""
    found = _results(paths).values()
    mutants = [m for device in ("cpu", "cuda") for of_file in all_mutants(device).values() for m in of_file]
    explained = {mutant.key for mutant in mutants if why_equivalent(mutant)}
    for f in found:
        if f["key"] in explained and f["outcome"] in ("survived", "undecided"):
            f["outcome"] = "equal"
    outcomes = ("killed", "crashed", "hung", "survived", "equal", "undecided", "no code", "error")
    print(f"{'file':32}" + "".join(f"{outcome:>10}" for outcome in outcomes))
    for file in [*sorted({f["file"] for f in found}), ""]:
        counts = Counter(f["outcome"] for f in found if f["file"] == file or not file)
        print(f"{file or 'all':32}" + "".join(f"{counts[outcome]:10}" for outcome in outcomes))
    for f in found:
        if f["outcome"] in ("survived", "undecided", "error"):
            print(f"{f['outcome']}: {f['what']} {f['by']}")


if __name__ == "__main__":
    main()
