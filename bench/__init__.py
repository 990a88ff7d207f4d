"""The benchmark suite: ``python -m bench`` measures fastrnn against installed rivals and against the machine's limits.

Reading order: ``cases`` (what is timed), ``devices`` (where, and how time is taken there), ``peers`` (who is timed),
``worker`` and ``processes`` (one process each), ``contender`` (checked, then timed), ``measure`` (blocks in turn,
ratios of medians), ``limits`` and ``limits_cuda`` (the machine), ``run`` (one whole run), ``results`` (the file it
leaves), ``tables``, ``crossover``, ``report``, ``compare`` and ``plots`` (what is made of that file), ``workloads``;
apart from that, ``kernel_table`` (what CUDA kernels take), ``floors`` (what their steps should cost) and
``gradient_flow`` (what is left of a gradient on its way back through time).
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results"

# tests/reference is imported from the checkout; ``python -m bench`` already runs there, pytest may not.
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))
