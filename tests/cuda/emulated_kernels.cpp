// What the emulator is tested on: kernels that are right, and such as break a rule. One text, so that g++ runs once.
// A marker `// [name]` is on a line that an error has to name.

template <class T> DEVICE void shuffle(const Arguments& a) {
    const unsigned lane = threadIdx.x % 32, full = 0xffffffffu, half = lane < 16 ? 0xffffu : 0xffff0000u;
    const T mine = static_cast<const T*>(a.input)[threadIdx.x];
    T* out = static_cast<T*>(a.output) + threadIdx.x;
    out[0 * blockDim.x] = __shfl_xor_sync(full, mine, 5);
    out[1 * blockDim.x] = __shfl_sync(full, mine, int(lane * 7));
    out[2 * blockDim.x] = __shfl_down_sync(full, mine, 3);
    if (lane < 16) out[3 * blockDim.x] = __shfl_xor_sync(half, mine, 1);
    else out[3 * blockDim.x] = __shfl_xor_sync(half, mine, 2);
}
KERNEL(shuffle_u32, 64, Arguments) { shuffle<u32>(a); }
KERNEL(shuffle_int, 64, Arguments) { shuffle<int>(a); }
KERNEL(shuffle_float, 64, Arguments) { shuffle<float>(a); }
KERNEL(shuffle_double, 64, Arguments) { shuffle<double>(a); }

KERNEL(vote, 64, Arguments) {
    const bool yes = static_cast<const u32*>(a.input)[threadIdx.x] != 0;
    u32* out = static_cast<u32*>(a.output) + threadIdx.x;
    out[0] = __ballot_sync(0xffffffffu, yes);
    out[64] = __any_sync(0xffffffffu, yes);
    out[128] = __all_sync(0xffffffffu, yes);
}

KERNEL(indices, 64, Arguments) {
    const unsigned block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
    const unsigned thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
    static_cast<u32*>(a.output)[block * blockDim.x * blockDim.y * blockDim.z + thread] = block * 1000 + thread;
}

// Each thread reads what the opposite one wrote, n times.
template <bool BARRIERS> DEVICE void reverse(const Arguments& a) {
    SHARED_MEMORY(int, shared);
    int mine = int(threadIdx.x);
    for (int i = 0; i < a.n; ++i) {
        shared[threadIdx.x] = mine;
        __syncthreads();
        mine = shared[blockDim.x - 1 - threadIdx.x] + 1;
        if (BARRIERS) __syncthreads();
    }
    static_cast<int*>(a.output)[threadIdx.x] = mine;
}
KERNEL(reverse_right, 64, Arguments) { reverse<true>(a); }
KERNEL(reverse_without_barrier, 64, Arguments) { reverse<false>(a); }

// Block b adds b to what block b - 1 published, and publishes that.
template <bool RELAXED> DEVICE void chain(const Arguments& a) {
    float* sums = static_cast<float*>(a.output);
    if (threadIdx.x != 0) return;
    float before = 0.f;
    if (blockIdx.x > 0) {
        SPIN_WHILE(load_acquire(a.flags + blockIdx.x - 1) == 0u);  // [chain]
        before = load_shared_by_blocks(sums + blockIdx.x - 1);
    }
    sums[blockIdx.x] = before + float(blockIdx.x);
    if (int(blockIdx.x) == a.n) return;
    if (RELAXED) __atomic_store_n(a.flags + blockIdx.x, 1u, __ATOMIC_RELAXED);
    else store_release(a.flags + blockIdx.x, 1u);
}
KERNEL(chain_right, 32, Arguments) { chain<false>(a); }
KERNEL(chain_relaxed, 32, Arguments) { chain<true>(a); }

// Two threads of different blocks hand a counter to and fro by flags alone.
KERNEL(ping_pong, 1, Arguments) {
    for (u32 i = blockIdx.x; i < u32(a.n); i += 2) {
        SPIN_WHILE(load_acquire(a.flags) != i);
        store_release(a.flags, i + 1);
    }
}

// The blocks of a cluster hand 16 bytes a thread around, n times; two buffers by turns, each with an mbarrier.
template <int PARITY, int BYTES, bool WAITS> DEVICE void around(const Arguments& a) {
    SHARED_MEMORY(uint4, shared);
    u64* arrived = reinterpret_cast<u64*>(shared + 2 * blockDim.x);
    if (threadIdx.x < 2) mbarrier_init(arrived + threadIdx.x, 1);
    cluster_barrier();
    uint4 v = {blockIdx.x, threadIdx.x, 0u, 0u};
    for (int i = 0; i < a.n; ++i) {
        const int buffer = i & 1;
        if (threadIdx.x == 0) mbarrier_expect(arrived + buffer, 16 * blockDim.x + BYTES);
        send_to_block(shared + buffer * blockDim.x + threadIdx.x, v, arrived + buffer, (blockIdx.x + 1) % 4);
        if (WAITS) SPIN_WHILE(!mbarrier_passed(arrived + buffer, (i >> 1 & 1) ^ PARITY));  // [around]
        v = shared[buffer * blockDim.x + (threadIdx.x + 1) % blockDim.x];
        ++v.z;
        __syncthreads();
        cluster_barrier();
    }
    static_cast<uint4*>(a.output)[blockIdx.x * blockDim.x + threadIdx.x] = v;
}
CLUSTER_KERNEL(around_right, 32, 4, Arguments) { around<0, 0, true>(a); }
CLUSTER_KERNEL(around_other_parity, 32, 4, Arguments) { around<1, 0, true>(a); }
CLUSTER_KERNEL(around_more_bytes, 32, 4, Arguments) { around<0, 16, true>(a); }
CLUSTER_KERNEL(around_fewer_bytes, 32, 4, Arguments) { around<0, -16, true>(a); }
CLUSTER_KERNEL(around_without_wait, 32, 4, Arguments) { around<0, 0, false>(a); }

CLUSTER_KERNEL(sends_to_whom_has_returned, 32, 2, Arguments) {
    SHARED_MEMORY(uint4, shared);
    u64* arrived = reinterpret_cast<u64*>(shared + 1);
    if (threadIdx.x == 0) mbarrier_init(arrived, 1);
    cluster_barrier();
    if (blockIdx.x == 0 && threadIdx.x == 0) send_to_block(shared, shared[0], arrived, 1);
}
CLUSTER_KERNEL(no_mbarrier, 32, 1, Arguments) {
    SHARED_MEMORY(u64, shared);
    mbarrier_expect(shared, 0);
}
CLUSTER_KERNEL(mbarrier_twice, 32, 1, Arguments) {
    SHARED_MEMORY(u64, shared);
    mbarrier_init(shared, 1);
}
CLUSTER_KERNEL(mbarrier_written_over, 32, 1, Arguments) {
    SHARED_MEMORY(u64, shared);
    if (threadIdx.x == 0) mbarrier_init(shared, 1);
    __syncthreads();
    if (threadIdx.x == 1) shared[0] = 0;
    __syncthreads();
    if (threadIdx.x == 0) mbarrier_expect(shared, 0);
}
CLUSTER_KERNEL(sends_too_far, 32, 1, Arguments) {
    SHARED_MEMORY(uint4, shared);
    if (threadIdx.x == 0) mbarrier_init(reinterpret_cast<u64*>(shared), 1);
    __syncthreads();
    send_to_block(shared + a.n, shared[0], reinterpret_cast<u64*>(shared), blockIdx.x / 2);
}

KERNEL(one_thread_stays_away, 64, Arguments) {
    if (threadIdx.x == 5) SPIN_WHILE(load_acquire(a.flags) == 0u);  // [away]
    __syncthreads();  // [barrier]
}

KERNEL(different_barriers, 64, Arguments) {
    if (threadIdx.x < 32) __syncthreads();  // [first barrier]
    else __syncthreads();  // [second barrier]
}

KERNEL(returns_early, 64, Arguments) {
    if (threadIdx.x == 63) return;
    __syncthreads();
}

KERNEL(different_shuffles, 32, Arguments) {
    u32 value = threadIdx.x;
    if (threadIdx.x < 8) value = __shfl_sync(0xffffffffu, value, 0);  // [first shuffle]
    else value = __shfl_sync(0xffffffffu, value, 0);  // [second shuffle]
}

KERNEL(lane_outside_mask, 32, Arguments) { __syncwarp(0xffffu); }
KERNEL(source_outside_mask, 32, Arguments) { if (threadIdx.x < 16) __shfl_xor_sync(0xffffu, threadIdx.x, 16); }
KERNEL(lanes_that_are_not_there, 32, Arguments) { __syncwarp(); }

KERNEL(misaligned, 32, Arguments) {
    load_shared_by_blocks(reinterpret_cast<const uint4*>(static_cast<const char*>(a.input) + 8));
}

KERNEL(unwritten, 32, Arguments) {
    SHARED_MEMORY(float, shared);
    static_cast<float*>(a.output)[threadIdx.x] = shared[threadIdx.x];
}

KERNEL(shared_store, 32, Arguments) {
    SHARED_MEMORY(float, shared);
    shared[threadIdx.x + a.n] = 1.f;
}

// A warp hands values over in shared memory. __shfl_sync does not order memory.
template <bool ORDERED> DEVICE void hand_over(const Arguments& a) {
    SHARED_MEMORY(u32, shared);
    shared[threadIdx.x] = threadIdx.x;
    if (ORDERED) __syncwarp();
    else __shfl_sync(0xffffffffu, 0, 0);
    static_cast<u32*>(a.output)[threadIdx.x] = shared[threadIdx.x ^ 1];
}
KERNEL(warp_right, 32, Arguments) { hand_over<true>(a); }
KERNEL(warp_without_order, 32, Arguments) { hand_over<false>(a); }

KERNEL(from_half, 256, Arguments) {
    const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    static_cast<float*>(a.output)[i] = half_to_float(static_cast<const u16*>(a.input)[i]);
}

KERNEL(to_half, 256, Arguments) {
    const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < unsigned(a.n)) static_cast<u16*>(a.output)[i] = float_to_half(static_cast<const float*>(a.input)[i]);
}

// input: six words of each lane, its elements of A and of B; output: its four elements of C, then of D.
#define PRODUCT(NAME)                                                             \
    KERNEL(product_##NAME, 32, Arguments) {                                       \
        const u32* v = static_cast<const u32*>(a.input) + 6 * threadIdx.x;        \
        float(&d)[4] = static_cast<float(*)[4]>(a.output)[threadIdx.x];           \
        mma_##NAME(d, v[0], v[1], v[2], v[3], v[4], v[5]);                        \
    }
PRODUCT(half)
PRODUCT(bfloat16)
PRODUCT(tf32)

KERNEL(integers, 32, Arguments) {
    const u64 x = static_cast<const u64*>(a.input)[threadIdx.x];
    const u64 high = multiply_high(x, x ^ 0xD2E7470EE14C6C93ull);
    static_cast<u64*>(a.output)[threadIdx.x] = a.n ? high : round_to_tf32(u32(x));
}

KERNEL(order_of_blocks, 1, Arguments) {
    u32* out = static_cast<u32*>(a.output);
    out[1 + out[0]++] = blockIdx.x;
}
