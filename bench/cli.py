"""The command line, ``python -m bench``: the suite itself, and the commands of ``_COMMANDS``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bench import RESULTS, machine
from bench.callers import add_callers
from bench.cases import CELLS, CROSSOVER, MODES, Case, cases_for, parse_shapes
from bench.compatibility import add_compatibility
from bench.devices import DEVICES, DTYPES, missing
from bench.floors import add_floors
from bench.gradient_flow import add_gradient_flow
from bench.kernel_table import add_kernels
from bench.measure import Budget
from bench.onnx_evaluators import add_onnx
from bench.peers import OURS, REGISTRY, only_on, select
from bench.policies import add_policies
from bench.report import PUBLISHED
from bench.results import Results, ResultsError, load, pause_of, save
from bench.run import COMPILE_EFFORT, Plan, effort, execute
from bench.selection import cells_named, names_among
from bench.sweep_command import add_sweep
from bench.workloads.table import WORKLOADS, configured

__all__ = ["main", "planned_cases", "usable_devices"]

LAST = RESULTS / "local" / "last.json"
_BY_NAME = ", ".join(name for name, entry in REGISTRY.items() if not entry.auto)
_COMMANDS = (
    "run", "compare", "report", "workload", "gradient-flow", "compatibility", "onnx", "sweep", "kernels", "floors",
    "policies", "callers",
)  # fmt: skip

# A quick run has to fit a minute; a grid has the time to be sure.
_QUICK = Budget(rounds=5, block_s=0.015, most_s=0.3, extra_rounds=5)
_THOROUGH = Budget(rounds=9, block_s=0.06, most_s=6.0, extra_rounds=9)
_LONGEST_PAUSE_MS, _PAUSED_SAMPLES = 1000, 20


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit status is 0 if all went well, 1 if a check failed, 2 for a wrong command line."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] not in (*_COMMANDS, "-h", "--help"):
        arguments.insert(0, "run")
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        return options.command(options)
    except (ValueError, ResultsError) as error:
        parser.error(str(error))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    commands = parser.add_subparsers(metavar="command", required=True)
    _add_run(commands)
    compare = commands.add_parser("compare", help="two results files: ratios, and what got slower beyond the noise")
    compare.add_argument("before", type=_results_path, help="a file, or the name of one in bench/results")
    compare.add_argument("after", type=_results_path, nargs="?", default=LAST, help=f"default: {LAST}")
    compare.set_defaults(command=_compare)
    report = commands.add_parser("report", help="Markdown with tables and pictures; or the README's table")
    report.add_argument("results", type=_results_path, nargs="?", default=None, help=f"default: {LAST}")
    report.add_argument("--out", type=Path, default=None, help="folder to write (default: beside the results)")
    report.add_argument("--no-plots", action="store_true", help="tables only")
    report.add_argument("--readme", action="store_true", help=f"write the README's table from {PUBLISHED.name}")
    report.set_defaults(command=_report)
    workload = commands.add_parser("workload", help="train a real model and say how fast it went")
    workload.add_argument(
        "name", choices=sorted(WORKLOADS), help="; ".join(f"{w.name}: {w.about}" for w in WORKLOADS.values())
    )
    workload.add_argument(
        "--against", default=None, help="the same model there, such as torch: losses and speed compared; commas between"
    )
    workload.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of its Config")
    workload.add_argument("--quick", action="store_true", help="small enough for a look")
    workload.add_argument("--steps", type=int, default=None, help="short for --set steps=")
    workload.add_argument("--threads", default=None)
    workload.add_argument("--json", type=Path, default=None, help="write the figures here")
    workload.set_defaults(command=_workload)
    add_gradient_flow(commands)
    add_sweep(commands)
    add_kernels(commands)
    add_floors(commands)
    add_policies(commands)
    add_callers(commands)
    add_compatibility(commands)
    add_onnx(commands)
    return parser


def _results_path(text: str) -> Path:
    """A path, or the name of a file in bench/results with or without its suffix."""
    stored = RESULTS / f"{text.removesuffix('.json')}.json"
    return stored if not Path(text).exists() and stored.exists() else Path(text)


def _compare(options: argparse.Namespace) -> int:
    from bench.compare import changes, comparison_table, drift
    from bench.terminal import print_table, terminal

    before, after = load(options.before), load(options.after)
    found = changes(before, after)
    loads = tuple(results["machine"].get("load") for results in (before, after))
    if pause_of(before) != pause_of(after):
        raise ValueError("the two files' calls come at different intervals: --pause")
    if not found:
        raise ValueError("the two files have no case in common that both timed")
    devices = [device for device in DEVICES if any(f" {device} " in change.key for change in found)]
    machine = {device: drift(before, after, device) for device in devices}
    print_table(comparison_table(found, machine, loads))
    slower = [change for change in found if change.verdict == "slower"]
    terminal.print(f"{len(found)} compared, {len(slower)} slower beyond the noise")
    return 1 if slower else 0


def _report(options: argparse.Namespace) -> int:
    from bench.report import README, update_readme, write_report
    from bench.terminal import terminal

    if options.readme:
        source = options.results or PUBLISHED
        README.write_text(update_readme(load(source), README.read_text(encoding="utf-8")), encoding="utf-8")
        terminal.print(f"{README}: table written from {source}")
        return 0
    source = options.results or LAST
    results = load(source)
    folder = options.out or source.parent / source.stem
    pictures = [] if options.no_plots else _draw(results, folder)
    terminal.print(f"report: {write_report(results, folder, pictures)}")
    return 0


def _draw(results: Results, folder: Path) -> list[Path]:
    """The pictures, or none with a word about why."""
    from bench.terminal import terminal

    try:
        from bench.plots import draw
    except ImportError as error:
        terminal.print(f"no pictures: {error} (pip install matplotlib)")
        return []
    return draw(results, folder)


def _add_run(commands: Any) -> None:
    run = commands.add_parser("run", help="measure cells against rivals and limits (the default)")
    run.add_argument("--cells", default="all", help=f"all, or some of {', '.join(CELLS)}; a prefix (lstm) is enough")
    run.add_argument("--shapes", default="quick", help="quick, grid, full, or T,B,I,H (several: separated by ;)")
    run.add_argument("--dtypes", default="float32", help="float32, float64; on cuda also float16, bfloat16")
    run.add_argument("--modes", default="forward,training", help=", ".join(MODES))
    run.add_argument("--devices", default="cpu", choices=(*DEVICES, "all"), help="all: each, and where they cross")
    run.add_argument("--threads", default=None, help="one or more counts (default: all physical cores)")
    run.add_argument("--peers", default="auto", help=f"auto (all installed but {_BY_NAME}), none, or names")
    run.add_argument("--pause", type=float, default=0.0, metavar="MS", help="between two calls that are timed")
    run.add_argument("--json", type=Path, default=LAST, help=f"where the results go (default: {LAST})")
    run.add_argument("--plots", type=Path, default=None, metavar="DIR", help="draw the pictures into this folder")
    run.add_argument("--no-workload", action="store_true", help="leave the character model out")
    run.set_defaults(command=_run)


def _threads(text: str | None) -> list[int]:
    if text is None:
        return [machine.physical_cores()]
    counts = [int(part) if part.strip().isdigit() else 0 for part in text.split(",")]
    if min(counts) < 1:
        raise ValueError(f"threads must be positive integers, got {text!r}")
    return counts


def planned_cases(options: argparse.Namespace, devices: Sequence[str]) -> tuple[list[Case], frozenset[Case]]:
    """What a command line asks to be timed on these devices, and which of it without rivals.

    Each device has shapes of its own. With several, shapes that all of them measure come on top, for the crossover.
    """
    cells, modes = cells_named(options.cells), names_among(options.modes, MODES, "modes")
    dtypes = names_among(options.dtypes, DTYPES["cuda"], "dtypes")
    lacking = [dtype for dtype in dtypes if not any(dtype in DTYPES[device] for device in devices)]
    if lacking:
        raise ValueError(f"{lacking[0]} is computed on cuda only, not on {' or '.join(devices)}")
    if "bfloat16" in dtypes and find_spec("ml_dtypes") is None:
        raise ValueError("bfloat16 needs ml_dtypes: not installed")
    cases: list[Case] = []
    for device in devices:
        cases += cases_for(cells, parse_shapes(options.shapes, device), dtypes, modes, [device])
    common = CROSSOVER.get(options.shapes, ()) if len(devices) > 1 else ()
    alone = set(cases_for(cells, common, dtypes, modes, devices)) - set(cases)
    return cases + sorted(alone, key=lambda case: (case.device, case.flops)), frozenset(alone)


def usable_devices(asked: str) -> tuple[list[str], list[str]]:
    """The devices of ``--devices`` that are there, and for each other one a line that says why it is left out."""
    wanted = DEVICES if asked == "all" else (asked,)
    reasons = {device: missing(device) for device in wanted}
    left_out = [
        f"{device} is left out, with its limits, its cases and {', '.join(only_on(device))}: {reason}"
        for device, reason in reasons.items()
        if reason
    ]
    return [device for device in wanted if not reasons[device]], left_out


def _budget(options: argparse.Namespace) -> Budget:
    """How long each case is measured; with pauses long enough for some samples a block."""
    budget = _QUICK if options.shapes == "quick" else _THOROUGH
    if not 0 <= options.pause <= _LONGEST_PAUSE_MS:
        raise ValueError(f"pause must be between 0 and {_LONGEST_PAUSE_MS} ms, got {options.pause}")
    if not options.pause:
        return budget
    pause = options.pause / 1e3
    block = _PAUSED_SAMPLES * pause
    return replace(budget, pause_s=pause, block_s=block, most_s=budget.rounds * block)


def _run(options: argparse.Namespace) -> int:
    from bench.terminal import print_results, terminal

    devices, left_out = usable_devices(options.devices)
    for line in left_out:
        terminal.print(line)
    if not devices:
        return 1
    cases, alone = planned_cases(options, devices)
    plan = Plan(
        cases=cases,
        rivals=select(options.peers, devices),
        threads=_threads(options.threads),
        budget=_budget(options),
        workloads={} if options.no_workload else {n: w for n, w in WORKLOADS.items() if w.always},
        alone=alone,
    )
    results = _with_bar(plan, options.json)
    print_results(results)
    if options.plots is not None:
        for picture in _draw(results, options.plots):
            terminal.print(f"picture: {picture}")
    terminal.print(f"\nresults: {options.json}")
    return 1 if _failures(results) else 0


def _with_bar(plan: Plan, path: Path) -> Results:
    from bench.terminal import Bar

    total = sum(WORKLOADS[name].effort for name in plan.workloads)
    for stage in plan.stages():
        total += sum(effort(case) for case in stage.cases) + 5 + 2 * (1 + len(stage.rivals))
    total += COMPILE_EFFORT * len({(case.cell, case.dtype, case.device) for case in plan.cases})
    with Bar(total) as bar:
        return execute(plan, bar, keep=_keeper(path, bar.say))


def _keeper(path: Path, say: Callable[[str], None]) -> Callable[[Results], None]:
    """Saves after every case; a folder that cannot be written is said once and costs nothing else."""
    failed: list[OSError] = []

    def keep(results: Results) -> None:
        try:
            save(results, path)
        except OSError as error:
            if not failed:
                say(f"the results cannot be written to {path}: {error.strerror}")
            failed.append(error)

    return keep


def _failures(results: Results) -> list[str]:
    """Our own cases that disagreed with the reference or did not run."""
    return [
        f"{label}: {entry['why']}"
        for row in results["cases"]
        for label, entry in row["entries"].items()
        if label.split()[0] == OURS and entry["status"] in ("refused", "failed")
    ]


def _workload(options: argparse.Namespace) -> int:
    from bench.terminal import Bar, print_header, terminal

    workload = WORKLOADS[options.name]
    settings = options.set + ([] if options.steps is None else [f"steps={options.steps}"])
    config = configured(workload.config, settings, options.quick)
    plan = Plan(
        cases=(),
        rivals=(),
        threads=_threads(options.threads),
        budget=_QUICK,
        workloads={
            options.name: lambda threads, progress: workload(threads, progress, config=config, against=options.against)
        },
    )
    with Bar(5 + workload.effort) as bar:
        results = execute(plan, bar, keep=_keeper(options.json, bar.say) if options.json else lambda _: None)
    print_header(results)
    for name, figures in results["workloads"].items():
        terminal.print(f"{name}: {figures['summary']}\n")
        terminal.print(figures["sample"], markup=False)
    return 0 if results["complete"] else 130
