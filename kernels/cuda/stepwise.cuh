// The policy for any shape: cuBLAS takes the recurrent product of one step, a kernel the pointwise part; a thread a unit.
// All but enter_rows find their arguments on the device, where store_arguments puts them: a graph of such kernels serves
// calls with other arrays.
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

template <class T> using StepArgs = StepArguments<T, SumOf<T>>;

template <class T> DEVICE void store_arguments(const Args<T>& a) {
    if (threadIdx.x == 0) *static_cast<Args<T>*>(a.block) = a;
}

template <class C, class T> DEVICE void enter_rows(const Args<T>& a) {
    int r, u;
    if (place<T>(a, a.B, r, u)) enter<C, T>(a, r, u);
}

// product: (rows, fed slots of the phase, H).
template <class C, int P, class T> DEVICE void forward_step(const StepArgs<T>& step) {
    const Args<T>& a = *step.all;
    const int s = step.step;
    using Phase = typename C::template Phase<P>;
    constexpr int FED = Phase::H_END - Phase::H;
    int r, u;
    if (!place<T>(a, alive<T>(a, s), r, u)) return;
    auto in = load_forward<C, P, T>(a, s, r, u);
    SumOf<T> product[FED];
#pragma unroll
    for (int j = 0; j < FED; j++) product[j] = a.product[(i64(r) * FED + j) * a.H + u];
    const SumOf<T> passed_on = finish_forward<C, P, T>(a, s, r, u, in, product);
    T* next = P < C::PHASES - 1 ? a.operand_step : a.h_step + i64((s + 1) & 1) * a.B * a.H;
    write(next + i64(r) * a.H + u, passed_on);
}

// What of dz the next product reads: the slots of phase P that h feeds.
template <class C, int P, class T> DEVICE void store_dz(const Args<T>& a, int r, int u, const SumOf<T>* slots) {
    using Phase = typename C::template Phase<P>;
#pragma unroll
    for (int j = Phase::H; j < Phase::H_END; j++) write(a.dz_step + (i64(r) * C::SLOTS + j) * a.H + u, slots[j]);
}

// product: (rows, H), of rows that go on. Step -1 leaves the gradients of the initial states.
template <class C, class T> DEVICE void backward_step(const StepArgs<T>& step) {
    const Args<T>& a = *step.all;
    const int s = step.step;
    int r, u;
    if (!place<T>(a, s < 0 ? a.B : alive<T>(a, s), r, u)) return;
    auto in = load_backward<C, T>(a, s, r, u);
    finish_backward<C, T>(a, s, r, u, in, in.goes_on ? a.product[i64(r) * a.H + u] : SumOf<T>(0));
    if (s >= 0) store_dz<C, C::PHASES - 1, T>(a, r, u, in.slots);
}

template <class C, class T> DEVICE void gate_backward_step(const StepArgs<T>& step) {
    const Args<T>& a = *step.all;
    int r, u;
    if (!place<T>(a, alive<T>(a, step.step), r, u)) return;
    SumOf<T> slots[C::SLOTS];
    gate_backward<C, T>(a, step.step, r, u, a.product[i64(r) * a.H + u], slots);
    store_dz<C, 0, T>(a, r, u, slots);
}

}  // namespace fastrnn
