"""FASTRNN_GUARD=1: a store out of bounds is caught, whichever kernel and buffer; what is right is left in peace."""

import shutil

import pytest

from tests.processes import ROOT, needs_tree, run_python

EVERYTHING = """
import sys

from tests.cases import Case
from tests.checks import layer_results, make_layer

for cell in sys.argv[1:]:
    for sizes in (dict(B=1, H=17, I=3), dict(B=7, H=35, I=21), dict(B=33, H=129, I=5)):
        for way in ({}, dict(bidirectional=True, ragged=True, num_layers=2), dict(resets=True, batch_first=True)):
            problem = Case(cell, T=5, dtype="float32", **sizes, **way).problem()
            layer = make_layer(problem)
            layer_results(problem, layer)
            layer.freeze()(problem.x)
            if not layer.bidirectional:
                layer.stream(sizes["B"])(problem.x[0])
print("nothing found")
"""


def test_kernels_stay_within_their_buffers():
    cells = ("lstm_peephole", "gru_reset_before", "rnn_relu")
    assert run_python(EVERYTHING, *cells, FASTRNN_GUARD="1") == "nothing found\n"


# A bound that is left out, and the kernel that then goes too far.
PLANTED = {
    "y": ("cpu/layout.py", "return min(lanes(like), H - u * lanes(like))", "return lanes(like)", "forward"),
    "dx": (
        "cpu/backward.py", "valid = min(lanes(like), v.I - (column + k) * lanes(like))", "valid = lanes(like)",
        "backward",
    ),
    "a buffer between two others": (
        "cpu/states.py", "store(value, rows + r *", "store(value, rows + (r + 40) *", "forward",
    ),
}  # fmt: skip


@needs_tree
@pytest.mark.parametrize("buffer", PLANTED)
def test_a_planted_store_out_of_bounds_is_caught(buffer, tmp_path):
    path, right, wrong, kernel = PLANTED[buffer]
    for package in ("fastrnn", "kernels", "tests"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__", "emulator"))
    text = (tmp_path / "kernels" / path).read_text(encoding="utf-8")
    assert right in text
    (tmp_path / "kernels" / path).write_text(text.replace(right, wrong), encoding="utf-8")
    printed = run_python(
        """
import numpy as np
import fastrnn
from fastrnn.guards import OutOfBounds
layer = fastrnn.RNN(5, 17, seed=0)
x = np.ones((2, 3, 5), np.float32)
try:
    y, _, tape = layer.forward(x)
    layer.backward(tape, y)
except OutOfBounds as found:
    print(found)
""",
        root=tmp_path,
        FASTRNN_GUARD="1",
        FASTRNN_CACHE_DIR=str(tmp_path / "cache"),
    )
    assert printed.startswith(f"the {kernel} kernel of rnn_tanh wrote outside of a buffer"), printed
