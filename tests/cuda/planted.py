"""Bugs to plant into the kernels' sources, and what finds them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import NamedTuple

from tests.cases import Case
from tests.processes import kernels_folder

__all__ = ["BUGS", "Bug", "planted"]


class Bug(NamedTuple):
    """Text of a file replaced by other text, and a layer in which that shows.

    found_by: at least these of "results" (wrong, or not the same in every schedule), "emulator" (it refuses to go on),
    "thread", "address" (the sanitizers' reports). What may write anywhere, for "address" to find, runs nowhere else.
    """

    file: str
    right: str
    wrong: str
    case: dict
    found_by: set[str]
    policy: str = "persistent"
    precision: str = "exact"
    shape: tuple[tuple[str, int], ...] = ()  # of the policy
    chunk: int | None = None  # steps of a launch, where layers go at the same time

    def options(self):
        """For ``whole_layers.results``."""
        together = {"chunk": self.chunk, "members": 2, "multiprocessors": 8} if self.chunk else {}
        return {"policy": self.policy, "precision": self.precision, "shape": self.shape} | together

    def problem(self):
        return Case(**{"T": 3, "B": 18, "H": 40, "dtype": "float32", "bias": self.file == "sums"} | self.case).problem()


WHOLE = {"ragged": True, "resets": True, "bidirectional": True}
LSTM, GRU = {"cell": "lstm"}, {"cell": "gru_reset_before"}


def _split(right: str, wrong: str, found_by: set[str]) -> Bug:
    shape = (("units", 16), ("split", 2))
    return Bug("split", right, wrong, {"cell": "gru_reset_before"}, found_by, "split", shape=shape)


def _chunks(right: str, wrong: str, found_by: set[str], policy: str = "cluster") -> Bug:
    case = LSTM | {"T": 5, "B": 7, "num_layers": 2, "ragged": True}
    return Bug("persistent", right, wrong, case, found_by, policy, shape=(("units", 16),), chunk=2)


_ENTER = "    if (rows > 0) exchange.enter(a.last & 1, rows, Fed<C, 0>::COUNT * a.H,"

BUGS = {
    # Waiting and telling
    "no barrier between products and their sums": Bug(
        "persistent",
        "        }, sums);\n        __syncthreads();\n        if (active) {",
        "        }, sums);\n        if (active) {",
        LSTM,
        {"results", "thread"},
    ),
    "no barrier between two tiles": Bug(
        "persistent",
        "if (tile + S::ROWS < rows) __syncthreads();  // sums are written anew; after",
        "// after",
        LSTM,
        {"results", "thread"},
    ),
    "no barrier before a flag": Bug(
        "exchange",
        "        __syncthreads();\n        turn++;",
        "        turn++;",
        LSTM,
        {"results", "thread"},
    ),
    "no wait in forward": Bug(
        "persistent",
        "        if (tile == 0) exchange.wait(from);\n        w.multiply(a.H",
        "        w.multiply(a.H",
        LSTM,
        {"results", "thread"},
    ),
    "no wait in backward": Bug(
        "persistent",
        "            if (tile == 0 && going_on > 0) exchange.wait((s + 1) & 1);\n            multiply_dz<C, 0",
        "            multiply_dz<C, 0",
        LSTM,
        {"results", "thread"},
    ),
    "no wait for the second phase of backward": Bug(
        "persistent",
        "            exchange.wait(SECOND_PHASE);\n            for (int tile",
        "            for (int tile",
        GRU,
        {"results", "thread"},
    ),
    "waiting for the turn before": Bug(
        "exchange",
        "SPIN_WHILE(load_acquire(flags + i) < turn)",
        "SPIN_WHILE(load_acquire(flags + i) + 1 < turn)",
        LSTM,
        {"results", "thread"},
    ),
    "flags without release": Bug("exchange", "store_release(mine, turn)", "*mine = turn", LSTM, {"thread"}),
    "flags without acquire": Bug("exchange", "load_acquire(flags + i) < turn", "flags[i] < turn", LSTM, {"thread"}),
    "no barrier behind the looks at flags": Bug(
        "exchange",
        "< turn);\n        __syncthreads();",
        "< turn);",
        LSTM,
        {"results", "thread"},
    ),
    "half of the lanes' sums handed to the wrong lane": Bug(
        "persistent",
        "__shfl_xor_sync(0xffffffffu, upper ? lower_half : upper_half, DISTANCE)",
        "__shfl_xor_sync(0xffffffffu, upper ? upper_half : lower_half, DISTANCE)",
        LSTM,
        {"results"},
    ),
    "a row of a column forgotten as rows go up": Bug(
        "exchange",
        "while (row_of_column(rows) < count) rows++;",
        "if (row_of_column(rows) < count) rows++;",
        LSTM | WHOLE,
        {"results"},
    ),
    "messages to one block of a cluster too few": Bug(
        "cluster",
        "if (to == int(blockIdx.x) || to * S::UNITS >= H) return;",
        "if (to == int(blockIdx.x) || (to + 1) * S::UNITS >= H) return;",
        LSTM,
        {"emulator"},
        "cluster",
    ),
    "the flags of another member": Bug(
        "exchange",
        "flags(a.flags + i64(blockIdx.y) * gridDim.x)",
        "flags(a.flags - i64(blockIdx.z) * gridDim.y * gridDim.x + i64(blockIdx.y) * gridDim.x)",
        LSTM | {"bidirectional": True},
        {"results", "thread"},
    ),
    "no barrier before a cluster's messages": Bug(
        "cluster",
        "        __syncthreads();\n        if (units()",
        "        if (units()",
        LSTM,
        {"results", "thread"},
        "cluster",
    ),
    "no barrier of the cluster at its start": Bug(
        "cluster", "        cluster_barrier();\n", "        __syncthreads();\n", LSTM, {"emulator"}, "cluster"
    ),
    "no wait for a cluster's messages": Bug(
        "cluster",
        "        SPIN_WHILE(!mbarrier_passed(arrived + which, parities >> which & 1));\n",
        "",
        LSTM,
        {"emulator", "thread"},
        "cluster",
    ),
    "a cluster's messages awaited by the other parity": Bug(
        "cluster",
        "mbarrier_passed(arrived + which, parities >> which & 1)",
        "mbarrier_passed(arrived + which, ~parities >> which & 1)",
        LSTM,
        {"emulator"},
        "cluster",
    ),
    "a parity that never changes": Bug(
        "cluster", "        parities ^= 1u << which;\n", "", LSTM, {"emulator"}, "cluster"
    ),
    "more bytes expected than a cluster sends": Bug(
        "cluster", "planes * (H - units()) *", "planes * H *", LSTM, {"emulator"}, "cluster"
    ),
    "fewer bytes expected than a cluster sends": Bug(
        "cluster",
        "planes * (H - units()) *",
        "planes * (H - 2 * units()) *",
        LSTM,
        {"emulator"},
        "cluster",
    ),
    "one buffer for the steps of a cluster": Bug(
        "cluster",
        "rows_at + (which * most_rows + n) * pitch",
        "rows_at + n * pitch",
        LSTM,
        {"results", "thread"},
        "cluster",
    ),
    "a block that returns before its last messages": Bug(
        "persistent", "    exchange.end(s & 1);\n", "", LSTM, {"emulator"}, "cluster"
    ),
    # Products that a cluster splits
    "no barrier before the sums of a part": _split(
        "        __syncthreads();\n        if (rows", "        if (rows", {"results", "thread"}
    ),
    "no wait for the sums of other parts": _split(
        "        SPIN_WHILE(!mbarrier_passed(arrived + buffer, turn >> 1 & 1));\n", "", {"emulator", "thread"}
    ),
    "the sums of other parts awaited by the turn": _split("turn >> 1 & 1)", "turn & 1)", {"emulator"}),
    "more sums expected than there are parts": _split("u32(S::SPLIT * rows", "u32((S::SPLIT + 1) * rows", {"emulator"}),
    "fewer sums expected than there are parts": _split(
        "u32(S::SPLIT * rows", "u32((S::SPLIT - 1) * rows", {"emulator"}
    ),
    "one buffer for the sums of parts": _split(
        "parts + ((int(buffer) * S::SPLIT", "parts + ((0 * S::SPLIT", {"results", "thread"}
    ),
    "mbarriers among the sums of parts": _split("parts + 2 * S::SPLIT", "parts + 2", {"emulator"}),
    "a part of the depth twice": _split("part() * share(depth);", "part() / 2 * share(depth);", {"results"}),
    # Backward in chunks
    "dz of the chunk before not taken in": _chunks(_ENTER, _ENTER.replace("rows > 0", "rows < 0"), {"emulator"}),
    "dz of the chunk before in the other buffer": _chunks(_ENTER, _ENTER.replace("& 1", "& 1 ^ 1"), {"emulator"}),
    "dz of one slot alone of the chunk before": _chunks(
        _ENTER, _ENTER.replace("Fed<C, 0>::COUNT * a.H", "a.H"), {"results"}
    ),
    "dz of another step of the chunk before": _chunks(
        "slab_row<C, T>(a, a.last, row)", "slab_row<C, T>(a, a.last - 1, row)", {"results"}
    ),
    "a chunk that goes on into the next": _chunks(
        "s >= (a.first > 0 ? a.first : -1)", "s >= a.first - 1", {"results"}, "persistent"
    ),
    "rows that went on before a chunk forgotten": _chunks(
        "int rows = rows_of_column(alive<T>(a, a.last));", "int rows = 0;", {"results"}, "persistent"
    ),
    "a block that returns before the last messages of a chunk": _chunks(
        "    if (rows > 0) exchange.end(a.first & 1);\n", "", {"emulator"}
    ),
    # Bounds
    "a store one element off": Bug(
        "units",
        "write(a.y + time_of<T>(a, s, r) * a.y_time + in.b * a.y_batch + u, h)",
        "write(a.y + time_of<T>(a, s, r) * a.y_time + in.b * a.y_batch + u + 1, h)",
        LSTM,
        {"address"},
    ),
    "a unit too many": Bug(
        "persistent",
        "const bool active = mine < here && u < a.H;",
        "const bool active = mine < here && u <= a.H;",
        LSTM,
        {"address"},
    ),
    "sums past the end of shared memory": Bug(
        "persistent",
        "sums + (warp * S::ROWS + first + n) * OUT * S::UNITS);",
        "sums + (warp * S::ROWS + first + n + 1) * OUT * S::UNITS);",
        LSTM,
        {"address"},
    ),
    # The cells
    "gates swapped in forward": Bug(
        "cell_math",
        "c = s[K::f] * c + input_gate(s) * s[K::g];",
        "c = input_gate(s) * c + s[K::f] * s[K::g];",
        LSTM,
        {"results"},
        "stepwise",
    ),
    "gates swapped in backward": Bug(
        "cell_math",
        "        s[K::f] = dzf;\n        s[K::g] = dc * i * tanh_slope(g);",
        "        s[K::g] = dzf;\n        s[K::f] = dc * i * tanh_slope(g);",
        LSTM,
        {"results"},
        "stepwise",
    ),
    "r and z swapped in backward": Bug(
        "cell_math",
        "s[K::r] = dn * s[K::hn] * sigmoid_slope(r);\n        s[K::z] = dh * (h - n) * sigmoid_slope(z);",
        "s[K::z] = dn * s[K::hn] * sigmoid_slope(r);\n        s[K::r] = dh * (h - n) * sigmoid_slope(z);",
        {"cell": "gru_reset_after"},
        {"results"},
        "stepwise",
    ),
    "the carry of a GRU dropped": Bug(
        "units", "    if (C::STATES == 1) dh += in.carry;\n", "", GRU, {"results"}, "stepwise"
    ),
    "the peephole of o with the c before": Bug(
        "cell_math",
        "dp[K::p_o] += dzo * c_new;",
        "dp[K::p_o] += dzo * c;",
        {"cell": "lstm_peephole"},
        {"results"},
        "stepwise",
    ),
    # Resets
    "a reset forgotten in forward": Bug(
        "units",
        "passed_on = in.next == 2 ? SumOf<T>(0) : h;",
        "passed_on = h;",
        LSTM | WHOLE,
        {"results"},
        "stepwise",
    ),
    "a reset forgotten before the first step": Bug(
        "units",
        "write(entering_h<T>(a, 0, r) + u, cut ? SumOf<T>(0) : h);",
        "write(entering_h<T>(a, 0, r) + u, h);",
        LSTM | WHOLE,
        {"results"},
        "stepwise",
    ),
    "a reset that lets dh through": Bug(
        "units", "dh = in.cut ? SumOf<T>(0) : product;", "dh = product;", LSTM | WHOLE, {"results"}, "stepwise"
    ),
    "a reset that lets dc through": Bug(
        "units",
        "in.carry = in.cut ? SumOf<T>(0) : a.carry[i64(r) * a.H + u];",
        "in.carry = a.carry[i64(r) * a.H + u];",
        LSTM | WHOLE,
        {"results"},
        "stepwise",
    ),
    # Products
    "sums over one warp too few": Bug(
        "persistent",
        "for (int warp = 0; warp < S::WARPS; warp++) sum +=",
        "for (int warp = 0; warp < S::WARPS - 1; warp++) sum +=",
        LSTM | {"H": 100},
        {"results"},
    ),
    "the second round of the depth skipped": Bug(
        "persistent",
        "return (round * S::PARTS * OWN + int(threadIdx.x) / LANES) * S::V;",
        "return ((round + (round > 0)) * S::PARTS * OWN + int(threadIdx.x) / LANES) * S::V;",
        LSTM | {"H": 100},
        {"results"},
    ),
    "the first round of tensor cores skipped": Bug(
        "tensor_cores",
        "return (round * S::WARPS + int(threadIdx.x) / 32) * TOGETHER",
        "return ((round + 1) * S::WARPS + int(threadIdx.x) / 32) * TOGETHER",
        LSTM,
        {"results"},
        precision="tf32",
    ),
    "rows g and g + 8 of a fragment exchanged": Bug(
        "tensor_cores",
        "const int row = tile * 16 + half * 8 + g,",
        "const int row = tile * 16 + (1 - half) * 8 + g,",
        LSTM,
        {"results"},
        precision="tf32",
    ),
    "the words of a fragment exchanged": Bug(
        "tensor_cores",
        "at[tile][round][2 * word + half] = Operand<T>::word(elements);",
        "at[tile][round][word + 4 * half] = Operand<T>::word(elements);",
        LSTM,
        {"results"},
        precision="tf32",
    ),
    # Dropout and sums
    "a chunk of rows left out of a sum": Bug(
        "sums",
        "end = a.rows * (chunk + 1) / gridDim.y;",
        "end = a.rows * (chunk + 1) / gridDim.y - (chunk > 0);",
        LSTM,
        {"results"},
        "stepwise",
    ),
}


def planted(bug: Bug, folder: Path) -> Path:
    """A copy of the sources with the bug."""
    for path in (kernels_folder() / "cuda").glob("*.cuh"):
        shutil.copy(path, folder)
    file = folder / f"{bug.file}.cuh"
    text = file.read_text(encoding="utf-8")
    assert text.count(bug.right) == 1, f"{bug.file}.cuh has this {text.count(bug.right)} times, not once:\n{bug.right}"
    file.write_text(text.replace(bug.right, bug.wrong), encoding="utf-8")
    return folder
