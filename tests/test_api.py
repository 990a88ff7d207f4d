"""The public names and their arguments, beside those that were promised: tests/api.txt.

What is new belongs into the file: ``python -m tests.test_api > tests/api.txt``. What is gone or changed breaks users:
it first warns for one minor version (DeprecationWarning that names what to use), and goes with the next major one.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path

MODULES = ("fastrnn", "fastrnn.cells", "fastrnn.nn", "fastrnn.weights")
PROMISED = Path(__file__).with_name("api.txt")


def described() -> Iterator[str]:
    """A line for every public name, and for every public method of a class of ours."""
    for module_name in MODULES:
        module = importlib.import_module(module_name)
        for name in sorted(module.__all__):
            if name.startswith("__"):
                continue
            value = getattr(module, name)
            label = f"{module_name}.{name}"
            if not callable(value) or (inspect.isclass(value) and issubclass(value, BaseException)):
                yield label
                continue
            yield label + _arguments(value)
            if inspect.isclass(value):
                yield from _methods(label, value)


def _methods(label: str, kind: type) -> Iterator[str]:
    for name in sorted(set(dir(kind))):
        if name.startswith("_") and name != "__call__":
            continue
        value = inspect.getattr_static(kind, name)
        owner = next(base for base in kind.__mro__ if name in vars(base))
        if not owner.__module__.startswith("fastrnn"):
            continue
        if isinstance(value, (classmethod, staticmethod)):
            value = value.__func__
        yield f"{label}.{name}" + (_arguments(value) if inspect.isfunction(value) else "")


def _arguments(value: object) -> str:
    """Names, kinds and defaults; not annotations, which Python's versions write in their own ways."""
    signature = inspect.signature(value)
    bare = [p.replace(annotation=inspect.Parameter.empty) for p in signature.parameters.values()]
    return str(signature.replace(parameters=bare, return_annotation=inspect.Signature.empty))


def test_what_was_promised_is_there():
    promised, found = PROMISED.read_text(encoding="utf-8").splitlines(), list(described())
    gone = [line for line in promised if line not in found]
    new = [line for line in found if line not in promised]
    assert not gone, "gone or changed:\n" + "\n".join(gone)
    assert not new, "new: add it by `python -m tests.test_api > tests/api.txt`\n" + "\n".join(new)


if __name__ == "__main__":
    print("\n".join(described()))
