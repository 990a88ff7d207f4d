"""Jobs on a team of threads that somebody else keeps, in place of our own workers.

Where another library's threads spin between its operations, as those of OpenMP do, they hold the cores that our workers
want. Such a library can lend its team: kernels then have the runtime start a job on it, as the library itself would.

``with Team(parallel, number, size):`` the calling thread's kernels use the team. The three are C functions by address,
as OpenMP has them: ``parallel(function, data, threads, flags)`` calls ``function(data)`` on every thread of a team, of
the size that the runtime chooses where ``threads`` is 0, and returns when all have returned (``GOMP_parallel``);
within it, ``number()`` and ``size()`` tell a thread which of how many it is. Teams of any size will do.

A call that may be interrupted (interrupts.py) is made by another thread, whose kernels run on our workers: before it
the team is told to ``rest``, a Python function, where it can.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .jit import helper
from .memory import address_of, aligned_zeros, read_int, write_int

__all__ = ["Team", "call_job", "lent", "on_team", "rest"]

_I32, _I64, _VOID = ir.IntType(32), ir.IntType(64), ir.VoidType()

# Where a pool says that it is a team, bytes: the three functions; then what it is to do.
_PARALLEL, _NUMBER, _SIZE = 32, 40, 48
_JOB, _ARGUMENT, _COUNT = 64, 72, 80
_WORDS = 16  # of a pool that is nothing else


@intrinsic
def call_job(_typing, job, argument, w, n):
    """Call a job by its address."""

    def codegen(context, builder, sig, args):
        builder.call(builder.inttoptr(args[0], ir.FunctionType(_VOID, [_I64] * 3).as_pointer()), args[1:])
        return context.get_dummy_value()

    return types.void(*[types.intp] * 4), codegen


@intrinsic
def _ask(_typing, function):
    """What an ``int function(void)`` returns."""

    def codegen(context, builder, sig, args):
        return builder.zext(builder.call(builder.inttoptr(args[0], ir.FunctionType(_I32, []).as_pointer()), []), _I64)

    return types.intp(types.intp), codegen


@helper
def _member(pool):
    """What every thread of the team does."""
    w, n = _ask(read_int(pool + _NUMBER)), min(_ask(read_int(pool + _SIZE)), read_int(pool + _COUNT))
    if w < n:
        call_job(read_int(pool + _JOB), read_int(pool + _ARGUMENT), w, n)


@intrinsic
def _start(typing, pool):
    """Have the team call ``_member(pool)``, a C function within the kernel's own module."""
    signature = typing.resolve_value_type(_member).get_call_type(typing, (types.intp,), {})

    def codegen(context, builder, sig, args):
        compiled = _member.overloads[signature.args]
        context.active_code_library.add_linking_library(compiled.library)
        kind = ir.FunctionType(_VOID, [_I64])
        function = ir.Function(builder.module, kind, builder.module.get_unique_name("member"))
        function.linkage = "internal"
        body = ir.IRBuilder(function.append_basic_block())
        context.call_internal_no_propagate(body, compiled.fndesc, signature, [function.args[0]])
        body.ret_void()
        parallel = ir.FunctionType(_VOID, [kind.as_pointer(), _I64, _I32, _I32]).as_pointer()
        where = builder.load(builder.inttoptr(builder.add(args[0], ir.Constant(_I64, _PARALLEL)), _I64.as_pointer()))
        none = ir.Constant(_I32, 0)
        builder.call(builder.inttoptr(where, parallel), [function, args[0], none, none])
        return context.get_dummy_value()

    return types.void(types.intp), codegen


@helper
def on_team(pool, job, argument, n):
    """Run a job on up to n threads of a team and return True; False if the pool is none."""
    if read_int(pool + _PARALLEL) == 0:
        return False
    for place, value in ((_JOB, job), (_ARGUMENT, argument), (_COUNT, n)):
        write_int(pool + place, value)
    _start(pool)
    return True


class Team:
    """A context: within it, the jobs of the thread that entered it run on a team, one at a time."""

    def __init__(self, parallel: int, number: int, size: int, rest: Callable[[], object] | None = None) -> None:
        self._pool = aligned_zeros(_WORDS, np.int64)
        self._pool[[_PARALLEL // 8, _NUMBER // 8, _SIZE // 8]] = parallel, number, size
        self._address, self._rest = address_of(self._pool), rest

    def __enter__(self) -> None:
        _lent[threading.get_ident()] = self._address, self._rest

    def __exit__(self, *_: Any) -> None:
        _lent.pop(threading.get_ident(), None)


_NONE = 0, None
_lent: dict[int, tuple[int, Callable[[], object] | None]] = {}


def lent() -> int:
    """The pool of the calling thread's team, or 0."""
    return _lent.get(threading.get_ident(), _NONE)[0] if _lent else 0


def rest() -> None:
    """Have the calling thread's team make room for other threads, if there is one that can."""
    _, rest = _lent.get(threading.get_ident(), _NONE)
    if rest is not None:
        rest()
