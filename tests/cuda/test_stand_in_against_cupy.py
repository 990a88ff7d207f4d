"""The stand-in against the installed CuPy, in a process of its own: names, signatures, and what needs no GPU to ask.

CuPy lays out, views and refuses arrays without a driver, and prepares a launch before it looks for one. What it then
says it cannot do without one is left out of the comparison.
"""

from __future__ import annotations

import importlib.util
import inspect
import json
import re
import subprocess
import sys
import types
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tests.cuda import emulator, stand_in
from tests.processes import ROOT

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("cupy") is None, reason="CuPy is not installed: nothing to compare with"
    ),
    pytest.mark.skipif(bool(emulator.available()), reason=emulator.available() or "-"),
]

# ---- names and signatures ----

# CuPy's binding of cuBLAS loads only where cuBLAS does, hundreds of megabytes. For its names an empty one will do.
EMPTY_CUBLAS = r"""
import ctypes, importlib.util, re, subprocess, tempfile
try:
    import cupy_backends.cuda.libs.cublas
except ImportError:
    binding = importlib.util.find_spec("cupy_backends.cuda.libs.cublas").origin
    command = ["nm", "-D", "--undefined-only", binding]
    symbols = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    name, folder = re.search(r"@(libcublas\S+)", symbols)[1], tempfile.mkdtemp()
    with open(f"{folder}/map", "w") as versions:
        versions.write(name + " { global: *; };")
    source = "".join(f'extern "C" void {symbol}() {{}}' for symbol in sorted(set(re.findall(r"(cublas\w+)@", symbols))))
    options = ["-shared", "-fPIC", f"-Wl,-soname,{name}", f"-Wl,--version-script={folder}/map", "-x", "c++", "-"]
    subprocess.run(["g++", *options, "-o", f"{folder}/{name}"], input=source, text=True, check=True)
    ctypes.CDLL(f"{folder}/{name}", mode=ctypes.RTLD_GLOBAL)
"""
LOOK_UP = r"""
import importlib, inspect, json, sys
def looked_up(path):
    name, _, rest = path.partition(":")
    try:
        found = importlib.import_module(name)
        for part in rest.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        return {"error": str(error)}
    try:
        parameters = [
            [p.name, p.kind.name, None if p.default is p.empty else repr(p.default)]
            for p in inspect.signature(found).parameters.values()
        ]
    except (ValueError, TypeError):
        parameters = None
    slot = type(found).__name__ == "wrapper_descriptor"  # an operator, whose parameters have no names
    doc = (getattr(found, "__doc__", None) or "").strip().partition("\n")[0]
    return {"slot": slot, "parameters": parameters, "doc": doc}
print(json.dumps([looked_up(path) for path in json.load(sys.stdin)]))
"""
# Of Python's own, which every class has, those that CuPy's class defines are compared.
PYTHONS_OWN = {"__init__", "__new__", "__class__", "__getattribute__", "__hash__", "__repr__"}


def in_cupys_python(script: str, given: Any) -> Any:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        input=json.dumps(given), cwd=ROOT, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def public() -> Iterator[tuple[str, Any]]:
    """The stand-in's modules, their functions and classes, and the members of these."""
    for module_name, module in stand_in.modules().items():
        for name, value in vars(module).items():
            if name.startswith("_") or isinstance(value, types.ModuleType):
                continue
            yield f"{module_name}:{name}", value
            if inspect.isclass(value) and value.__module__.startswith(("tests.", "cupy")):
                for member, method in vars(value).items():
                    if not member.startswith("_") or (member.startswith("__") and callable(method)):
                        if member not in PYTHONS_OWN:
                            yield f"{module_name}:{name}.{member}", method


def parameters_of(value: Any) -> list[tuple[str, bool, str | None]]:
    """(name, whether by keyword only, default), as ``parsed`` has them."""
    return [
        (p.name, p.kind is p.KEYWORD_ONLY, None if p.default is p.empty else _default(repr(p.default)))
        for p in inspect.signature(value).parameters.values()
        if p.name != "self"
    ]


def parsed(found: dict[str, Any]) -> list[list[tuple[str, bool, str | None]]]:
    """Parameters by inspection, and as Cython writes them into docstrings: ``name(int a, b=None, *, c='C') -> int``."""
    readings = []
    if found["parameters"] is not None:
        readings.append(
            [(n, kind == "KEYWORD_ONLY", d and _default(d)) for n, kind, d in found["parameters"] if n != "self"]
        )
    signature = re.match(r"[\w.]+\((.*)\)(?: ->.*)?$", found["doc"])
    if signature:
        parameters, keyword_only = [], False
        for part in filter(None, (part.strip() for part in signature[1].replace("\\", "").split(","))):
            if part in ("*", "/"):
                keyword_only = keyword_only or part == "*"
                continue
            name, _, default = part.partition("=")
            name = name.split()[-1]
            if name != "self":
                parameters.append(
                    (name.lstrip("*"), keyword_only and name[0] != "*", _default(default) if default else None)
                )
            keyword_only = keyword_only or re.match(r"\*\w", name) is not None
        readings.append(parameters)
    return readings


def _default(text: str) -> str:
    return re.sub(r"<class '(\w+)'>", r"\1", text)


def test_names_and_signatures():
    ours = dict(public())
    theirs = dict(zip(ours, in_cupys_python(EMPTY_CUBLAS + LOOK_UP, list(ours)), strict=True))
    missing = [found["error"] for found in theirs.values() if "error" in found]
    assert not missing, "\n".join(missing)
    differences, compared = [], 0
    for path, value in ours.items():
        readings = parsed(theirs[path])
        own = not isinstance(value, type) or value.__module__.startswith(("tests.", "cupy"))
        if not callable(value) or not own or not readings or theirs[path]["slot"]:
            continue
        if path.removeprefix("cupy:") in stand_in.array_functions.UFUNCS or path.endswith("MemoryPointer.__add__"):
            continue
        compared += 1
        if parameters_of(value) not in readings:
            differences.append(f"{path}: ours {parameters_of(value)}, CuPy's {readings}")
    assert not differences, "\n".join(differences)
    assert compared > 100, compared


def test_constants():
    ours = {path: value for path, value in public() if isinstance(value, int) and not isinstance(value, bool)}
    script = EMPTY_CUBLAS + (
        "import importlib, json, sys\n"
        "pick = lambda path: int(getattr(importlib.import_module(path.partition(':')[0]), path.partition(':')[2]))\n"
        "print(json.dumps([pick(path) for path in json.load(sys.stdin)]))"
    )
    assert ours == dict(zip(ours, in_cupys_python(script, list(ours)), strict=True))
    assert len(ours) > 15


# ---- behaviour ----

# host is float32 (4, 6) on the host; a the same on the device, or over host memory where there is no device.
ARRAYS = """
a.shape; a.strides; a.ndim; a.size; a.itemsize; a.nbytes; a.dtype; len(a); a.data.ptr - a.data.mem.ptr; a[1:3, ::2]
a[1:3, ::2].strides; a[2:].data.ptr - a.data.ptr; a[::-1].data.ptr - a.data.ptr; a[::-1].strides; a[1, 2]; a[1]
a[None]; a[..., None, 1:]; a.T; a.T.strides; a.reshape(-1); a.reshape(2, 12); a.reshape((3, 8)); a.ravel()
a.view("u2"); a.view("f8"); a.swapaxes(0, 1); a.transpose(1, 0); a[None].squeeze(0); a.reshape(5, 5); a.data.device_id
a.device; repr(a.device); int(a.device); a.flags.c_contiguous; a.T.flags.f_contiguous; a[:, ::2].flags.c_contiguous
a.flags["C_CONTIGUOUS"]; a.flags.owndata; a[1:].flags.owndata; a.flags.writeable; a.ctypes; a.setflags
a.__array_interface__; a.strides.__class__; setattr(a, "strides", (4, 4)); setattr(a, "new", 1); a[1:].base is a
a[1:][1:].base is a; a.base; a.astype("f4", copy=False) is a; cupy.ascontiguousarray(a) is a
isinstance(a, np.ndarray); type(a).__module__; type(a).__name__; hash(a); {a}; memoryview(a); bool(a)
a.__array_priority__; np.asarray(a); np.array(a); np.ascontiguousarray(a); np.float32(a[0, 0]); np.shape(a)
np.ndim(a); np.size(a); host.__setitem__(0, a[0]); host.__setitem__(..., a); a.__setitem__(..., host)
a.__setitem__(0, host[0]); cupy.copyto(a, host); np.copyto(host, a); cupy.from_dlpack(host)
cupy.may_share_memory(a, a[1:]); cupy.get_array_module(a) is cupy; cupy.get_array_module(host) is np
cupy.asnumpy(host) is host; cupy.broadcast_to(a, (2, 4, 6)).strides; cupy.moveaxis(a, 0, 1).strides
cupy.expand_dims(a, 0); iter(a).__next__(); a[4]; a[0, 6]; cupy.float32 is np.float32; cupy.dtype is np.dtype
cupy.newaxis; a.nonsense; cupy.nonsense; a.data + 4 == 0; int(a.data) == a.data.ptr; a.view(np.dtype("bfloat16"))
a.view(np.dtype("bfloat16")).dtype.name; cupy.ndarray((2, 3), np.dtype("bfloat16"), a.data)
cupy.ndarray((6, 2), "f4", a.data, (4, 24)).strides; cupy.ndarray((2, 3), "f4", a.data + 8).data.ptr - a.data.ptr
cupy.ndarray((2, 3), "f4", a.data, order="F").strides; cupy.ndarray(5, "f4", a.data)
"""
REST = """
cupy.cuda.Device(0) == cupy.cuda.Device(0); cupy.cuda.Device(0) == 0; hash(cupy.cuda.Device(0))
cupy.cuda.Device(cupy.cuda.Device(0)).id; cupy.cuda.Graph(); cupy.cuda.Stream.null.ptr
cupy.cuda.Stream.null.device_id; cupy.cuda.Stream.null == cupy.cuda.Stream(null=True); hash(cupy.cuda.Stream.null)
cupy.cuda.Stream.null.begin_capture(); cupy.cuda.driver is sys.modules["cupy_backends.cuda.api.driver"]
cupy.cuda.runtime is sys.modules["cupy_backends.cuda.api.runtime"]
cupy.cuda.runtime.runtimeGetVersion() // 1000 in (12, 13); type(cupy.cuda.runtime.driverGetVersion())
issubclass(cupy.cuda.runtime.CUDARuntimeError, RuntimeError); cupy.cuda.runtime.CUDARuntimeError.__mro__[1]
cupy.cuda.driver.CUDADriverError.__mro__[1]; nvrtc.NVRTCError.__mro__[1]
cupy.cuda.runtime.CUDARuntimeError(900).status; cupy.cuda.Function is cupy.cuda.function.Function
cupy.cuda.nvrtc is nvrtc; cupy.cuda.Module().load("x"); cupy.cuda.Module().load(bytearray()); type(nvrtc.getVersion())
nvrtc.getVersion()[0] in (12, 13); type(nvrtc.getSupportedArchs()); 90 in nvrtc.getSupportedArchs()
type(nvrtc.createProgram("", "x.cu", (), ())); function([1], (1,), ()); function((1,), [1], ())
function((1,), (1,), (np.zeros(3),)); function((1,), (1,), (["x"],)); function((1,), (1,), None)
function((1,), (1,), (), nonsense=1); function(grid=(1,), block=(1,))
"""
# What people search for, and tests match.
WORDS = """
np.asarray(a); a.__setitem__(..., host); cupy.copyto(a, host); np.copyto(host, a); cupy.from_dlpack(host); bool(a)
a.nonsense; hash(a); cupy.cuda.Graph(); cupy.cuda.Stream.null.begin_capture(); cupy.cuda.Module().load("x")
cupy.cuda.Module().load(bytearray()); function([1], (1,), ()); function((1,), [1], ())
function((1,), (1,), (np.zeros(3),)); function((1,), (1,), None); function([1], (1,), (), 0, None, False)
function(grid=[1], block=(1,), args=(), shared_mem=0, stream=None, enable_cooperative_groups=True)
"""
# Prepares `function`, a Function that CuPy can prepare a launch of, without a driver; and `a`.
REAL = r"""
import json, sys, numpy as np, cupy
from cupy_backends.cuda.libs import nvrtc
host = np.arange(24, dtype=np.float32).reshape(4, 6)
if cupy.is_available():
    a = cupy.asarray(host)
else:
    memory = cupy.cuda.UnownedMemory(host.ctypes.data, host.nbytes, host, 0)
    a = cupy.ndarray((4, 6), np.float32, cupy.cuda.MemoryPointer(memory, 0))
function = cupy.cuda.function.Function.__new__(cupy.cuda.function.Function)
"""
OUTCOME = r"""
def outcome(expression, names):
    array = names["cupy"].ndarray
    try:
        value = eval(expression, names)
    except Exception as error:
        return f"raises {type(error).__name__}: {error}"
    if isinstance(value, array):
        return f"array {value.shape} {value.dtype} strides {value.strides}"
    if isinstance(value, np.ndarray):
        return f"host {value.shape} {value.dtype}"
    if isinstance(value, type):
        return value.__name__
    return f"{type(value).__name__} {value!r}"
"""
NO_DRIVER = ("cudaErrorInsufficientDriver", "cudaErrorNoDevice", "CUDA_ERROR_NOT_INITIALIZED", "CUDA_ERROR_NO_DEVICE")


def expressions(text: str) -> list[str]:
    return [part.strip() for line in text.strip().splitlines() for part in line.split("; ")]


def without_message(outcome: str) -> str:
    return re.sub("^(raises [^:]*):.*", r"\1", outcome, flags=re.S)


@pytest.mark.parametrize(
    ("text", "seen"),
    [(ARRAYS, without_message), (REST, without_message), (WORDS, str)],
    ids=["arrays", "the rest", "its very words"],
)
@pytest.mark.filterwarnings("ignore:__array__ implementation")
def test_behaviour(text, seen):
    asked = expressions(text)
    script = REAL + OUTCOME + "print(json.dumps([outcome(e, globals()) for e in json.load(sys.stdin)]))"
    theirs = in_cupys_python(script, asked)
    names: dict[str, Any] = {"np": np, "sys": sys}
    exec(OUTCOME, names)
    with stand_in.installed() as cupy:
        from cupy_backends.cuda.libs import nvrtc

        host = np.arange(24, dtype=np.float32).reshape(4, 6)
        module = cupy.cuda.Module()
        source = '#include "device_emulation.h"\nstruct A { int n; };\nKERNEL(k, 32, A) {}\n'
        module._library, module._device = emulator.build(source), 0
        names |= {"cupy": cupy, "nvrtc": nvrtc, "host": host, "a": cupy.asarray(host)}
        names["function"] = module.get_function("k")
        ours = [names["outcome"](expression, names) for expression in asked]
        del names["a"]
    compared = [
        (expression, seen(mine), seen(real))
        for expression, mine, real in zip(asked, ours, theirs, strict=True)
        if not any(words in real for words in NO_DRIVER)
    ]
    differences = [f"{expression}: ours {mine}, CuPy's {real}" for expression, mine, real in compared if mine != real]
    assert not differences, "\n".join(differences)
    assert len(compared) > 0.7 * len(asked), len(compared)
