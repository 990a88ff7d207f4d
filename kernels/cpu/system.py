"""What kernels ask of the processor and the operating system: atomic words, a clock, sleep, cores, the GIL."""

from __future__ import annotations

import platform
import sys
import time

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .jit import helper, inlined
from .memory import read_int, write_int
from .simd import call, pointer

__all__ = [
    "atomic_add", "atomic_exchange", "atomic_load", "clock", "keep_off_this_core", "leave_gil", "own_thread", "pause",
    "sleep", "take_gil", "use_core", "wake",
]  # fmt: skip

_I32, _I64, _VOID = ir.IntType(32), ir.IntType(64), ir.VoidType()
_MOST_SLEEPERS = 256


def _operation(name: str, arguments: int, result: types.Type, emit) -> object:
    def typed(_typing, *addresses_and_values):
        def codegen(context, builder, sig, args):
            value = emit(builder, *args)
            return context.get_dummy_value() if result == types.void else value

        return result(*[types.intp] * arguments), codegen

    names = ", ".join(f"a{i}" for i in range(arguments))
    namespace = {"typed": typed}
    exec(f"def {name}(_typing{', ' + names if names else ''}):\n    return typed(_typing, {names})", namespace)
    return intrinsic(namespace[name])


def _as_pointer(builder, address):
    return pointer(builder, address, _I64)


def _emit_clock(builder):
    """Nanoseconds of a clock that never goes back."""
    if sys.platform == "win32":
        now = cgutils.alloca_once(builder, _I64)
        call(builder, "QueryPerformanceCounter", [now], _I32)
        return builder.mul(builder.load(now), ir.Constant(_I64, 100))  # of 10 MHz since Windows 10
    pair = cgutils.alloca_once(builder, ir.ArrayType(_I64, 2))
    call(builder, "clock_gettime", [ir.Constant(_I32, _MONOTONIC), pair], _I32)
    seconds, nanoseconds = (builder.load(cgutils.gep_inbounds(builder, pair, 0, i)) for i in range(2))
    return builder.add(builder.mul(seconds, ir.Constant(_I64, 1_000_000_000)), nanoseconds)


_MONOTONIC = getattr(time, "CLOCK_MONOTONIC", 0)
clock = _operation("clock", 0, types.intp, _emit_clock)
atomic_load = _operation("atomic_load", 1, types.intp, lambda b, a: b.load_atomic(_as_pointer(b, a), "seq_cst", 8))
atomic_add = _operation(
    "atomic_add", 2, types.intp, lambda b, a, v: b.atomic_rmw("add", _as_pointer(b, a), v, "acq_rel")
)
atomic_exchange = _operation(
    "atomic_exchange", 2, types.intp, lambda b, a, v: b.atomic_rmw("xchg", _as_pointer(b, a), v, "seq_cst")
)


def _emit_pause(builder):
    if platform.machine().lower() in ("x86_64", "amd64"):
        call(builder, "llvm.x86.sse2.pause", [], _VOID)
    elif platform.machine().lower() in ("aarch64", "arm64"):
        call(builder, "llvm.aarch64.hint", [ir.Constant(_I32, 1)], _VOID)


pause = _operation("pause", 0, types.void, _emit_pause)

# Linux's system calls: futex, gettid, getcpu, sched_setaffinity, sched_getaffinity.
_NUMBERS = {"x86_64": (202, 186, 309, 203, 204), "aarch64": (98, 178, 168, 122, 123)}
_LINUX = sys.platform == "linux" and platform.machine() in _NUMBERS
_FUTEX, _GETTID, _GETCPU, _SETAFFINITY, _GETAFFINITY = _NUMBERS[platform.machine()] if _LINUX else (0,) * 5
_FUTEX_WAIT_PRIVATE, _FUTEX_WAKE_PRIVATE = 128, 129


def _emit_system_call(builder, *arguments):
    if not _LINUX:
        return ir.Constant(_I64, 0)
    signature = ir.FunctionType(_I64, [_I64], var_arg=True)
    function = builder.module.globals.get("syscall") or ir.Function(builder.module, signature, "syscall")
    return builder.call(function, [*arguments, *[ir.Constant(_I64, 0)] * (7 - len(arguments))])


_system_call = _operation("system_call", 4, types.intp, _emit_system_call)


def _emit_futex(builder, address, operation, value):
    _emit_system_call(builder, ir.Constant(_I64, _FUTEX), address, ir.Constant(_I64, operation), value)


def _emit_sleep(builder, address, seen):
    """Sleep while the sequence number is ``seen``: a futex where there is one, else a short nap."""
    if _LINUX:
        _emit_futex(builder, address, _FUTEX_WAIT_PRIVATE, seen)
    elif sys.platform == "win32":
        call(builder, "Sleep", [ir.Constant(_I32, 1)], _VOID)
    else:
        call(builder, "usleep", [ir.Constant(_I32, 50)], _I32)


def _emit_wake(builder, address):
    if _LINUX:
        _emit_futex(builder, address, _FUTEX_WAKE_PRIVATE, ir.Constant(_I64, _MOST_SLEEPERS))


sleep = _operation("sleep", 2, types.void, _emit_sleep)
wake = _operation("wake", 1, types.void, _emit_wake)


_CORES = 128  # bytes of a set of cores as Linux takes it, a bit each
_room_for_cores = _operation(
    "room_for_cores", 0, types.intp,
    lambda builder: builder.ptrtoint(cgutils.alloca_once(builder, ir.ArrayType(_I64, _CORES // 8)), _I64),
)  # fmt: skip


@helper
def own_thread():
    """The calling thread, as the system numbers it; 0 where it is not Linux."""
    return _system_call(_GETTID, 0, 0, 0)


@helper
def _let_use(thread, core, allowed):
    """Let a thread use a core or keep it off; returns whether that changed what it may use, which is never nothing."""
    cores = _room_for_cores()
    for k in range(_CORES // 8):
        write_int(cores + 8 * k, 0)
    if core >= 8 * _CORES or _system_call(_GETAFFINITY, thread, _CORES, cores) <= 0:
        return False
    place, bit = cores + core // 64 * 8, 1 << core % 64
    before = read_int(place)
    after = before | bit if allowed else before & ~bit
    write_int(place, after)
    some = 0
    for k in range(_CORES // 8):
        some |= read_int(cores + 8 * k)
    return after != before and some != 0 and _system_call(_SETAFFINITY, thread, _CORES, cores) == 0


@helper
def keep_off_this_core(thread):
    """Have a sleeping thread wake on another core than this one, if it may; returns which this one is, else -1.

    Linux may wake it here, behind the very thread that will wait for it, while other cores are idle: a guest takes a
    core that it has halted for one that its host gave away. On two cores nine of ten were woken so, and a call of 250
    us took 1900.
    """
    place = _room_for_cores()
    write_int(place, 0)
    _system_call(_GETCPU, place, 0, 0)
    core = read_int(place)
    return core if _let_use(thread, core, False) else -1


@helper
def use_core(core):
    """Let the calling thread use a core again."""
    _let_use(0, core, True)


def _emit_leave(builder):
    state = call(builder, "PyEval_SaveThread", [], ir.IntType(8).as_pointer())
    return builder.ptrtoint(state, _I64)


def _emit_take(builder, state):
    call(builder, "PyEval_RestoreThread", [builder.inttoptr(state, ir.IntType(8).as_pointer())], _VOID)


_save_thread = _operation("save_thread", 0, types.intp, _emit_leave)
_restore_thread = _operation("restore_thread", 1, types.void, _emit_take)


@inlined
def leave_gil(brief):
    """Let other Python threads run, unless the call is brief; for ``take_gil``."""
    if brief:
        return 0
    return _save_thread()


@inlined
def take_gil(thread):
    """What ``leave_gil`` gave up, again."""
    if thread != 0:
        _restore_thread(thread)
