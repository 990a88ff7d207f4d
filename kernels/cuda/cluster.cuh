// The exchange of blocks that are a cluster (sm_90): see exchange.cuh.
#pragma once
#include "exchange.cuh"

namespace fastrnn {

// Through the shared memory of a cluster: every block has all rows whole. A block first collects its own units of them,
// then sends these to the others, 16 bytes at a time. Each of its buffers has an mbarrier that counts what arrives, and a
// block waits for its own alone: nobody waits until all have read.
//
// Why a block that is a step ahead writes over nothing that another still reads. Let S send what is published as the k-th
// thing in a buffer of R. What lay there was published as the j-th, j < k - 1, as no buffer is used twice in a row. S has
// waited for the k-1st from everyone, so from R too; R sent its share after the barrier with which publish begins, and at
// that barrier all of R's threads had read the j-th. So R's reads come before S's stores. For the same reason what arrives
// is counted in the right phase: R waited for the j-th before it published anything later, so its phase was over. It takes
// blocks that all have something to send: those without units (H leaves some over) neither send nor receive.
template <class T, class S> struct ClusterExchange {
    static constexpr int V = 16 / int(sizeof(T)), BUFFERS = 3;
    static constexpr int VECTORS = S::UNITS / V, SENDERS = S::THREADS / S::CLUSTER;  // of a row; threads
    u64* arrived;  // an mbarrier for each buffer; the rows follow
    int H, pitch, second_pitch, most_rows;
    u32 parities = 0;  // a bit for each buffer: of the phase that is awaited next

    // Bytes of a row: 64 more than a multiple of 128, so that neighbouring rows lie in different banks.
    static DEVICE int pitch_of(int width) { return ((width * int(sizeof(T)) + 127) / 128 * 128 + 64) / int(sizeof(T)); }

    DEVICE ClusterExchange(const Args<T>& a, SumOf<T>* memory, int width, int second_width)
        : arrived(reinterpret_cast<u64*>(memory)), H(a.H), pitch(pitch_of(width)), second_pitch(pitch_of(second_width)),
          most_rows(rows_of_column(a.B)) {}

    static DEVICE int first_unit() { return int(blockIdx.x) * S::UNITS; }

    // Of this block.
    DEVICE int units() const { return H - first_unit() < S::UNITS ? H - first_unit() : S::UNITS; }

    DEVICE T* place(int which, int n) const {
        T* rows_at = reinterpret_cast<T*>(arrived + 4);
        if (which == SECOND_PHASE) return rows_at + 2 * most_rows * pitch + n * second_pitch;
        return rows_at + (which * most_rows + n) * pitch;
    }

    // No block sends to another that has not started.
    DEVICE void begin() {
        if (threadIdx.x < BUFFERS) mbarrier_init(arrived + threadIdx.x, 1);
        cluster_barrier();
    }

    // From global memory, as a phase in which nothing is sent.
    template <class F> DEVICE void enter(int which, int rows, int width, F global) {
        if (threadIdx.x == 0) mbarrier_expect(arrived + which, 0);
        for (int i = threadIdx.x; i < rows * (width / V); i += S::THREADS) {
            const int n = i / (width / V), k = i % (width / V) * V;
            *reinterpret_cast<uint4*>(place(which, n) + k) = *reinterpret_cast<const uint4*>(global(row_of_column(n)) + k);
        }
        __syncthreads();
    }

    DEVICE void wait(int which) {
        if (units() <= 0) return;
        SPIN_WHILE(!mbarrier_passed(arrived + which, parities >> which & 1));
        parities ^= 1u << which;
    }

    // A block's shared memory must be there as long as others send to it.
    DEVICE void end(int which) { wait(which); }

    template <class F> DEVICE const T* row(int which, int n, F) const { return place(which, n); }

    DEVICE void give(int which, int n, int k, SumOf<T> value) { write(place(which, n) + k, value); }

    DEVICE void publish(int which, int rows, int planes) {
        __syncthreads();
        if (units() <= 0) return;
        if (threadIdx.x == 0) mbarrier_expect(arrived + which, u32(rows * planes * (H - units()) * int(sizeof(T))));
        // A thread sends to one block: the first SENDERS to their own, so to nobody, the next to the one after.
        const int to = (int(blockIdx.x) + int(threadIdx.x) / SENDERS) % S::CLUSTER;
        if (to == int(blockIdx.x) || to * S::UNITS >= H) return;
        for (int i = int(threadIdx.x) % SENDERS; i < rows * planes * VECTORS; i += SENDERS) {
            const int n = i / (planes * VECTORS), plane = i / VECTORS % planes, k = i % VECTORS * V;
            if (k >= units()) continue;
            uint4* mine = reinterpret_cast<uint4*>(place(which, n) + plane * H + first_unit() + k);
            send_to_block(mine, *mine, arrived + which, u32(to));
        }
    }
};

}  // namespace fastrnn
