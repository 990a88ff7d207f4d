"""Every public function and method that takes an argument, and which of them the targets call."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator
from types import CodeType, FrameType, FunctionType
from typing import Any

from tests.test_api import MODULES

__all__ = ["UNTRIED", "called", "functions"]

# No target calls these: a pattern of the name's end, and why.
UNTRIED = {
    ".flat_params=": "replacing the buffer is an AttributeError, whatever comes",
    "nn.Diverged.__init__": "made by fit",
    "weights.to_keras": "needs Keras, which is not among the suite's packages; it begins with to_keras_weights",
}


def functions(more: Iterable[str] = ()) -> Iterator[tuple[str, FunctionType]]:
    """Those of the public modules and of ``more``; "Kind.name=" is what assigning an attribute calls."""
    for module_name in (*MODULES, *more):
        module = importlib.import_module(module_name)
        for name in sorted(module.__all__):
            value = getattr(module, name)
            found = _methods(value) if inspect.isclass(value) else [("", value)]
            for suffix, function in found:
                function = inspect.unwrap(function) if callable(function) else function
                if isinstance(function, FunctionType) and _takes_something(function, bool(suffix)):
                    yield f"{module_name}.{name}{suffix}", function


def _methods(kind: type) -> Iterator[tuple[str, Any]]:
    for name in sorted(dir(kind)):
        if name.startswith("_") and name not in ("__call__", "__init__", "__new__"):
            continue
        owner = next(base for base in kind.__mro__ if name in vars(base))
        value = vars(owner)[name]
        if not owner.__module__.startswith("fastrnn"):
            continue
        if isinstance(value, property):
            yield f".{name}=", value.fset
        else:
            yield f".{name}", getattr(value, "__func__", value)


def _takes_something(function: FunctionType, method: bool) -> bool:
    return len(inspect.signature(function).parameters) > method


def called(run: Callable[[], Any]) -> set[CodeType]:
    """The code of every function that runs meanwhile, in this thread."""
    seen: set[CodeType] = set()

    def note(frame: FrameType, event: str, _: Any) -> None:
        if event == "call":
            seen.add(frame.f_code)

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        run()
    finally:
        sys.setprofile(before)
    return seen
