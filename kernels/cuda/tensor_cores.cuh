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
// SPLIT ("3xtf32"): a number is the sum of two of TF32, and of the four products of their parts the smallest is left out.
template <class T, class S, int OUT, int DEPTHS> struct TensorWeights {
    static constexpr bool SPLIT = S::TENSOR == 3;
    static constexpr int ROUNDS = DEPTHS * S::ROUNDS, V = 16 / int(sizeof(T)), TOGETHER = 4 * V;
    static constexpr int OUTPUTS = OUT * S::UNITS, TILES = (OUTPUTS + 15) / 16;
    static constexpr int ROWS_AT_ONCE = 8;
    u32 at[TILES][ROUNDS][8], rest_at[SPLIT ? TILES : 1][ROUNDS][8];

    static DEVICE int depth_index(int round) {
        return (round * S::WARPS + int(threadIdx.x) / 32) * TOGETHER + int(threadIdx.x) % 4 * V;
    }

    // weight(out, unit, k): where it is; depth is a multiple of V.
    template <class F> DEVICE void load(int depth, int units, F weight) {
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
                        if constexpr (SPLIT) rest_at[tile][round][2 * word + half] = 0u;
                        if (row >= OUTPUTS || unit >= units || k >= depth) continue;
                        T elements[V / 4];
#pragma unroll
                        for (int e = 0; e < V / 4; e++) elements[e] = *weight(out, unit, k + e);
                        const u32 rounded = at[tile][round][2 * word + half] = Operand<T>::word(elements);
                        if constexpr (SPLIT)
                            rest_at[tile][round][2 * word + half] = Operand<T>::rest(__float_as_uint(elements[0]), rounded);
                    }
    }

    // sums[warp][row][out][unit] for every row of a tile; source(n): its elements.
    template <class F> DEVICE void multiply(int depth, int rows, F source, float* sums) const {
        const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4, warp = threadIdx.x / 32;
        for (int first = 0; first < rows; first += ROWS_AT_ONCE) {
            const bool exists = first + g < rows;
            const T* from = source(exists ? first + g : first);
            float d[TILES][4] = {};
#pragma unroll
            for (int round = 0; round < ROUNDS; round++) {
                const int k = depth_index(round);
                uint4 v = {0, 0, 0, 0};
                if (exists && k < depth) v = load_exchanged<S::NEAR>(reinterpret_cast<const uint4*>(from + k));
                const uint4 loaded = v;
                v = Operand<T>::prepared(v);
                if constexpr (SPLIT) {
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
#pragma unroll
            for (int tile = 0; tile < TILES; tile++)
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    const int n = first + 2 * t + i % 2, output = tile * 16 + i / 2 * 8 + g;
                    if (n < rows && output < OUTPUTS) sums[(warp * S::ROWS + n) * OUTPUTS + output] = d[tile][i];
                }
        }
    }
};

}  // namespace fastrnn
