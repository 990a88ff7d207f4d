"""Options of ``pytest bench --benchmark-only``."""

from __future__ import annotations

import os

# Set before any numerical library loads: the same number of threads for all of them.
_THREADS = os.environ.get("FASTRNN_BENCH_THREADS", "1")
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, _THREADS)


def pytest_addoption(parser):
    group = parser.getgroup("fastrnn benchmarks")
    group.addoption("--bench-shapes", default="quick", help="quick, grid, full (each device has its own) or T,B,I,H")
    group.addoption("--bench-cells", default="all", help="all, or names and prefixes of cells")
    group.addoption("--bench-dtypes", default="float32", help="float32, float64; on cuda also float16, bfloat16")
    group.addoption("--bench-peers", default="none", help="auto, none or names: timed in the same process")
