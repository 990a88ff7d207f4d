"""The stand-in for CuPy: it says what CuPy says, and refuses what CuPy or a GPU would refuse."""

from __future__ import annotations

import copy
import ctypes
import pickle
import sys
import threading

import numpy as np
import pytest

from tests.cuda import emulator, stand_in
from tests.processes import kernels_folder

needs_compiler = pytest.mark.skipif(bool(emulator.available()), reason=emulator.available() or "-")

ARGUMENTS = np.dtype([("data", np.uint64), ("value", np.float32), ("n", np.int32)], align=True)
KERNELS = """
struct Arguments { float* data; float value; int n; };
KERNEL(add, 256, Arguments) {
    const int i = int(blockIdx.x * blockDim.x + threadIdx.x);
    if (i < a.n) a.data[i] += a.value;
}
KERNEL(add_to_one, 64, Arguments) { a.data[0] += a.value; }
KERNEL(through_shared_memory, 64, Arguments) {
    SHARED_MEMORY(float, shared);
    shared[threadIdx.x + 20000] = a.value;
    __syncthreads();
    if (int(threadIdx.x) < a.n) a.data[threadIdx.x] = shared[20000 + a.n - 1 - int(threadIdx.x)];
}
"""
SOURCE = (kernels_folder() / "cuda/device.cuh").read_text() + KERNELS


def compiled(source=SOURCE, options=("-arch=sm_90",)) -> bytes:
    from cupy_backends.cuda.libs import nvrtc

    program = nvrtc.createProgram(source, "kernels.cu", (), ())
    try:
        nvrtc.compileProgram(program, options)
        return nvrtc.getCUBIN(program)
    finally:
        nvrtc.destroyProgram(program)


def kernel(cupy, name="add"):
    module = cupy.cuda.function.Module()
    module.load(compiled())
    return module.get_function(name)


def arguments(array, value=1.0, n=None):
    block = np.zeros((), ARGUMENTS)
    block["data"], block["value"], block["n"] = array.data.ptr, value, array.size if n is None else n
    return block


# ---- arrays ----


def test_an_array_goes_to_the_device_and_back(cupy):
    host = np.arange(12, dtype=np.float32).reshape(3, 4)
    array = cupy.asarray(host)
    assert type(array).__module__ == "cupy" and not isinstance(array, np.ndarray)
    assert array.data.ptr % 512 == 0 and array[1:].data.ptr == array.data.ptr + 16
    assert array.device == cupy.cuda.Device(0) and array.device.id == 0
    np.testing.assert_array_equal(array.get(), host)
    np.testing.assert_array_equal(cupy.asnumpy(array[:, ::2].T), host[:, ::2].T)
    host[:] = 0
    assert array.get()[2, 3] == 11
    assert cupy.asarray(array) is array and cupy.array(array) is not array
    assert array[0, 1].shape == () and float(array[0, 1]) == 1
    for copied in (copy.deepcopy(array), copy.copy(array), pickle.loads(pickle.dumps(array))):
        assert copied.data.ptr != array.data.ptr
        np.testing.assert_array_equal(copied.get(), array.get())


def test_fresh_and_freed_memory_is_nan(cupy):
    array = cupy.empty((5, 3), np.float32)
    assert np.isnan(array.get()).all()
    array.fill(1)
    address = array.data.ptr
    freed = np.frombuffer((ctypes.c_ubyte * 60).from_address(address), np.float32)
    assert (freed == 1).all()
    del array
    assert np.isnan(freed).all()
    again = cupy.empty(15, np.float32)
    assert again.data.ptr == address
    stream = cupy.cuda.Stream(non_blocking=True)
    del again
    with stream:
        assert cupy.empty(15, np.float32).data.ptr != address


def test_arithmetic_and_indices(cupy):
    rng = np.random.default_rng(0)
    host = rng.standard_normal((4, 3, 5)).astype(np.float32)
    array, (t, b) = cupy.asarray(host), (np.array([0, 2, 3]), np.array([2, 2, 0]))
    times, entries = cupy.asarray(t), cupy.asarray(b)
    np.testing.assert_array_equal(array[times, entries].get(), host[t, b])
    array[times, entries] += cupy.ones((3, 5), np.float32)
    array[times[1:], entries[1:]] = array[times[:2], entries[:2]] * 2
    host[t, b] += 1
    host[t[1:], b[1:]] = host[t[:2], b[:2]] * 2
    np.testing.assert_array_equal(array.get(), host)
    np.testing.assert_array_equal((1 - array / 2).get(), 1 - host / 2)
    np.testing.assert_array_equal((array > 0).get(), host > 0)
    np.testing.assert_array_equal(array.sum(axis=1).get(), host.sum(axis=1))
    np.testing.assert_array_equal(np.tanh(array).get(), np.tanh(host))
    np.testing.assert_array_equal(np.concatenate([array, array], axis=2).get(), np.concatenate([host, host], axis=2))
    np.testing.assert_array_equal(cupy.where(array > 0, array, 0).get(), np.where(host > 0, host, 0))
    cupy.copyto(array[1:], array[:1])
    np.testing.assert_array_equal(array.get()[3], host[0])
    kept = array
    kept *= 0
    assert kept is array and not array.get().any()
    assert (cupy.full((2,), 3, np.int32).get() == 3).all() and cupy.arange(3).get().tolist() == [0, 1, 2]


def test_bfloat16(cupy):
    dtypes = pytest.importorskip("ml_dtypes", reason="bfloat16 needs ml_dtypes")
    array = cupy.asarray(np.array([1.0, 1.00390625, 3.14159], np.float32)).astype(dtypes.bfloat16)
    assert array.dtype.name == "bfloat16" and array.itemsize == 2
    assert array.view(np.uint16).get().tolist() == [0x3F80, 0x3F80, 0x4049]
    assert (array + array).dtype == array.dtype


def test_numpy_and_cupy_do_not_mix(cupy):
    array, host = cupy.ones((2, 2), np.float32), np.ones((2, 2), np.float32)
    for refused in (
        lambda: array + host,
        lambda: host * array,
        lambda: np.asarray(array),
        lambda: np.concatenate([array, host]),
        lambda: cupy.concatenate([array, host]),
        lambda: host.__setitem__(..., array),
        lambda: memoryview(array),
        lambda: {array: 1},
        lambda: cupy.from_dlpack(host),
    ):
        with pytest.raises(TypeError):
            refused()
    for refused in (lambda: array.__setitem__(..., host), lambda: cupy.copyto(array, host)):
        with pytest.raises(ValueError, match="non-scalar"):
            refused()
    with pytest.raises(AttributeError):
        array.ctypes  # noqa: B018


def test_dlpack_shares_memory(cupy):
    array = cupy.zeros((2, 3), np.float32)
    seen = cupy.from_dlpack(stand_in.ForeignArray(array))
    seen += 1
    assert (array.get() == 1).all() and seen.data.ptr == array.data.ptr
    assert array.__dlpack_device__() == (2, 0)


def test_devices(cupy):
    with cupy.cuda.Device(1):
        there = cupy.ones(3)
        assert there.device.id == 1 == cupy.cuda.runtime.getDevice()
    assert cupy.cuda.runtime.getDevice() == 0
    with pytest.raises(ValueError, match="Array device must be same as the current device"):
        there + 1
    with pytest.raises(cupy.cuda.runtime.CUDARuntimeError, match="cudaErrorInvalidDevice"):
        cupy.cuda.Device(2).use()
    assert cupy.cuda.Device(1).compute_capability == "90"
    assert cupy.cuda.Device().attributes["MultiProcessorCount"] == 132
    seen = []
    with cupy.cuda.Device(1):
        thread = threading.Thread(target=lambda: seen.append(cupy.cuda.runtime.getDevice()))
        thread.start()
        thread.join()
    assert seen == [0]  # each thread has its own


def test_writes_beside_an_array_are_found():
    with pytest.raises(AssertionError, match="beside an array of 12 bytes, the first at offset 12"):
        with stand_in.installed() as cupy:
            array = cupy.zeros(3, np.float32)
            ctypes.c_float.from_address(array.data.ptr + 12).value = 1.0
            del array
    with pytest.raises(AssertionError, match="beside an array of 12 bytes, the first at offset -4"):
        with stand_in.installed() as cupy:
            kept = cupy.zeros(3, np.float32)
            ctypes.c_float.from_address(kept.data.ptr - 4).value = 1.0


# ---- kernels ----


@needs_compiler
def test_a_kernel_runs(cupy):
    array = cupy.zeros(300, np.float32)
    block = arguments(array, 2.5)
    with stand_in.watch() as calls:
        kernel(cupy)((2,), (256,), (block,))
        kernel(cupy)((2,), (256,), [block[()]], 0, cupy.cuda.get_current_stream())
    assert (array.get() == 5).all()
    assert [(call.kind, call.name, call.stream) for call in calls] == [("launch", "add", 0)] * 2


@needs_compiler
def test_launches_that_a_gpu_refuses(cupy):
    function, driver = kernel(cupy), cupy.cuda.driver
    array = cupy.zeros(4, np.float32)
    block = (arguments(array),)
    for refused, error, message in (
        (lambda: function((1,), (257,), block), driver.CUDADriverError, "INVALID_VALUE.*256 threads"),
        (lambda: function((1, 65536), (32,), block), driver.CUDADriverError, "a grid of"),
        (lambda: function((1,), (32,), block, 49153), driver.CUDADriverError, "funcSetAttribute allows 49152"),
        (
            lambda: function((133,), (32,), block, enable_cooperative_groups=True),
            driver.CUDADriverError,
            "COOPERATIVE_LAUNCH_TOO_LARGE",
        ),
        (lambda: function((0,), (32,), block), ValueError, "CuPy would take 1 for 0"),
        (lambda: function([1], (32,), block), TypeError, "expected tuple"),
        (lambda: function((1,), (32,), (np.zeros(3),)), TypeError, "size one can be passed by value"),
        (lambda: function((1,), (32,), (array,)), TypeError, "one structure"),
        (lambda: function((1,), (32,), (np.zeros((), "u8,u8,u8"),)), emulator.EmulatorError, "arguments of 24 bytes"),
        (lambda: kernel(cupy, "sub"), driver.CUDADriverError, "NOT_FOUND"),
        (lambda: driver.funcSetAttribute(function.ptr, 8, 232449), driver.CUDADriverError, "INVALID_VALUE"),
        (lambda: driver.funcSetAttribute(function.ptr, 0, 5), driver.CUDADriverError, "cannot be set"),
        (lambda: driver.funcGetAttribute(0, 7), driver.CUDADriverError, "INVALID_HANDLE"),
    ):
        with pytest.raises(error, match=message):
            refused()
    assert not array.get().any()
    assert driver.funcGetAttribute(0, function.ptr) == 256
    with cupy.cuda.Device(1), pytest.raises(driver.CUDADriverError, match="INVALID_HANDLE"):
        function((1,), (32,), block)


@needs_compiler
def test_more_shared_memory_once_it_is_allowed(cupy):
    function, array = kernel(cupy, "through_shared_memory"), cupy.zeros(64, np.float32)
    cupy.cuda.driver.funcSetAttribute(function.ptr, 8, 81000)
    function((1,), (64,), (arguments(array, 3.0),), 81000)
    assert (array.get() == 3).all()


@needs_compiler
def test_nvrtc_says_what_is_wrong(cupy):
    from cupy_backends.cuda.libs import nvrtc

    with pytest.raises(nvrtc.NVRTCError, match=r"INVALID_OPTION|\(5\)"):
        compiled(options=("-arch=sm_35",))
    program = nvrtc.createProgram(SOURCE + "nonsense", "kernels.cu", (), ())
    with pytest.raises(nvrtc.NVRTCError, match="COMPILATION"):
        nvrtc.compileProgram(program, ("-arch=sm_90",))
    assert "nonsense" in nvrtc.getProgramLog(program) and nvrtc.getProgramLog(program).endswith("\0")
    nvrtc.destroyProgram(program)
    module = cupy.cuda.function.Module()
    with pytest.raises(cupy.cuda.driver.CUDADriverError, match="INVALID_IMAGE"):
        module.load(b"\x7fELF")
    with pytest.raises(cupy.cuda.driver.CUDADriverError, match="NO_BINARY_FOR_GPU"):
        module.load(compiled(options=("-arch=sm_100",)))


SANITIZED = """
import numpy as np
from tests.cuda import stand_in
from tests.cuda.test_stand_in import arguments, kernel
with stand_in.installed(sanitizer={sanitizer!r}) as cupy:
    array = cupy.zeros(37, np.float32)
    block = arguments(array, n={n})
    {then}
    kernel(cupy, {name!r})((1,), (64,), (block,))
print("done")
"""


@needs_compiler
@pytest.mark.parametrize(
    ("sanitizer", "name", "n", "then", "report"),
    [
        ("address", "add", 37, "", None),
        ("address", "add", 38, "", "use-after-poison"),  # one beyond the array
        ("address", "add", 37, "del array", "use-after-poison"),
        ("thread", "add", 37, "", None),
        ("thread", "add_to_one", 1, "", "data race"),
    ],
)
def test_kernels_under_a_sanitizer(sanitizer, name, n, then, report):
    reason = emulator.sanitizer_available(sanitizer)
    if reason:
        pytest.skip(reason)
    script = SANITIZED.format(sanitizer=sanitizer, name=name, n=n, then=then)
    printed, reports = emulator.run_sanitized(sanitizer, script)
    if report is None:
        assert printed == "done\n" and not reports
    else:
        assert any(report in line for line in reports), reports


# ---- streams and graphs ----


def test_the_current_stream(cupy):
    null, stream = cupy.cuda.get_current_stream(), cupy.cuda.Stream(non_blocking=True)
    assert null == cupy.cuda.Stream.null and null.ptr == 0 != stream.ptr
    with stream, stand_in.watch() as calls:
        assert cupy.cuda.get_current_stream() is stream
        (cupy.ones(3) + 1).get()
    assert cupy.cuda.get_current_stream() == null
    assert [call.kind for call in calls] == ["fill", "arithmetic", "to host"]
    assert {call.stream for call in calls} == {stream.ptr}
    with cupy.cuda.Device(1), pytest.raises(RuntimeError, match="does not match"):
        stream.__enter__()


@needs_compiler
def test_a_graph_records_and_repeats(cupy):
    function, array, more = kernel(cupy), cupy.zeros(4, np.float32), cupy.ones(4, np.float32)
    block, stream = arguments(array, 10.0), cupy.cuda.Stream(non_blocking=True)
    with stream:
        stream.begin_capture()
        assert stream.is_capturing()
        function((1,), (32,), (block,), 0, stream)
        block["value"] = 1e9  # the launch has a copy
        array += more
        graph = stream.end_capture()
    assert not array.get().any()
    graph.launch(stream)
    graph.launch()
    assert (array.get() == 22).all()
    more.fill(0.5)
    graph.launch()
    assert (array.get() == 32.5).all()


def test_what_a_capturing_stream_forbids(cupy):
    stream, error = cupy.cuda.Stream(non_blocking=True), cupy.cuda.runtime.CUDARuntimeError
    array = cupy.ones(3)
    with pytest.raises(RuntimeError, match="legacy"):
        cupy.cuda.Stream.null.begin_capture()
    with stream:
        stream.begin_capture(cupy.cuda.runtime.streamCaptureModeThreadLocal)
        for refused in (
            stream.synchronize,
            cupy.cuda.Device().synchronize,
            array.get,
            lambda: cupy.asarray(np.ones(3)),
            lambda: float(array[0]),
            lambda: array + 1,
        ):
            with pytest.raises(error, match="StreamCaptureUnsupported"):
                refused()
        stream.end_capture()
    with pytest.raises(error, match="Invalidated"):
        stream.end_capture()
    blocking = cupy.cuda.Stream()
    blocking.begin_capture()
    with pytest.raises(error, match="Implicit"):
        array.fill(0)
    blocking.end_capture()
    with pytest.raises(NotImplementedError):
        cupy.cuda.Graph()


# ---- cuBLAS ----

TYPES = {"float32": 0, "float64": 1, "float16": 2, "bfloat16": 14}


def product(cupy, a, b, c, ta=False, tb=False, beta=0.0, compute=68, call=None, handle=None):
    """c = op(a) op(b) + beta c, by rows."""
    from cupy_backends.cuda.libs import cublas

    factors = np.array([1, beta], np.float64 if compute == 70 else np.float32)
    m, n = c.shape
    (call or cublas.gemmEx)(
        cupy.cuda.device.get_cublas_handle() if handle is None else handle, int(tb), int(ta), n, m,
        a.shape[0] if ta else a.shape[1], factors.ctypes.data, b.data.ptr, TYPES[b.dtype.name],
        b.strides[0] // b.itemsize, a.data.ptr, TYPES[a.dtype.name], a.strides[0] // a.itemsize,
        factors.ctypes.data + factors.itemsize, c.data.ptr, TYPES[c.dtype.name], c.strides[0] // c.itemsize,
        compute, -1,
    )  # fmt: skip


@pytest.mark.parametrize("ta", [False, True])
@pytest.mark.parametrize("tb", [False, True])
@pytest.mark.parametrize("beta", [0.0, 0.5])
@pytest.mark.parametrize(
    ("operands", "result", "compute", "tolerance"),
    [
        ("float32", "float32", 68, 1e-6),
        ("float64", "float64", 70, 1e-14),
        ("float32", "float32", 77, 2e-3),
        ("float16", "float32", 68, 1e-6),
        ("float16", "float16", 68, 1e-3),
        ("bfloat16", "float32", 68, 1e-6),
        ("bfloat16", "bfloat16", 68, 8e-3),
    ],
)
def test_products(cupy, ta, tb, beta, operands, result, compute, tolerance):
    if "bfloat16" in (operands, result):
        pytest.importorskip("ml_dtypes", reason="bfloat16 needs ml_dtypes")
    rng = np.random.default_rng(0)
    m, n, k = 5, 7, 9

    def padded(rows, columns, dtype):
        """Part of a wider matrix: rows are apart."""
        return cupy.asarray(rng.standard_normal((rows, columns + 3)).astype(dtype))[:, 1 : columns + 1]

    a, b = padded(*((k, m) if ta else (m, k)), operands), padded(*((n, k) if tb else (k, n)), operands)
    c = padded(m, n, result)
    left, right, before = (x.get().astype(np.float64) for x in (a, b, c))
    want = (left.T if ta else left) @ (right.T if tb else right) + beta * before
    if beta == 0:
        c.fill(np.nan)  # is not read
    product(cupy, a, b, c, ta, tb, beta, compute)
    error = np.abs(c.get().astype(np.float64) - want).max() / np.abs(want).max()
    assert error < tolerance
    assert compute != 77 or error > 1e-5  # TF32 did round


def test_products_that_cublas_refuses(cupy):
    from cupy_backends.cuda.libs import cublas

    single, double = cupy.ones((3, 3), np.float32), cupy.ones((3, 3))
    for refused in (
        lambda: product(cupy, single, single, double),
        lambda: product(cupy, double, double, double),
        lambda: product(cupy, single, double, single),
    ):
        with pytest.raises(cublas.CUBLASError, match="NOT_SUPPORTED"):
            refused()
    with pytest.raises(cublas.CUBLASError, match="INVALID_VALUE"):
        product(cupy, single, single, single, handle=1)
    with pytest.raises(AssertionError, match="outside any array"):
        product(cupy, single[1:], single, cupy.ones((3, 3), np.float32))  # two rows, where three are asked for


def test_cupy_refuses_cublas_while_a_stream_captures_and_libcublas_does_not(cupy):
    a, c = cupy.ones((3, 3), np.float32), cupy.zeros((3, 3), np.float32)
    library, stream = ctypes.CDLL("libcublas.so.13"), cupy.cuda.Stream(non_blocking=True)
    address, number = ctypes.c_void_p, ctypes.c_int
    with stream:
        stream.begin_capture()
        with pytest.raises(NotImplementedError, match="calling cuBLAS API during stream capture"):
            product(cupy, a, a, c)
        library.cublasSetStream_v2(address(cupy.cuda.device.get_cublas_handle()), address(stream.ptr))
        with pytest.raises(AssertionError, match="32 bits of a bare int"):
            product(cupy, a, a, c, call=lambda handle, *rest: library.cublasGemmEx(address(handle), *rest))
        operand, size = [address, number, number], [number] * 3
        library.cublasGemmEx.argtypes = [
            address, number, number, *size, address, *operand, *operand, address, *operand, number, number,
        ]  # fmt: skip
        product(cupy, a, a, c, call=library.cublasGemmEx, beta=1.0)
        graph = stream.end_capture()
    assert not c.get().any()
    graph.launch()
    graph.launch()
    assert (c.get() == 6).all()


# ---- in CuPy's place ----


def test_it_comes_and_goes():
    before = {name: module for name, module in sys.modules.items() if name.startswith("cupy")}
    opener = ctypes.CDLL
    with stand_in.installed() as cupy:
        import cupy as imported
        from cupy_backends.cuda.libs import cublas, nvrtc

        assert imported is cupy and cupy.cuda.cublas is cublas and cupy.cuda.nvrtc is nvrtc
        with pytest.raises(ImportError):
            from cupy import random  # noqa: F401
        with pytest.raises(RuntimeError, match="installed already"):
            stand_in.install()
    assert {name: module for name, module in sys.modules.items() if name.startswith("cupy")} == before
    assert ctypes.CDLL is opener


def test_the_backend_finds_it_and_forgets_it():
    from fastrnn.kernels.cuda import devices

    with stand_in.installed() as cupy:
        assert devices.require() is cupy
        assert devices.architecture(0) == "sm_90"
    with stand_in.installed(capability="70"), pytest.raises(devices.GPUUnavailable, match=r"capability 7\.0"):
        devices.require()
    with stand_in.installed(devices=0), pytest.raises(devices.GPUUnavailable, match="no device"):
        devices.require()
