"""Ctrl-C during a long call: the main thread waits where Python's signal handlers run, and the kernel ends early.

Compiled code runs no Python, so a signal that comes during a call would be heard when the call ends. A call that may
take long is therefore made by a thread of its own. Where a handler raises (KeyboardInterrupt), the kernel is told to
stop and is waited for: it looks once a step, and until it has ended it still writes into the caller's arrays.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable

from .barrier import STOP

__all__ = ["LONG", "run_interruptibly"]

# Calls of more operations than this may take long: 0.8 s at the 10 GFLOP/s of weights that come from memory at every
# step, 20 ms where the FMA units are busy. Handing a call over takes 0.1 ms.
LONG = 8e9
_STOP_AGAIN = 0.02  # seconds; what is said before the kernel begins is lost


def run_interruptibly(call: Callable[[], None], barrier: int) -> None:
    """Call, which runs a job whose threads meet at ``barrier``; what a signal handler raises ends it early."""
    if threading.current_thread() is not threading.main_thread():
        call()
        return
    ended = threading.Event()

    def work() -> None:
        try:
            call()
        finally:
            ended.set()

    threading.Thread(target=work, name="fastrnn-call", daemon=True).start()
    try:
        while not ended.wait(0.1):  # Windows runs no signal handler during a wait without an end
            pass
    except BaseException:
        _stop(ended, barrier)
        raise


def _stop(ended: threading.Event, barrier: int) -> None:
    word = ctypes.c_int64.from_address(barrier + STOP)
    while not ended.is_set():
        word.value = 1
        try:
            ended.wait(_STOP_AGAIN)
        except BaseException:  # one more Ctrl-C: the arrays are in use until the kernel has ended
            continue
