"""What the compiler made of a kernel's step: its machine code, disassembled by ``nvdisasm``, without a GPU.

A kernel that walks all steps is one loop of its control flow: the cycle through its barriers. What is counted are the
instructions of that loop, each once: those of inner loops (over tiles of rows, over rows, over flags) once, and of
branches both arms. So a count is of one round of every inner loop.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import NamedTuple

__all__ = ["Instruction", "StepLoop", "disassembler", "instructions", "length", "step_loop"]

PACKAGE = "nvidia-cuda-nvdisasm"


@functools.cache
def disassembler() -> str | None:
    """Path of nvdisasm: of the package nvidia-cuda-nvdisasm, or of a CUDA toolkit; None if there is neither."""
    name = "nvdisasm.exe" if os.name == "nt" else "nvdisasm"
    try:
        found = [str(file.locate()) for file in files(PACKAGE) or () if file.name == name]
    except PackageNotFoundError:
        found = []
    return found[0] if found else shutil.which(name)


class Instruction(NamedTuple):
    """One of a kernel."""

    name: str  # with what qualifies it: LDG.E.128.STRONG.GPU
    guard: str  # the predicate it depends on; empty without one
    operands: str
    labels: tuple[str, ...]  # that stand before it

    @property
    def target(self) -> str | None:
        """The label that the operands name."""
        found = re.search(r"`\((\S+?)\)", self.operands)
        return found[1] if found else None

    def matches(self, *names: str) -> bool:
        """Whether its name begins with one of these, as a whole word."""
        return any(self.name == name or self.name.startswith(name + ".") for name in names)


_SECTION = re.compile(r"^//-+ \.text\.(\S+)", re.M)
_LABEL = re.compile(r"^(\S+):\s*$")
_INSTRUCTION = re.compile(r"^\s*/\*[0-9a-f]{4,}\*/\s+(@!?U?P\w+\s+)?([A-Z]\S*?)(?:\s+([^;]*?))?\s*;")


def instructions(cubin: bytes) -> dict[str, list[Instruction]]:
    """A file's kernels, each with the functions that it calls behind it. FileNotFoundError without nvdisasm."""
    tool = disassembler()
    if tool is None:
        raise FileNotFoundError(f"pip install {PACKAGE}")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "cubin"
        file.write_bytes(cubin)
        text = subprocess.run([tool, "-c", str(file)], capture_output=True, text=True, check=True).stdout
    _, *parts = _SECTION.split(text)
    return {name: list(_parsed(code)) for name, code in zip(parts[::2], parts[1::2], strict=True)}


def _parsed(code: str) -> Iterable[Instruction]:
    labels: list[str] = []
    for line in code.splitlines():
        if label := _LABEL.match(line):
            labels.append(label[1])
        elif found := _INSTRUCTION.match(line):
            guard, name, operands = found.groups()
            yield Instruction(name, (guard or "").strip(), operands or "", tuple(labels))
            labels = []


# -- loops ------------------------------------------------------------------------------------------------------


class _Flow:
    """The control flow of one kernel: blocks of instructions that are entered at their beginning alone."""

    def __init__(self, code: list[Instruction]) -> None:
        self.code = code
        self.at = {label: place for place, one in enumerate(code) for label in one.labels}
        ends = [place for place, one in enumerate(code) if one.matches(*_LEAVING)]
        begins = sorted({0, *self.at.values(), *(place + 1 for place in ends if place + 1 < len(code))} - {len(code)})
        self.blocks = [range(first, last) for first, last in zip(begins, [*begins[1:], len(code)], strict=True)]
        self.block_of = [number for number, block in enumerate(self.blocks) for _ in block]
        self.after = [self._after(block[-1]) for block in self.blocks]
        self.before: list[set[int]] = [set() for _ in self.blocks]
        for number, following in enumerate(self.after):
            for other in following:
                self.before[other].add(number)

    def _after(self, place: int) -> set[int]:
        """Blocks that control may go to after the instruction at a place."""
        one = self.code[place]
        following = {self.block_of[place + 1]} if place + 1 < len(self.code) else set()
        if one.matches("BRX", "JMX", "BRXU", "JMXU"):
            raise ValueError(f"a jump by a table, whose targets are not known: {one}")
        if one.matches("BRA"):
            # Some branches carry their condition as an operand, or depend on whether a warp is together.
            always = not one.guard and one.name == "BRA" and one.operands.startswith("`(")
            return {self._begun_by(one)} | (set() if always else following)
        if one.matches("EXIT", "RET") and not one.guard:
            return set()
        if one.matches("BSYNC"):
            # Goes on where the BSSY of the same barrier said: nearly always the next instruction.
            targets = {self._begun_by(begun) for begun in self.code if begun.matches("BSSY") and _same(begun, one)}
            return following if not targets or following & targets else targets
        return following  # a call returns

    def _begun_by(self, one: Instruction) -> int:
        return self.block_of[self.at[str(one.target)]]

    def cycle(self, block: int, within: frozenset[int] | None = None) -> frozenset[int]:
        """All from which control comes back to a block, and that it reaches; empty if it does not come back."""
        ahead = _reached(self.after[block], self.after, within)
        return frozenset(ahead & _reached({block}, self.before, within)) if block in ahead else frozenset()

    def innermost(self, block: int, cycle: frozenset[int]) -> tuple[int, frozenset[int]]:
        """How many loops inside a cycle there are around a block, and the smallest."""
        depth = 0
        while True:
            entries = {one for one in cycle if self.before[one] - cycle}
            inner = frozenset() if block in entries else self.cycle(block, cycle - entries)
            if not inner:
                return depth, cycle
            depth, cycle = depth + 1, inner

    def called(self, cycle: frozenset[int]) -> set[int]:
        """Blocks of functions that are called from there."""
        calls = [one for one in self.of(cycle) if one.matches("CALL") and one.target in self.at]
        return _reached({self._begun_by(one) for one in calls}, self.after, None)

    def of(self, blocks: Iterable[int]) -> list[Instruction]:
        """The blocks' instructions."""
        return [self.code[place] for block in blocks for place in self.blocks[block]]


_LEAVING = ("BRA", "BRX", "JMX", "BRXU", "JMXU", "EXIT", "RET", "BSYNC", "CALL")


def _same(first: Instruction, second: Instruction) -> bool:
    """Whether both have the same first operand."""
    return first.operands.split(",")[0].strip() == second.operands.split(",")[0].strip()


def _reached(start: Iterable[int], edges: list[set[int]], within: frozenset[int] | None) -> set[int]:
    found: set[int] = set()
    ahead = [one for one in start if within is None or one in within]
    while ahead:
        block = ahead.pop()
        if block not in found:
            found.add(block)
            ahead += [one for one in edges[block] - found if within is None or one in within]
    return found


_PLAIN = ("FFMA", "FFMA2", "DFMA")
_BARRIERS = ("BAR", "UCGABAR_ARV", "UCGABAR_WAIT", "SYNCS")
_FENCES = ("MEMBAR", "FENCE", "CCTL")


def length(code: list[Instruction]) -> int:
    """How many instructions do something: the last of a kernel only fill its last line."""
    return sum(not one.matches("NOP") for one in code)


class StepLoop(NamedTuple):
    """Instructions of a kernel's loop over steps, by what they are for."""

    total: int
    tensor: int  # products: HMMA
    plain: int  # products: FFMA, DFMA of the innermost loops
    around: int  # all other instructions of the loops with products
    wide: int  # loads of 16 bytes of what other blocks wrote
    narrow: int  # smaller ones
    remote: int  # stores to other blocks' shared memory, of 16 bytes
    remote_narrow: int
    local: int  # loads and stores of spilled registers and arrays
    divisions: int  # integer divisions: about 25 instructions each
    meeting: dict[str, int]  # barriers, fences and invalidated caches, by name

    @property
    def products(self) -> int:
        """Of either kind."""
        return self.tensor + self.plain


def step_loop(code: list[Instruction]) -> StepLoop | None:
    """Counts of the largest loop through a barrier; None for a kernel without such a loop."""
    flow = _Flow(code)
    meeting = {flow.block_of[place] for place, one in enumerate(code) if one.matches(*_BARRIERS)}
    loop = max((flow.cycle(block) for block in meeting), key=len, default=frozenset())
    if not loop:
        return None
    innermost = {block: flow.innermost(block, loop) for block in loop}
    products = [block for block in loop if any(one.matches("HMMA") for one in flow.of([block]))]
    kinds = ("HMMA",)
    if not products:  # innermost loops: a cell's own arithmetic lies further out
        kinds = _PLAIN
        found = {b: innermost[b][0] for b in loop if any(one.matches(*kinds) for one in flow.of([b]))}
        products = [block for block, depth in found.items() if depth == max(found.values())]
    loops = {innermost[block][1] for block in products} - {loop}
    inside = flow.of(frozenset().union(*loops))
    count = sum(one.matches(*kinds) for one in flow.of(products))
    everything = flow.of(loop | flow.called(loop))
    reads = []
    for block, (_, around) in innermost.items():
        reads += [one for one in flow.of([block]) if _of_others(one, around, around in loops, flow)]
    stores = [one for one in everything if one.matches("ST", "STAS")]
    return StepLoop(
        total=len(everything),
        tensor=count if kinds == ("HMMA",) else 0,
        plain=count if kinds == _PLAIN else 0,
        around=len(inside) - count if loops else 0,
        wide=sum(map(_is_wide, reads)),
        narrow=len(reads) - sum(map(_is_wide, reads)),
        remote=sum(map(_is_wide, stores)),
        remote_narrow=len(stores) - sum(map(_is_wide, stores)),
        local=sum(one.matches("LDL", "STL") for one in everything),
        divisions=sum(one.name == "I2F.RP" or one.name == "I2F.U32.RP" for one in everything),
        meeting={name: n for name in (*_BARRIERS, *_FENCES) if (n := sum(one.matches(name) for one in everything))},
    )


def _is_wide(one: Instruction) -> bool:
    return ".128" in one.name


def _of_others(one: Instruction, loop: frozenset[int], of_products: bool, flow: _Flow) -> bool:
    """Whether an instruction loads what other blocks wrote, and multiplies it.

    From global memory past the first-level cache, but for flags that are polled in a loop of their own; or 16 bytes of
    shared memory: a narrower load there is of a sum.
    """
    if one.matches("LDG"):
        polled = not of_products and not any(other.matches(*_BARRIERS) for other in flow.of(loop))
        return ".STRONG" in one.name and not polled
    return of_products and one.matches("LDS", "LD") and _is_wide(one)
