// How the blocks that share rows hand each other what the next product needs: h, and dz on the way back.
//
// Blocks of a column of the grid share the rows r = blockIdx.y, blockIdx.y + gridDim.y, ... and all H units; columns have
// nothing to do with each other. An exchange has
//
//   begin()                    before all else
//   enter(which, rows, width, global) what the first step's product reads is there, so many elements of so many rows
//   wait(which)                until what the others published before is there
//   row(which, n, global)      the elements of the block's n-th row; global(r): where they lie in global memory
//   give(which, n, k, value)   element k of the n-th row, of this block's units
//   publish(which, rows, planes)  all given of so many rows, of `planes` times H elements, is there
//   end(which)                 instead of the wait for what nobody will read
//
// `which` is 0 and 1 by turns, so that what is given does not meet what is still read, or SECOND_PHASE.
#pragma once
#include "rows.cuh"

namespace fastrnn {

constexpr int SECOND_PHASE = 2;

// This block's rows among the first `count`.
DEVICE int rows_of_column(int count) { return (count - int(blockIdx.y) + int(gridDim.y) - 1) / int(gridDim.y); }
DEVICE int row_of_column(int n) { return int(blockIdx.y) + n * int(gridDim.y); }

// As rows_of_column, from those of a step beside it, which has nearly as many: a division is 25 instructions.
DEVICE void count_rows(int& rows, int count) {
    while (row_of_column(rows) < count) rows++;
    while (row_of_column(rows - 1) >= count && rows > 0) rows--;
}

// Through global memory, where the units write h and dz anyhow; a flag a block counts what it has published.
template <class T> struct GridExchange {
    u32 *flags, *mine;
    u32 turn = 0;

    // Where its own flag is, a block needs at once when all it has to say is written.
    DEVICE GridExchange(const Args<T>& a, SumOf<T>*, int, int) : flags(a.flags + i64(blockIdx.y) * gridDim.x) {
        mine = flags + blockIdx.x;
        keep(mine);
    }

    DEVICE void begin() const {}

    template <class F> DEVICE void enter(int, int, int, F) const {}

    // A thread looks at one flag: so a block asks for each once at a time. Were every warp to look at all, it would ask
    // the same few lines of the second-level cache eight times as often, and wait for 128 flags in four turns.
    DEVICE void wait(int) const {
        for (int i = threadIdx.x; i < int(gridDim.x); i += int(blockDim.x)) SPIN_WHILE(load_acquire(flags + i) < turn);
        __syncthreads();
    }

    template <class F> DEVICE const T* row(int, int n, F global) const { return global(row_of_column(n)); }

    DEVICE void give(int, int, int, SumOf<T>) {}

    DEVICE void end(int) const {}

    DEVICE void publish(int, int, int) {
        __syncthreads();
        turn++;
        if (threadIdx.x == 0) store_release(mine, turn);
    }
};

// Through the shared memory of a cluster, in cluster.cuh, which only units that use it include: it needs sm_90.
template <class T, class S> struct ClusterExchange;

template <class T, class S, int CLUSTER> struct ChosenExchange { using Type = ClusterExchange<T, S>; };
template <class T, class S> struct ChosenExchange<T, S, 0> { using Type = GridExchange<T>; };
template <class T, class S> using Exchange = typename ChosenExchange<T, S, S::CLUSTER>::Type;

}  // namespace fastrnn
