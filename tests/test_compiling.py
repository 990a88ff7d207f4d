"""How kernels are compiled: helpers are linked into them, and exist nowhere else."""

from __future__ import annotations

from numba import types
from numba.core.registry import cpu_target

from fastrnn.kernels.cpu import jit


@jit.helper
def _twice(x):
    return x + x


@jit.helper
def _four_times(x):
    return _twice(_twice(x))


def _eight_times(x):
    return _twice(_four_times(x))


def test_helpers_are_linked_into_the_kernel_alone(monkeypatch):
    """Machine code of their own would not be optimised, and yet be run by the process that compiles."""
    monkeypatch.setattr(jit, "cache_folder", lambda: None)
    assert jit.kernel(_eight_times).entry_point(types.intp)(5) == 40
    engine = cpu_target.target_context.codegen()._engine
    for helper in (_twice, _four_times):
        (compiled,) = helper.overloads.values()
        assert not engine.is_symbol_defined(compiled.fndesc.mangled_name)
