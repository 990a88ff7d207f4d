// What the hardware offers: the only file with PTX, and the only one that knows whether a GPU or an emulator runs it.
//
// No header of CUDA is included, since users have NVRTC and no toolkit. Compiled as ordinary C++ (without __CUDACC__)
// the same names come from device_emulation.h, which the tests bring along.
#pragma once

#ifdef __CUDACC__

// A kernel takes one structure by value. THREADS bounds the block, and so the registers that a thread may have.
#define KERNEL(NAME, THREADS, ARGUMENTS) extern "C" __global__ void __launch_bounds__(THREADS, 1) NAME(const ARGUMENTS a)
// As KERNEL, in clusters of BLOCKS neighbours of the grid that see each other's shared memory; needs sm_90.
#define CLUSTER_KERNEL(NAME, THREADS, BLOCKS, ARGUMENTS) \
    extern "C" __global__ void __cluster_dims__(BLOCKS, 1, 1) __launch_bounds__(THREADS, 1) NAME(const ARGUMENTS a)
// The block's dynamic shared memory as an array of TYPE, aligned to 128 bytes.
#define SHARED_MEMORY(TYPE, NAME)                                       \
    extern __shared__ __align__(128) unsigned char shared_memory_[];    \
    TYPE* NAME = reinterpret_cast<TYPE*>(shared_memory_)
// Every polling loop, so that an emulator can let others run.
#define SPIN_WHILE(CONDITION) while (CONDITION) {}
#define DEVICE __device__ __forceinline__

namespace fastrnn {

using u16 = unsigned short;
using u32 = unsigned int;
using u64 = unsigned long long;
using i64 = long long;

// Flags between blocks: what was written before the release is seen after the acquire that reads it.
DEVICE u32 load_acquire(const u32* p) {
    u32 v;
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(v) : "l"(p) : "memory");
    return v;
}

DEVICE void store_release(u32* p, u32 v) {
    asm volatile("st.release.gpu.global.u32 [%0], %1;" ::"l"(p), "r"(v) : "memory");
}

// Keeps an address where it is: compilers would rather compute it anew than spend registers on it.
template <class P> DEVICE void keep(P*& p) { asm volatile("" : "+l"(p)); }

// Loads that pass the first-level cache by, which other blocks' stores do not reach: for what this launch wrote.
DEVICE uint4 load_shared_by_blocks(const uint4* p) {
    uint4 v;
    asm volatile("ld.global.cg.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(p) : "memory");
    return v;
}

DEVICE u16 load_shared_by_blocks(const u16* p) {
    u16 v;
    asm volatile("ld.global.cg.u16 %0, [%1];" : "=h"(v) : "l"(p) : "memory");
    return v;
}

DEVICE float load_shared_by_blocks(const float* p) {
    float v;
    asm volatile("ld.global.cg.f32 %0, [%1];" : "=f"(v) : "l"(p) : "memory");
    return v;
}

DEVICE double load_shared_by_blocks(const double* p) {
    double v;
    asm volatile("ld.global.cg.f64 %0, [%1];" : "=d"(v) : "l"(p) : "memory");
    return v;
}

// The upper half of a product of 128 bits.
DEVICE u64 multiply_high(u64 x, u64 y) { return __umul64hi(x, y); }

// Round to nearest even; NaN stays NaN.
DEVICE float half_to_float(u16 bits) {
    float v;
    asm("cvt.f32.f16 %0, %1;" : "=f"(v) : "h"(bits));
    return v;
}

DEVICE u16 float_to_half(float v) {
    u16 bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(v));
    return bits;
}

#if __CUDA_ARCH__ >= 900
// All threads of a cluster meet; what they wrote to shared memory before is seen by all after.
DEVICE void cluster_barrier() {
    asm volatile("barrier.cluster.arrive.release.aligned;\n\tbarrier.cluster.wait.acquire.aligned;" ::: "memory");
}

DEVICE u32 shared_address(const void* p) { return u32(__cvta_generic_to_shared(p)); }

// The same place in the shared memory of a block of the cluster.
DEVICE u32 in_block(const void* mine, u32 rank) {
    u32 address;
    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(address) : "r"(shared_address(mine)), "r"(rank));
    return address;
}

// An mbarrier lies in shared memory and counts, phase by phase, arrivals and bytes: a phase is over when as many threads
// have arrived as mbarrier_init says, and as many bytes as these have said they expect. Bytes may come first.
DEVICE void mbarrier_init(u64* mbarrier, u32 arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(mbarrier)), "r"(arrivals) : "memory");
}

// This thread arrives at its own block's.
DEVICE void mbarrier_expect(u64* mbarrier, u32 bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(mbarrier)), "r"(bytes)
                 : "memory");
}

// What bytes brought is seen after a phase is known to be over: shared memory alone. A plain acquire at the scope of a
// cluster also empties the first-level cache; compilers before CUDA 12.8 know no other.
#if __CUDACC_VER_MAJOR__ * 100 + __CUDACC_VER_MINOR__ >= 1208
#define FASTRNN_PASSED "relaxed.cluster"
#define FASTRNN_ACQUIRE "fence.acquire.sync_restrict::shared::cluster.cluster;"
#else
#define FASTRNN_PASSED "acquire.cluster"
#define FASTRNN_ACQUIRE ""
#endif

// Whether the phase is over that is under way or was the last one, whichever of them has this parity; the first has 0.
// Then what its bytes brought is seen. May wait a little before it says no.
DEVICE bool mbarrier_passed(u64* mbarrier, u32 parity) {
    u32 passed;
    asm volatile("{\n\t.reg .pred p;\n\t"
                 "mbarrier.try_wait.parity." FASTRNN_PASSED ".shared::cta.b64 p, [%1], %2;\n\tselp.u32 %0, 1, 0, p;\n\t"
                 FASTRNN_ACQUIRE "}"
                 : "=r"(passed) : "r"(shared_address(mbarrier)), "r"(parity) : "memory");
    return passed != 0;
}

// 16 bytes to the same place in a block of the cluster, whose mbarrier counts them when they are there.
DEVICE void send_to_block(uint4* mine, uint4 v, u64* mbarrier, u32 rank) {
    asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.u32 [%0], {%1, %2, %3, %4}, [%5];" ::"r"(
                     in_block(mine, rank)), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w), "r"(in_block(mbarrier, rank))
                 : "memory");
}
#endif

#if __CUDA_ARCH__ >= 800
// Tensor cores, one warp together: d (16, 8) += a (16, k) b (k, 8) in float, k = 16 of 16-bit and 8 of TF32 elements. With
// g = lane / 4 and t = lane % 4 a lane has of a the rows g and g + 8 and of b the column g, at elements 2 t, 2 t + 1, 2 t + 8
// and 2 t + 9 of k (TF32: t and t + 4): a0, b0 the first, a2, b1 the last of row g; a1, a3 those of row g + 8. Of d it has
// (g, 2 t), (g, 2 t + 1), (g + 8, 2 t), (g + 8, 2 t + 1).
#define FASTRNN_MMA(NAME, SHAPE)                                                                              \
    DEVICE void NAME(float (&d)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {                           \
        asm("mma.sync.aligned." SHAPE " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"        \
            : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                                                    \
            : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));                                            \
    }
FASTRNN_MMA(mma_half, "m16n8k16.row.col.f32.f16.f16.f32")
FASTRNN_MMA(mma_bfloat16, "m16n8k16.row.col.f32.bf16.bf16.f32")
FASTRNN_MMA(mma_tf32, "m16n8k8.row.col.f32.tf32.tf32.f32")

// The nearest of 10 bits of mantissa, ties away from zero.
DEVICE u32 round_to_tf32(u32 bits) {
    u32 rounded;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(rounded) : "f"(__uint_as_float(bits)));
    return rounded;
}
#endif

}  // namespace fastrnn

#else
#include "device_emulation.h"
#endif

namespace fastrnn {

// The upper half of a float. Done in integers, as cvt for bfloat16 needs sm_80 and one NaN must not become infinity.
DEVICE float bfloat16_to_float(u16 bits) { return __uint_as_float(u32(bits) << 16); }

DEVICE u16 float_to_bfloat16(float v) {
    u32 bits = __float_as_uint(v);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fff;
    return u16((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

}  // namespace fastrnn
