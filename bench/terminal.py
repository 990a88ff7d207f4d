"""The terminal: progress bar, tables, and the lines around them."""

from __future__ import annotations

from typing import Self

from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table as RichTable

from bench import tables
from bench.crossover import answers
from bench.results import Results

__all__ = ["Bar", "print_header", "print_results", "print_table", "terminal"]

terminal = Console(highlight=False)
if not terminal.is_terminal:
    terminal = Console(highlight=False, width=200)

# Columns that go first where the terminal is too narrow for all.
_DISPENSABLE = ("error", "compile", "memory", "GFLOP/s", "unfrozen")


class Bar:
    """A ``bench.run.Progress`` with the time that is left; without a terminal it prints a line per stage."""

    def __init__(self, total: float) -> None:
        self._bar = Progress(
            TextColumn("{task.description:<52.52}"),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=terminal,
            transient=True,
        )
        self._task = self._bar.add_task("", total=total)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()

    def begin(self, what: str, effort: float) -> None:
        self._bar.update(self._task, description=what)

    def advance(self, effort: float) -> None:
        self._bar.advance(self._task, effort)

    def say(self, line: str) -> None:
        self._bar.console.print(line)


def print_table(table: tables.Table) -> None:
    """One table with its title and notes."""
    table = _fitting(table, terminal.width)
    shown = RichTable(title=table.title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    for i, column in enumerate(table.columns):
        shown.add_column(column, justify="left" if i == 0 else "right", no_wrap=True)
    by_shape = table.columns.index("T,B,I,H") if "T,B,I,H" in table.columns else None
    previous = None
    for row in table.rows:
        if by_shape is not None:
            if previous not in (None, row[by_shape]):
                shown.add_section()
            previous = row[by_shape]
        shown.add_row(*row)
    terminal.print(shown)
    for note in table.notes:
        terminal.print(note)


def _fitting(table: tables.Table, width: int) -> tables.Table:
    """The table, or one without its dispensable columns, as many as must go."""

    def needed(t: tables.Table) -> int:
        return sum(max(map(len, column)) + 3 for column in zip(t.columns, *t.rows, strict=True))

    for name in _DISPENSABLE:
        if needed(table) <= width or name not in table.columns:
            continue
        gone = table.columns.index(name)
        columns, *rows = ([text for i, text in enumerate(row) if i != gone] for row in (table.columns, *table.rows))
        table = tables.Table(table.title, columns, rows, table.notes)
    return table


def print_header(results: Results) -> None:
    """Machine, versions and settings, limits: what the figures hold for."""
    m = results["machine"]
    terminal.print(
        f"{m['processor']} ({m['microarchitecture']}), {m['cores']} cores, {m['system']}, Python {m['python']}"
    )
    for name, about in results["contenders"].items():
        versions = ", ".join(f"{k} {v}" for k, v in about["versions"].items())
        settings = ", ".join(f"{k}={v}" for k, v in about["settings"].items())
        terminal.print(f"  {name}: {versions}; {settings}")
    if said := tables.pause_text(results):
        terminal.print(f"  {said}")
    for device, about in m.get("devices", {}).items():
        terminal.print(f"  {device}: {tables.device_text(about)}")
    for key, limits in results["limits"].items():
        terminal.print(f"  {tables.limits_text(key, limits)}")


def print_results(results: Results) -> None:
    """All of a run's tables."""
    print_header(results)
    for about, rows in tables.groups(results):
        print_table(tables.mode_table(about, rows))
    batches = answers(results, ("B",))
    if batches:
        terminal.print("\nCPU or GPU (by hidden size: python -m bench report)", *batches, sep="\n")
    for name, figures in results["workloads"].items():
        terminal.print(f"\n{name}: {figures['summary']}")
        if figures.get("sample"):
            terminal.print(figures["sample"], style="dim", markup=False)
    stages = ", ".join(f"{stage} {seconds:.0f} s" for stage, seconds in results["elapsed_s"].items())
    terminal.print(f"\nThe run took {sum(results['elapsed_s'].values()):.0f} s: {stages}")
    if not results["complete"]:
        terminal.print("This run was broken off.")
