"""The tree's own promises: one cell table, a reference apart from it, a light import, no global package."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import sys
from pathlib import Path

import numpy as np
import pytest

import fastrnn
from fastrnn.backend import Backend
from fastrnn.cell_table import CELLS
from tests import cases, reference
from tests.processes import ROOT, needs_tree, run_python

PUBLIC = {
    "GRU",
    "LSTM",
    "RNN",
    "Explanation",
    "GPUUnavailable",
    "Gradients",
    "Stream",
    "Tape",
    "__version__",
    "cells",
    "explain",
    "get_num_threads",
    "set_num_threads",
}


def test_public_names():
    assert set(fastrnn.__all__) == PUBLIC
    for name in PUBLIC:
        assert getattr(fastrnn, name) is not None
    undocumented = [name for name in PUBLIC - {"__version__"} if not getattr(fastrnn, name).__doc__]
    assert not undocumented


@pytest.mark.parametrize("name", sorted(CELLS))
def test_the_reference_mirrors_the_cell_table(name):
    """Gates, peepholes and states agree, each side having spelt them for itself."""
    ours, naive = CELLS[name], reference.CELLS[name]
    assert ours.gates == naive.gates
    assert ours.peepholes == naive.peepholes
    assert len(ours.states) == naive.states


def test_every_cell_is_in_every_table():
    assert list(CELLS) == list(reference.CELLS) == list(cases.LAYERS)


@pytest.mark.parametrize("name", sorted(CELLS))
def test_the_options_select_the_cell(name):
    kind, options = cases.LAYERS[name]
    assert getattr(fastrnn, kind)(2, 3, **options).cell is CELLS[name]


@needs_tree
def test_both_backends_have_every_cell_and_every_function():
    """The CUDA side is read as text where it is C++; neither device is needed."""
    cuda = (ROOT / "kernels" / "cuda" / "cell_math.cuh").read_text(encoding="utf-8")
    assert re.findall(r"^template <class K> using (\w+) =", cuda, re.M) == list(CELLS)
    cpu = (ROOT / "kernels" / "cpu" / "cell_math.py").read_text(encoding="utf-8")
    assert sorted(re.findall(r'^@cell_math\("(\w+)"\)', cpu, re.M)) == sorted(CELLS)
    functions = {name for name in vars(Backend) if not name.startswith("_")}
    for device in ("cpu", "cuda"):
        backend = importlib.import_module(f"fastrnn.kernels.{device}")
        assert functions <= set(backend.__all__), device
        for name in functions:
            takes = list(inspect.signature(getattr(backend, name)).parameters)
            promised = [p for p in inspect.signature(getattr(Backend, name)).parameters if p != "self"]
            assert takes[: len(promised)] == promised, (device, name)


def imports_of(path):
    """Top-level names of the modules that a file imports."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module if node.module.startswith("tests") else node.module.partition(".")[0]


@pytest.mark.parametrize("path", sorted((ROOT / "tests" / "reference").glob("*.py")), ids=lambda p: p.name)
def test_the_reference_imports_numpy_and_nothing_of_ours(path):
    allowed = {"__future__", "dataclasses", "typing", "numpy"}
    foreign = {m for m in imports_of(path) if m not in allowed and not m.startswith("tests.reference")}
    assert not foreign


def test_the_case_table_needs_no_fastrnn():
    """The benchmarks' rivals share it without loading what they are measured against."""
    run_python("import tests.cases, sys; assert 'fastrnn' not in sys.modules and 'numba' not in sys.modules")


@needs_tree
def test_the_public_side_has_no_kernels():
    """Numba is imported by kernels/cpu alone."""
    for path in (ROOT / "fastrnn").rglob("*.py"):
        assert not {"numba", "llvmlite", "cupy"} & set(imports_of(path)), path


def modules_of(path):
    """Full names of the modules that a file imports, and of what it takes from packages."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module or ''}.{alias.name}" for alias in node.names)


@needs_tree
def test_the_core_does_without_nn():
    """Nothing of fastrnn but fastrnn.nn itself imports it, and fastrnn.nn brings no library along."""
    core = [path for path in (ROOT / "fastrnn").rglob("*.py") if "nn" not in path.relative_to(ROOT / "fastrnn").parts]
    assert len(core) > 10
    for path in [*core, *(ROOT / "kernels").rglob("*.py")]:
        assert not [name for name in modules_of(path) if "fastrnn.nn" in name or name.startswith(".nn")], path
    run_python("""
import sys
import fastrnn
assert "fastrnn.nn" not in sys.modules
from fastrnn import nn
model = nn.Model(embedding=nn.Embedding(5, 3), layer=fastrnn.GRU(3, 4), output=nn.Linear(4, 5))
optimizer = nn.Adam(model)
heavy = ("numba", "llvmlite", "torch", "scipy", "cupy", "safetensors", "matplotlib")
assert not [name for name in sys.modules if name.partition(".")[0] in heavy]
""")


def test_nn_documents_what_it_offers():
    nn = importlib.import_module("fastrnn.nn")
    assert not [name for name in nn.__all__ if not getattr(nn, name).__doc__]


def test_importing_loads_no_numba():
    run_python("""
import sys
import fastrnn
layer = fastrnn.LSTM(3, 4, 2, bidirectional=True, dropout=0.5, seed=0)
layer.load_params(dict(layer.params))
repr(layer)
heavy = [name for name in sys.modules if name.partition(".")[0] in ("numba", "llvmlite", "torch", "scipy", "cupy")]
assert not heavy, heavy
""")


@needs_tree
def test_kernels_is_no_global_package(monkeypatch):
    """The folder kernels/ beside fastrnn/ is fastrnn.kernels, and says so when imported by its own name."""
    monkeypatch.syspath_prepend(str(ROOT))
    with pytest.raises(ImportError, match=r"fastrnn\.kernels"):
        importlib.import_module("kernels")
    assert "kernels" not in sys.modules
    module = importlib.import_module("fastrnn.kernels")
    assert Path(module.__file__).parent.name == "kernels"


def test_explain_tells_every_layer_and_direction():
    layer = fastrnn.GRU(30, 64, 2, bidirectional=True)
    explanation = fastrnn.explain(layer, 20, 8)
    assert [(part.layer, part.direction) for part in explanation.parts] == [
        (0, "forward"),
        (0, "reverse"),
        (1, "forward"),
        (1, "reverse"),
    ]
    for part in explanation.parts:
        assert part.kernel and part.why
        assert part.bytes > 0 and part.seconds > 0 and part.threads >= 1
    text = str(explanation)
    for part in explanation.parts:
        assert f"layer {part.layer} {part.direction}" in text
        assert part.kernel in text and part.why in text
    assert "GRU(30, 64" in text and "T=20" in text and "B=8" in text
    training = fastrnn.explain(layer, 20, 8, training=True)
    assert training.bytes > explanation.bytes and training.flops > explanation.flops
    assert fastrnn.explain(layer, 40, 8).flops == 2 * explanation.flops


def test_explain_counts_the_products():
    """2 T B G H (I + H) floating-point operations in each direction of a layer."""
    explanation = fastrnn.explain(fastrnn.LSTM(30, 64), 20, 8)
    assert explanation.flops == 2 * 20 * 8 * 4 * 64 * (30 + 64)


@pytest.mark.parametrize("arguments, error", [((None, 1, 1), TypeError), (("layer", -1, 1), ValueError)])
def test_explain_checks_its_arguments(arguments, error):
    layer = fastrnn.GRU(3, 4) if arguments[0] else arguments[0]
    with pytest.raises(error, match=r"layer|T"):
        fastrnn.explain(layer, *arguments[1:])


def test_explain_of_nothing():
    assert fastrnn.explain(fastrnn.GRU(3, 4), 0, 0).seconds >= 0


def test_cuda_is_refused_with_the_way_out():
    layer = fastrnn.LSTM(3, 4)
    with pytest.raises((NotImplementedError, RuntimeError), match="cuda"):
        layer.to("cuda")
    with pytest.raises((NotImplementedError, RuntimeError), match="cuda"):
        fastrnn.LSTM(3, 4, device="cuda")
    assert layer.to("cpu") is layer
    assert np.isfinite(layer(np.ones((2, 1, 3), np.float32))[0]).all()
