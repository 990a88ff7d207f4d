"""Running Python under ThreadSanitizer or AddressSanitizer, whose runtimes must be there before Python itself."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.cuda.emulator.build import COMPILER, available

ROOT = Path(__file__).resolve().parents[3]
RUNTIMES = {"thread": ["libtsan.so"], "address": ["libasan.so", "libubsan.so"]}
OPTIONS = {
    # Python ends with the kernel's own outcome, whatever was reported on the way: the reports are what counts.
    "TSAN_OPTIONS": "exitcode=0 report_thread_leaks=0 report_signal_unsafe=0 history_size=4",
    "ASAN_OPTIONS": "detect_leaks=0",
    "UBSAN_OPTIONS": "print_stacktrace=1",
}
HEADLINES = ("WARNING: ThreadSanitizer", "ERROR: AddressSanitizer", "runtime error:")


def _runtimes(sanitizer: str) -> list[Path]:
    ask = [COMPILER, "-print-file-name={}"]
    return [
        Path(subprocess.run([ask[0], ask[1].format(name)], capture_output=True, text=True, check=True).stdout.strip())
        for name in RUNTIMES[sanitizer]
    ]


def sanitizer_available(sanitizer: str) -> str:
    """Why "thread" or "address" cannot watch kernels here; empty where it can."""
    reason = available()
    if reason:
        return reason
    missing = [path.name for path in _runtimes(sanitizer) if not path.is_absolute()]
    return f"{COMPILER} came without {', '.join(missing)}" if missing else ""


def run_sanitized(
    sanitizer: str, script: str, timeout: float = 120, one_is_enough: bool = False
) -> tuple[str, list[str]]:
    """Run source code in a Python of its own under a sanitizer; return what it printed and the reports' headlines.

    The script builds with the same ``sanitizer``. ``one_is_enough``: the first report ends the process. One that ends
    with an error and has reported nothing, or that the sanitizer gave up, raises RuntimeError with all it printed: then
    it is the script that failed.
    """
    variables = os.environ | OPTIONS
    if one_is_enough:
        variables["TSAN_OPTIONS"] += " halt_on_error=1"
    variables |= {"LD_PRELOAD": " ".join(map(str, _runtimes(sanitizer))), "PYTHONPATH": str(ROOT)}
    # A second thread of the process, as a BLAS has them, is no matter of the kernel's.
    variables |= {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", script], env=variables, capture_output=True, text=True, timeout=timeout, check=False
    )
    reports = [line for line in done.stderr.splitlines() if any(headline in line for headline in HEADLINES)]
    gave_up = any(re.match(r"==\d+==\w+Sanitizer: ", line) for line in done.stderr.splitlines())
    if (done.returncode and not reports) or gave_up:
        raise RuntimeError(f"exit status {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done.stdout, reports
