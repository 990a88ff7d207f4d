"""CPU kernels: Numba-compiled, on NumPy arrays of float32 and float64.

The backend protocol, one call a layer and direction: ``pack``, ``forward``, ``backward``, ``stepper``; and ``plan``,
which says how a layer will run, ``set_num_threads``, ``get_num_threads``.
"""

from .layer import Saved, backward, forward, pack
from .packed import Packed
from .plan import Plan, plan
from .stepper import Stepper, stepper
from .threads import get_num_threads, set_num_threads

__all__ = [
    "Packed", "Plan", "Saved", "Stepper", "backward", "forward", "get_num_threads", "pack", "plan",
    "set_num_threads", "stepper",
]  # fmt: skip
