// The policy for any shape: cuBLAS takes the recurrent product of one step, a kernel the pointwise part; a thread a unit.
#pragma once
#include "units.cuh"

namespace fastrnn {

// Row and unit of this thread among COUNT rows; false past the last.
template <class T> DEVICE bool place(const Args<T>& a, int rows, int& r, int& u) {
    const i64 index = i64(blockIdx.x) * blockDim.x + threadIdx.x;
    r = int(index / a.H);
    u = int(index % a.H);
    return r < rows;
}

template <class C, class T> DEVICE void enter_rows(const Args<T>& a) {
    int r, u;
    if (place<T>(a, a.B, r, u)) enter<C, T>(a, r, u);
}

// product: (rows, fed slots of the phase, H).
template <class C, int P, class T> DEVICE void forward_step(const Args<T>& a) {
    using Phase = typename C::template Phase<P>;
    constexpr int FED = Phase::H_END - Phase::H;
    int r, u;
    if (!place<T>(a, alive<T>(a, a.step), r, u)) return;
    auto in = load_forward<C, P, T>(a, a.step, r, u);
    SumOf<T> product[FED];
#pragma unroll
    for (int j = 0; j < FED; j++) product[j] = a.product[(i64(r) * FED + j) * a.H + u];
    finish_forward<C, P, T>(a, a.step, r, u, in, product);
}

// product: (rows, H), of rows that go on. Step -1 leaves the gradients of the initial states.
template <class C, class T> DEVICE void backward_step(const Args<T>& a) {
    int r, u;
    if (!place<T>(a, a.step < 0 ? a.B : alive<T>(a, a.step), r, u)) return;
    auto in = load_backward<C, T>(a, a.step, r, u);
    finish_backward<C, T>(a, a.step, r, u, in, in.goes_on ? a.product[i64(r) * a.H + u] : SumOf<T>(0));
}

template <class C, class T> DEVICE void gate_backward_step(const Args<T>& a) {
    int r, u;
    if (!place<T>(a, alive<T>(a, a.step), r, u)) return;
    SumOf<T> slots[C::SLOTS];
    gate_backward<C, T>(a, a.step, r, u, a.product[i64(r) * a.H + u], slots);
}

}  // namespace fastrnn
