"""Worker threads that live in compiled code, and the barrier between them.

A worker is a daemon thread parked, without the GIL, in a loop over its mailbox: it spins for a while, then sleeps
in the operating system. Handing a job over costs under a microsecond while it spins and about 35 when it sleeps; a
Python executor takes 77, and a barrier inside Numba's own pool may stall for a scheduler quantum.

One job runs at a time. Whoever finds the pool busy (another Python thread in a kernel) runs the whole job alone:
results do not depend on the number of threads. After a fork the child starts with a fresh pool.

The work comes as a compiled function ``share(cell, address, w, n)``: thread w of n does its part of what the
argument block at ``address`` describes.
"""

from __future__ import annotations

import atexit
import os
import platform
import sys
import threading
from collections.abc import Callable

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .jit import helper, inlined, kernel
from .memory import address_of, aligned_zeros, read_int, write_int
from .simd import call, pointer

__all__ = [
    "BARRIER_BYTES",
    "STOP",
    "arrive",
    "await_all",
    "get_num_threads",
    "job",
    "mailboxes",
    "reset",
    "run_job",
    "set_num_threads",
    "stopped",
]

_I32, _I64, _VOID = ir.IntType(32), ir.IntType(64), ir.VoidType()

# Fields of a mailbox, bytes; one cache line a worker. The line before the first belongs to the pool.
_SEQUENCE, _JOB, _ARGUMENT, _COUNT, _PARKED = 0, 8, 16, 24, 32
_LINE = 64
_LOCK, _DONE = 0, 128
_FIRST = 256  # two lines each: neighbouring lines are fetched in pairs, and a barrier has two

# Bytes from a barrier's count to the number of threads that sleep at it, a line of its own; and to the word that says
# that the job shall end, beside the count, whose line threads read at every step anyhow.
_SLEEPERS, STOP = 64, 8
_FOR_GOOD = 1 << 48  # arrivals: more than there are steps
BARRIER_BYTES = 128
# Looks before sleeping: about 50 us at a barrier, 250 us at the mailbox. Waking a sleeper takes 5 to 35 us.
_SPINS_AT_BARRIER, _SPINS_AT_MAILBOX = 2_000, 10_000

_MOST_THREADS = 256

# ---------------------------------------------------------------- instructions


def _atomic(name: str, arguments: int, result: types.Type, emit) -> object:
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


_load = _atomic("load", 1, types.intp, lambda b, a: b.load_atomic(_as_pointer(b, a), "seq_cst", 8))
_add = _atomic("add", 2, types.intp, lambda b, a, v: b.atomic_rmw("add", _as_pointer(b, a), v, "acq_rel"))
_exchange = _atomic("exchange", 2, types.intp, lambda b, a, v: b.atomic_rmw("xchg", _as_pointer(b, a), v, "seq_cst"))


def _emit_pause(builder):
    if platform.machine().lower() in ("x86_64", "amd64"):
        call(builder, "llvm.x86.sse2.pause", [], _VOID)
    elif platform.machine().lower() in ("aarch64", "arm64"):
        call(builder, "llvm.aarch64.hint", [ir.Constant(_I32, 1)], _VOID)


_pause = _atomic("pause", 0, types.void, _emit_pause)

_FUTEX = {"x86_64": 202, "aarch64": 98}.get(platform.machine()) if sys.platform == "linux" else None
_FUTEX_WAIT_PRIVATE, _FUTEX_WAKE_PRIVATE = 128, 129


def _emit_futex(builder, address, operation, value):
    signature = ir.FunctionType(_I64, [_I64], var_arg=True)
    function = builder.module.globals.get("syscall") or ir.Function(builder.module, signature, "syscall")
    zero = ir.Constant(_I64, 0)
    builder.call(function, [ir.Constant(_I64, _FUTEX), address, operation, value, zero, zero, zero])


def _emit_sleep(builder, address, seen):
    """Sleep while the sequence number is ``seen``: a futex where there is one, else a short nap."""
    if _FUTEX is not None:
        _emit_futex(builder, address, ir.Constant(_I64, _FUTEX_WAIT_PRIVATE), seen)
    elif sys.platform == "win32":
        call(builder, "Sleep", [ir.Constant(_I32, 1)], _VOID)
    else:
        call(builder, "usleep", [ir.Constant(_I32, 50)], _I32)


def _emit_wake(builder, address):
    if _FUTEX is not None:
        _emit_futex(builder, address, ir.Constant(_I64, _FUTEX_WAKE_PRIVATE), ir.Constant(_I64, _MOST_THREADS))


_sleep = _atomic("sleep", 2, types.void, _emit_sleep)
_wake = _atomic("wake", 1, types.void, _emit_wake)


@intrinsic
def _call(_typing, job, argument, w, n):
    def codegen(context, builder, sig, args):
        builder.call(builder.inttoptr(args[0], ir.FunctionType(_VOID, [_I64] * 3).as_pointer()), args[1:])
        return context.get_dummy_value()

    return types.void(*[types.intp] * 4), codegen


def job(share):
    """An intrinsic ``address(cell)``: the address of a C function (argument, w, n) that calls ``share(cell, ...)``.

    The C function is emitted into the calling kernel's own module, so the kernel stays cacheable on disk; passing
    ``share`` itself as a value would put an address of this process into it.
    """

    @intrinsic
    def address(typing, cell):
        parameters = (cell, types.intp, types.intp, types.intp)
        signature = typing.resolve_value_type(share).get_call_type(typing, parameters, {})

        def codegen(context, builder, sig, args):
            compiled = share.overloads[signature.args]
            context.active_code_library.add_linking_library(compiled.library)
            kind = ir.FunctionType(_VOID, [_I64] * 3)
            function = ir.Function(builder.module, kind, builder.module.get_unique_name("job"))
            function.linkage = "internal"
            body = ir.IRBuilder(function.append_basic_block())
            arguments = [context.get_dummy_value(), *function.args]
            context.call_internal_no_propagate(body, compiled.fndesc, signature, arguments)
            body.ret_void()
            return builder.ptrtoint(function, _I64)

        return types.intp(cell), codegen

    return address


# ---------------------------------------------------------------- kernels


@inlined
def _wake_sleepers(barrier):
    if _load(barrier + _SLEEPERS) != 0:
        _wake(barrier)


@helper
def reset(barrier):
    """Make a barrier ready for a job, before its threads start."""
    write_int(barrier, 0)
    write_int(barrier + STOP, 0)
    write_int(barrier + _SLEEPERS, 0)


@helper
def stopped(barrier):
    """Whether the job shall end: nobody wants its results any more (interrupts.py).

    Then this thread need not come to the barrier again: it has arrived there for good, and nobody waits for it.
    """
    if _load(barrier + STOP) == 0:
        return False
    _add(barrier, _FOR_GOOD)
    _wake_sleepers(barrier)
    return True


@helper
def arrive(barrier):
    """Say that this thread has done its part; wakes whoever sleeps at the barrier (a count, and sleepers beside it)."""
    _add(barrier, 1)
    _wake_sleepers(barrier)


@helper
def await_all(barrier, arrivals):
    """Wait until ``arrivals`` have been counted since the barrier was zeroed.

    Spins first: a barrier between two running threads takes 35 ns. Then sleeps: the other thread may wait for this
    very core, and a thread that only yields gets it for a scheduler's slice, milliseconds, at every barrier.
    """
    count = 0
    while True:
        seen = _load(barrier)
        if seen >= arrivals:
            return
        count += 1
        if count < _SPINS_AT_BARRIER:
            _pause()
        else:
            _add(barrier + _SLEEPERS, 1)
            # A thread that arrives from here on sees the sleeper; one that arrived before has changed the count.
            _sleep(barrier, seen)
            _add(barrier + _SLEEPERS, -1)


@helper
def meet(barrier, parties, arrivals):
    """Arrive, and wait for all ``parties``; ``arrivals``: at this barrier so far. Returns the new count."""
    if parties > 1:
        arrivals += parties
        arrive(barrier)
        await_all(barrier, arrivals)
    return arrivals


@kernel
def _work(mailbox, pool, w):
    """Body of worker ``w``: run jobs until one has the address 0."""
    last = 0
    while True:
        count = 0
        while _load(mailbox + _SEQUENCE) == last:
            count += 1
            if count < _SPINS_AT_MAILBOX:
                _pause()
            else:
                _exchange(mailbox + _PARKED, 1)
                if _load(mailbox + _SEQUENCE) == last:
                    _sleep(mailbox + _SEQUENCE, last)
                _exchange(mailbox + _PARKED, 0)
        last = _load(mailbox + _SEQUENCE)
        job = read_int(mailbox + _JOB)
        if job == 0:
            return
        _call(job, read_int(mailbox + _ARGUMENT), w, read_int(mailbox + _COUNT))
        arrive(pool + _DONE)


@helper
def _post(mailbox, job, argument, n):
    write_int(mailbox + _JOB, job)
    write_int(mailbox + _ARGUMENT, argument)
    write_int(mailbox + _COUNT, n)
    _exchange(mailbox + _SEQUENCE, _load(mailbox + _SEQUENCE) + 1)
    if _load(mailbox + _PARKED) != 0:
        _wake(mailbox + _SEQUENCE)


@helper
def run_job(job, argument, pool, n):
    """Run a job on n threads, or on one where the pool is busy or n is 1; the job learns how many there are."""
    if n <= 1 or pool == 0 or _exchange(pool + _LOCK, 1) != 0:
        _call(job, argument, 0, 1)
        return
    reset(pool + _DONE)
    for w in range(1, n):
        _post(pool + _FIRST + (w - 1) * _LINE, job, argument, n)
    _call(job, argument, 0, n)
    await_all(pool + _DONE, n - 1)
    _exchange(pool + _LOCK, 0)


@kernel
def _stop(mailbox):
    _post(mailbox, 0, 0, 0)


# ---------------------------------------------------------------- the pool


_INTEGERS = (types.intp, types.intp, types.intp)


class _Pool:
    """The mailboxes of the process and the threads that look at them; grows on demand."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.boxes: np.ndarray | None = None
        self.end: Callable[[int], None] | None = None
        self.workers: list[threading.Thread] = []

    def address(self, threads: int) -> int:
        """Address of a pool with at least ``threads - 1`` workers; 0 when none is needed."""
        if threads <= 1:
            return 0
        if len(self.workers) < threads - 1:
            with self.lock:
                self._grow(threads - 1)
        return address_of(self.boxes)

    def _grow(self, workers: int) -> None:
        if self.boxes is None:
            self.boxes = aligned_zeros((_FIRST + _MOST_THREADS * _LINE) // 8, np.int64)
            self.end = _stop.entry_point(types.intp)  # now, not while the interpreter shuts down
        pool = address_of(self.boxes)
        for w in range(len(self.workers) + 1, workers + 1):
            box = pool + _FIRST + (w - 1) * _LINE
            thread = threading.Thread(
                target=_work.entry_point(*_INTEGERS), args=(box, pool, w), daemon=True, name=f"fastrnn-{w}"
            )
            thread.start()
            self.workers.append(thread)

    def forget(self) -> None:
        """In a forked child: the workers stayed with the parent."""
        self.__init__()

    def stop(self) -> None:
        """End every worker, so that none runs compiled code while the interpreter unloads it."""
        for w, thread in enumerate(self.workers):
            self.end(address_of(self.boxes) + _FIRST + w * _LINE)
            thread.join(1.0)
        self.forget()


_pool = _Pool()
mailboxes = _pool.address
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.forget)
atexit.register(_pool.stop)


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


_num_threads = _usable_cores()


def set_num_threads(n: int) -> None:
    """Let kernels use up to ``n`` threads, the calling one included; more than the cores is legal."""
    global _num_threads
    if isinstance(n, bool) or not isinstance(n, (int, np.integer)):
        raise TypeError(f"n must be an int, got {type(n).__name__}")
    if not 1 <= n <= _MOST_THREADS:
        raise ValueError(f"n must be between 1 and {_MOST_THREADS}, got {n}")
    _num_threads = int(n)


def get_num_threads() -> int:
    """Most threads that a kernel uses."""
    return _num_threads
