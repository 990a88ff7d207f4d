"""What talks to CuPy, tried on a stand-in made of NumPy: names, arguments and units, as far as that can tell."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from bench import devices
from bench.devices import cuda_clock, cupy_timer
from bench.limits_cuda import PRECISIONS, CupyGpu
from bench.peers.cupy_arrays import PoolMemory, to_host
from bench.test_devices import FakeEvent


class Array(np.ndarray):
    """An array whose memory is addressed as CuPy's is."""

    @property
    def data(self):
        array = self

        def copy_from_device_async(source, size, stream):
            assert size == array.nbytes == source.size and stream == "stream"
            array[...] = source.array

        return SimpleNamespace(
            ptr=array.ctypes.data, size=array.nbytes, array=array, copy_from_device_async=copy_from_device_async
        )

    def get(self):
        return self.view(np.ndarray)


class Pool:
    """Holds 100 bytes in use and 900 more until they are freed."""

    free = 900

    def free_all_blocks(self):
        self.free = 0

    def total_bytes(self):
        return 100 + self.free


def gemm_ex(handle, ta, tb, m, n, k, one, a, kind, lda, b, kind_b, ldb, zero, c, kind_c, ldc, compute, algo):
    assert (m, n, k) == (lda, ldb, ldc) and len({kind, kind_b, kind_c}) == 1 and len({a, b, c}) == 3
    if kind == 14:
        raise SystemError("no bfloat16")


@pytest.fixture(autouse=True)
def stand_in(monkeypatch):
    pool = Pool()
    cupy = ModuleType("cupy")
    cupy.asarray = lambda array: np.asarray(array).view(Array)
    cupy.ones = lambda shape, dtype: np.ones(shape, dtype).view(Array)
    cupy.empty = lambda shape, dtype: np.empty(shape, dtype).view(Array)
    cupy.empty_like, cupy.tile = np.empty_like, np.tile
    cupy.get_default_memory_pool = lambda: pool
    cupy.cuda = SimpleNamespace(
        Event=FakeEvent,
        get_elapsed_time=lambda start, end: 1e3 * (end.at - start.at),
        get_current_stream=lambda: "stream",
        Device=lambda: SimpleNamespace(attributes={"L2CacheSize": 50 << 20}),
        device=SimpleNamespace(get_cublas_handle=lambda: 1),
    )
    cublas = ModuleType("cupy_backends.cuda.libs.cublas")
    cublas.gemmEx, cublas.CUBLASError = gemm_ex, SystemError
    libs = ModuleType("cupy_backends.cuda.libs")
    libs.cublas = cublas
    for name, module in (("cupy", cupy), ("cupy_backends.cuda.libs", libs), (cublas.__name__, cublas)):
        monkeypatch.setitem(sys.modules, name, module)
    return pool


def test_the_gpu_is_measured_through_cupy(monkeypatch):
    monkeypatch.setattr("bench.limits_cuda._RANDOM", 64)
    gpu = CupyGpu()
    assert gpu.cache_bytes() == 50 << 20
    assert 0 < gpu.copy_seconds(1 << 16) < 1
    for precision in PRECISIONS:
        if precision == "bfloat16":
            with pytest.raises(NotImplementedError, match="no bfloat16"):
                gpu.gemm_seconds(16, precision)
        else:
            assert 0 <= gpu.gemm_seconds(16, precision) < 1


def test_the_pools_memory_is_what_was_added(stand_in):
    memory = PoolMemory()
    memory.reset()
    stand_in.free = 7000
    assert memory.peak() == 7000
    memory.release()
    assert stand_in.free == 0


def test_arrays_come_to_the_host_and_16_bits_become_float32():
    assert type(to_host(np.ones(3).view(Array).get())) is np.ndarray
    assert to_host(np.ones(3, np.float16)).dtype == np.float32
    assert to_host(np.ones(3)).dtype == np.float64


def test_the_clock_of_events_begins_at_zero_and_goes_on(monkeypatch):
    monkeypatch.setattr(devices, "_first_event", [])
    assert cuda_clock() == 0
    assert 0 < cuda_clock() < cuda_clock()
    assert cupy_timer()(lambda: None, 5) < 1
