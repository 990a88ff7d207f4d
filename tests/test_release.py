"""The wheel and the sdist: what is in them, and that they work away from the tree. Built offline, in a copy of it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib.metadata import requires
from pathlib import Path

import pytest

from tests.processes import ROOT, needs_tree, readme, run_python

pytestmark = needs_tree
pytest.importorskip("setuptools", minversion="70.1", reason="older ones build a wheel only with another package")

BUILD = "import sys; from setuptools import build_meta; print(getattr(build_meta, 'build_' + sys.argv[1])(sys.argv[2]))"
FOLDERS = ("fastrnn", "kernels", "tests", "bench")
FILES = ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "CHANGELOG.md")
CACHES = shutil.ignore_patterns("__pycache__", "results", "*.egg-info")


def build(kind: str, tree: Path, target: Path) -> Path:
    """A wheel or an sdist by setuptools as it is installed: what ``pip wheel --no-build-isolation`` calls."""
    done = subprocess.run(
        [sys.executable, "-c", BUILD, kind, str(target)], cwd=tree, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return target / done.stdout.split()[-1]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Wheel and sdist of the tree, and the wheel of the unpacked sdist."""
    folder = tmp_path_factory.mktemp("release")
    tree = folder / "tree"
    for name in FOLDERS:
        shutil.copytree(ROOT / name, tree / name, ignore=CACHES)
    for name in FILES:
        shutil.copy(ROOT / name, tree)
    (folder / "again").mkdir()
    sdist = build("sdist", tree, folder)
    with tarfile.open(sdist) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    (unpacked,) = (folder / "unpacked").iterdir()
    return build("wheel", tree, folder), sdist, build("wheel", unpacked, folder / "again")


def sources(folder: str, *kinds: str) -> set[str]:
    paths = (path for kind in kinds for path in (ROOT / folder).rglob(f"*{kind}"))
    return {path.relative_to(ROOT).as_posix() for path in paths}


def test_the_wheel_holds_the_package_and_nothing_else(built):
    wheel, _, again = built
    assert wheel.name.endswith("-py3-none-any.whl"), "pure Python: one wheel for all systems"
    names = set(zipfile.ZipFile(wheel).namelist())
    installed = {name for name in names if ".dist-info/" not in name}
    kernels = {f"fastrnn/{name}" for name in sources("kernels", ".py", ".cu", ".cuh")}
    assert any(name.endswith(".cuh") for name in kernels)
    assert installed == sources("fastrnn", ".py") | {"fastrnn/py.typed"} | kernels
    assert any(name.endswith("/LICENSE") for name in names - installed)
    assert set(zipfile.ZipFile(again).namelist()) == names, "the sdist builds the same wheel"


def test_the_sdist_holds_what_tests_need(built):
    with tarfile.open(built[1]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = sources("tests", ".py", ".txt", ".cpp", ".h") | sources("bench", ".py") | set(FILES)
    assert wanted - names == set()


def test_the_wheel_works_away_from_the_tree(built, tmp_path):
    """Installed as pip installs it, beside the tests alone: a few of them, which find the installed package."""
    site = tmp_path / "site"
    shutil.copytree(ROOT / "tests", site / "tests", ignore=CACHES)
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", str(site), str(built[0])]
    subprocess.run(pip, check=True, capture_output=True, timeout=120)
    script = """
import sys
from pathlib import Path
import pytest
options = ["-q", "-p", "no:cacheprovider", "-k", "promised or lstm-float32"]
status = pytest.main([*options, "tests/test_api.py", "tests/test_stream.py"])
import fastrnn.kernels
assert status == 0 and Path(fastrnn.__file__).is_relative_to(Path.cwd()), (status, fastrnn.__file__)
assert Path(fastrnn.kernels.__file__).parent == Path(fastrnn.__file__).parent / "kernels"
"""
    print(run_python(script, timeout=240, root=site))


def test_a_plain_install_brings_what_the_readme_lists(built):
    """Nothing but NumPy, Numba and what Numba needs: three packages, whose licences a user can look up there."""
    wheel = zipfile.ZipFile(built[0])
    (metadata,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    needed = [line for line in wheel.read(metadata).decode().splitlines() if line.startswith("Requires-Dist: ")]
    plain = {re.split(r"[^\w-]", line.split()[1])[0] for line in needed if "extra ==" not in line}
    assert plain == {"numba", "numpy"}
    brought = {
        re.split(r"[^\w-]", line)[0] for name in plain for line in requires(name) or () if "extra ==" not in line
    }
    for name in plain | brought:
        assert re.search(rf"A plain install brings .*{name}\s+\(BSD", readme(), re.S), name
