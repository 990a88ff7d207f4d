"""Compiled kernels on disk: found by the next process, never stale, and never needed."""

from __future__ import annotations

import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tests.cases import DTYPES, LAYERS, Case
from tests.checks import reference_results, relative_error
from tests.processes import ROOT, needs_tree, run_python

# Runs cells given as "cell:dtype" forward and back, and prints how many functions Numba compiled, and every y.
PROGRAM = """
import json
import sys

from numba.core import event

compiled = event.RecordingListener()
event.register("numba:compile", compiled)

from tests.cases import DTYPES, LAYERS, Case
from tests.checks import layer_results, make_layer

outputs = {}
for name in sys.argv[1:]:
    cell, dtype = name.split(":")
    problem = Case(cell, dtype=dtype, num_layers=2, bidirectional=True, ragged=True, resets=True).problem()
    layer = make_layer(problem)
    outputs[name] = layer_results(problem, layer).y.tolist()
    layer.freeze()
    layer(problem.x)
    make_layer(Case(cell, dtype=dtype).problem()).stream()(problem.x[0, :1])
print(json.dumps({"compiled": len(compiled.buffer), "outputs": outputs}))
"""

# A light program: one call of one cell, so that compiling costs a few seconds; prints its y.
SMALL = """
import numpy as np
import fastrnn
layer = fastrnn.RNN(3, 4, nonlinearity="relu", seed=0)
print(layer(np.ones((2, 1, 3), np.float32))[0].tolist())
"""

# A lighter one: no cell, only the kernel that packs weights; it says whether that had to be compiled.
PACKING = """
import numpy as np
import fastrnn
from numba.core import event
compiled = event.RecordingListener()
event.register("numba:compile", compiled)
layer = fastrnn.RNN(3, 4, seed=0)
packed = layer.packed_weights(False)[0]
found = np.sort(np.abs(np.frombuffer(packed.memory.tobytes(), np.uint8)[packed.base - packed.memory.ctypes.data :]
    [: packed.layout.size // 4 * 4].copy().view(np.float32)))
for name in ("weight_ih_l0", "weight_hh_l0"):
    assert np.isin(np.abs(layer.params[name]), found).all()
print("right,", "compiled" if compiled.buffer else "from the cache")
"""


def run(*names, **environment):
    """Run PROGRAM; return the number of compilations and y by name, as an array."""
    printed = json.loads(run_python(PROGRAM, *names, timeout=600, **environment))
    return printed["compiled"], {name: np.array(y) for name, y in printed["outputs"].items()}


def test_a_second_process_compiles_nothing(tmp_path):
    """Two processes fill an empty cache at the same time; what a third one finds there is right and complete."""
    cells = ["rnn_relu:float32", "gru_reset_before:float32"]
    with ThreadPoolExecutor(2) as pool:
        firsts = list(pool.map(lambda name: run(name, FASTRNN_CACHE_DIR=str(tmp_path)), cells))
    assert all(count > 0 for count, _ in firsts), "nothing was counted"
    count, outputs = run(*cells, FASTRNN_CACHE_DIR=str(tmp_path))
    assert count == 0
    for name, y in outputs.items():
        cell, dtype = name.split(":")
        problem = Case(cell, dtype=dtype, num_layers=2, bidirectional=True, ragged=True, resets=True).problem()
        assert relative_error(y, reference_results(problem).y) <= 1e-5


def test_every_cell_is_cached():
    """All kernels of all cells and dtypes; those that this test run compiled count as the first process."""
    names = [f"{cell}:{dtype}" for cell in LAYERS for dtype in DTYPES]
    run(*names)
    count, _ = run(*names)
    assert count == 0


@pytest.fixture
def checkout(tmp_path):
    """A copy of the packages, to be edited."""
    for package in ("fastrnn", "kernels"):
        shutil.copytree(ROOT / package, tmp_path / "tree" / package, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path / "tree"


def edit(path, addition):
    """Append to a file and put its old times back: no clock may be trusted to show an edit."""
    times = path.stat()
    path.write_text(path.read_text(encoding="utf-8") + addition, encoding="utf-8")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


EDITED_MATH = '''

@cell_math("rnn_relu")
class _Edited:
    """h' = 7."""

    def forward(self, slots, h, c, p):
        y = fill(slots[0], 7.0)
        return (y,), y, c
'''


@needs_tree
def test_an_edited_kernel_is_not_served_stale(checkout):
    """The edit is in a file that the kernel only imports, which Numba's own check does not see."""
    cache = str(checkout.parent / "cache")
    before = json.loads(run_python(SMALL, timeout=300, root=checkout, FASTRNN_CACHE_DIR=cache))
    again = json.loads(run_python(SMALL, timeout=300, root=checkout, FASTRNN_CACHE_DIR=cache))
    assert before == again and before != [[[7.0] * 4]] * 2
    edit(checkout / "kernels" / "cpu" / "cell_math.py", EDITED_MATH)
    after = json.loads(run_python(SMALL, timeout=300, root=checkout, FASTRNN_CACHE_DIR=cache))
    assert after == [[[7.0] * 4]] * 2


def files(folder):
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    assert found
    return found


DAMAGE = {
    "truncated": lambda data: data[: len(data) // 2],
    "with one bit turned": lambda data: data[:-100] + bytes([data[-100] ^ 4]) + data[-99:],
    "empty": lambda data: b"",
    "another program's": lambda data: b"\x80\x04K\x01." * 1000,
}


def pack(before="", **environment):
    """Run PACKING: whether the kernel had to be compiled. It is right, or the process would not end well."""
    printed = run_python(before + PACKING, timeout=300, **environment)
    assert printed in ("right, compiled\n", "right, from the cache\n"), printed
    return "compiled" in printed


NOBODY_KNOWS = """
import pwd
def unknown(_):
    raise KeyError("a user that the system does not know, as in many containers")
pwd.getpwuid = unknown
"""


@pytest.mark.parametrize("where", ["none", "below a file", "home cannot be written", "no home"])
def test_without_a_cache_folder(tmp_path, where):
    """No folder, or one that can't be made (for root too): every process compiles, and otherwise it is the same."""
    (tmp_path / "file").write_text("")
    below = str(tmp_path / "file" / "cache")
    by_home = {"FASTRNN_CACHE_DIR": None, "XDG_CACHE_HOME": None}
    environment = {"none": {"FASTRNN_CACHE_DIR": ""}, "below a file": {"FASTRNN_CACHE_DIR": below}}
    environment |= {"home cannot be written": by_home | {"HOME": below}, "no home": by_home | {"HOME": None}}
    if where == "no home" and os.name != "posix":
        pytest.skip("asks the system's list of users")
    for _ in range(2):
        assert pack(NOBODY_KNOWS if where == "no home" else "", **environment[where])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


def test_processes_that_compile_the_same_at_once(tmp_path):
    """They write the same file; all are right, and whoever comes later finds it whole."""
    with ThreadPoolExecutor(4) as pool:
        compiled = list(pool.map(lambda _: pack(FASTRNN_CACHE_DIR=str(tmp_path)), range(4)))
    assert any(compiled)
    assert not pack(FASTRNN_CACHE_DIR=str(tmp_path))
    assert not [path for path in files(tmp_path) if len(path.suffix) > 32], "an unfinished file"


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_files_are_made_anew(damage, tmp_path):
    cache = {"FASTRNN_CACHE_DIR": str(tmp_path)}
    assert pack(**cache) and not pack(**cache)
    for path in files(tmp_path):
        path.write_bytes(DAMAGE[damage](path.read_bytes()))
    assert pack(**cache) and not pack(**cache)


def test_folders_in_the_place_of_files(tmp_path):
    """They can be neither read nor replaced."""
    cache = {"FASTRNN_CACHE_DIR": str(tmp_path)}
    assert pack(**cache)
    for path in files(tmp_path):
        path.unlink()
        (path / "within").mkdir(parents=True)
    assert pack(**cache) and pack(**cache)


def test_another_version_of_numba_compiles_anew(tmp_path):
    cache = {"FASTRNN_CACHE_DIR": str(tmp_path)}
    assert pack(**cache)
    assert pack("import numba; numba.__version__ = '999.0'", **cache)
    assert not pack(**cache)


@pytest.mark.skipif(os.name != "posix", reason="limits the size of files")
def test_a_full_disk(tmp_path):
    """Files can be made, but not written: kernels work, and nothing half-written stays."""
    limited = """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
"""
    for _ in range(2):
        assert pack(limited, FASTRNN_CACHE_DIR=str(tmp_path))
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_read_only_cache_is_still_read(tmp_path):
    """A folder filled by someone else and not writable by us, as in a container image."""
    if os.geteuid() == 0:
        pytest.skip(reason="root may write everywhere")
    run_python(SMALL, timeout=300, FASTRNN_CACHE_DIR=str(tmp_path))
    folders = [path for path in [tmp_path, *tmp_path.rglob("*")] if path.is_dir()]
    for folder in folders:
        folder.chmod(0o555)
    try:
        run_python(SMALL, timeout=300, FASTRNN_CACHE_DIR=str(tmp_path))
    finally:
        for folder in folders:
            folder.chmod(0o755)
