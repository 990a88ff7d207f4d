"""The child's side of a measurement: ``python -m bench.worker MODULE:CLASS`` serves one object over pipes.

Each line on standard input is ``{"call": method, "args": {...}}``; each line of the answer ``{"result": ...}``, or
``{"error": text, "kind": exception class}``. The object is ``CLASS(**args)`` of the first call, ``"__init__"``.
Whatever a library prints goes to standard error, so it cannot end up between two answers.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import signal
import sys
import traceback
from typing import IO, Any

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def _die_with_parent() -> None:
    """A stopped child cannot notice that its parent is gone; the kernel can (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _private_stdout() -> IO[str]:
    """Keep the real standard output for answers and send everybody else's to standard error."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    return answers


def _answer(served: dict[str, Any], target: str, request: dict[str, Any]) -> dict[str, Any]:
    try:
        if request["call"] == "__init__":
            module, _, name = target.partition(":")
            served["object"] = getattr(importlib.import_module(module), name)(**request["args"])
            return {"result": None}
        return {"result": getattr(served["object"], request["call"])(**request["args"])}
    except Exception as error:  # every failure belongs to the parent, which decides what it means
        traceback.print_exc()
        return {"error": f"{type(error).__name__}: {error}", "kind": type(error).__name__}


def main(target: str) -> None:
    """Serve until standard input ends."""
    _die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    answers = _private_stdout()
    served: dict[str, Any] = {}
    for line in sys.stdin:
        print(json.dumps(_answer(served, target, json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
