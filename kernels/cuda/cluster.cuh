// The exchange of blocks that are a cluster (sm_90): see exchange.cuh.
#pragma once
#include "exchange.cuh"

namespace fastrnn {

// Through the shared memory of a cluster: every block has all rows whole. A block first collects its own units of them,
// then copies these to the others, 16 bytes at a time.
template <class T, class S> struct ClusterExchange {
    static constexpr int V = 16 / int(sizeof(T));
    T* rows_at;
    int H, pitch, second_pitch, most_rows;

    // Bytes of a row: 64 more than a multiple of 128, so that neighbouring rows lie in different banks.
    static DEVICE int pitch_of(int width) { return ((width * int(sizeof(T)) + 127) / 128 * 128 + 64) / int(sizeof(T)); }

    DEVICE ClusterExchange(const Args<T>& a, SumOf<T>* memory, int width, int second_width)
        : rows_at(reinterpret_cast<T*>(memory)), H(a.H), pitch(pitch_of(width)), second_pitch(pitch_of(second_width)),
          most_rows(rows_of_column(a.B)) {}

    DEVICE T* place(int which, int n) const {
        if (which == SECOND_PHASE) return rows_at + 2 * most_rows * pitch + n * second_pitch;
        return rows_at + (which * most_rows + n) * pitch;
    }

    // The rows that enter, from global memory; and no block writes to another that has not started.
    template <class F> DEVICE void begin(int which, int rows, F global) {
        for (int i = threadIdx.x; i < rows * (H / V); i += S::THREADS) {
            const int n = i / (H / V), k = i % (H / V) * V;
            *reinterpret_cast<uint4*>(place(which, n) + k) = *reinterpret_cast<const uint4*>(global(row_of_column(n)) + k);
        }
        cluster_barrier();
    }

    DEVICE void wait() const {}  // publish has

    template <class F> DEVICE const T* row(int which, int n, F) const { return place(which, n); }

    DEVICE void give(int which, int n, int k, SumOf<T> value) { write(place(which, n) + k, value); }

    DEVICE void publish(int which, int rows, int planes) {
        __syncthreads();
        const int first = blockIdx.x * S::UNITS, units = H - first < S::UNITS ? H - first : S::UNITS;
        const int vectors = units > 0 ? rows * planes * (units / V) : 0;
        for (int i = threadIdx.x; i < vectors * (S::CLUSTER - 1); i += S::THREADS) {
            const int vector = i % vectors, other = (int(blockIdx.x) + 1 + i / vectors) % S::CLUSTER;
            const int n = vector / (planes * (units / V)), plane = vector / (units / V) % planes;
            T* mine = place(which, n) + plane * H + first + vector % (units / V) * V;
            *reinterpret_cast<uint4*>(in_block(mine, u32(other))) = *reinterpret_cast<uint4*>(mine);
        }
        cluster_barrier();
    }
};

}  // namespace fastrnn
