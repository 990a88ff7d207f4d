"""CPU against GPU: from which batch, and from which hidden size, the GPU is the quicker one; in one line each.

Compared are our own times of the same case on both devices, arrays already where they are needed; copies between
host and device are not counted.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from bench.results import Results
from bench.tables import mode_text, ours

__all__ = ["Line", "answers", "lines", "pairs"]


@dataclass(frozen=True)
class Line:
    """One cell and mode with all but one size fixed.

    fixed : what is the same for all points, as text: "H=128". varied : "B" or "H"
    points : (size, CPU seconds, GPU seconds), by size
    """

    cell: str
    mode: str
    dtype: str
    T: int
    fixed: str
    varied: str
    points: tuple[tuple[int, float, float], ...]

    def answer(self) -> str:
        """Who wins where: "lstm H=128, forward: the CPU wins up to B=16"."""
        sizes = [size for size, _, _ in self.points]
        cpu = [size for size, on_cpu, on_gpu in self.points if on_cpu <= on_gpu]
        v = self.varied
        about = f"{self.cell} {self.fixed}, {mode_text(self.mode)} (T={self.T}, {self.dtype})"
        if not cpu or len(cpu) == len(sizes):
            whole = f"{v}={sizes[0]}" if len(sizes) == 1 else f"every {v} from {sizes[0]} to {sizes[-1]}"
            return f"{about}: the {'CPU' if cpu else 'GPU'} wins at {whole}"
        after = sizes[len(cpu) :]
        if cpu == sizes[: len(cpu)]:
            return f"{about}: the CPU wins up to {v}={cpu[-1]}, the GPU from {v}={after[0]}"
        gpu = [size for size in sizes if size not in cpu]
        return f"{about}: no one crossover, the CPU wins at {v}={_listed(cpu)}, the GPU at {v}={_listed(gpu)}"


def _listed(sizes: Iterable[int]) -> str:
    return ", ".join(map(str, sizes))


def pairs(results: Results) -> list[tuple[dict[str, Any], float, float]]:
    """Cases that we were timed in on both devices: the case on the CPU, and the seconds there and on the GPU."""
    threads = max(results["settings"]["threads"])
    seconds: dict[str, dict[tuple, float]] = {"cpu": {}, "cuda": {}}
    cases = {}
    for row in results["cases"]:
        case, mine = row["case"], ours(row)
        if row["threads"] != threads or mine is None or mine["status"] != "timed":
            continue
        key = tuple(value for name, value in case.items() if name != "device")
        seconds[case["device"]][key] = mine["seconds"]
        cases[key] = case
    return [
        (cases[key], on_cpu, seconds["cuda"][key]) for key, on_cpu in seconds["cpu"].items() if key in seconds["cuda"]
    ]


def lines(results: Results, varied: str = "B") -> list[Line]:
    """Every row of cases that differ in ``varied`` only: "B", or "H" with I = H throughout."""
    found: dict[tuple, list[tuple[int, float, float]]] = {}
    for case, on_cpu, on_gpu in pairs(results):
        square = case["I"] == case["H"]
        if varied == "H" and not square:
            continue
        fixed = f"B={case['B']}" if varied == "H" else f"H={case['H']}" + f" I={case['I']}" * (not square)
        key = (case["cell"], case["mode"], case["dtype"], case["T"], fixed)
        found.setdefault(key, []).append((case[varied], on_cpu, on_gpu))
    return [Line(*key, varied, tuple(sorted(points))) for key, points in found.items()]


def answers(results: Results, varied: tuple[str, ...] = ("B", "H")) -> list[str]:
    """One line per cell, mode and hidden size, then per batch, wherever both devices were measured at two sizes.

    A single common size is said as well, where there is nothing else to say.
    """
    found = [line for name in varied for line in lines(results, name)]
    telling = [line for line in found if len(line.points) > 1]
    return [line.answer() for line in telling or lines(results)]
