"""Sources, cache and loading with an invented NVRTC; every message that says why there is no GPU, once."""

from __future__ import annotations

import ctypes
import re
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType, SimpleNamespace

import pytest

from fastrnn.kernels.cuda import compiler, devices
from tests.processes import run_python

# -- one text ---------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Three files that include each other; some lines say where they stand."""
    files = {
        "base": '#pragma once\n// base:2\n#ifdef __CUDACC__\n#else\n#include "device_emulation.h"\n#endif\n// base:7',
        "middle": '#pragma once\n#include "base.cuh"\n// middle:3\n',
        "top": '// top:1\n#include "base.cuh"\n  #  include "middle.cuh"  // why\n// top:4\n',
    }
    for name, text in files.items():
        (tmp_path / f"{name}.cuh").write_text(text)
    monkeypatch.setattr(compiler, "_FOLDER", tmp_path)
    return tmp_path


def places(text):
    """For each comment in the form ``name:line``: what it says, and where ``#line`` puts it."""
    file, number, found = "", 0, []
    for line in text.splitlines():
        directive = re.fullmatch(r'#line (\d+) "([\w.]+)"', line)
        if directive:
            number, file = int(directive[1]), directive[2].removesuffix(".cuh")
            continue
        comment = re.search(r"// (\w+:\d+)", line)
        if comment:
            found.append((comment[1], f"{file}:{number}"))
        number += 1
    return found


def test_each_file_once_and_every_line_keeps_its_place(folder):
    found = places(compiler.flatten(["top", "middle"], "// instances:1"))
    assert [said for said, _ in found] == ["top:1", "base:2", "base:7", "middle:3", "top:4", "instances:1"]
    assert all(said == is_at for said, is_at in found), found


def test_only_our_own_includes_are_replaced(folder):
    text = compiler.flatten(["top"])
    assert "#pragma once" not in text
    assert re.findall("#.*include.*", text) == ['#include "device_emulation.h"']
    (folder / "top.cuh").write_text('#include "gone.cuh"')
    with pytest.raises(FileNotFoundError, match=r"gone\.cuh"):
        compiler.flatten(["top"])


def test_our_files_need_nothing_but_themselves():
    names = [path.stem for path in sorted(compiler._FOLDER.glob("*.cuh"))]
    assert "device" in names
    includes = set(re.findall("^ *# *include.*", compiler.flatten(names), re.M))
    assert includes == {'#include "device_emulation.h"'}


# -- compiling, and the cache ------------------------------------------------------------------------------------


class FakeNVRTC(ModuleType):
    """Compiles everything without the word "wrong" to bytes that tell what was compiled; CuPy's functions."""

    class NVRTCError(RuntimeError):
        pass

    def __init__(self, version=(13, 5)):
        super().__init__("nvrtc")
        self.version, self.compiled, self.programs = version, 0, {}

    def getVersion(self):
        return self.version

    def getSupportedArchs(self):
        return (75, 80, 86, 89, 90, 100, 120)

    def createProgram(self, source, name, headers, include_names):
        self.programs[len(self.programs) + 1] = [source]
        return len(self.programs)

    def compileProgram(self, program, options):
        time.sleep(0.01)  # long enough for another thread to come in
        self.compiled += 1
        self.programs[program] += options
        if "wrong" in self.programs[program][0]:
            raise self.NVRTCError("NVRTC_ERROR_COMPILATION (6)")

    def getCUBIN(self, program):
        return repr((self.programs[program], self.version)).encode() + b"\0\x7fELF\0"

    def getProgramLog(self, program):
        return "base.cuh(3): no good\n\0"

    def destroyProgram(self, program):
        self.programs[program] = None


@pytest.fixture
def nvrtc(monkeypatch, tmp_path):
    """An invented NVRTC, and a cache of its own."""
    fake = FakeNVRTC()
    monkeypatch.setattr(devices, "nvrtc", lambda: fake)
    monkeypatch.setenv("FASTRNN_CACHE_DIR", str(tmp_path / "cache"))
    return fake


def test_compile(nvrtc):
    code, log = compiler.compile("source", "sm_90", ["-DX=1"])
    assert eval(code.partition(b"\0")[0])[0] == ["source", "-arch=sm_90", "--std=c++17", "-DX=1"]
    assert log == "base.cuh(3): no good\n"
    with pytest.raises(compiler.CompileError, match=r"(?s)sm_75: NVRTC_ERROR_COMPILATION.*base\.cuh\(3\): no good"):
        compiler.compile("wrong", "sm_75")
    assert set(nvrtc.programs.values()) == {None}, "a program was not destroyed"


def test_the_cache_is_hit_by_the_same_and_by_nothing_else(nvrtc):
    variants = [("a", "sm_90"), ("b", "sm_90"), ("a", "sm_80"), ("a", "sm_90", ("-DX",)), ("a", "sm_90", ("-D", "X"))]
    first = [compiler.cubin(*variant) for variant in variants]
    nvrtc.version = (13, 6)
    first.append(compiler.cubin("a", "sm_90"))
    assert nvrtc.compiled == len(set(first)) == 6
    assert compiler.cubin("a", "sm_90") == first[-1]
    nvrtc.version = (13, 5)
    assert [compiler.cubin(*variant) for variant in variants] == first[:-1]
    assert nvrtc.compiled == 6
    assert compiler.cubin("a", "sm_90") == compiler.compile("a", "sm_90")


@pytest.mark.parametrize("damage", [lambda b: b"", lambda b: b[:-1], lambda b: b[:20], lambda b: b[:-3] + b"???"])
def test_a_damaged_file_is_compiled_anew_and_mended(nvrtc, tmp_path, damage):
    right = compiler.cubin("a", "sm_90")
    (file,) = (tmp_path / "cache" / "cuda").iterdir()
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    assert compiler.cubin("a", "sm_90") == right
    assert nvrtc.compiled == 2
    assert file.read_bytes() == whole


def test_a_file_that_cannot_be_read_or_replaced_is_no_error(nvrtc, tmp_path):
    right = compiler.cubin("a", "sm_90")
    (file,) = (tmp_path / "cache" / "cuda").iterdir()
    file.unlink()
    (file / "in the way").mkdir(parents=True)
    assert compiler.cubin("a", "sm_90") == right
    assert [path.name for path in file.parent.iterdir()] == [file.name], "something unfinished was left"


@pytest.mark.parametrize("where", ["", "file/below", "no home"])
def test_without_a_place_to_write(nvrtc, tmp_path, monkeypatch, where):
    (tmp_path / "file").write_text("")
    if where == "no home":
        monkeypatch.delenv("FASTRNN_CACHE_DIR")
        monkeypatch.setenv("HOME", str(tmp_path / "file"))
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    else:
        monkeypatch.setenv("FASTRNN_CACHE_DIR", where and str(tmp_path / where))
    assert compiler.cubin("a", "sm_90") == compiler.cubin("a", "sm_90")
    assert nvrtc.compiled == 2
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_writers_at_the_same_time(nvrtc, tmp_path):
    with ThreadPoolExecutor(8) as pool:
        results = set(pool.map(lambda i: compiler.cubin(f"{i % 4}", "sm_90"), range(200)))
    assert len(results) == 4
    assert len(list((tmp_path / "cache" / "cuda").iterdir())) == 4


# Of NVRTC 13.5 with a function that was not inlined after its kernel, and in the form of earlier versions.
LOG = """
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'spills' for 'sm_90'
ptxas info    : Function properties for spills
ptxas         .     1216 bytes stack frame, 1408 bytes spill stores, 1836 bytes spill loads
ptxas info    : Used 64 registers, used 0 barriers, 1216 bytes cumulative stack size
ptxas info    : Compile time = 117.108 ms
ptxas info    : Compiling entry function 'calls' for 'sm_90'
ptxas info    : Function properties for calls
ptxas         .     0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 10 registers, used 1 barriers, 1024 bytes smem, 360 bytes cmem[0]
ptxas info    : Compile time = 1.495 ms
ptxas info    : Function properties for _Z1gIfET_S0_
ptxas         .     8 bytes stack frame, 4 bytes spill stores, 4 bytes spill loads
ptxas info    : Compiling entry function 'older' for 'sm_75'
ptxas info    : Function properties for older
    16 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 255 registers, 49152 bytes smem, 376 bytes cmem[0]
"""


def test_resources_are_read_from_the_log():
    assert compiler.resources(LOG) == {
        "spills": compiler.Resources(registers=64, spill_stores=1408, spill_loads=1836, stack=1216, shared=0),
        "calls": compiler.Resources(registers=10, spill_stores=0, spill_loads=0, stack=0, shared=1024),
        "older": compiler.Resources(registers=255, spill_stores=0, spill_loads=0, stack=16, shared=49152),
    }
    assert compiler.resources("") == {}


# -- loading, with an invented CuPy -------------------------------------------------------------------------------


class LoadedModule:
    """Stands for ``cupy.cuda.function.Module``: its functions tell device, name and code."""

    loads: list[int] = []

    def load(self, code):
        self.device, self.code = Machine.current, code
        self.loads.append(self.device)

    def get_function(self, name):
        return [self.device, name, self.code]


class Machine:
    """A driver, CuPy and CUDA's libraries, with what a test takes away or makes too old."""

    current = 0

    def __init__(self, monkeypatch):
        self.driver = SimpleNamespace(cuInit=lambda flags: 0, cuDeviceGetCount=self.count, cuDriverGetVersion=self.cuda)
        self.devices, self.driver_cuda, self.cupy_cuda, self.capabilities = 2, 13000, 13020, ["90", "86"]
        self.nvrtc, self.cublas = FakeNVRTC(), ModuleType("cublas")
        self.cupy = ModuleType("cupy")
        self.cupy.__version__ = "14.2.0"
        self.cupy.cuda = SimpleNamespace(
            runtime=SimpleNamespace(getDevice=lambda: Machine.current, runtimeGetVersion=lambda: self.cupy_cuda),
            Device=lambda number: SimpleNamespace(compute_capability=self.capabilities[number]),
            function=SimpleNamespace(Module=LoadedModule),
        )
        self.monkeypatch = monkeypatch
        monkeypatch.setattr(ctypes, "CDLL", self.load_library)
        monkeypatch.setattr(Machine, "current", 0)
        monkeypatch.setitem(sys.modules, "cupy", self.cupy)
        libraries = ModuleType("cupy_backends.cuda.libs")
        libraries.__getattr__ = self.library
        for name in ("cupy_backends", "cupy_backends.cuda"):
            monkeypatch.setitem(sys.modules, name, ModuleType(name))
        monkeypatch.setitem(sys.modules, libraries.__name__, libraries)

    def load_library(self, name):
        assert name in ("libcuda.so.1", "nvcuda.dll")
        if self.driver is None:
            raise OSError(f"{name}: cannot open shared object file")
        return self.driver

    def count(self, reference):
        reference._obj.value = self.devices
        return 0

    def cuda(self, reference):
        reference._obj.value = self.driver_cuda
        return 0

    def library(self, name):
        """CuPy looks for a library when its binding is imported."""
        if name not in ("nvrtc", "cublas"):
            raise AttributeError(name)
        if getattr(self, name) is None:
            raise ImportError(f'Failure finding "lib{name}.so.13"\nin many places')
        return getattr(self, name)


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine that has all; nothing that was found out about it outlives the test."""
    monkeypatch.setenv("FASTRNN_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(compiler, "_modules", {})
    monkeypatch.setattr(LoadedModule, "loads", [])
    _forget()
    yield Machine(monkeypatch)
    _forget()


def _forget():
    devices.require.cache_clear()
    devices.architecture.cache_clear()


def test_a_module_is_compiled_and_loaded_once_for_each_device(machine):
    module = compiler.load("source", ["-DX"])
    assert compiler.load("source", ("-DX",)) is module
    assert compiler.load("source") is not module
    assert machine.nvrtc.compiled == 0, "compiled before it was asked for"
    with ThreadPoolExecutor(8) as pool:
        functions = list(pool.map(lambda _: module.functions["f"], range(64)))
    assert all(function is functions[0] for function in functions)
    assert functions[0][:2] == [0, "f"] and b"-arch=sm_90" in functions[0][2]
    Machine.current = 1
    assert module.functions["f"][:2] == [1, "f"] and b"-arch=sm_86" in module.functions["f"][2]
    Machine.current = 0
    assert module.functions["f"] is functions[0]
    assert LoadedModule.loads == [0, 1] and machine.nvrtc.compiled == 2


@pytest.mark.parametrize("capability, arch", [("75", "sm_75"), ("87", "sm_86"), ("103", "sm_100"), ("121", "sm_120")])
def test_a_card_gets_code_of_its_own_major_version_and_no_newer(machine, capability, arch):
    machine.capabilities[1] = capability
    assert devices.architecture(1) == arch


# -- why there is no GPU ------------------------------------------------------------------------------------------


def _no_driver(m):
    m.driver = None


def _driver_fails(m):
    m.driver.cuInit = lambda flags: 999


def _hidden(m):
    m.driver.cuInit = lambda flags: 100


def _no_device(m):
    m.devices = 0


def _ancient_driver(m):
    m.driver_cuda = 11080


def _no_cupy_13(m):
    sys.modules["cupy"] = None


def _no_cupy_12(m):
    sys.modules["cupy"] = None
    m.driver_cuda = 12040


def _broken_cupy(m):
    del sys.modules["cupy"]
    m.monkeypatch.setattr(sys, "meta_path", [SimpleNamespace(find_spec=_refuse), *sys.meta_path])


def _refuse(name, path=None, target=None):
    if name == "cupy":
        raise ImportError("\n=====\nFailed to import CuPy.\n=====", name="cupy._core")


def _old_cupy(m):
    m.cupy.__version__ = "13.6.0"


def _driver_behind_cupy(m):
    m.driver_cuda = 12090


def _driver_behind_nvrtc(m):
    m.driver_cuda, m.cupy_cuda = 12090, 12090


def _no_nvrtc(m):
    m.nvrtc = None


def _no_nvrtc_12(m):
    m.driver_cuda, m.cupy_cuda = 12090, 12090
    m.nvrtc.getVersion = _cannot_be_found


def _cannot_be_found():
    raise RuntimeError('Failure finding "libnvrtc.so.12"\nin many places')


def _no_cublas(m):
    m.cublas = None


def _old_card(m):
    m.capabilities[0] = "70"


def _new_card(m):
    m.capabilities[0] = "130"


CUDA13, CUDA12 = r'pip install "fastrnn\[cuda13\]"', r'pip install "fastrnn\[cuda12\]"'
REASONS = {
    _no_driver: r"no NVIDIA driver \(\S+ cannot be loaded\).* --gpus all",
    _driver_fails: r"driver does not start \(cuInit returns 999\).*nvidia-smi",
    _hidden: r"driver finds no device.*CUDA_VISIBLE_DEVICES",
    _no_device: r"driver finds no device.*CUDA_VISIBLE_DEVICES",
    _ancient_driver: rf"knows CUDA 11\.8, and CuPy needs 12.*Update the driver.*{CUDA13}",
    _no_cupy_13: rf"CuPy is not installed\. Install it: {CUDA13}$",
    _no_cupy_12: rf"CuPy is not installed\. Install it: {CUDA12}$",
    _broken_cupy: rf"CuPy cannot be imported \(Failed to import CuPy\.\)\. Install it anew: {CUDA13}$",
    _old_cupy: rf"CuPy 13\.6\.0 is too old, 14 is the least\. Update it: {CUDA13}$",
    _driver_behind_cupy: rf"driver knows CUDA 12\.9, too old .* CUDA 13\. Update the driver, or .*{CUDA12}$",
    _driver_behind_nvrtc: rf"driver knows CUDA 12\.9, too old .* CUDA 13\. Update the driver, or .*{CUDA12}$",
    _no_nvrtc: rf'NVRTC.* cannot be loaded \(Failure finding "libnvrtc.so.13"\).*{CUDA13}.*cublas\]==13\.\*"',
    _no_nvrtc_12: rf'NVRTC.* cannot be loaded \(Failure finding "libnvrtc.so.12"\).*{CUDA12}.*cublas\]==12\.\*"',
    _no_cublas: rf'cuBLAS cannot be loaded \(Failure finding "libcublas.so.13"\).*{CUDA13}.*cublas\]==13\.\*"',
    _old_card: r"device 0 has compute capability 7\.0, and 7\.5 is the least.*CUDA_VISIBLE_DEVICES",
    _new_card: rf"NVRTC 13\.5 does not know device 0 of compute capability 13\.0.*{CUDA13}$",
}


def test_a_machine_that_has_all_is_let_through(machine):
    assert devices.require() is machine.cupy
    machine.driver = None
    assert devices.require() is machine.cupy, "looked twice"
    with pytest.raises(devices.GPUUnavailable):
        _forget()
        devices.require()


@pytest.mark.parametrize("spoil", REASONS, ids=lambda spoil: spoil.__name__.strip("_"))
def test_what_is_missing_and_what_to_install(machine, spoil):
    spoil(machine)
    with pytest.raises(devices.GPUUnavailable, match=REASONS[spoil]) as caught:
        devices.require()
    assert str(caught.value).startswith('device "cuda" is not available: ')
    assert isinstance(caught.value, RuntimeError)


def test_importing_loads_neither_cupy_nor_numba():
    run_python("""
import sys
import fastrnn.kernels.cuda.compiler
heavy = [name for name in sys.modules if name.partition(".")[0] in ("cupy", "cupy_backends", "numba")]
assert not heavy, heavy
""")


# -- the real NVRTC, where it is installed ------------------------------------------------------------------------


def test_messages_name_the_file_and_line(folder, monkeypatch, tmp_path):
    try:
        devices.nvrtc()
    except devices.GPUUnavailable as reason:
        pytest.skip(reason=str(reason))
    (folder / "middle.cuh").write_text('#include "base.cuh"\n__device__ int f() {\n  return undeclared;\n}\n')
    with pytest.raises(compiler.CompileError, match=r"middle\.cuh\(3\): error.*undeclared"):
        compiler.compile(compiler.flatten(["top"]), "sm_90")
