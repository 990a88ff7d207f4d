// Dropout by a generator that counts: element e of a mask is a function of the key and of e alone, so any thread can make it
// at any time, and backward makes the mask of forward anew.
//
// It is Philox4x64-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011) as numpy.random.Philox
// draws float32 from it, so that a seed gives the same mask as on the CPU: every counter yields eight numbers of 24 bits.
#pragma once
#include "numbers.cuh"

namespace fastrnn {

constexpr int NUMBERS_A_COUNTER = 8;

DEVICE void philox(u64 key0, u64 key1, u64 counter, u64 (&words)[4]) {
    words[0] = counter;
    words[1] = words[2] = words[3] = 0;
#pragma unroll
    for (int round = 0; round < 10; round++) {
        const u64 high0 = multiply_high(0xD2E7470EE14C6C93ull, words[0]), low0 = 0xD2E7470EE14C6C93ull * words[0];
        const u64 high1 = multiply_high(0xCA5A826395121157ull, words[2]), low1 = 0xCA5A826395121157ull * words[2];
        words[0] = high1 ^ words[1] ^ key0;
        words[2] = high0 ^ words[3] ^ key1;
        words[1] = low1;
        words[3] = low0;
        key0 += 0x9E3779B97F4A7C15ull;
        key1 += 0xBB67AE8584CAA73Bull;
    }
}

// elements (count,), from element `first` of the mask on: zeroed with probability p, scaled else. A thread takes what one
// counter yields.
template <class T> DEVICE void apply_mask(const MaskArguments<T, SumOf<T>>& a) {
    const i64 counter = a.first / NUMBERS_A_COUNTER + i64(blockIdx.x) * blockDim.x + threadIdx.x;
    if (counter * NUMBERS_A_COUNTER >= a.first + a.count) return;
    u64 words[4];
    philox(a.key0, a.key1, u64(counter) + 1, words);  // NumPy counts before it draws
#pragma unroll
    for (int k = 0; k < NUMBERS_A_COUNTER; k++) {
        const i64 e = counter * NUMBERS_A_COUNTER + k - a.first;
        const float number = float(u32(words[k / 2] >> (32 * (k % 2))) >> 8) * (1.0f / 16777216.0f);
        if (e >= 0 && e < a.count) write(a.elements + e, read(a.elements + e) * (number >= a.p ? a.scale : SumOf<T>(0)));
    }
}

}  // namespace fastrnn
