"""CPU kernels: Numba-compiled, on NumPy arrays of float32 and float64.

The backend protocol, one call a layer: ``pack``, ``forward``, ``backward``, ``accumulators`` for
several of these, ``stepper``; and ``plan``, which says how a layer will run, ``set_num_threads``, ``get_num_threads``.
``single_step`` is this device's short way for ``fastrnn.cells``; ``multiply`` and ``apply_mask`` serve what stands
beside the layers, and ``Team`` lets kernels run on threads that another library keeps.
"""

from .dropout import apply_mask
from .layer import Saved, backward, forward, pack
from .packed import Accumulators, Packed, accumulators
from .plan import Plan, plan
from .products import product as multiply
from .products import suits
from .single_step import SingleStep, single_step
from .stepper import Stepper, stepper
from .teams import Team
from .threads import get_num_threads, set_num_threads

__all__ = [
    "Accumulators", "Packed", "Plan", "Saved", "SingleStep", "Stepper", "Team", "accumulators", "apply_mask",
    "backward", "forward", "get_num_threads", "multiply", "pack", "plan", "set_num_threads", "single_step", "stepper",
    "suits",
]  # fmt: skip
