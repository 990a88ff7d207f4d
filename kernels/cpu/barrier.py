"""The barrier between the threads of a job: a count of arrivals, and who works alone where the others get no core.

It lies in the job's argument block. Threads spin at it for a while, then sleep in the operating system.
"""

from __future__ import annotations

from .jit import helper, inlined
from .memory import read_int, write_int
from .system import atomic_add, atomic_load, clock, pause, sleep, wake

__all__ = [
    "BARRIER_BYTES", "STOP", "alone", "arrive", "await_all", "be_patient", "better_alone", "given_up", "meet",
    "reconsider", "reset", "stopped", "wait", "waited_at",
]  # fmt: skip

# Words of a barrier, bytes from its count. In the count's line, which threads read at every step anyhow: whether the
# job shall end, and the number of arrivals from which on thread 0 works alone. In a line of their own: how many sleep,
# when the job began and for how long thread 0 has waited, in nanoseconds; and after how many looks a thread sleeps.
STOP, _ALONE, _SLEEPERS, _BEGUN, _WAITED, _WAITS, _LOOKS = 8, 16, 64, 72, 80, 88, 96
BARRIER_BYTES = 128
_FOR_GOOD = 1 << 48  # arrivals: more than there are steps
# About 50 us: a sleeper wakes in 5 to 60. Until threads have come that slept when the job began 250 us: thread 0 would
# else sleep itself, and be woken behind them. No more than that: another program's thread, or another caller's, may
# need the core, and with 250 us always eight callers' training at (20, 1, 256, 256) fell to 0.7 of their throughput.
_SPINS, _PATIENT_SPINS = 2_000, 10_000
_SPINS_UNNOTED = 200  # 5 us; a longer wait is timed

# Below this wait of thread 0 in a job, in nanoseconds, nothing is concluded: a worker that was parked, or has just been
# moved to another core, may take a millisecond. A slice of the scheduler's is longer.
_PATIENCE = 2_500_000
# Nor from fewer long waits: a process that has slept may once wait that long for its threads to come back.
_LONG_WAIT, _LEAST_WAITS = 50_000, 3


@helper
def reset(barrier, threads):
    """Make a barrier ready for a job, before its threads start."""
    for word in (0, STOP, _ALONE, _SLEEPERS, _WAITED, _WAITS):
        write_int(barrier + word, 0)
    write_int(barrier + _LOOKS, _SPINS)
    if threads > 1:
        write_int(barrier + _BEGUN, clock())


@helper
def be_patient(barrier):
    """Say that threads of the job have to wake first."""
    write_int(barrier + _LOOKS, _PATIENT_SPINS)


@helper
def stopped(barrier):
    """Whether the job shall end: nobody wants its results any more (interrupts.py).

    Then this thread need not come to the barrier again: it has arrived there for good, and nobody waits for it.
    """
    if atomic_load(barrier + STOP) == 0:
        return False
    atomic_add(barrier, _FOR_GOOD)
    _wake_sleepers(barrier)
    return True


@inlined
def _wake_sleepers(barrier):
    if atomic_load(barrier + _SLEEPERS) != 0:
        wake(barrier)


@helper
def arrive(barrier):
    """Say that this thread has done its part; wakes whoever sleeps at the barrier (a count, and sleepers beside it)."""
    atomic_add(barrier, 1)
    _wake_sleepers(barrier)


@helper
def await_all(barrier, arrivals):
    """Wait until ``arrivals`` have been counted since the barrier was zeroed; returns for how long, if long, in ns.

    Spins first: a barrier between two running threads takes 35 ns. Then sleeps: the other thread may wait for this
    very core, and a thread that only yields gets it for a scheduler's slice, milliseconds, at every barrier.
    """
    count, since = 0, 0
    while True:
        seen = atomic_load(barrier)
        if seen >= arrivals:
            if since != 0:
                since = clock() - since
            return since
        count += 1
        if count == _SPINS_UNNOTED:
            since = clock()
        if count < _SPINS or count < read_int(barrier + _LOOKS):
            pause()
        else:
            atomic_add(barrier + _SLEEPERS, 1)
            # A thread that arrives from here on sees the sleeper; one that arrived before has changed the count.
            sleep(barrier, seen)
            atomic_add(barrier + _SLEEPERS, -1)


@helper
def wait(barrier, arrivals, w):
    """``await_all`` by thread w of a job; what thread 0 waits is noted."""
    waited = await_all(barrier, arrivals)
    if w == 0 and waited != 0:
        write_int(barrier + _WAITED, read_int(barrier + _WAITED) + waited)
        write_int(barrier + _LOOKS, _SPINS)
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
def better_alone(waited, lasted, threads):
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
        if better_alone(read_int(barrier + _WAITED), clock() - read_int(barrier + _BEGUN), parties):
            write_int(barrier + _ALONE, arrivals + parties)


@inlined
def alone(barrier, arrivals):
    """Whether, with so many arrivals, thread 0 goes on alone: all threads see it after the same step."""
    since = atomic_load(barrier + _ALONE)
    return since != 0 and arrivals >= since


@inlined
def waited_at(barrier):
    """For how long thread 0 has waited there in this job, in ns."""
    return read_int(barrier + _WAITED)


@inlined
def given_up(barrier):
    """Whether thread 0 went on alone."""
    return atomic_load(barrier + _ALONE) != 0
