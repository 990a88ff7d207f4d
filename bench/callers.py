"""``python -m bench callers``: calls a second from many Python threads at once, beside the same calls in turn from one.

In turn means one thread that makes all the calls, each with all of the kernels' threads: what a program without
threads of its own gets from the same cores. Both ways alternate, and what is quoted is the median of their ratios.
Mode "python" calls a loop of Python's own, which keeps the GIL as a short call does: what the machine gives that.
"""

from __future__ import annotations

import argparse
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from bench.cases import Case, parse_shapes
from bench.selection import cells_named, names_among
from bench.tables import Table, markdown, seconds_text

__all__ = ["MODES", "add_callers", "compared", "programs"]

SHAPES = "1,1,32,32;20,1,32,32;20,1,256,256;100,1,256,256;20,8,128,128;100,32,256,256;20,64,512,512"
MODES = ("inference", "training", "stream", "python")

Program = Callable[[], Any]
_PYTHON_LOOP = 500  # about 20 us


def add_callers(commands: Any) -> None:
    """Add the subcommand."""
    parser = commands.add_parser("callers", help="throughput of many Python threads, beside one that calls in turn")
    parser.add_argument("--cells", default="lstm", help="all, or names and prefixes of cells")
    parser.add_argument("--shapes", default=SHAPES, help="T,B,I,H (several: separated by ;), quick, grid or full")
    parser.add_argument("--modes", default="inference,training,stream", help=", ".join(MODES))
    parser.add_argument("--callers", type=int, default=8, help="Python threads")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.25, help="of each way in a round, about")
    parser.set_defaults(command=_callers)


def _callers(options: argparse.Namespace) -> int:
    from bench.terminal import print_table

    modes = names_among(options.modes, MODES, "modes")
    shapes = parse_shapes(options.shapes, "cpu")
    title = f"{options.callers} callers beside one that makes the same calls in turn"
    table = Table(title, ["cell, T,B,I,H", "call", "in turn", "at once", "throughput", "range"])
    for cell in cells_named(options.cells):
        for shape in shapes:
            for mode in modes:
                case = Case(cell, *shape)
                one, ratios = compared(programs(case, mode, options.callers), options.rounds, options.seconds)
                middle = statistics.median(ratios)
                table.rows.append(
                    [f"{cell} {','.join(map(str, shape))}", mode, seconds_text(one), seconds_text(one / middle),
                     f"{middle:.2f}", f"{min(ratios):.2f} to {max(ratios):.2f}"]
                )  # fmt: skip
    print_table(table)
    print(markdown(table))
    return 0


def programs(case: Case, mode: str, callers: int) -> list[Program]:
    """A call of the case's layer for each caller: one layer for all, frozen but for training; a stream for each."""
    from bench.peers.fastrnn_layers import make_layer

    if mode == "python":
        return [lambda: sum(n * n for n in range(_PYTHON_LOOP))] * callers
    problem = case.problem()
    layer = make_layer(case, problem.params)

    def training() -> None:
        y, _, tape = layer.forward(problem.x)
        layer.backward(tape, y)

    if mode == "training":
        return [training] * callers
    layer.freeze()
    if mode == "inference":
        return [lambda: layer(problem.x)] * callers

    def steps(stream: Any) -> Program:
        def run() -> None:
            for x_t in problem.x:
                stream(x_t)

        return run

    return [steps(layer.stream(case.B)) for _ in range(callers)]


def compared(calls: Sequence[Program], rounds: int, seconds: float) -> tuple[float, list[float]]:
    """Seconds of a call made in turn (median), and in each round the throughput of all at once as a ratio to that."""
    _in_turn(calls, 2)  # compiles, and starts the kernels' threads
    each = max(1, round(seconds / _in_turn(calls, 1)))
    in_turn, ratios = [], []
    for _ in range(rounds):
        one, all_at_once = _in_turn(calls, each), _at_once(calls, each)
        in_turn.append(one / each / len(calls))
        ratios.append(one / all_at_once)
    return statistics.median(in_turn), ratios


def _in_turn(calls: Sequence[Program], each: int) -> float:
    begun = time.perf_counter()
    for _ in range(each):
        for call in calls:
            call()
    return time.perf_counter() - begun


def _at_once(calls: Sequence[Program], each: int) -> float:
    ready = threading.Barrier(len(calls) + 1)

    def work(call: Program) -> None:
        ready.wait()
        for _ in range(each):
            call()

    threads = [threading.Thread(target=work, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    ready.wait()
    begun = time.perf_counter()
    for thread in threads:
        thread.join()
    return time.perf_counter() - begun
