"""cuBLAS, NVRTC, and what the launch layer asks the driver's own library."""

from __future__ import annotations

import ctypes
import functools
import itertools
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tests.cuda import emulator
from tests.cuda.stand_in import device, functions, memory

try:
    from ml_dtypes import bfloat16
except ImportError:
    bfloat16 = None

# ---- cupy_backends.cuda.libs.cublas ----

CUBLAS_OP_N, CUBLAS_OP_T, CUBLAS_OP_C = 0, 1, 2
CUBLAS_GEMM_DEFAULT = -1
CUBLAS_COMPUTE_32F, CUBLAS_COMPUTE_32F_PEDANTIC = 68, 69
CUBLAS_COMPUTE_64F, CUBLAS_COMPUTE_64F_PEDANTIC = 70, 71
CUBLAS_COMPUTE_32F_FAST_TF32 = 77
CUBLAS_DEFAULT_MATH, CUBLAS_TENSOR_OP_MATH = 0, 1
_R_32F, _R_64F, _R_16F, _R_16BF = 0, 1, 2, 14
_TYPES = {_R_32F: np.float32, _R_64F: np.float64, _R_16F: np.float16, _R_16BF: bfloat16}
# Types of A and of C by what sums are made in; B is as A.
_EXACT = {(_R_32F, _R_32F), (_R_16F, _R_16F), (_R_16F, _R_32F), (_R_16BF, _R_16BF), (_R_16BF, _R_32F)}
_SUPPORTED = {68: _EXACT, 69: _EXACT, 70: {(_R_64F, _R_64F)}, 71: {(_R_64F, _R_64F)}, 77: {(_R_32F, _R_32F)}}
_HANDLES = {0: 0xB1A50000, 1: 0xB1A50001, 2: 0xB1A50002, 3: 0xB1A50003}
_math_modes: dict[int, int] = {}


class CUBLASError(RuntimeError):
    """As cupy_backends.cuda.libs.cublas.CUBLASError."""

    def __init__(self, status: int):
        self.status = status
        super().__init__({7: "CUBLAS_STATUS_INVALID_VALUE", 15: "CUBLAS_STATUS_NOT_SUPPORTED"}.get(status, str(status)))


def get_cublas_handle() -> int:
    return _HANDLES[device.getDevice()]


def setStream(handle: int, stream: int) -> None:
    if stream in device.world.captures:
        raise NotImplementedError("calling cuBLAS API during stream capture is currently unsupported")


def getStream(handle: int) -> int:
    return device.current_stream().ptr


def setMathMode(handle: int, mode: int) -> None:
    _math_modes[handle] = mode


def getMathMode(handle: int) -> int:
    return _math_modes.get(handle, CUBLAS_DEFAULT_MATH)


def gemmEx(
    handle: int, transa: int, transb: int, m: int, n: int, k: int, alpha: int, A: int, Atype: int, lda: int,
    B: int, Btype: int, ldb: int, beta: int, C: int, Ctype: int, ldc: int, computeType: int, algo: int,
) -> None:  # fmt: skip
    """C = alpha op(A) op(B) + beta C, by columns, on the current stream. All are integers, addresses too."""
    setStream(handle, device.current_stream().ptr)
    status = _product(
        handle, transa, transb, m, n, k, alpha, A, Atype, lda, B, Btype, ldb, beta, C, Ctype, ldc, computeType
    )
    if status:
        raise CUBLASError(status)


def _product(
    handle: int, transa: int, transb: int, m: int, n: int, k: int, alpha: int, A: int, Atype: int, lda: int,
    B: int, Btype: int, ldb: int, beta: int, C: int, Ctype: int, ldc: int, computeType: int, stream: Any = None,
) -> int:  # fmt: skip
    """gemmEx, recorded where the stream captures; returns cuBLAS's status."""
    if handle != get_cublas_handle():
        return 7
    if Atype != Btype or (Atype, Ctype) not in _SUPPORTED.get(computeType, ()):
        return 15
    if min(m, n, k) < 0 or lda < max(1, k if transa else m) or ldb < max(1, n if transb else k) or ldc < max(1, m):
        return 7
    if not (m and n):
        return 0
    sums = np.float64 if computeType in (70, 71) else np.float32
    factor, kept = (np.frombuffer(memory.at(address, sums().itemsize), sums)[0] for address in (alpha, beta))
    round_to = _tf32 if computeType == CUBLAS_COMPUTE_32F_FAST_TF32 else _unchanged
    a = _matrix(A, Atype, k if transa else m, m if transa else k, lda)
    b = _matrix(B, Btype, n if transb else k, k if transb else n, ldb)
    c = _matrix(C, Ctype, m, n, ldc)

    def run() -> None:
        left, right = (round_to(x.astype(sums)) for x in (a.T if transa else a, b.T if transb else b))
        product = factor * (left @ right)
        c[...] = product + kept * c.astype(sums) if kept else product  # beta 0: C is not read

    shape = {"m": m, "n": n, "k": k, "compute": computeType}
    device.perform(run, "product", "gemmEx", stream, **shape)
    return 0


def _matrix(address: int, kind: int, rows: int, columns: int, stride: int) -> np.ndarray:
    """Columns of a matrix on the device; an address outside any array is an error of the caller's."""
    dtype = np.dtype(_TYPES[kind])
    if not (rows and columns):
        return np.zeros((rows, columns), dtype)
    size = ((columns - 1) * stride + rows) * dtype.itemsize
    if address % dtype.itemsize or not memory.is_allocated(address, size):
        raise AssertionError(f"gemmEx: a matrix {rows} x {columns}, stride {stride}, of {dtype} lies outside any array")
    return np.ndarray((rows, columns), dtype, memory.at(address, size), 0, (dtype.itemsize, stride * dtype.itemsize))


def _unchanged(x: np.ndarray) -> np.ndarray:
    return x


def _tf32(x: np.ndarray) -> np.ndarray:
    """Rounded to 10 bits after the point, ties away from zero."""
    bits = np.ascontiguousarray(x).view(np.uint32)
    rounded = ((bits + np.uint32(0x1000)) & np.uint32(0xFFFFE000)).view(np.float32)
    return np.where(np.isfinite(x), rounded, x).astype(np.float32)


# ---- cupy_backends.cuda.libs.nvrtc ----


class NVRTCError(RuntimeError):
    """As cupy_backends.cuda.libs.nvrtc.NVRTCError."""

    def __init__(self, status: int):
        self.status = status
        super().__init__(f"NVRTC_ERROR_COMPILATION ({status})" if status == 6 else f"NVRTC_ERROR ({status})")


class _Program:
    def __init__(self, source: str):
        self.source, self.cubin, self.log, self.names = source, b"", "", list[str]()


_programs: dict[int, _Program] = {}
_numbers = itertools.count(1)


def getVersion() -> tuple[int, int]:
    return 13, 99  # no NVRTC has it: a disk cache keeps this compiler's code apart


def getSupportedArchs() -> tuple[int, ...]:
    return 75, 80, 86, 87, 88, 89, 90, 100, 103, 110, 120, 121


def createProgram(src: str, name: str, headers: Sequence[str], include_names: Sequence[str]) -> int:
    number = next(_numbers)
    _programs[number] = _Program(src)
    return number


def destroyProgram(prog: int) -> None:
    del _programs[prog]


def addNameExpression(prog: int, name: str) -> None:
    _programs[prog].names.append(name)


def getLoweredName(prog: int, name: str) -> str:
    if name not in _programs[prog].names or not name.isidentifier():
        raise NVRTCError(10)  # kernels are extern "C": other names have none to lower to
    return name


def compileProgram(prog: int, options: Sequence[str]) -> None:
    program = _programs[prog]
    arch = [option.partition("=")[2] for option in options if re.match("-arch=|--gpu-architecture=", option)]
    if len(arch) != 1 or int(re.sub(r"\D", "", arch[0])) not in getSupportedArchs():
        program.log = f"nvrtc: error: invalid value for --gpu-architecture (-arch): {arch}"
        raise NVRTCError(5)
    defines = [re.sub("^(-D|--define-macro=)", "", o) for o in options if o.startswith(("-D", "--define-macro="))]
    try:
        emulator.build(program.source, device.world.sanitizer, defines)
    except emulator.EmulatorError as error:
        program.log = str(error)
        raise NVRTCError(6) from None
    program.cubin = functions.encoded(program.source, arch[0], defines)


def getCUBIN(prog: int) -> bytes:
    return _programs[prog].cubin


def getProgramLog(prog: int) -> str:
    return _programs[prog].log + "\0"


# ---- libraries that are opened by name ----


class _Driver:
    """libcuda, as far as it is asked what is there."""

    def cuInit(self, flags: int) -> int:
        return 0

    def cuDeviceGetCount(self, count: Any) -> int:
        count._obj.value = device.getDeviceCount()
        return 0

    def cuDriverGetVersion(self, version: Any) -> int:
        version._obj.value = device.driverGetVersion()
        return 0

    def cuOccupancyMaxActiveClusters(self, count: Any, function: Any, launch: Any) -> int:
        blocks = functions.cluster_of(function.value)
        count._obj.value = device.MULTIPROCESSORS // blocks
        return 0

    def cuLaunchCooperativeKernel(self, function: Any, *sizes: Any) -> int:
        assert isinstance(function, ctypes.c_void_p) and isinstance(sizes[7], ctypes.c_void_p), "more than 32 bits"
        return 0 if functions.cluster_of(function.value) <= sizes[0] else 1


class _Blas:
    """libcublas itself, which has nothing against a stream that captures."""

    def __init__(self) -> None:
        self._stream: Any = device.Stream.null

        def set_stream(handle: int, stream: int) -> int:
            self._stream = _StreamAt(stream)
            return 0

        def gemm(*numbers: int) -> int:
            return _product(*numbers[:-1], stream=self._stream)

        self.cublasSetStream_v2 = _foreign(set_stream, addresses={0, 1})
        self.cublasGemmEx = _foreign(gemm, addresses={0, 6, 7, 10, 13, 14})


class _StreamAt:
    def __init__(self, ptr: int):
        self.ptr = ptr


def _foreign(function: Callable[..., int], addresses: set[int]) -> Callable[..., int]:
    """As a function of ctypes, whose argtypes may be set, and then wrap what it is given.

    ``addresses``: the arguments that must be wrapped somehow, as ctypes passes on 32 bits of a bare int.
    """

    @functools.wraps(function)
    def call(*arguments: Any) -> int:
        kinds = getattr(call, "argtypes", None)
        if kinds is not None:
            pairs = zip(kinds, arguments, strict=True)
            arguments = tuple(value if isinstance(value, kind) else kind(value) for kind, value in pairs)
        bare = [place for place in addresses if isinstance(arguments[place], int)]
        if bare:
            raise AssertionError(f"ctypes passes on 32 bits of a bare int: wrap arguments {bare} in c_void_p")
        return function(*map(_plain, arguments))

    return call


def _plain(value: Any) -> int:
    """The number that a C function receives."""
    if hasattr(value, "_obj"):  # by reference
        return ctypes.addressof(value._obj)
    return getattr(value, "value", value) or 0


class OpenedByName(ctypes.CDLL):
    """ctypes.CDLL that answers for NVIDIA's libraries, and opens all others."""

    def __new__(cls, name: Any = None, *args: Any, **kwargs: Any) -> Any:
        file = str(name).replace("\\", "/").rpartition("/")[2]
        if file.startswith(("libcuda.so", "nvcuda")):
            return _Driver()
        if file.startswith(("libcublas.so", "cublas64")):
            return _Blas()
        return super().__new__(cls)
