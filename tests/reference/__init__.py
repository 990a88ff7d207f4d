"""A naive reference for every cell: NumPy only, written from the equations, and independent of ``fastrnn``.

``cells`` holds one class per family of cells (a forward step, a backward step), ``recurrence`` the loop over
time of one direction, ``network`` stacks, both directions and dropout masks. Arrays of any floating dtype go
through unchanged: the same code is the float64 truth and the plain implementation in a lower precision.
"""

from tests.reference.cells import CELLS, Weights
from tests.reference.network import Network
from tests.reference.recurrence import scan, scan_backward

__all__ = ["CELLS", "Network", "Weights", "scan", "scan_backward"]
