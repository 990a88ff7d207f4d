"""``python -m bench sweep``: runs the sweeps, tells the cliffs, writes the JSON and the picture."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench import RESULTS, machine
from bench.processes import Worker
from bench.results import Results, save
from bench.selection import cells_named
from bench.sweep import CLIFF, SWEEPS, Cliff, Curve, measure_sweep
from bench.tables import Table, seconds_text

__all__ = ["add_sweep"]

_MODES = ("forward", "training")
_DEFAULT = RESULTS / "local" / "sweep.json"


def add_sweep(commands: Any) -> None:
    """Add the subcommand."""
    parser = commands.add_parser("sweep", help="sizes that cost much more than their neighbours")
    parser.add_argument("--cells", default="lstm,gru_reset_after", help="names or prefixes")
    parser.add_argument("--threads", type=int, default=machine.physical_cores(), help="default: all physical cores")
    parser.add_argument("--sweeps", default=",".join(SWEEPS), help="the sizes that vary (default: H,B,T)")
    parser.add_argument(
        "--json", type=Path, default=_DEFAULT, help=f"results; the picture beside (default: {_DEFAULT})"
    )
    parser.set_defaults(command=_sweep)


def _sweep(options: argparse.Namespace) -> int:
    from bench.terminal import Bar, print_table, terminal

    names = [name.strip() for name in options.sweeps.split(",")]
    if not set(names) <= set(SWEEPS) or options.threads < 1:
        raise ValueError(f"sweeps must be some of {', '.join(SWEEPS)}, threads positive: got {options.sweeps!r}")
    runs = [(sweep, cell, mode) for sweep in names for cell in cells_named(options.cells) for mode in _MODES]
    with Bar(len(runs) + 1) as bar:
        results = _execute(runs, options.threads, bar)
    save(results, options.json)
    print_table(_table(results))
    try:
        from bench.sweep_picture import draw
    except ImportError as error:
        terminal.print(f"no picture: {error} (pip install matplotlib)")
    else:
        terminal.print(f"picture: {draw(results, options.json.with_suffix('.png'))}")
    terminal.print(f"results: {options.json}")
    return 0


def _execute(runs: list[tuple[str, str, str]], threads: int, progress: Any) -> Results:
    """Measure; a file of schema 1: machine, limits, ``curves`` (sweep, cell, mode, points) and ``cliffs``."""
    import fastrnn
    from fastrnn.warmup import warm

    created = datetime.now(UTC).isoformat(timespec="seconds")
    progress.begin("compiling", 0.5)
    warm(sorted({cell for _, cell, _ in runs}))
    progress.advance(0.5)
    fastrnn.set_num_threads(threads)
    progress.begin("limits of the machine", 0.5)
    # In a process of its own: here the scheduler may leave both of its threads on one core.
    worker = Worker("bench.limits:Limits", {}, threads)
    try:
        measured = worker.call("measure", threads=threads)
    finally:
        worker.close()
    progress.advance(0.5)
    curves = [measure_sweep(*run, measured, progress) for run in runs]
    about = {"created": created, "commit": machine.commit(), "machine": machine.describe(), "limits": measured}
    found = [_cliff_json(curve, cliff) for curve in curves for cliff in curve.cliffs]
    return {"schema": 1} | about | {"curves": [curve.to_json() for curve in curves], "cliffs": found}


def _cliff_json(curve: Curve, cliff: Cliff) -> dict[str, Any]:
    before = curve.points[cliff.index - 1].kernel if cliff.index else ""
    point = curve.points[cliff.index].to_json()
    return {"sweep": curve.sweep, "kind": cliff.kind, "ratio": cliff.ratio, "before": before, **point}


def _table(results: Results) -> Table:
    title = f"Sizes that cost over {CLIFF} times what their neighbours cost, {results['limits']['threads']} threads"
    table = Table(title, ["cell", "mode", "T,B,I,H", "kind", "ratio", "time", "times the FMA limit", "kernel", "level"])
    for cliff in results["cliffs"]:
        case = cliff["case"]
        shape = ",".join(str(case[letter]) for letter in "TBIH")
        change = f"{cliff['before']} -> " if cliff["before"] not in ("", cliff["kernel"]) else ""
        table.rows.append(
            [case["cell"], case["mode"], shape, cliff["kind"], f"{cliff['ratio']:.2f}", seconds_text(cliff["seconds"])]
            + [f"{cliff['cost']:.2f}", change + cliff["kernel"], cliff["level"]]
        )
    count = sum(len(curve["points"]) for curve in results["curves"])
    judged = sum(point["judged"] for curve in results["curves"] for point in curve["points"])
    table.notes.append(f"{count} points, {judged} judged (B * T >= 64), {len(results['cliffs'])} found.")
    threads = results["limits"]["threads"]
    for curve in results["curves"]:
        if curve["cores"] < 0.8 * threads:
            name = f"{curve['sweep']} {curve['cell']} {curve['mode']}"
            table.notes.append(
                f"{name}: {threads} threads had {curve['cores']:.1f} cores: a busy machine, measure again."
            )
    return table
