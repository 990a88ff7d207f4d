"""The emulator itself: it computes what a GPU would, and finds what it promises to find."""

from __future__ import annotations

import functools
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests.cuda import emulator
from tests.cuda.emulator import SCHEDULES, EmulatorError
from tests.processes import kernels_folder

pytestmark = pytest.mark.skipif(bool(emulator.available()), reason=emulator.available() or "-")

HERE = Path(__file__).parent
ARGUMENTS = np.dtype([("input", np.uint64), ("output", np.uint64), ("flags", np.uint64), ("n", np.int32)], align=True)
STRUCTURE = (
    "struct Arguments { const void* input; void* output; fastrnn::u32* flags; int n; };\nusing namespace fastrnn;\n"
)

SOURCE = (kernels_folder() / "cuda/device.cuh").read_text() + STRUCTURE + (HERE / "emulated_kernels.cpp").read_text()


@functools.cache
def library() -> emulator.Library:
    return emulator.build(SOURCE)


def line_of(marker: str) -> str:
    return f"kernel:{SOURCE[: SOURCE.index(f'// [{marker}]')].count(chr(10)) + 1}"


def run(name, grid=(1,), block=(32,), input=None, output=None, n=0, flags=None, lib=None, **options):
    """Launch a kernel of the text above; returns the flags."""
    flags = np.zeros(64, np.uint32) if flags is None else flags
    arguments = np.zeros((), ARGUMENTS)
    for field, array in (("input", input), ("output", output), ("flags", flags)):
        arguments[field] = 0 if array is None else array.ctypes.data
    arguments["n"] = n
    (lib or library()).launch(name, grid, block, arguments, **options)
    return flags


# ---- it computes what a GPU would ----


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(("name", "dtype"), [("u32", "u4"), ("int", "i4"), ("float", "f4"), ("double", "f8")])
def test_shuffles(name, dtype, schedule):
    values = (np.random.default_rng(0).standard_normal(64) * 1e6).astype(dtype)
    out = np.zeros((4, 64), dtype)
    run(f"shuffle_{name}", block=(64,), input=values, output=out, schedule=schedule)
    warps, lane = values.reshape(2, 32), np.arange(32)
    np.testing.assert_array_equal(out[0], warps[:, lane ^ 5].ravel())
    np.testing.assert_array_equal(out[1], warps[:, lane * 7 % 32].ravel())
    np.testing.assert_array_equal(out[2], warps[:, np.where(lane + 3 > 31, lane, lane + 3)].ravel())
    np.testing.assert_array_equal(out[3], warps[:, np.where(lane < 16, lane ^ 1, lane ^ 2)].ravel())


@pytest.mark.parametrize("yes", [[], [3, 40], range(32), range(64)])
def test_votes(yes):
    votes = np.zeros(64, np.uint32)
    votes[list(yes)] = 7
    out = np.zeros((3, 2, 32), np.uint32)
    run("vote", block=(64,), input=votes, output=out)
    for warp, ballots in enumerate((votes != 0).reshape(2, 32)):
        assert (out[0, warp] == sum(int(vote) << lane for lane, vote in enumerate(ballots))).all()
        assert (out[1, warp] == ballots.any()).all()
        assert (out[2, warp] == ballots.all()).all()


def test_indices_in_three_dimensions():
    out = np.zeros((24, 30), np.uint32)
    run("indices", grid=(2, 3, 4), block=(5, 3, 2), output=out)
    np.testing.assert_array_equal(out, np.arange(24)[:, None] * 1000 + np.arange(30))


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_barriers(schedule):
    out = np.zeros(64, np.int32)
    run("reverse_right", block=(64,), output=out, n=4, shared=256, schedule=schedule)
    np.testing.assert_array_equal(out, np.arange(64) + 4)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("seed", range(3))
def test_flags_between_blocks(schedule, seed):
    out = np.full(50, np.nan, np.float32)
    run("chain_right", grid=(50,), output=out, n=-1, schedule=schedule, seed=seed)
    np.testing.assert_array_equal(out, np.cumsum(np.arange(50.0)))


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_waiting_by_flags_alone_is_no_deadlock(schedule):
    assert run("ping_pong", grid=(2,), block=(1,), n=101, schedule=schedule)[0] == 101


CLUSTER = {"grid": (8,), "n": 5, "shared": 2 * 32 * 16 + 16}


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_messages_within_a_cluster(schedule):
    out = np.zeros((8, 32, 4), np.uint32)
    run("around_right", output=out, schedule=schedule, **CLUSTER)
    block, thread = np.divmod(np.arange(256).reshape(8, 32), 32)
    assert (out[..., 0] == block // 4 * 4 + (block - 5) % 4).all() and (out[..., 1] == (thread + 5) % 32).all()
    assert (out[..., 2] == 5).all()


def test_half_to_float():
    halves = np.arange(65536, dtype=np.uint16)
    out = np.zeros(65536, np.float32)
    run("from_half", grid=(256,), block=(256,), input=halves, output=out)
    np.testing.assert_array_equal(out, halves.view(np.float16).astype(np.float32))
    assert (np.signbit(out) == (halves >= 0x8000))[~np.isnan(out)].all()


def test_float_to_half():
    """Every half, the middle between it and the next, and the floats beside: rounding is monotonic in between."""
    halves = np.arange(65536, dtype=np.uint16).view(np.float16).astype(np.float32)
    with np.errstate(invalid="ignore"):
        upward = np.abs(halves[:0x7C00])
        middle = np.append((upward[1:] + upward[:-1]) / 2, np.float32(65520))
        near = np.concatenate([middle, np.nextafter(middle, 0), np.nextafter(middle, np.float32(np.inf))])
        extremes = np.array([np.inf, 1e38, 1e-45, 1e-38, np.nan], np.float32)
        floats = np.concatenate([halves, near, -near, extremes, -extremes, np.float32([2**-25, 2**-24, 2**-14])])
    floats = np.append(floats, np.array([0x7F800001, 0xFFFFFFFF], np.uint32).view(np.float32))  # two more NaNs
    out = np.zeros(floats.size, np.uint16)
    run("to_half", grid=(-(-floats.size // 256),), block=(256,), input=floats, output=out, n=floats.size)
    with np.errstate(over="ignore"):
        want = floats.astype(np.float16)
    nan = np.isnan(want)
    assert np.isnan(out.view(np.float16)[nan]).all()
    np.testing.assert_array_equal(out[~nan], want.view(np.uint16)[~nan])


def fragments(lane, K):
    """Where the PTX manual (mma.m16n8k16, .m16n8k8) has a lane's elements: (row, k) of A, (k, column) of B, then C."""
    g, t = lane // 4, lane % 4
    lower = [(g, 2 * t), (g, 2 * t + 1), (g + 8, 2 * t), (g + 8, 2 * t + 1)]
    if K == 8:
        return [(g, t), (g + 8, t), (g, t + 4), (g + 8, t + 4)], [(t, g), (t + 4, g)], lower
    return lower + [(row, k + 8) for row, k in lower], [(2 * t + k, g) for k in (0, 1, 8, 9)], lower


@pytest.mark.parametrize(("name", "K"), [("half", 16), ("bfloat16", 16), ("tf32", 8)])
def test_tensor_cores(name, K):
    rng = np.random.default_rng(0)
    A, B, C = (rng.standard_normal(shape).astype(np.float32) for shape in ((16, K), (K, 8), (16, 8)))
    if name == "half":
        bits = [m.astype(np.float16).view(np.uint16) for m in (A, B)]
        A, B = (b.view(np.float16).astype(np.float64) for b in bits)
    elif name == "bfloat16":
        bits = [(m.view(np.uint32) >> 16).astype(np.uint16) for m in (A, B)]
        A, B = ((b.astype(np.uint32) << 16).view(np.float32).astype(np.float64) for b in bits)
    else:  # the hardware does not look at the last 13 bits
        bits = [m.view(np.uint32) for m in (A, B)]
        A, B = ((b & 0xFFFFE000).view(np.float32).astype(np.float64) for b in bits)
    words, out = np.zeros((32, 6), np.uint32), np.zeros((32, 4), np.float32)
    for lane in range(32):
        of_a, of_b, of_c = fragments(lane, K)
        elements = np.array([bits[0][place] for place in of_a] + [bits[1][place] for place in of_b])
        words[lane] = elements.view(np.uint32)  # the first of a word's two is its lower half
        out[lane] = [C[place] for place in of_c]
    run(f"product_{name}", input=words, output=out)
    want = A @ B + C
    np.testing.assert_allclose(out, [[want[place] for place in fragments(lane, K)[2]] for lane in range(32)], atol=1e-5)


def test_integers():
    x = np.random.default_rng(0).integers(0, 2**64, 32, np.uint64)
    out = np.zeros(32, np.uint64)
    run("integers", input=x, output=out, n=1)
    assert out.tolist() == [int(a) * (int(a) ^ 0xD2E7470EE14C6C93) >> 64 for a in x]
    floats = np.array([0x3F800FFF, 0x3F801000, 0x3F803000, 0xBF801000, 0x7F800000, 0x7F801000, 0], np.uint32)
    x[:7] = floats
    run("integers", input=x, output=out)
    assert out[:7].tolist() == [0x3F800000, 0x3F802000, 0x3F804000, 0xBF802000, 0x7F800000, 0x7FFFFFFF, 0]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_schedule_repeats_and_a_seed_changes_the_random_ones(schedule):
    def order(seed):
        out = np.zeros(33, np.uint32)
        run("order_of_blocks", grid=(32,), block=(1,), output=out, schedule=schedule, seed=seed)
        assert sorted(out[1:]) == list(range(32))
        return list(out[1:])

    assert order(1) == order(1)
    assert (order(1) != order(2)) == (schedule in ("random", "one block ahead"))
    assert schedule != "in order" or order(1) == list(range(32))
    assert schedule != "last first" or order(1) == list(range(31, -1, -1))


# ---- it finds what it promises to find ----


def error_of(name, **options) -> str:
    with pytest.raises(EmulatorError, match=f"^{name}: ") as caught:
        run(name, **options)
    return str(caught.value)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_deadlock_names_threads_and_lines(schedule):
    """A flag that nobody sets: block 3 keeps its own to itself, so block 4 waits, and all behind it."""
    message = error_of("chain_right", grid=(8,), output=np.zeros(8, np.float32), n=3, schedule=schedule)
    assert "deadlock: 4 of 256 threads wait" in message
    for block in range(4, 8):
        assert f"block ({block}, 0, 0) thread (0, 0, 0) waits in SPIN_WHILE at {line_of('chain')}" in message


def test_a_deadlock_at_a_barrier():
    message = error_of("one_thread_stays_away", block=(64,))
    assert "deadlock: 64 of 64" in message
    assert f"thread (5, 0, 0) waits in SPIN_WHILE at {line_of('away')}" in message
    assert f"thread (0, 0, 0) waits in __syncthreads at {line_of('barrier')}" in message


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_bytes_that_never_come(schedule):
    message = error_of("around_more_bytes", output=np.zeros((8, 32, 4), np.uint32), schedule=schedule, **CLUSTER)
    assert "deadlock: 256 of 256" in message
    waits = f"waits in SPIN_WHILE at {line_of('around')} for phase 0"
    assert f"{waits}, where 0 of 1 arrivals and 16 bytes are missing" in message


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("name", ["around_other_parity", "around_fewer_bytes"])
def test_a_phase_that_is_over_too_soon(name, schedule):
    """Bytes that come too late count for the phase after, which then never has the right number."""
    out = np.zeros((8, 32, 4), np.uint32)
    message = error_of(name, output=out, schedule=schedule, **CLUSTER)
    assert "another phase" in message or "deadlock" in message


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("sends_to_whom_has_returned", {"grid": (2,), "schedule": "last first"}, "a block that has returned"),
        ("around_without_wait", CLUSTER | {"output": np.zeros((8, 32, 4), np.uint32)}, "a block that has returned"),
        ("no_mbarrier", {}, "no mbarrier was made there"),
        ("mbarrier_twice", {}, "made twice"),
        ("mbarrier_written_over", {}, "written over"),
        ("sends_too_far", {"n": 2}, "beyond the block's shared memory"),
        ("sends_too_far", {"n": 1, "grid": (3,)}, "no block of the cluster has that rank"),
    ],
)
def test_misused_messages(name, options, message):
    assert message in error_of(name, **{"shared": 32} | options)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_divergent_barriers(schedule):
    message = error_of("different_barriers", block=(64,), schedule=schedule)
    assert "divergent barriers" in message
    assert line_of("first barrier") in message and line_of("second barrier") in message


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_thread_that_returns_before_a_barrier(schedule):
    assert "return" in error_of("returns_early", block=(64,), schedule=schedule)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_divergent_shuffles(schedule):
    message = error_of("different_shuffles", schedule=schedule)
    assert "divergent warp" in message
    assert line_of("first shuffle") in message and line_of("second shuffle") in message


@pytest.mark.parametrize(
    ("name", "block", "message"),
    [
        ("lane_outside_mask", 32, "lane outside its own mask"),
        ("source_outside_mask", 32, "shuffle from a lane outside the mask"),
        ("lanes_that_are_not_there", 16, "lanes that the block does not have"),
    ],
)
def test_masks(name, block, message):
    assert message in error_of(name, block=(block,))


def test_a_misaligned_vector():
    memory = np.zeros(64, np.float64)
    start = memory[memory.ctypes.data % 16 // 8 :]
    assert "misaligned" in error_of("misaligned", input=start)


def test_shared_memory_starts_as_nan():
    out = np.zeros(32, np.float32)
    run("unwritten", output=out, shared=128)
    assert np.isnan(out).all()


def test_a_missing_barrier_changes_results():
    out = np.zeros(64, np.int32)
    wrong = 0
    for seed in range(10):
        run("reverse_without_barrier", block=(64,), output=out, n=4, shared=256, seed=seed)
        wrong += (out != np.arange(64) + 4).any()
    assert wrong


def test_what_a_launch_may_not_ask():
    assert "over the kernel's 64" in error_of("reverse_right", block=(96,), shared=256)
    assert "empty" in error_of("reverse_right", grid=(0,), shared=256)
    assert library().most_threads("reverse_right") == 64
    assert "reverse_right" in library() and "reverse" not in library()
    with pytest.raises(EmulatorError, match="no kernel has the name 'reverse'"):
        run("reverse")
    with pytest.raises(EmulatorError, match="arguments of 8 bytes, where the kernel's structure has 32"):
        library().launch("vote", (1,), (64,), np.zeros((), [("input", np.uint64)]))
    with pytest.raises(TypeError, match="one structure"):
        library().launch("vote", (1,), (64,), np.zeros(3))


def test_a_launch_after_a_failed_one():
    error_of("one_thread_stays_away", block=(64,))
    out = np.zeros(64, np.int32)
    run("reverse_right", block=(64,), output=out, n=2, shared=256)
    np.testing.assert_array_equal(out, np.arange(64) + 2)


def test_a_source_that_does_not_compile_says_where():
    with pytest.raises(EmulatorError, match=r"kernel:2:\d+: error"):
        emulator.build('#include "device_emulation.h"\nnonsense\n')


def test_defines_reach_the_source_and_a_second_build_compiles_nothing(monkeypatch, tmp_path):
    monkeypatch.setenv("FASTRNN_CACHE_DIR", str(tmp_path))
    source = '#include "device_emulation.h"\nstruct A { int n; };\nKERNEL(k, THREADS, A) {}\n'
    assert emulator.build(source, defines=["THREADS=96"]).most_threads("k") == 96
    assert emulator.build(source, defines=["THREADS=32"]).most_threads("k") == 32
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("compiled again"))
    assert emulator.build(source, defines=["THREADS=96"]).most_threads("k") == 96


# ---- under sanitizers ----

SANITIZED = """
import numpy as np
from tests.cuda import emulator
from tests.cuda.test_emulator import SOURCE, run
lib = emulator.build(SOURCE, {sanitizer!r})
out = np.zeros(1024, np.int32)
run({name!r}, lib=lib, output=out, seed=3, **{options!r})
print("done")
"""
TWO_BLOCKS = {"grid": (2,), "n": -1}
BLOCK = {"block": (64,), "n": 2, "shared": 256}


def reports(sanitizer, name, **options) -> list[str]:
    reason = emulator.sanitizer_available(sanitizer)
    if reason:
        pytest.skip(reason)
    script = SANITIZED.format(sanitizer=sanitizer, name=name, options=options)
    printed, found = emulator.run_sanitized(sanitizer, script)
    assert found or printed == "done\n"
    return found


@pytest.mark.parametrize(
    ("right", "wrong", "options"),
    [
        ("reverse_right", "reverse_without_barrier", BLOCK),
        ("chain_right", "chain_relaxed", TWO_BLOCKS),
        ("warp_right", "warp_without_order", {"shared": 128}),
        ("around_right", "around_without_wait", CLUSTER | {"n": 1}),
    ],
)
def test_thread_sanitizer(right, wrong, options):
    assert not reports("thread", right, **options)
    assert any("data race" in report for report in reports("thread", wrong, **options))


def test_address_sanitizer():
    assert not reports("address", "shared_store", n=0, shared=128)
    assert any("heap-buffer-overflow" in report for report in reports("address", "shared_store", n=1, shared=128))


def test_without_a_compiler_the_reason_is_given(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert "g++" in emulator.available()
    with pytest.raises(EmulatorError, match="needs g"):
        emulator.build("")
