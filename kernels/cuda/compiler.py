"""From sources to functions on a device: one text a translation unit, NVRTC, a disk cache, loading.

Kernels are compiled to machine code for the device at hand, not to PTX: a driver may be older than NVRTC within a
major version of CUDA, and then loads the one and refuses the other. CuPy's RawModule is passed by: it compiles only
where there is a device, and its cache does not look into included files.
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from fastrnn.cores import usable_cores
from fastrnn.kernels import cache

from . import devices

__all__ = [
    "VERBOSE", "CompileError", "Module", "Resources", "compile", "cubin", "flatten", "load", "of_each", "resources",
]  # fmt: skip

OPTIONS = ("--std=c++17",)
VERBOSE = "--ptxas-options=-v"
"""The option that makes ``compile``'s log say what ``resources`` reads."""

# -- one text ---------------------------------------------------------------------------------------------------

_FOLDER = Path(__file__).parent
_INCLUDE = re.compile(r'\s*#\s*include\s+"(\w+)\.cuh"')


def flatten(names: Sequence[str], instances: str = "") -> str:
    """The files ``<name>.cuh`` as one text, each once, what they include before them; ``instances`` goes to the end.

    ``#line`` keeps compilers' messages at the files' own names and lines. Other includes stay as they are.
    Raises FileNotFoundError for a file that is not there.
    """
    seen: set[str] = set()
    parts = [_expanded(name, seen) for name in names]
    if instances:
        parts.append(f'#line 1 "instances"\n{instances}\n')
    return "".join(parts)


def _expanded(name: str, seen: set[str]) -> str:
    if name in seen:
        return ""
    seen.add(name)
    lines = [f'#line 1 "{name}.cuh"']
    for number, line in enumerate((_FOLDER / f"{name}.cuh").read_text(encoding="utf-8").splitlines(), 1):
        included = _INCLUDE.match(line)
        if included:
            lines += [_expanded(included[1], seen) + f'#line {number + 1} "{name}.cuh"']
        else:
            lines.append("" if line.strip() == "#pragma once" else line)
    return "\n".join(lines) + "\n"


# -- compiling --------------------------------------------------------------------------------------------------


class CompileError(RuntimeError):
    """NVRTC refused a source; the message is its log."""


def compile(source: str, arch: str, options: Sequence[str] = ()) -> tuple[bytes, str]:
    """Machine code for an architecture (``"sm_90"``), and the compiler's log; needs NVRTC, but neither GPU nor driver.

    Raises CompileError, or devices.GPUUnavailable where there is no NVRTC.
    """
    nvrtc = devices.nvrtc()
    program = nvrtc.createProgram(source, "fastrnn.cu", (), ())
    try:
        nvrtc.compileProgram(program, (f"-arch={arch}", *OPTIONS, *options))
        # CuPy takes the last byte for C's end of a string; a driver reads on to Python's, but a file is cut short.
        return nvrtc.getCUBIN(program) + b"\0", _log(nvrtc, program)
    except nvrtc.NVRTCError as error:
        raise CompileError(f"{arch}: {error}\n{_log(nvrtc, program)}") from None
    finally:
        nvrtc.destroyProgram(program)


def _log(nvrtc: Any, program: int) -> str:
    return nvrtc.getProgramLog(program).rstrip("\0")  # CuPy counts C's end of a string in


def cubin(source: str, arch: str, options: Sequence[str] = ()) -> tuple[bytes, str]:
    """What ``compile`` returns, from the disk cache if it is there."""
    key = repr((source, arch, OPTIONS, tuple(options), devices.nvrtc().getVersion()))
    name = f"cuda/{hashlib.sha256(key.encode()).hexdigest()}.cubin"
    stored = cache.read(name)
    if stored is not None:
        log, _, code = stored.partition(b"\0")
        return code, log.decode()
    code, log_text = compile(source, arch, options)
    cache.write(name, log_text.encode() + b"\0" + code)
    return code, log_text


R = TypeVar("R")


class Resources(NamedTuple):
    """What a kernel takes: registers a thread; bytes a thread spilled and of stack; static shared bytes a block."""

    registers: int
    spill_stores: int
    spill_loads: int
    stack: int
    shared: int


_ENTRY = re.compile(r"Compiling entry function '(\w+)' for")
_SPILLS = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_USED = re.compile(r"Used (\d+) registers(?:.*?(\d+) bytes smem)?")


def resources(log: str) -> dict[str, Resources]:
    """Resources by kernel, from a log of ``compile(..., [VERBOSE])``."""
    found = {}
    _, *parts = _ENTRY.split(log)
    for name, text in zip(parts[::2], parts[1::2], strict=True):
        # The first of each: functions that were not inlined come after the kernel, in the same form.
        spills, used = _SPILLS.search(text), _USED.search(text)
        if spills and used:
            stack, stores, loads = map(int, spills.groups())
            found[name] = Resources(int(used[1]), stores, loads, stack, int(used[2] or 0))
    return found


def of_each(sources: Iterable[str], arch: str, read: Callable[[bytes, str], R]) -> Iterator[R | CompileError]:
    """What ``read`` makes of each source's machine code and log, or why it does not compile; through the disk cache.

    Several at a time, as NVRTC runs without Python's lock: 40 units take 5.8 s one by one, and 3.2 s on two cores.
    """

    def one(source: str) -> R | CompileError:
        try:
            return read(*cubin(source, arch, [VERBOSE]))
        except CompileError as error:
            return error

    with ThreadPoolExecutor(usable_cores()) as pool:
        yield from pool.map(one, sources)


# -- loading ----------------------------------------------------------------------------------------------------


class Functions(dict[str, Any]):
    """Kernels of one module on one device, by name; each is looked up at first use."""

    def __init__(self, module: Any) -> None:
        self._module = module

    def __missing__(self, name: str) -> Any:
        function = self[name] = self._module.get_function(name)
        return function


class Module:
    """A translation unit, compiled and loaded for each device that asks for it. Safe for several threads."""

    def __init__(self, source: str, options: tuple[str, ...] = ()) -> None:
        self._source, self._options = source, options
        self._by_device: dict[int, Functions] = {}
        self._loading = threading.Lock()

    @property
    def functions(self) -> Functions:
        """Kernels by name, on the current device; the first time, this compiles."""
        cupy = devices.require()
        device = cupy.cuda.runtime.getDevice()
        loaded = self._by_device.get(device)
        return self._load(cupy, device) if loaded is None else loaded

    def _load(self, cupy: Any, device: int) -> Functions:
        with self._loading:
            if device not in self._by_device:
                code, _ = cubin(self._source, devices.architecture(device), self._options)
                module = cupy.cuda.function.Module()
                module.load(code)
                self._by_device[device] = Functions(module)
            return self._by_device[device]


_modules: dict[tuple[str, tuple[str, ...]], Module] = {}


def load(source: str, options: Sequence[str] = ()) -> Module:
    """The module of a source: one for the whole process. Nothing is compiled yet."""
    key = source, tuple(options)
    module = _modules.get(key)
    return _modules.setdefault(key, Module(*key)) if module is None else module
