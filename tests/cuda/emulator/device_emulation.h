// What a GPU offers to kernels, offered by a CPU: stands in for device.cuh's PTX and for CUDA's built-ins.
//
// One fiber per GPU thread, all blocks resident (device_emulation.cpp). Only what kernels need is here, without a
// single #include, since g++ reads this again for every kernel. Deliberately missing: __shared__ (SHARED_MEMORY is
// the way) and __global__ (KERNEL is).
//
// Every operation that waits passes WHERE on, the text "operation at file:line", by which errors name it.
#pragma once

struct uint3 { unsigned x, y, z; };
struct dim3 { unsigned x, y, z; };
struct alignas(8) uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };

// The running GPU thread.
struct EmulatedThread {
    uint3 thread, block;
    dim3 block_size, grid_size;
    unsigned char* shared_memory;
    unsigned lane;
};

// A launch as Python states it: launch.py has the same structure.
struct EmulatedLaunch {
    unsigned grid[3], block[3];
    unsigned shared_bytes;
    unsigned schedule;
    unsigned long long seed;
    const void* arguments;
    unsigned long long arguments_bytes;
    char* message;  // receives the error
    unsigned long long message_bytes;
};

extern "C" {
extern EmulatedThread* emulated_thread;
// Runs a kernel; 0, or 1 with the launch's message filled.
int emulated_launch(const EmulatedLaunch*, const char* name, void (*thread)(const void*), unsigned most_threads,
                    unsigned cluster, unsigned long long arguments_bytes);
[[noreturn]] void emulated_failure(const char* what, const char* where);
void emulated_barrier(const char* where);
void emulated_cluster_barrier(const char* where);
// The mbarriers of shared memory, and 16 bytes on their way to the same place in a block of the cluster.
void emulated_mbarrier_init(void* mbarrier, unsigned arrivals, const char* where);
void emulated_mbarrier_expect(void* mbarrier, unsigned bytes, const char* where);
bool emulated_mbarrier_passed(void* mbarrier, unsigned parity, const char* where);
void emulated_send(void* mine, const unsigned (&words)[4], void* mbarrier, unsigned rank, const char* where);
// True if `again`, after others had a turn.
bool emulated_spin(bool again, const char* where);
// All lanes of the mask meet and see what each brought: all[lane * words + i]. The one operation behind every
// collective of a warp. Memory is ordered only by those that promise it.
void emulated_exchange(const unsigned* mine, unsigned* all, unsigned words, unsigned mask, bool orders_memory,
                       const char* where);

double exp(double) noexcept;
double fabs(double) noexcept;
double fma(double, double, double) noexcept;
double log(double) noexcept;
double sqrt(double) noexcept;
double tanh(double) noexcept;
float expf(float) noexcept;
float fabsf(float) noexcept;
float fmaf(float, float, float) noexcept;
float fmaxf(float, float) noexcept;
float fminf(float, float) noexcept;
float logf(float) noexcept;
float sqrtf(float) noexcept;
float tanhf(float) noexcept;
}

#define EMULATED_TEXT_(X) #X
#define EMULATED_TEXT(X) EMULATED_TEXT_(X)
#define EMULATED_WHERE(OPERATION) OPERATION " at " __FILE__ ":" EMULATED_TEXT(__LINE__)

#define threadIdx (emulated_thread->thread)
#define blockIdx (emulated_thread->block)
#define blockDim (emulated_thread->block_size)
#define gridDim (emulated_thread->grid_size)
#define warpSize 32

#define __host__
#define __device__
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __align__(BYTES) __attribute__((aligned(BYTES)))
#define DEVICE inline

// ---- device.cuh's macros ----

// The body becomes a function; NAME launches it, NAME_most_threads is the bound on its block, NAME_cluster the blocks of
// a cluster.
#define KERNEL(NAME, THREADS, ARGUMENTS) CLUSTER_KERNEL(NAME, THREADS, 1, ARGUMENTS)
#define CLUSTER_KERNEL(NAME, THREADS, BLOCKS, ARGUMENTS)                                                  \
    static void NAME##_body(const ARGUMENTS a);                                                           \
    static void NAME##_thread(const void* a) { NAME##_body(*static_cast<const ARGUMENTS*>(a)); }          \
    extern "C" __attribute__((visibility("default"))) unsigned NAME##_most_threads() { return (THREADS); } \
    extern "C" __attribute__((visibility("default"))) unsigned NAME##_cluster() { return (BLOCKS); }       \
    extern "C" __attribute__((visibility("default"))) int NAME(const EmulatedLaunch* launch) {            \
        return emulated_launch(launch, #NAME, NAME##_thread, (THREADS), (BLOCKS), sizeof(ARGUMENTS));     \
    }                                                                                                     \
    static void NAME##_body(const ARGUMENTS a)
#define SHARED_MEMORY(TYPE, NAME) TYPE* NAME = reinterpret_cast<TYPE*>(emulated_thread->shared_memory)
#define SPIN_WHILE(CONDITION) \
    while (emulated_spin((CONDITION), EMULATED_WHERE("SPIN_WHILE"))) {}

// ---- CUDA: barriers and warps ----

#define __syncthreads() emulated_barrier(EMULATED_WHERE("__syncthreads"))
#define __syncwarp(...) \
    emulated_exchange(nullptr, nullptr, 0, emulated_mask(__VA_ARGS__), true, EMULATED_WHERE("__syncwarp"))
#define __shfl_sync(MASK, VALUE, SOURCE) \
    emulated_shuffle((VALUE), (SOURCE) & 31, (MASK), EMULATED_WHERE("__shfl_sync"))
#define __shfl_xor_sync(MASK, VALUE, BITS) \
    emulated_shuffle((VALUE), emulated_thread->lane ^ (BITS), (MASK), EMULATED_WHERE("__shfl_xor_sync"))
#define __shfl_down_sync(MASK, VALUE, DELTA) \
    emulated_shuffle((VALUE), emulated_lane_after(DELTA), (MASK), EMULATED_WHERE("__shfl_down_sync"))
#define __ballot_sync(MASK, VOTE) emulated_ballot((VOTE), (MASK), EMULATED_WHERE("__ballot_sync"))
#define __any_sync(MASK, VOTE) (emulated_ballot((VOTE), (MASK), EMULATED_WHERE("__any_sync")) != 0u)
#define __all_sync(MASK, VOTE) (emulated_ballot((VOTE), (MASK), EMULATED_WHERE("__all_sync")) == unsigned(MASK))

inline unsigned emulated_mask(unsigned mask = 0xffffffffu) { return mask; }

inline unsigned emulated_lane_after(unsigned delta) {
    const unsigned lane = emulated_thread->lane;
    return lane + delta > 31 ? lane : lane + delta;
}

template <class T>
inline T emulated_shuffle(T value, unsigned source, unsigned mask, const char* where) {
    static_assert(sizeof(T) == 4 || sizeof(T) == 8, "CUDA shuffles values of 4 and of 8 bytes");
    constexpr unsigned words = sizeof(T) / 4;
    unsigned mine[words], all[32 * words];
    __builtin_memcpy(mine, &value, sizeof(T));
    emulated_exchange(mine, all, words, mask, false, where);
    if (source > 31 || !(mask >> source & 1)) emulated_failure("shuffle from a lane outside the mask", where);
    __builtin_memcpy(&value, all + source * words, sizeof(T));
    return value;
}

inline unsigned emulated_ballot(bool vote, unsigned mask, const char* where) {
    const unsigned mine = vote;
    unsigned all[32], ballot = 0;
    emulated_exchange(&mine, all, 1, mask, false, where);
    for (unsigned lane = 0; lane < 32; ++lane) ballot |= all[lane] << lane;
    return ballot;
}

// ---- CUDA: arithmetic ----

inline float __uint_as_float(unsigned bits) {
    float value;
    __builtin_memcpy(&value, &bits, 4);
    return value;
}

inline unsigned __float_as_uint(float value) {
    unsigned bits;
    __builtin_memcpy(&bits, &value, 4);
    return bits;
}

inline unsigned __umulhi(unsigned a, unsigned b) { return unsigned((unsigned long long)a * b >> 32); }
inline float __expf(float x) { return expf(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float exp(float x) { return expf(x); }
inline float fabs(float x) { return fabsf(x); }
inline float fma(float a, float b, float c) { return fmaf(a, b, c); }
inline float log(float x) { return logf(x); }
inline float sqrt(float x) { return sqrtf(x); }
inline float tanh(float x) { return tanhf(x); }
inline bool isnan(float x) { return x != x; }
inline bool isnan(double x) { return x != x; }

// Of floats CUDA's min and max return the one that is a number.
inline float min(float a, float b) { return fminf(a, b); }
inline float max(float a, float b) { return fmaxf(a, b); }
inline double min(double a, double b) { return __builtin_fmin(a, b); }
inline double max(double a, double b) { return __builtin_fmax(a, b); }
template <class T> constexpr T min(T a, T b) { return b < a ? b : a; }
template <class T> constexpr T max(T a, T b) { return a < b ? b : a; }

template <class T> inline T __ldg(const T* p) { return *p; }

// ---- device.cuh's functions ----

namespace fastrnn {

using u16 = unsigned short;
using u32 = unsigned int;
using u64 = unsigned long long;
using i64 = long long;

#define cluster_barrier() emulated_cluster_barrier(EMULATED_WHERE("cluster_barrier"))
#define mbarrier_init(MBARRIER, ARRIVALS) \
    emulated_mbarrier_init((MBARRIER), (ARRIVALS), EMULATED_WHERE("mbarrier_init"))
#define mbarrier_expect(MBARRIER, BYTES) \
    emulated_mbarrier_expect((MBARRIER), (BYTES), EMULATED_WHERE("mbarrier_expect"))
#define mbarrier_passed(MBARRIER, PARITY) \
    emulated_mbarrier_passed((MBARRIER), (PARITY), EMULATED_WHERE("mbarrier_passed"))
#define send_to_block(MINE, VALUE, MBARRIER, RANK) \
    emulated_send_vector((MINE), (VALUE), (MBARRIER), (RANK), EMULATED_WHERE("send_to_block"))
inline void emulated_send_vector(uint4* mine, uint4 v, u64* mbarrier, u32 rank, const char* where) {
    emulated_send(mine, {v.x, v.y, v.z, v.w}, mbarrier, rank, where);
}

inline u32 round_to_tf32(u32 bits) {
    if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fffffffu;
    return (bits + 0x1000u) & 0xffffe000u;
}

inline u64 multiply_high(u64 x, u64 y) { return u64((static_cast<unsigned __int128>(x) * y) >> 64); }

inline u32 load_acquire(const u32* p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
inline void store_release(u32* p, u32 v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }
template <class P> inline void keep(P*&) {}

template <class T>
inline T emulated_load(const T* p) {
    if (u64(p) % sizeof(T)) emulated_failure("misaligned address", EMULATED_WHERE("load_shared_by_blocks"));
    return *p;
}

inline uint4 load_shared_by_blocks(const uint4* p) { return emulated_load(p); }
inline u16 load_shared_by_blocks(const u16* p) { return emulated_load(p); }
inline float load_shared_by_blocks(const float* p) { return emulated_load(p); }
inline double load_shared_by_blocks(const double* p) { return emulated_load(p); }

// Bits of a half shifted into those of a float lack 112 in the exponent, subnormal numbers too: one exact product.
inline float half_to_float(u16 bits) {
    const u32 sign = u32(bits & 0x8000) << 16, magnitude = u32(bits & 0x7fff) << 13;
    if (magnitude > 0x7c00u << 13) return __uint_as_float(0x7fffffffu);
    if (magnitude == 0x7c00u << 13) return __uint_as_float(sign | 0x7f800000u);
    return __uint_as_float(sign | __float_as_uint(__uint_as_float(magnitude) * 0x1p112f));
}

inline u16 float_to_half(float v) {
    const u32 sign = __float_as_uint(v) >> 16 & 0x8000, magnitude = __float_as_uint(v) & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return 0x7fff;
    if (magnitude >= 0x477ff000u) return u16(sign | 0x7c00);  // 65520 is the first to round to infinity
    // Below 2**-14 the float 0.5 + |v| has the step of a subnormal half, and the addition rounds to nearest even.
    if (magnitude < 0x38800000u) return u16(sign | (__float_as_uint(__uint_as_float(magnitude) + 0.5f) - 0x3f000000u));
    return u16(sign | (magnitude - (112u << 23) + 0xfffu + (magnitude >> 13 & 1u)) >> 13);
}

// Tensor cores; device.cuh says who has which elements. value(word, e): element e of the PACKED ones of a word.
template <int PACKED, class Value>
inline void emulated_mma(float (&d)[4], const u32 (&mine)[6], Value value, const char* where) {
    u32 all[32 * 6];
    emulated_exchange(mine, all, 6, 0xffffffffu, false, where);
    const u32 lane = emulated_thread->lane, g = lane / 4, t = lane % 4;
    for (u32 i = 0; i < 4; ++i) {
        const u32 row = g, column = 2 * t + i % 2, lower = i / 2;
        for (u32 half = 0; half < 2; ++half)
            for (u32 k = 0; k < 4; ++k)
                for (u32 e = 0; e < PACKED; ++e) {
                    const u32 a = all[(row * 4 + k) * 6 + 2 * half + lower], b = all[(column * 4 + k) * 6 + 4 + half];
                    d[i] += value(a, e) * value(b, e);
                }
    }
}

inline void mma_half(float (&d)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
    const auto value = [](u32 word, u32 e) { return half_to_float(u16(word >> 16 * e)); };
    emulated_mma<2>(d, {a0, a1, a2, a3, b0, b1}, value, EMULATED_WHERE("mma_half"));
}

inline void mma_bfloat16(float (&d)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
    const auto value = [](u32 word, u32 e) { return __uint_as_float((word >> 16 * e) << 16); };
    emulated_mma<2>(d, {a0, a1, a2, a3, b0, b1}, value, EMULATED_WHERE("mma_bfloat16"));
}

inline void mma_tf32(float (&d)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
    const auto value = [](u32 word, u32) { return __uint_as_float(word & 0xffffe000u); };  // the rest is not looked at
    emulated_mma<1>(d, {a0, a1, a2, a3, b0, b1}, value, EMULATED_WHERE("mma_tf32"));
}

}  // namespace fastrnn
