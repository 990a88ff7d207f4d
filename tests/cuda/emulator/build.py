"""Compiling for the emulator: one text of source to one shared library, kept by a hash of all that made it."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.cuda.emulator.launch import EmulatorError, Library

HERE = Path(__file__).parent
HEADER = HERE / "device_emulation.h"
RUNTIME, STATE = HERE / "device_emulation.cpp", HERE / "state.h"

COMPILER = "g++"
COMMON = ["-std=c++17", "-fPIC", "-shared", "-fvisibility=hidden", "-fno-gnu-unique"]
# A loop that copies must stay a loop: ThreadSanitizer would watch memcpy.
RUNTIME_FLAGS = ["-O2", "-fno-tree-loop-distribute-patterns"]
# No contraction: a fused multiply-add is one that the source writes. Frames are bounded since fibers' stacks have
# no guard pages.
KERNEL_FLAGS = [
    "-O1",
    "-ffp-contract=off",
    "-fno-strict-aliasing",
    "-fno-exceptions",
    "-fno-rtti",
    "-Wno-unknown-pragmas",
    "-Werror=return-type",
    "-Werror=frame-larger-than=32768",
]
SANITIZERS = {
    "": [],
    "thread": ["-fsanitize=thread", "-g1", "-Wno-tsan"],
    "address": ["-fsanitize=address,undefined", "-fno-sanitize=vptr", "-fno-sanitize-recover=undefined", "-g1"],
}


def available() -> str:
    """Why kernels cannot be emulated here; empty where they can."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return f"the emulator switches fibers on x86-64 only, this is {platform.machine()}"
    if shutil.which(COMPILER) is None:
        return f"the emulator needs {COMPILER}, which is not installed"
    return ""


def build(source: str, sanitizer: str = "", defines: Sequence[str] = ()) -> Library:
    """Compile a translation unit of kernels and load it.

    ``source`` includes device_emulation.h where CUDA's built-ins would be, as device.cuh does; its lines are called
    ``kernel:1`` onwards in errors. ``sanitizer``: "", "thread" or "address" (undefined behaviour as well); a process
    that loads such a library must have the sanitizer's runtime preloaded (`run_sanitized`). ``defines``: macros,
    ``NAME`` or ``NAME=VALUE``. Raises EmulatorError with the compiler's words where the source does not compile.
    """
    reason = available()
    if reason:
        raise EmulatorError(reason)
    _runtime()
    flags = [*COMMON, *KERNEL_FLAGS, *_instructions(), *SANITIZERS[sanitizer], *(f"-D{name}" for name in defines)]
    return _load(_compiled('#line 1 "kernel"\n' + source, [*flags, f"-I{HERE}"], HEADER.read_text()))


@functools.cache
def _load(file: Path) -> Library:
    return Library(ctypes.CDLL(str(file)))


@functools.cache
def _runtime() -> ctypes.CDLL:
    """One runtime for all libraries, whose undefined names it resolves."""
    flags = [flag for flag in COMMON if not flag.startswith("-fvisibility")]
    included = HEADER.read_text() + STATE.read_text()
    file = _compiled(RUNTIME.read_text(), [*flags, *RUNTIME_FLAGS, f"-I{HERE}"], included)
    return ctypes.CDLL(str(file), mode=ctypes.RTLD_GLOBAL)


@functools.cache
def _instructions() -> list[str]:
    """fmaf as an instruction where the CPU has it: the same bits as the library's function, five times sooner."""
    try:
        return ["-mfma"] if " fma " in Path("/proc/cpuinfo").read_text() else []
    except OSError:
        return []


@functools.cache
def _compiler_version() -> str:
    return subprocess.run([COMPILER, "--version"], capture_output=True, text=True, check=True).stdout


def _folder() -> Path:
    parent = os.environ.get("FASTRNN_CACHE_DIR") or Path(tempfile.gettempdir()) / f"fastrnn-{os.getuid()}"
    folder = Path(parent) / "emulator"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder


def _compiled(source: str, flags: Sequence[str], included: str) -> Path:
    """The shared library of a source text, compiled unless an earlier process has."""
    digest = hashlib.sha256("\0".join([_compiler_version(), *flags, included, source]).encode()).hexdigest()[:24]
    library = _folder() / f"{digest}.so"
    if library.exists():
        return library
    with _alone(library.with_suffix(".lock")), tempfile.TemporaryDirectory(dir=library.parent) as scratch:
        if library.exists():
            return library
        built = Path(scratch) / "built.so"
        done = subprocess.run(
            [COMPILER, *flags, "-x", "c++", "-", "-o", str(built)],
            input=source,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise EmulatorError(f"{COMPILER} refused the source:\n{done.stderr}")
        built.replace(library)  # at once, for processes that do not wait
    return library


@contextlib.contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """One process at a time: of several that run tests side by side, the second finds what the first has built."""
    import fcntl  # not on Windows, where nothing is emulated

    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
