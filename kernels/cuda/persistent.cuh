// The policies that keep Whh on the chip: one launch walks all steps, every block owns UNITS hidden units and holds their
// weights in registers. Blocks hand each other a step's h (backward: dz) through global memory, with flags that say when
// it is there, or, as a cluster, through shared memory: see exchange.cuh.
//
// Blocks of a column of the grid share the rows r = blockIdx.y, blockIdx.y + gridDim.y, ... and all H units; columns have
// nothing to do with each other. A thread is a unit of its block and a part of the product's depth; the parts' sums meet
// by shuffles in a warp and in shared memory between warps, always in the same order. Then a thread is a unit and a row.
//
// Backward reads dz of all slots and units, several times as much as forward. So the blocks of a cluster can share the
// product of all their units: each takes a part of the depth, reads dz of that alone, and sends the sums on: see split.cuh.
//
// Without clusters all blocks must be on the chip at once: launched cooperatively, which refuses a grid that does not fit.
#pragma once
#include "exchange.cuh"
#include "units.cuh"

namespace fastrnn {

// A launch's argument: a block for each of its members, the layers of the grid, which walk side by side and have nothing
// to do with each other. Kernels branch to a copy of their code for each member: indexed by blockIdx.z, arguments are no
// operands of instructions, and the fullest kernels spill (8 to 48 bytes a thread at 512 units of 16 bits on sm_90).
template <class B, int COUNT> struct Members {
    B at[COUNT];
};

// How a kernel is cut. V elements are loaded at a time, ROUNDS times by every thread for a depth of H; TENSOR: 1, products
// by tensor cores, or 3, each by three; 0 without; CLUSTER: blocks that are one, 0 without; SPLIT: blocks among which the
// depth of a product is split, 1 without.
template <int V_, int UNITS_, int THREADS_, int ROUNDS_, int TENSOR_, int CLUSTER_, int SPLIT_> struct Shape {
    static constexpr int V = V_, UNITS = UNITS_, THREADS = THREADS_, ROUNDS = ROUNDS_, TENSOR = TENSOR_, CLUSTER = CLUSTER_;
    static constexpr int SPLIT = SPLIT_;
    static constexpr bool NEAR = CLUSTER > 0;
    static constexpr int PARTS = THREADS / UNITS, WARPS = THREADS / 32;
    // A tile's rows, for which sums are kept in shared memory; more where a tile takes a meeting of the cluster.
    static constexpr int MOST_ROWS = SPLIT > 1 ? 32 : 16, ROWS = PARTS < MOST_ROWS ? PARTS : MOST_ROWS;
    static constexpr int AT_ONCE = 4;                     // rows whose sums a thread has in registers
};

// Adds up COUNT sums over the lanes of a warp that are LANES apart, and stores them: to[sum][lane % LANES]. Lanes DISTANCE
// apart exchange first, then those half as far: as long as a lane has several sums, it hands on half of them.
template <int LANES, int DISTANCE, int COUNT, class A>
DEVICE void store_totals(const A (&sums)[COUNT], A* to, bool stores = true) {
    const int lane = threadIdx.x % 32;
    const bool upper = (lane & DISTANCE) != 0;
    if constexpr (DISTANCE < LANES) {
#pragma unroll
        for (int i = 0; i < COUNT; i++)
            if (stores) to[i * LANES + lane % LANES] = sums[i];
    } else if constexpr (COUNT % 2 == 0) {
        A kept[COUNT / 2];
#pragma unroll
        for (int i = 0; i < COUNT / 2; i++) {
            const A lower_half = sums[i], upper_half = sums[i + COUNT / 2];
            kept[i] = upper ? upper_half : lower_half;
            kept[i] += __shfl_xor_sync(0xffffffffu, upper ? lower_half : upper_half, DISTANCE);
        }
        store_totals<LANES, DISTANCE / 2>(kept, upper ? to + COUNT / 2 * LANES : to, stores);
    } else {
        A all[COUNT];
#pragma unroll
        for (int i = 0; i < COUNT; i++) all[i] = sums[i] + __shfl_xor_sync(0xffffffffu, sums[i], DISTANCE);
        store_totals<LANES, DISTANCE / 2>(all, to, stores && !upper);
    }
}

// Weights of OUT outputs of some of the block's units, for this thread's part of a depth of up to DEPTHS * H.
//
// A load of elements takes four cycles of a multiprocessor, whatever is made of it. So where a unit has few outputs, a
// thread has several units and less of the depth, and multiplies what it loads by the weights of four outputs.
template <class T, class S, int OUT, int DEPTHS> struct RegisterWeights {
    using A = SumOf<T>;
    static constexpr int ALL_ROUNDS = (DEPTHS * S::ROUNDS + S::SPLIT - 1) / S::SPLIT;  // with one unit
    static constexpr int MORE = OUT > 2 ? 1 : 4 / OUT;
    // As many that no part of the depth is multiplied in vain.
    static constexpr int OWN = ALL_ROUNDS % MORE == 0 ? MORE : ALL_ROUNDS % 2 == 0 && MORE > 1 ? 2 : 1;
    static constexpr int ROUNDS = ALL_ROUNDS / OWN, LANES = S::UNITS / OWN, OUTPUTS = OUT * OWN;
    A at[OUTPUTS][ROUNDS * S::V];

    // Neighbouring parts read neighbouring elements: a warp's loads are contiguous.
    static DEVICE int depth_index(int round) { return (round * S::PARTS * OWN + int(threadIdx.x) / LANES) * S::V; }

    // exists(out, unit): whether there is such an output; weight(out, unit, k): where its weight is.
    template <class E, class F> DEVICE void load(int depth, E exists, F weight) {
#pragma unroll
        for (int round = 0; round < ROUNDS; round++)
#pragma unroll
            for (int e = 0; e < S::V; e++) {
                const int k = depth_index(round) + e;
#pragma unroll
                for (int output = 0; output < OUTPUTS; output++) {
                    const int out = output / OWN, unit = output % OWN * LANES + int(threadIdx.x) % LANES;
                    at[output][round * S::V + e] = exists(out, unit) && k < depth ? read(weight(out, unit, k)) : A(0);
                }
            }
    }

    // sums[warp][row][out][unit] for every row of a tile; source(n): its elements.
    template <class F> DEVICE void multiply(int depth, int rows, F source, A* sums) const {
        const int warp = threadIdx.x / 32;
        for (int first = 0; first < rows; first += S::AT_ONCE) {
            A sum[S::AT_ONCE][OUTPUTS] = {};
            const T* from[S::AT_ONCE];
#pragma unroll
            for (int n = 0; n < S::AT_ONCE; n++) from[n] = source(first + n < rows ? first + n : first);
#pragma unroll
            for (int round = 0; round < ROUNDS; round++) {
                const int k = depth_index(round);
                if (k >= depth) continue;
#pragma unroll
                for (int n = 0; n < S::AT_ONCE; n++) {
                    if (first + n >= rows) continue;
                    A x[S::V];
                    read_exchanged<S::NEAR, S::V>(from[n] + k, x);
#pragma unroll
                    for (int e = 0; e < S::V; e++)
#pragma unroll
                        for (int output = 0; output < OUTPUTS; output++)
                            sum[n][output] += at[output][round * S::V + e] * x[e];
                }
            }
#pragma unroll
            for (int n = 0; n < S::AT_ONCE; n++) {
                if (first + n >= rows) continue;
                store_totals<LANES, 16>(sum[n], sums + (warp * S::ROWS + first + n) * OUT * S::UNITS);
            }
        }
    }
};

// By tensor cores, in tensor_cores.cuh, which only units that use it include: it needs sm_80.
template <class T, class S, int OUT, int DEPTHS> struct TensorWeights;

template <bool TENSOR, class T, class S, int OUT, int DEPTHS> struct ChosenWeights {
    using Type = RegisterWeights<T, S, OUT, DEPTHS>;
};
template <class T, class S, int OUT, int DEPTHS> struct ChosenWeights<true, T, S, OUT, DEPTHS> {
    using Type = TensorWeights<T, S, OUT, DEPTHS>;
};
template <class T, class S, int OUT, int DEPTHS>
using Weights = typename ChosenWeights<(S::TENSOR > 0), T, S, OUT, DEPTHS>::Type;

// Slots that a phase's recurrent product feeds.
template <class C, int P> struct Fed {
    static constexpr int COUNT = C::template Phase<P>::H_END - C::template Phase<P>::H;
};

template <class S, int OUT, class A> DEVICE A total(const A* sums, int row, int out, int unit) {
    A sum = A(0);
#pragma unroll
    for (int warp = 0; warp < S::WARPS; warp++) sum += sums[((warp * S::ROWS + row) * OUT + out) * S::UNITS + unit];
    return sum;
}

// One phase of one step forward, for all rows of the block.
template <class C, int P, class S, class T, class W, class X>
DEVICE void forward_phase(const Args<T>& a, int s, int rows, const W& w, SumOf<T>* sums, X& exchange) {
    constexpr int FED = Fed<C, P>::COUNT, LAST = C::PHASES - 1;
    const int unit = threadIdx.x % S::UNITS, mine = threadIdx.x / S::UNITS, u = blockIdx.x * S::UNITS + unit;
    const int from = P == 0 ? s & 1 : SECOND_PHASE, to = P == LAST ? (s + 1) & 1 : SECOND_PHASE;
    for (int tile = 0; tile < rows; tile += S::ROWS) {
        const int here = rows - tile < S::ROWS ? rows - tile : S::ROWS, r = row_of_column(tile + mine);
        const bool active = mine < here && u < a.H;
        ForwardInputs<C, T> in;
        if (active) in = load_forward<C, P, T>(a, s, r, u);
        if (tile == 0) exchange.wait(from);
        w.multiply(a.H, here, [&](int n) {
            return exchange.row(from, tile + n, [&](int row) {
                return P == 0 ? entering_h<T>(a, s, row) : operand_row<T>(a, s, row);
            });
        }, sums);
        __syncthreads();
        if (active) {
            SumOf<T> product[FED];
#pragma unroll
            for (int out = 0; out < FED; out++) product[out] = total<S, FED>(sums, mine, out, unit);
            exchange.give(to, tile + mine, u, finish_forward<C, P, T>(a, s, r, u, in, product));
        }
        if (tile + S::ROWS < rows) __syncthreads();  // sums are written anew; after the last tile publish waits
    }
    exchange.publish(to, rows, 1);
}

template <class C, class S, int P, class T>
DEVICE void load_forward_weights(const Args<T>& a, Weights<T, S, Fed<C, P>::COUNT, 1>& w) {
    const int first = blockIdx.x * S::UNITS;
    w.load(a.H, [&](int, int unit) { return first + unit < a.H; }, [&](int out, int unit, int k) {
        return a.w_hh + (i64(C::template Phase<P>::GATE + out) * a.H + first + unit) * a.H + k;
    });
}

// Steps first to last - 1.
template <class C, class S, class T> DEVICE void forward_persistent(const Args<T>& a) {
    constexpr int LAST = C::PHASES - 1;
    SHARED_MEMORY(SumOf<T>, sums);
    int s = a.first, rows = rows_of_column(alive<T>(a, s));
    Weights<T, S, Fed<C, 0>::COUNT, 1> w;
    load_forward_weights<C, S, 0, T>(a, w);
    Weights<T, S, Fed<C, LAST>::COUNT, 1> w2;
    if (C::PHASES == 2) load_forward_weights<C, S, LAST, T>(a, w2);
    constexpr int MOST_OUTPUTS = Fed<C, 0>::COUNT > Fed<C, LAST>::COUNT ? Fed<C, 0>::COUNT : Fed<C, LAST>::COUNT;
    Exchange<T, S> exchange(a, sums + S::WARPS * S::ROWS * MOST_OUTPUTS * S::UNITS, a.H, a.H);
    exchange.begin();
    exchange.enter(s & 1, rows, a.H, [&](int row) { return entering_h<T>(a, a.first, row); });
    for (; s < a.last; s++) {
        count_rows(rows, alive<T>(a, s));
        if (rows <= 0) break;  // of no row of this column is there more
        forward_phase<C, 0, S, T>(a, s, rows, w, sums, exchange);
        if constexpr (C::PHASES == 2) forward_phase<C, 1, S, T>(a, s, rows, w2, sums, exchange);
    }
    exchange.end(s & 1);
}

// Where a block that has all of a product's depth adds up the sums of its warps. The twin of SplitTotals.
template <class T, class S> struct BlockTotals {
    const SumOf<T>* sums;

    DEVICE explicit BlockTotals(const SumOf<T>* memory) : sums(memory) {}
    DEVICE void begin() const {}
    static DEVICE int part() { return 0; }
    static DEVICE int first_of(int) { return 0; }
    static DEVICE int size_of(int depth) { return depth; }
    DEVICE void meet(int) const { __syncthreads(); }
    DEVICE SumOf<T> of(int row, int unit) const { return total<S, 1>(sums, row, 0, unit); }
};

// Through the shared memory of a cluster, in split.cuh, which only units that use it include: it needs sm_90.
template <class T, class S> struct SplitTotals;

template <class T, class S, bool SPLIT> struct ChosenTotals { using Type = SplitTotals<T, S>; };
template <class T, class S> struct ChosenTotals<T, S, false> { using Type = BlockTotals<T, S>; };
template <class T, class S> using Totals = typename ChosenTotals<T, S, (S::SPLIT > 1)>::Type;

// dz of a phase times its weights, for one tile of rows at step s.
template <class C, int P, class S, class T, class W, class X>
DEVICE void multiply_dz(const Args<T>& a, int s, int tile, int rows, const W& w, SumOf<T>* sums, X& exchange,
                        Totals<T, S>& totals) {
    const int depth = Fed<C, P>::COUNT * a.H;
    w.multiply(totals.size_of(depth), rows, [&](int n) {
        return totals.first_of(depth) + exchange.row(P == 0 ? s & 1 : SECOND_PHASE, tile + n, [&](int row) {
            return slab_row<C, T>(a, s, row) + C::template Phase<P>::H * a.H;
        });
    }, sums);
    totals.meet(rows);
}

// Hands on what a phase's slots have become, for the n-th row of the block.
template <class C, int P, class T, class X>
DEVICE void give_dz(const Args<T>& a, int s, int n, int u, const SumOf<T>* slots, X& exchange) {
#pragma unroll
    for (int j = 0; j < Fed<C, P>::COUNT; j++)
        exchange.give(P == 0 ? s & 1 : SECOND_PHASE, n, j * a.H + u, slots[C::template Phase<P>::H + j]);
}

// Of a block's part of the depth, for the units of its whole cluster where that splits it.
template <class C, class S, int P, class T>
DEVICE void load_backward_weights(const Args<T>& a, Weights<T, S, S::SPLIT, Fed<C, P>::COUNT>& w) {
    const int first = (int(blockIdx.x) - Totals<T, S>::part()) * S::UNITS, depth = Fed<C, P>::COUNT * a.H;
    const T* rows = a.w_hh + (i64(C::template Phase<P>::GATE) * a.H + Totals<T, S>::first_of(depth)) * a.H;
    const auto place = [&](int block, int unit) { return first + block * S::UNITS + unit; };
    w.load(Totals<T, S>::size_of(depth), [&](int block, int unit) { return place(block, unit) < a.H; },
           [&](int block, int unit, int k) { return rows + i64(k) * a.H + place(block, unit); });
}

// Steps last - 1 down to first, and then what leaves the first step of all. dz of step last, if there is one, is on the
// slab: a launch before has left it there, and the carry with it.
template <class C, class S, class T> DEVICE void backward_persistent(const Args<T>& a) {
    constexpr int LAST = C::PHASES - 1;
    SHARED_MEMORY(SumOf<T>, sums);
    const int unit = threadIdx.x % S::UNITS, mine = threadIdx.x / S::UNITS, u = blockIdx.x * S::UNITS + unit;
    int rows = rows_of_column(alive<T>(a, a.last));  // behind the weights it costs sm_100 all registers
    Weights<T, S, S::SPLIT, Fed<C, 0>::COUNT> w;
    load_backward_weights<C, S, 0, T>(a, w);
    Weights<T, S, S::SPLIT, Fed<C, LAST>::COUNT> w2;
    if (C::PHASES == 2) load_backward_weights<C, S, LAST, T>(a, w2);
    Exchange<T, S> exchange(a, sums + S::WARPS * S::ROWS * S::UNITS, Fed<C, 0>::COUNT * a.H, Fed<C, LAST>::COUNT * a.H);
    exchange.begin();
    Totals<T, S> totals(sums);
    totals.begin();
    if (rows > 0) exchange.enter(a.last & 1, rows, Fed<C, 0>::COUNT * a.H, [&](int row) {
        return slab_row<C, T>(a, a.last, row) + C::template Phase<0>::H * a.H;
    });
    for (int s = a.last - 1; s >= (a.first > 0 ? a.first : -1); s--) {
        const int going_on = rows;
        count_rows(rows, s < 0 ? a.B : alive<T>(a, s));
        if (rows <= 0) continue;
        for (int tile = 0; tile < rows; tile += S::ROWS) {
            const bool active = tile + mine < rows && mine < S::ROWS && u < a.H;
            const int r = row_of_column(tile + mine), with_product = going_on - tile < S::ROWS ? going_on - tile : S::ROWS;
            BackwardInputs<C, T> in;
            if (active) in = load_backward<C, T>(a, s, r, u);
            if (tile == 0 && going_on > 0) exchange.wait((s + 1) & 1);
            multiply_dz<C, 0, S, T>(a, s + 1, tile, with_product, w, sums, exchange, totals);
            if (active) {
                finish_backward<C, T>(a, s, r, u, in, in.goes_on ? totals.of(mine, unit) : SumOf<T>(0));
                if (s >= 0) give_dz<C, LAST, T>(a, s, tile + mine, u, in.slots, exchange);
            }
            if (tile + S::ROWS < rows) __syncthreads();
        }
        if (s < 0) return;
        exchange.publish(LAST == 0 ? s & 1 : SECOND_PHASE, rows, Fed<C, LAST>::COUNT);
        if constexpr (C::PHASES == 2) {
            exchange.wait(SECOND_PHASE);
            for (int tile = 0; tile < rows; tile += S::ROWS) {
                const int here = rows - tile < S::ROWS ? rows - tile : S::ROWS;
                multiply_dz<C, LAST, S, T>(a, s, tile, here, w2, sums, exchange, totals);
                if (mine < here && u < a.H) {
                    SumOf<T> slots[C::SLOTS];
                    gate_backward<C, T>(a, s, row_of_column(tile + mine), u, totals.of(mine, unit), slots);
                    give_dz<C, 0, T>(a, s, tile + mine, u, slots, exchange);
                }
                if (tile + S::ROWS < rows) __syncthreads();
            }
            exchange.publish(s & 1, rows, Fed<C, 0>::COUNT);
        }
    }
    if (rows > 0) exchange.end(a.first & 1);
}

}  // namespace fastrnn
