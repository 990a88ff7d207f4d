"""Worker threads that live in compiled code, and the barrier between them.

A worker is a daemon thread parked, without the GIL, in a loop over its mailbox: it spins for a while, then sleeps
in the operating system. Handing a job over costs under a microsecond while it spins and about 35 when it sleeps; a
Python executor takes 77, and a barrier inside Numba's own pool may stall for a scheduler quantum.

One job runs at a time. Whoever finds the pool busy (another Python thread in a kernel) runs the whole job alone:
results do not depend on the number of threads. After a fork the child starts with a fresh pool.

A call that may take long gives up the GIL meanwhile. A brief one keeps it (plan.py): the GIL is then the queue of many
callers, who each run for Python's switch interval with the kernels' threads to themselves.

The work comes as a compiled function ``share(cell, address, w, n)``: thread w of n does its part of what the
argument block at ``address`` describes.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import platform
import sys
import threading
import time
from collections.abc import Callable

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastrnn.cores import default_threads

from .jit import helper, inlined, kernel
from .memory import address_of, aligned_zeros, read_int, write_int
from .simd import call, pointer
from .teams import call_job, lent, on_team

__all__ = [
    "BARRIER_BYTES", "STOP", "alone", "arrive", "get_num_threads", "job", "leave_gil", "mailboxes", "meet",
    "reconsider", "reset", "run_job", "run_whole", "set_num_threads", "stopped", "take_gil", "wait",
]  # fmt: skip

_I32, _I64, _VOID = ir.IntType(32), ir.IntType(64), ir.VoidType()

# Fields of a mailbox, bytes; one cache line a worker. Those before the first are the pool's, some teams.py's.
_SEQUENCE, _JOB, _ARGUMENT, _COUNT, _PARKED, _PRESENT = 0, 8, 16, 24, 32, 40
_LINE = 64
_LOCK, _DONE = 0, 128
# In the lock's line, ns: until when jobs run on one thread, as the others had no core; for how long that was; and when
# the last job had to go on alone, or that pause ended.
_UNTIL, _PAUSE, _LAST = 8, 16, 24
_FIRST = 256  # two lines each: neighbouring lines are fetched in pairs, and a barrier has two

# Words of a barrier, bytes from its count. In the count's line, which threads read at every step anyhow: whether the
# job shall end, and the number of arrivals from which on thread 0 works alone. In a line of their own: how many sleep,
# when the job began and for how long thread 0 has waited, in nanoseconds.
STOP, _ALONE, _SLEEPERS, _BEGUN, _WAITED, _WAITS = 8, 16, 64, 72, 80, 88
BARRIER_BYTES = 128
_FOR_GOOD = 1 << 48  # arrivals: more than there are steps
# Looks before sleeping: about 50 us at a barrier, 250 us at the mailbox. Waking a sleeper takes 5 to 35 us.
_SPINS_AT_BARRIER, _SPINS_AT_MAILBOX = 2_000, 10_000
_SPINS_UNNOTED = 200  # 5 us; a longer wait is timed

# Below this wait of thread 0 in a job, in nanoseconds, nothing is concluded: a worker that was parked, or has just been
# moved to another core, may take a millisecond. A slice of the scheduler's is longer.
_PATIENCE = 2_500_000
# Nor from fewer long waits: a process that has slept may once wait that long for its threads to come back.
_LONG_WAIT, _LEAST_WAITS = 50_000, 3
# How long jobs run on one thread after a second one that had to go on alone soon after the first: doubled each time
# trying again shows the same (a try costs a slice, about 4 ms).
_SHORTEST_PAUSE, _LONGEST_PAUSE, _SOON = 20_000_000, 1_000_000_000, 50_000_000

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
_clock = _atomic("clock", 0, types.intp, _emit_clock)
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


def _emit_leave(builder):
    state = call(builder, "PyEval_SaveThread", [], ir.IntType(8).as_pointer())
    return builder.ptrtoint(state, _I64)


def _emit_take(builder, state):
    call(builder, "PyEval_RestoreThread", [builder.inttoptr(state, ir.IntType(8).as_pointer())], _VOID)


_save_thread = _atomic("save_thread", 0, types.intp, _emit_leave)
_restore_thread = _atomic("restore_thread", 1, types.void, _emit_take)


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


@helper
def reset(barrier, threads):
    """Make a barrier ready for a job, before its threads start."""
    for word in (0, STOP, _ALONE, _SLEEPERS, _WAITED, _WAITS):
        write_int(barrier + word, 0)
    if threads > 1:
        write_int(barrier + _BEGUN, _clock())


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


@inlined
def _wake_sleepers(barrier):
    if _load(barrier + _SLEEPERS) != 0:
        _wake(barrier)


@helper
def arrive(barrier):
    """Say that this thread has done its part; wakes whoever sleeps at the barrier (a count, and sleepers beside it)."""
    _add(barrier, 1)
    _wake_sleepers(barrier)


@helper
def await_all(barrier, arrivals):
    """Wait until ``arrivals`` have been counted since the barrier was zeroed; returns for how long, if long, in ns.

    Spins first: a barrier between two running threads takes 35 ns. Then sleeps: the other thread may wait for this
    very core, and a thread that only yields gets it for a scheduler's slice, milliseconds, at every barrier.
    """
    count, since = 0, 0
    while True:
        seen = _load(barrier)
        if seen >= arrivals:
            if since != 0:
                since = _clock() - since
            return since
        count += 1
        if count == _SPINS_UNNOTED:
            since = _clock()
        if count < _SPINS_AT_BARRIER:
            _pause()
        else:
            _add(barrier + _SLEEPERS, 1)
            # A thread that arrives from here on sees the sleeper; one that arrived before has changed the count.
            _sleep(barrier, seen)
            _add(barrier + _SLEEPERS, -1)


@helper
def wait(barrier, arrivals, w):
    """``await_all`` by thread w of a job; what thread 0 waits is noted."""
    waited = await_all(barrier, arrivals)
    if w == 0 and waited != 0:
        write_int(barrier + _WAITED, read_int(barrier + _WAITED) + waited)
        if waited > _LONG_WAIT:
            write_int(barrier + _WAITS, read_int(barrier + _WAITS) + 1)


@helper
def meet(barrier, parties, arrivals, w):
    """Arrive, and wait for all ``parties``; ``arrivals``: at this barrier so far. Returns the new count."""
    if parties > 1:
        arrivals += parties
        arrive(barrier)
        wait(barrier, arrivals, w)
    return arrivals


@inlined
def _better_alone(waited, lasted, threads):
    """Whether thread 0 does all the work sooner than the others let it do its share: they have no cores.

    The share has taken it ``lasted - waited``; all of it takes ``threads`` times that.
    """
    return waited > _PATIENCE and waited > (threads - 1) * (lasted - waited)


@helper
def reconsider(barrier, parties, arrivals, w):
    """Before arriving at the end of a step: thread 0 decides whether it goes on alone from then on.

    Beside a busy loop on one of two cores, a barrier a step made calls 7 to 20 times as long. Results do not depend on
    who computes them.
    """
    if w == 0 and parties > 1 and read_int(barrier + _WAITS) >= _LEAST_WAITS:
        if _better_alone(read_int(barrier + _WAITED), _clock() - read_int(barrier + _BEGUN), parties):
            write_int(barrier + _ALONE, arrivals + parties)


@inlined
def alone(barrier, arrivals):
    """Whether, with so many arrivals, thread 0 goes on alone: all threads see it after the same step."""
    since = _load(barrier + _ALONE)
    return since != 0 and arrivals >= since


@kernel
def _work(mailbox, pool, w):
    """Body of worker ``w``: run jobs until one has the address 0; nothing where its place is taken.

    A Ctrl-C while a worker starts may make the next call start it again.
    """
    thread = leave_gil(False)
    alone_here = _exchange(mailbox + _PRESENT, 1) == 0
    last = 0
    while alone_here:
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
            break
        call_job(job, read_int(mailbox + _ARGUMENT), w, read_int(mailbox + _COUNT))
        arrive(pool + _DONE)
    take_gil(thread)


@helper
def _post(mailbox, job, argument, n):
    write_int(mailbox + _JOB, job)
    write_int(mailbox + _ARGUMENT, argument)
    write_int(mailbox + _COUNT, n)
    _exchange(mailbox + _SEQUENCE, _load(mailbox + _SEQUENCE) + 1)
    if _load(mailbox + _PARKED) != 0:
        _wake(mailbox + _SEQUENCE)


@helper
def run_job(job, argument, pool, n, barrier):
    """Run a job on n threads, or on one: where n is 1, the pool is busy, or the others lately had no core.

    The job learns how many there are. ``barrier``: where its threads meet, as ``reset`` left it; 0 without one.
    """
    if n <= 1 or pool == 0 or _pausing(pool) or _exchange(pool + _LOCK, 1) != 0:
        call_job(job, argument, 0, 1)
        return
    begun, waited = _clock(), 0
    if not on_team(pool, job, argument, n):
        reset(pool + _DONE, 1)
        for w in range(1, n):
            _post(pool + _FIRST + (w - 1) * _LINE, job, argument, n)
        call_job(job, argument, 0, n)
        waited = await_all(pool + _DONE, n - 1)
    given_up = False
    if barrier != 0:
        waited += read_int(barrier + _WAITED)
        given_up = _load(barrier + _ALONE) != 0
    now = _clock()
    if given_up or _better_alone(waited, now - begun, n):
        pause = 0
        if now - read_int(pool + _LAST) < _SOON:
            pause = min(max(2 * read_int(pool + _PAUSE), _SHORTEST_PAUSE), _LONGEST_PAUSE)
        write_int(pool + _PAUSE, pause)
        write_int(pool + _UNTIL, now + pause)
        write_int(pool + _LAST, now + pause)
    _exchange(pool + _LOCK, 0)


@inlined
def run_whole(job, argument, pool, n, brief):
    """``run_job`` as all that a kernel does: no barrier, and without the GIL unless it is brief."""
    thread = leave_gil(brief)
    run_job(job, argument, pool, n, 0)
    take_gil(thread)


@inlined
def _pausing(pool):
    until = _load(pool + _UNTIL)
    return until != 0 and _clock() < until


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
        self.closed = False

    def address(self, threads: int) -> int:
        """Address of a pool with at least ``threads - 1`` workers; 0 when none is needed, or the interpreter ends."""
        if threads <= 1 or self.closed:
            return 0
        team = lent()
        if team != 0:
            return team
        if len(self.workers) < threads - 1:
            with self.lock:
                if self.closed:
                    return 0
                self._grow(threads - 1)
        return address_of(self.boxes)

    def _grow(self, workers: int) -> None:
        if self.boxes is None:
            self.boxes = aligned_zeros((_FIRST + _MOST_THREADS * _LINE) // 8, np.int64)
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self.boxes.base))  # see ``stop``
            self.end = _stop.entry_point(types.intp)  # now, not while the interpreter shuts down
        pool = address_of(self.boxes)
        for w in range(len(self.workers) + 1, workers + 1):
            box = pool + _FIRST + (w - 1) * _LINE
            thread = threading.Thread(
                target=_work.entry_point(*_INTEGERS), args=(box, pool, w), daemon=True, name=f"fastrnn-{w}"
            )
            thread.start()
            # A brief call keeps the GIL while it waits for the worker, who would never get it to come here.
            while not self.boxes[(box - pool + _PRESENT) // 8]:
                time.sleep(0)
            self.workers.append(thread)

    def forget(self) -> None:
        """In a forked child: the workers stayed with the parent."""
        self.__init__()

    def stop(self) -> None:
        """End every worker, so that none runs compiled code while the interpreter unloads it.

        A daemon thread may go on calling layers meanwhile: it gets no workers any more, and what it and a worker that
        is late still look at is never freed.
        """
        with self.lock:
            self.closed = True
        for w, thread in enumerate(self.workers):
            self.end(address_of(self.boxes) + _FIRST + w * _LINE)
            thread.join(1.0)


_pool = _Pool()
mailboxes = _pool.address
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.forget)
atexit.register(_pool.stop)


_num_threads = default_threads()


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
