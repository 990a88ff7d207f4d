// Products by tensor cores, for 16-bit elements and for float rounded to TF32; see persistent.cuh for how they are used.
#pragma once
#include "numbers.cuh"

namespace fastrnn {

// How 16 bytes of elements become the words of an operand.
template <class T> struct Operand;

template <> struct Operand<Half> {
    static DEVICE u32 word(const Half* p) { return p[0].bits | u32(p[1].bits) << 16; }
    static DEVICE uint4 prepared(uint4 v) { return v; }
    static DEVICE void mma(float (&d)[4], const u32* a, u32 b0, u32 b1) { mma_half(d, a[0], a[1], a[2], a[3], b0, b1); }
};

template <> struct Operand<Bfloat16> {
    static DEVICE u32 word(const Bfloat16* p) { return p[0].bits | u32(p[1].bits) << 16; }
    static DEVICE uint4 prepared(uint4 v) { return v; }
    static DEVICE void mma(float (&d)[4], const u32* a, u32 b0, u32 b1) {
        mma_bfloat16(d, a[0], a[1], a[2], a[3], b0, b1);
    }
};

template <> struct Operand<float> {
    static DEVICE u32 word(const float* p) { return round_to_tf32(__float_as_uint(*p)); }
    static DEVICE uint4 prepared(uint4 v) {
        return {round_to_tf32(v.x), round_to_tf32(v.y), round_to_tf32(v.z), round_to_tf32(v.w)};
    }
    // What rounding has left, rounded in turn: together they have 21 of float's 24 bits.
    static DEVICE u32 rest(u32 bits, u32 rounded) {
        return round_to_tf32(__float_as_uint(__uint_as_float(bits) - __uint_as_float(rounded)));
    }
    static DEVICE uint4 rest(uint4 v, uint4 rounded) {
        return {rest(v.x, rounded.x), rest(v.y, rounded.y), rest(v.z, rounded.z), rest(v.w, rounded.w)};
    }
    static DEVICE void mma(float (&d)[4], const u32* a, u32 b0, u32 b1) { mma_tf32(d, a[0], a[1], a[2], a[3], b0, b1); }
};

// The weights of OUT outputs of all the block's units. Warps share the depth; a warp has all outputs, as rows of the first
// operand, for its part of it. The twin of RegisterWeights in persistent.cuh.
//
// The order of the depth does not matter as long as both operands have the same. So a lane takes 16 neighbouring bytes of
// either as the elements that the instruction would have it gather from all over: every load is one of 16 bytes.
//
// IN_TWO ("3xtf32"): a number is the sum of two of TF32, and of the four products of their parts the smallest is left out.
template <class T, class S, int OUT, int DEPTHS> struct TensorWeights {
    static constexpr bool IN_TWO = S::TENSOR == 3;
    static constexpr int ROUNDS = (DEPTHS * S::ROUNDS + S::SPLIT - 1) / S::SPLIT, V = 16 / int(sizeof(T)), TOGETHER = 4 * V;
    static constexpr int OUTPUTS = OUT * S::UNITS, TILES = (OUTPUTS + 15) / 16;
    static constexpr int ROWS_AT_ONCE = 8;
    // So many times ROWS_AT_ONCE are loaded before the first is multiplied: where a row has few rounds, a load's latency is
    // longer than its products. 32 registers at most.
    static constexpr int MOST_AHEAD = 8 / ROUNDS, GROUPS = (S::ROWS + 7) / 8;
    static constexpr int AHEAD = MOST_AHEAD < 2 || GROUPS < 2 ? 1 : MOST_AHEAD < GROUPS ? MOST_AHEAD : GROUPS;
    u32 at[TILES][ROUNDS][8], rest_at[IN_TWO ? TILES : 1][ROUNDS][8];

    static DEVICE int depth_index(int round) {
        return (round * S::WARPS + int(threadIdx.x) / 32) * TOGETHER + int(threadIdx.x) % 4 * V;
    }

    // As RegisterWeights has it; depth is a multiple of V.
    template <class E, class F> DEVICE void load(int depth, E exists, F weight) {
        const int g = threadIdx.x % 32 / 4;
#pragma unroll
        for (int tile = 0; tile < TILES; tile++)
#pragma unroll
            for (int round = 0; round < ROUNDS; round++)
#pragma unroll
                for (int word = 0; word < 4; word++)
#pragma unroll
                    for (int half = 0; half < 2; half++) {
                        const int row = tile * 16 + half * 8 + g, out = row / S::UNITS, unit = row % S::UNITS;
                        const int k = depth_index(round) + word * (V / 4);
                        at[tile][round][2 * word + half] = 0u;
                        if constexpr (IN_TWO) rest_at[tile][round][2 * word + half] = 0u;
                        if (row >= OUTPUTS || k >= depth || !exists(out, unit)) continue;
                        T elements[V / 4];
#pragma unroll
                        for (int e = 0; e < V / 4; e++) elements[e] = *weight(out, unit, k + e);
                        const u32 rounded = at[tile][round][2 * word + half] = Operand<T>::word(elements);
                        if constexpr (IN_TWO)
                            rest_at[tile][round][2 * word + half] = Operand<T>::rest(__float_as_uint(elements[0]), rounded);
                    }
    }

    // sums[warp][row][out][unit] for every row of a tile; source(n): its elements.
    template <class F> DEVICE void multiply(int depth, int rows, F source, float* sums) const {
        const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4, warp = threadIdx.x / 32;
        for (int begin = 0; begin < rows; begin += AHEAD * ROWS_AT_ONCE) {
            uint4 ahead[AHEAD][AHEAD > 1 ? ROUNDS : 1];
            if constexpr (AHEAD > 1) {
#pragma unroll
                for (int i = 0; i < AHEAD; i++) {
                    const int n = begin + i * ROWS_AT_ONCE + g;
                    const T* from = source(n < rows ? n : begin);
#pragma unroll
                    for (int round = 0; round < ROUNDS; round++) ahead[i][round] = loaded(from, round, depth, n < rows);
                }
            }
#pragma unroll
            for (int i = 0; i < AHEAD; i++) {
                const int first = begin + i * ROWS_AT_ONCE;
                if (first >= rows) continue;
                const T* from = AHEAD > 1 ? nullptr : source(first + g < rows ? first + g : first);
                float d[TILES][4] = {};
#pragma unroll
                for (int round = 0; round < ROUNDS; round++) {
                    if constexpr (AHEAD > 1) multiply(ahead[i][round], round, d);
                    else multiply(loaded(from, round, depth, first + g < rows), round, d);
                }
#pragma unroll
                for (int tile = 0; tile < TILES; tile++)
#pragma unroll
                    for (int e = 0; e < 4; e++) {
                        const int n = first + 2 * t + e % 2, output = tile * 16 + e / 2 * 8 + g;
                        if (n < rows && output < OUTPUTS) sums[(warp * S::ROWS + n) * OUTPUTS + output] = d[tile][e];
                    }
            }
        }
    }

    static DEVICE uint4 loaded(const T* from, int round, int depth, bool exists) {
        const int k = depth_index(round);
        uint4 v = {0, 0, 0, 0};
        if (exists && k < depth) v = load_exchanged<S::NEAR>(reinterpret_cast<const uint4*>(from + k));
        return v;
    }

    DEVICE void multiply(uint4 loaded, int round, float (&d)[TILES][4]) const {
        const uint4 v = Operand<T>::prepared(loaded);
        if constexpr (IN_TWO) {
            const uint4 rest = Operand<T>::rest(loaded, v);
#pragma unroll
            for (int tile = 0; tile < TILES; tile++) {
                Operand<T>::mma(d[tile], rest_at[tile][round], v.x, v.y);
                Operand<T>::mma(d[tile], rest_at[tile][round] + 4, v.z, v.w);
                Operand<T>::mma(d[tile], at[tile][round], rest.x, rest.y);
                Operand<T>::mma(d[tile], at[tile][round] + 4, rest.z, rest.w);
            }
        }
#pragma unroll
        for (int tile = 0; tile < TILES; tile++) {
            Operand<T>::mma(d[tile], at[tile][round], v.x, v.y);
            Operand<T>::mma(d[tile], at[tile][round] + 4, v.z, v.w);
        }
    }
};

}  // namespace fastrnn
