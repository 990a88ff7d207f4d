// Products of dz of which the blocks of a cluster (sm_90) take a part of the depth each: see persistent.cuh.
#pragma once
#include "rows.cuh"

namespace fastrnn {

// Where the parts' sums become totals. For every row of a tile a block has sums of all units of its cluster, over its part
// of the depth; it sends each block those of that block's units, itself included, and this one adds them up in the order of
// the parts. Two buffers by turns: who sends for the turn after next has had all that was sent for the next, which everyone
// sends after the barrier at which all of its threads have read the last. Rows there are none of are sent by nobody.
template <class T, class S> struct SplitTotals {
    using A = SumOf<T>;
    static constexpr int V = 16 / int(sizeof(A)), VECTORS = S::UNITS / V;
    const A* sums;  // [warp][row][block][unit]
    A* parts;       // [buffer][part][row][unit]
    u64* arrived;   // an mbarrier for each buffer
    u32 turn = 0;

    // MEMORY: of sums, and behind them of what arrives.
    DEVICE explicit SplitTotals(A* memory)
        : sums(memory), parts(memory + S::WARPS * S::ROWS * S::SPLIT * S::UNITS),
          arrived(reinterpret_cast<u64*>(parts + 2 * S::SPLIT * S::ROWS * S::UNITS)) {}

    // Nobody sends before flags have told of a step; but that is another file's matter.
    DEVICE void begin() {
        if (threadIdx.x < 2) mbarrier_init(arrived + threadIdx.x, 1);
        cluster_barrier();
    }

    static DEVICE int part() { return int(blockIdx.x) % S::SPLIT; }

    // Elements of a depth that are a block's, but for the last: whole vectors.
    static DEVICE int share(int depth) { return (depth + S::SPLIT * S::V - 1) / (S::SPLIT * S::V) * S::V; }
    static DEVICE int first_of(int depth) {
        const int first = part() * share(depth);
        return first < depth ? first : depth;
    }
    static DEVICE int size_of(int depth) {
        const int left = depth - first_of(depth);
        return left < share(depth) ? left : share(depth);
    }

    DEVICE A* place(u32 buffer, int part, int row, int unit) const {
        return parts + ((int(buffer) * S::SPLIT + part) * S::ROWS + row) * S::UNITS + unit;
    }

    DEVICE void meet(int rows) {
        __syncthreads();
        if (rows <= 0) return;
        const u32 buffer = turn & 1;
        if (threadIdx.x == 0) mbarrier_expect(arrived + buffer, u32(S::SPLIT * rows * S::UNITS * int(sizeof(A))));
        for (int i = threadIdx.x; i < rows * S::SPLIT * VECTORS; i += S::THREADS) {
            const int unit = i % VECTORS * V, owner = i / VECTORS % S::SPLIT, row = i / (VECTORS * S::SPLIT);
            union {
                uint4 words;
                A values[V];
            } sum, more;
#pragma unroll
            for (int warp = 0; warp < S::WARPS; warp++) {
                more.words = *reinterpret_cast<const uint4*>(
                    sums + ((warp * S::ROWS + row) * S::SPLIT + owner) * S::UNITS + unit);
#pragma unroll
                for (int e = 0; e < V; e++) sum.values[e] = warp ? sum.values[e] + more.values[e] : more.values[e];
            }
            send_to_block(reinterpret_cast<uint4*>(place(buffer, part(), row, unit)), sum.words, arrived + buffer, u32(owner));
        }
        SPIN_WHILE(!mbarrier_passed(arrived + buffer, turn >> 1 & 1));
        turn++;
    }

    // Of the rows of the last meeting.
    DEVICE A of(int row, int unit) const {
        A sum = *place(~turn & 1, 0, row, unit);
#pragma unroll
        for (int from = 1; from < S::SPLIT; from++) sum += *place(~turn & 1, from, row, unit);
        return sum;
    }
};

}  // namespace fastrnn
