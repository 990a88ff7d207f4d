"""Worker threads that live in compiled code.

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
import threading
import time
from collections.abc import Callable

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from fastrnn.cores import default_threads

from .barrier import arrive, await_all, be_patient, better_alone, given_up, reset, waited_at
from .jit import helper, inlined, kernel
from .memory import address_of, aligned_zeros, read_int, write_int
from .system import (
    atomic_exchange,
    atomic_load,
    clock,
    keep_off_this_core,
    leave_gil,
    own_thread,
    pause,
    sleep,
    take_gil,
    use_core,
    wake,
)
from .teams import call_job, lent, on_team

__all__ = ["get_num_threads", "job", "mailboxes", "run_job", "run_whole", "set_num_threads"]

# Fields of a mailbox, bytes; one cache line a worker. Those before the first are the pool's, some teams.py's.
_SEQUENCE, _JOB, _ARGUMENT, _COUNT, _PARKED, _PRESENT, _THREAD, _ROUSED = 0, 8, 16, 24, 32, 40, 48, 56
_LINE = 64
_CORE = 2  # "roused" is this and the core that the worker was kept off, or 1; 0 before
_LOCK, _DONE = 0, 128
# In the lock's line, ns: until when jobs run on one thread, as the others had no core; for how long that was; and when
# the last job had to go on alone, or that pause ended.
_UNTIL, _PAUSE, _LAST = 8, 16, 24
_SHORT = 56  # when the last job ended that did not wait for sleepers, ns
_FIRST = 256  # two lines each: neighbouring lines are fetched in pairs, and a barrier has two

_SPINS = 10_000  # looks at the mailbox before sleeping: about 250 us; waking a sleeper takes 5 to 60 us
# Short jobs that follow each other sooner than this, ns, want the sleepers: it is for the next one that they wake.
_SOON_AGAIN = 200_000

# How long jobs run on one thread after a second one that had to go on alone soon after the first: doubled each time
# trying again shows the same (a try costs a slice, about 4 ms).
_SHORTEST_PAUSE, _LONGEST_PAUSE, _SOON = 20_000_000, 1_000_000_000, 50_000_000

_MOST_THREADS = 256


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
            kind = ir.FunctionType(ir.VoidType(), [ir.IntType(64)] * 3)
            function = ir.Function(builder.module, kind, builder.module.get_unique_name("job"))
            function.linkage = "internal"
            body = ir.IRBuilder(function.append_basic_block())
            arguments = [context.get_dummy_value(), *function.args]
            context.call_internal_no_propagate(body, compiled.fndesc, signature, arguments)
            body.ret_void()
            return builder.ptrtoint(function, ir.IntType(64))

        return types.intp(cell), codegen

    return address


@kernel
def _work(mailbox, pool, w):
    """Body of worker ``w``: run jobs until one has the address 0; nothing where its place is taken.

    A Ctrl-C while a worker starts may make the next call start it again.
    """
    thread = leave_gil(False)
    write_int(mailbox + _THREAD, own_thread())
    alone_here = atomic_exchange(mailbox + _PRESENT, 1) == 0
    last = 0
    while alone_here:
        count = 0
        while atomic_load(mailbox + _SEQUENCE) == last:
            count += 1
            if count < _SPINS:
                pause()
            else:
                atomic_exchange(mailbox + _PARKED, 1)
                if atomic_load(mailbox + _SEQUENCE) == last:
                    sleep(mailbox + _SEQUENCE, last)
                atomic_exchange(mailbox + _PARKED, 0)
                roused = atomic_exchange(mailbox + _ROUSED, 0)
                if roused != 0:
                    count = 0
                    if roused >= _CORE:
                        use_core(roused - _CORE)
        last = atomic_load(mailbox + _SEQUENCE)
        job = read_int(mailbox + _JOB)
        if job == 0:
            break
        call_job(job, read_int(mailbox + _ARGUMENT), w, read_int(mailbox + _COUNT))
        arrive(pool + _DONE)
    take_gil(thread)


@inlined
def _mailbox(pool, w):
    return pool + _FIRST + (w - 1) * _LINE


@helper
def _rouse(mailbox):
    """Wake a worker, if it sleeps; without a job it looks out for one again."""
    if atomic_load(mailbox + _PARKED) != 0:
        if atomic_load(mailbox + _ROUSED) == 0:
            atomic_exchange(mailbox + _ROUSED, keep_off_this_core(read_int(mailbox + _THREAD)) + _CORE)
        wake(mailbox + _SEQUENCE)


@helper
def _post(mailbox, job, argument, n):
    write_int(mailbox + _JOB, job)
    write_int(mailbox + _ARGUMENT, argument)
    write_int(mailbox + _COUNT, n)
    atomic_exchange(mailbox + _SEQUENCE, atomic_load(mailbox + _SEQUENCE) + 1)
    _rouse(mailbox)


@helper
def _asleep(pool, n):
    """Whether a worker sleeps that would be wanted."""
    for w in range(1, n):
        if atomic_load(_mailbox(pool, w) + _PARKED) != 0:
            return True
    return False


@helper
def _run_without_sleepers(job, argument, pool, n, now):
    """Run a short job at once, on one thread; where such jobs follow each other, wake the others for the next."""
    if now - read_int(pool + _SHORT) < _SOON_AGAIN:
        for w in range(1, n):
            _rouse(_mailbox(pool, w))
    call_job(job, argument, 0, 1)
    write_int(pool + _SHORT, clock())


@helper
def run_job(job, argument, pool, n, barrier, short):
    """Run a job on n threads, or on one: where n is 1, the pool is busy, or the others lately had no core.

    The job learns how many there are. ``barrier``: where its threads meet, as ``reset`` left it; 0 without one.
    short: done by one thread before others would have woken; they are not waited for if they sleep.
    """
    if n <= 1 or pool == 0 or _pausing(pool) or atomic_exchange(pool + _LOCK, 1) != 0:
        call_job(job, argument, 0, 1)
        return
    begun, waited = clock(), 0
    if not on_team(pool, job, argument, n):
        asleep = _asleep(pool, n)
        if short and asleep:
            _run_without_sleepers(job, argument, pool, n, begun)
            atomic_exchange(pool + _LOCK, 0)
            return
        reset(pool + _DONE, 1)
        if asleep:
            be_patient(pool + _DONE)
            if barrier != 0:
                be_patient(barrier)
        for w in range(1, n):
            _post(_mailbox(pool, w), job, argument, n)
        call_job(job, argument, 0, n)
        waited = await_all(pool + _DONE, n - 1)
    gone_on = False
    if barrier != 0:
        waited += waited_at(barrier)
        gone_on = given_up(barrier)
    now = clock()
    if gone_on or better_alone(waited, now - begun, n):
        length = 0
        if now - read_int(pool + _LAST) < _SOON:
            length = min(max(2 * read_int(pool + _PAUSE), _SHORTEST_PAUSE), _LONGEST_PAUSE)
        write_int(pool + _PAUSE, length)
        write_int(pool + _UNTIL, now + length)
        write_int(pool + _LAST, now + length)
    atomic_exchange(pool + _LOCK, 0)


@inlined
def run_whole(job, argument, pool, n, brief):
    """``run_job`` as all that a kernel does: no barrier; and unless it is brief, without the GIL, and on all n."""
    thread = leave_gil(brief)
    run_job(job, argument, pool, n, 0, brief)
    take_gil(thread)


@inlined
def _pausing(pool):
    until = atomic_load(pool + _UNTIL)
    return until != 0 and clock() < until


@kernel
def _stop(pool, w):
    _post(_mailbox(pool, w), 0, 0, 0)


# ---------------------------------------------------------------- the pool


_INTEGERS = (types.intp, types.intp, types.intp)


class _Pool:
    """The mailboxes of the process and the threads that look at them; grows on demand."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.boxes: np.ndarray | None = None
        self.end: Callable[[int, int], None] | None = None
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
            self.end = _stop.entry_point(types.intp, types.intp)  # now, not while the interpreter shuts down
        pool = address_of(self.boxes)
        for w in range(len(self.workers) + 1, workers + 1):
            box = _FIRST + (w - 1) * _LINE
            thread = threading.Thread(
                target=_work.entry_point(*_INTEGERS), args=(pool + box, pool, w), daemon=True, name=f"fastrnn-{w}"
            )
            thread.start()
            # A brief call keeps the GIL while it waits for the worker, who would never get it to come here.
            while not self.boxes[(box + _PRESENT) // 8]:
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
        for w, thread in enumerate(self.workers, 1):
            self.end(address_of(self.boxes), w)
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
