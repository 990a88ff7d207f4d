"""Compiling and caching: the one place for Numba's flags, the cache folder and a kernel's entry points.

The disk cache is our own. Numba's looks only at the file of the function that it compiles: edit a helper elsewhere
and callers are served stale. It numbers files by an index without a lock, so that two processes can give one name to
different code. And it fails where a file is damaged or the disk is full. Here the folder's name carries a hash of every
source that can reach a kernel, a file's name one of all that its code depends on, and the file one of its contents.

A folder that cannot be written means no cache, never an error.

Kernels are specialised by type, not by closing over functions, since Numba caches only the former.
"""

from __future__ import annotations

import functools
import hashlib
import pickle
import re
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llvmlite.binding as ll
import numba
from numba import types
from numba.core import cgutils, serialize, typed_passes, untyped_passes
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompilerBase, CompileResult, DefaultPassBuilder
from numba.core.compiler_machinery import register_pass
from numba.core.typed_passes import NativeLowering

import fastrnn.cell_table
from fastrnn.kernels import cache

__all__ = ["HELPER_OPTIONS", "cache_folder", "helper", "inlined", "kernel"]


def _sources_hash() -> str:
    files = [*Path(__file__).parent.glob("*.py"), Path(fastrnn.cell_table.__file__)]
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:16]


@functools.cache
def cache_folder() -> Path | None:
    """Folder of this version's compiled kernels, or None where nothing can be written."""
    return cache.writable_folder(_sources_hash())


class _HelperLibrary(JITCodeLibrary):
    """The intermediate code of one helper, by itself: it is linked and optimised only where a kernel needs it."""

    def add_ir_module(self, ir_module):
        """Take over a module as it is."""
        self._final_module = ll.parse_assembly(cgutils.normalize_ir_text(str(ir_module)))
        self._final_module.name = ir_module.name
        self._final_module.data_layout = self._codegen._data_layout
        for function in self._final_module.functions:
            if not function.is_declaration and function.linkage == ll.Linkage.external:
                function.linkage = "linkonce_odr"

    def _get_module_for_linking(self):
        return self._final_module

    def finalize(self):
        """Nothing more is added."""
        self._finalized = True


class _KernelLibrary(JITCodeLibrary):
    """A kernel's code, with all that its helpers call."""

    def finalize(self):
        """Link every helper once, then optimise and assemble."""
        found, waiting = {}, list(self._linking_libraries)
        while waiting:
            library = waiting.pop()
            if library not in found:
                found[library] = None
                if isinstance(library, _HelperLibrary):
                    waiting += library._linking_libraries
        self._linking_libraries = list(found)
        super().finalize()


def _prepare_library(state, kind: type[JITCodeLibrary]) -> None:
    state.library = kind(state.targetctx.codegen(), state.func_id.func_qualname)
    state.library.enable_object_caching()


class _LowerHelper(NativeLowering):
    """Lowers a function to LLVM's intermediate code and stops: no machine code, no wrapper to call it from Python.

    A helper is only ever linked into kernels. Without this, Numba would also link, optimise and assemble every helper
    by itself, with all that it calls, level after level of a chain of calls: most of the time to compile a kernel.
    The helper's own machine code would even be taken in place of the kernel's better one, by the process that
    compiles: cells ran up to 3.7 times slower there than in the next process.
    """

    _name = "fastrnn_lower_helper"

    def run_pass(self, state):
        """Lower ``state`` and register the result under a key of its own, as other functions will look it up."""
        state.flags.no_compile = state.flags.no_cpython_wrapper = state.flags.no_cfunc_wrapper = True
        _prepare_library(state, _HelperLibrary)
        super().run_pass(state)
        key = [].append  # a builtin, as the dispatcher demands, and equal to no other list's
        state.targetctx.insert_user_function(key, state.cr.fndesc, [state.library])
        state["cr"] = state.cr._replace(cfunc=key)
        return True


class _LowerKernel(NativeLowering):
    """Lowers a function and links what it calls."""

    _name = "fastrnn_lower_kernel"

    def run_pass(self, state):
        """Lower ``state`` into a library that finds the helpers' helpers."""
        _prepare_library(state, _KernelLibrary)
        return super().run_pass(state)


for _pass in (_LowerHelper, _LowerKernel):
    register_pass(mutates_CFG=True, analysis_only=False)(_pass)


# Rewriting of what kernels do not contain: with blocks, closures, array expressions, functions to inline in Python.
# Each walks over every function several times: a third of the time in Numba's own code.
_UNUSED_PASSES = (
    untyped_passes.WithLifting,
    untyped_passes.InlineClosureLikes,
    untyped_passes.RewriteDynamicRaises,
    untyped_passes.MakeFunctionToJitFunction,
    untyped_passes.InlineInlinables,
    untyped_passes.FindLiterallyCalls,
    untyped_passes.LiteralUnroll,
    untyped_passes.LiteralPropagationSubPipelinePass,
    typed_passes.InlineOverloads,
    typed_passes.NopythonRewrites,
    untyped_passes.DeadBranchPrune,
    untyped_passes.RewriteSemanticConstants,
)


def _pipeline(lowering: type[NativeLowering]) -> type[CompilerBase]:
    """Numba's compiler with a lowering of our own."""

    class Compiler(CompilerBase):
        def define_pipelines(self):
            manager = DefaultPassBuilder.define_nopython_pipeline(self.state)
            manager.add_pass_after(lowering, NativeLowering)
            left_out = {NativeLowering, *_UNUSED_PASSES}
            manager.passes = [p for p in manager.passes if p[0] not in left_out]
            manager.finalize()
            return [manager]

    return Compiler


_FLAGS: dict[str, Any] = {"error_model": "numpy"}
HELPER_OPTIONS: dict[str, Any] = {**_FLAGS, "pipeline_class": _pipeline(_LowerHelper)}
_KERNEL_OPTIONS: dict[str, Any] = {**_FLAGS, "pipeline_class": _pipeline(_LowerKernel)}


class _DiskCache:
    """What Numba's dispatcher asks of a cache, for one kernel."""

    def __init__(self, function: Callable, folder: Path) -> None:
        self.function, self.folder = function, folder

    def _name(self, signature: Any, codegen: Any) -> str:
        depends = (signature, codegen.magic_tuple(), numba.__version__, sys.implementation.cache_tag)
        digest = hashlib.sha256(repr(depends).encode()).hexdigest()[:24]
        cell = re.sub(r"\W", "_", str(signature[0]))
        return f"{self.folder.name}/{cell}/{self.function.__module__}.{self.function.__name__}-{digest}"

    def load_overload(self, signature: Any, context: Any) -> Any:
        """The compile result, or None."""
        context.refresh()
        found = cache.read(self._name(signature, context.codegen()))
        return None if found is None else CompileResult._rebuild(context, *pickle.loads(found))

    def save_overload(self, signature: Any, result: Any) -> None:
        """Keep a compile result, where that can be."""
        cache.write(self._name(signature, result.codegen), serialize.dumps(result._reduce()))


class Kernel:
    """A function that Python calls; compiled for a signature at first use. No exceptions from arithmetic.

    It runs with the GIL unless it gives it up itself: threads.leave_gil.
    """

    def __init__(self, function: Callable) -> None:
        self.function = function
        self._compiled: dict[tuple[types.Type, ...], Any] = {}
        functools.update_wrapper(self, function)

    def entry_point(self, *signature: types.Type) -> Callable:
        """The compiled function itself: calling it skips Numba's look at the arguments' types (0.2 us, not 0.8)."""
        with _compiling:
            if signature not in self._compiled:
                self._compiled[signature] = self.compiled(*signature)
            return self._compiled[signature].entry_point

    def compiled(self, *signature: types.Type) -> Any:
        """Compile, or load from the cache: Numba's compile result."""
        dispatcher = numba.njit(**_KERNEL_OPTIONS)(self.function)
        folder = cache_folder()
        if folder is not None:
            dispatcher._cache = _DiskCache(self.function, folder)
        dispatcher.compile(signature)
        return dispatcher.overloads[signature]


_compiling = threading.RLock()
kernel = Kernel


def helper(function: Callable, **options: Any) -> Any:
    """Compile a function that only kernels and other helpers call."""
    dispatcher = numba.njit(**HELPER_OPTIONS, **options)(function)
    for_types = dispatcher.get_call_template
    # A constant in a call is an integer like any other: Numba would compile the helper anew for each.
    dispatcher.get_call_template = lambda args, kws: for_types([types.unliteral(a) for a in args], kws)
    return dispatcher


def inlined(function: Callable) -> Any:
    """A helper so small that a call would cost more than its body."""
    return helper(function, forceinline=True)
