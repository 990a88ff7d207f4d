// One unit u of one row r at one step s, forward and backward: everything but the recurrent product, which the
// policies take in their own ways. So a policy is a loop, and a cell is its math.
#pragma once
#include "cell_math.cuh"
#include "rows.cuh"

namespace fastrnn {

template <class A, int N> struct Vector {
    A at[N > 0 ? N : 1];
};

template <class C, class T> DEVICE Vector<SumOf<T>, C::PEEPHOLES> peephole_of(const Args<T>& a, int u) {
    Vector<SumOf<T>, C::PEEPHOLES> p;
#pragma unroll
    for (int j = 0; j < C::PEEPHOLES; j++) p.at[j] = read(a.peephole + i64(j) * a.H + u);
    return p;
}

// What a phase needs beside the product; loaded before it, so that the loads overlap the wait for other blocks. That
// wait empties the first-level cache, so whatever is read after it comes from the second.
template <class C, class T> struct ForwardInputs {
    SumOf<T> slots[C::SLOTS], h, c;
    Vector<SumOf<T>, C::PEEPHOLES> p;
    int b;              // where the row lies in the caller's arrays
    int next;           // 0: the row has no step s + 1; 1: it has one; 2: that begins from zero
};

template <class C, int P, class T> DEVICE ForwardInputs<C, T> load_forward(const Args<T>& a, int s, int r, int u) {
    using Phase = typename C::template Phase<P>;
    ForwardInputs<C, T> in;
    const T* row = slab_row<C, T>(a, s, r) + u;
#pragma unroll
    for (int j = 0; j < Phase::SLOT + Phase::SLOTS; j++) {
        const bool activated = j < Phase::SLOT, from_x = j >= Phase::X && j < Phase::X_END;
        in.slots[j] = activated || from_x ? read(row + i64(j) * a.H) : SumOf<T>(0);
        if (!activated && a.bias) in.slots[j] += a.bias[i64(j) * a.H + u];
    }
    in.h = read(entering_h<T>(a, s, r) + u);
    in.c = C::STATES == 2 ? entering_c<T>(a, s, r)[u] : SumOf<T>(0);
    if constexpr (P == C::PHASES - 1) {
        in.p = peephole_of<C, T>(a, u);
        in.b = int(batch_entry<T>(a, r));
        in.next = r < alive<T>(a, s + 1) ? cut_before<T>(a, s + 1, r) ? 2 : 1 : 0;
    }
    return in;
}

// product: the recurrent product of the phase's fed slots. Returns what the next phase or step multiplies.
template <class C, int P, class T>
DEVICE SumOf<T> finish_forward(const Args<T>& a, int s, int r, int u, ForwardInputs<C, T>& in, const SumOf<T>* product) {
    using Phase = typename C::template Phase<P>;
    T* row = slab_row<C, T>(a, s, r) + u;
    SumOf<T> passed_on;
#pragma unroll
    for (int j = Phase::H; j < Phase::H_END; j++) in.slots[j] += product[j - Phase::H];
    if constexpr (P < C::PHASES - 1) {
        passed_on = C::gate(in.slots, in.h);
        write(operand_row<T>(a, s, r) + u, passed_on);
    } else {
        const SumOf<T> h = passed_on = C::forward(in.slots, in.h, in.c, in.p.at);
        if (in.next) {  // first what others wait for
            passed_on = in.next == 2 ? SumOf<T>(0) : h;
            write(entering_h<T>(a, s + 1, r) + u, passed_on);
            if (C::STATES == 2) entering_c<T>(a, s + 1, r)[u] = in.next == 2 ? SumOf<T>(0) : in.c;
        } else {
            write(a.h_out + i64(in.b) * a.H + u, h);
            if (C::STATES == 2) write(a.c_out + i64(in.b) * a.H + u, in.c);
        }
        if (a.y) write(a.y + time_of<T>(a, s, r) * a.y_time + in.b * a.y_batch + u, h);
        if (!a.keep) return passed_on;
    }
#pragma unroll
    for (int j = Phase::SLOT; j < Phase::SLOT + Phase::SLOTS; j++) write(row + i64(j) * a.H, in.slots[j]);
    return passed_on;
}

// The states of every row before its first step; a row without steps keeps what it was given.
template <class C, class T> DEVICE void enter(const Args<T>& a, int r, int u) {
    const i64 b = batch_entry<T>(a, r);
    SumOf<T> h = a.h_in ? read(a.h_in + b * a.H + u) : SumOf<T>(0);
    SumOf<T> c = C::STATES == 2 && a.c_in ? read(a.c_in + b * a.H + u) : SumOf<T>(0);
    if (r >= alive<T>(a, 0)) {
        write(a.h_out + b * a.H + u, h);
        if (C::STATES == 2) write(a.c_out + b * a.H + u, c);
        return;
    }
    const bool cut = cut_before<T>(a, 0, r);
    write(entering_h<T>(a, 0, r) + u, cut ? SumOf<T>(0) : h);
    if (a.h_step) write(a.h_step + i64(r) * a.H + u, cut ? SumOf<T>(0) : h);
    if (C::STATES == 2) entering_c<T>(a, 0, r)[u] = cut ? SumOf<T>(0) : c;
}

// Backward. h_in and c_in are the gradients of the final states, h_out and c_out receive those of the initial ones.
template <class C, class T> struct BackwardInputs {
    SumOf<T> slots[C::SLOTS], h, c, dy, carry;
    Vector<SumOf<T>, C::PEEPHOLES> p;
    bool goes_on, cut;  // whether the row has a step s + 1, and whether that began from zero
};

// s = -1: what lies before the first step, where only the gradients that leave it are of interest.
template <class C, class T> DEVICE BackwardInputs<C, T> load_backward(const Args<T>& a, int s, int r, int u) {
    BackwardInputs<C, T> in;
    const i64 b = batch_entry<T>(a, r);
    in.goes_on = r < alive<T>(a, s + 1);
    in.cut = in.goes_on && cut_before<T>(a, s + 1, r);
    if (in.goes_on) in.carry = in.cut ? SumOf<T>(0) : a.carry[i64(r) * a.H + u];
    else in.carry = C::STATES == 2 && a.c_in ? read(a.c_in + b * a.H + u) : SumOf<T>(0);
    if (s < 0) return in;
    const T* row = slab_row<C, T>(a, s, r) + u;
#pragma unroll
    for (int j = 0; j < C::SLOTS; j++) in.slots[j] = read(row + i64(j) * a.H);
    in.h = read(entering_h<T>(a, s, r) + u);
    in.c = C::STATES == 2 ? entering_c<T>(a, s, r)[u] : SumOf<T>(0);
    in.p = peephole_of<C, T>(a, u);
    in.dy = a.dy ? read(a.dy + time_of<T>(a, s, r) * a.dy_time + b * a.dy_batch + u) : SumOf<T>(0);
    return in;
}

// product: dz of step s + 1 times the weights of the first phase. in.slots receives dz.
template <class C, class T>
DEVICE void finish_backward(const Args<T>& a, int s, int r, int u, BackwardInputs<C, T>& in, SumOf<T> product) {
    using Phase = typename C::template Phase<C::PHASES - 1>;
    const i64 b = batch_entry<T>(a, r);
    SumOf<T> dh;
    if (in.goes_on) dh = in.cut ? SumOf<T>(0) : product;
    else dh = a.h_in ? read(a.h_in + b * a.H + u) : SumOf<T>(0);
    if (C::STATES == 1) dh += in.carry;
    if (s < 0) {
        write(a.h_out + b * a.H + u, dh);
        if (C::STATES == 2) write(a.c_out + b * a.H + u, in.carry);
        return;
    }
    Vector<SumOf<T>, C::PEEPHOLES> dp = {};
    C::backward(in.slots, dh + in.dy, in.carry, in.h, in.c, in.p.at, dp.at);
#pragma unroll
    for (int j = 0; j < C::PEEPHOLES; j++) a.d_peephole[(i64(r) * C::PEEPHOLES + j) * a.H + u] += dp.at[j];
    a.carry[i64(r) * a.H + u] = in.carry;
    // With two phases the slots of the first come later, but for what backward has made of them.
    T* row = slab_row<C, T>(a, s, r) + u;
#pragma unroll
    for (int j = 0; j < Phase::SLOT + Phase::SLOTS; j++) write(row + i64(j) * a.H, in.slots[j]);
}

// The first of two phases; product: dz of the second phase times its weights. slots receives dz of the first.
template <class C, class T>
DEVICE void gate_backward(const Args<T>& a, int s, int r, int u, SumOf<T> product, SumOf<T> (&slots)[C::SLOTS]) {
    using Phase = typename C::template Phase<0>;
    T* row = slab_row<C, T>(a, s, r) + u;
#pragma unroll
    for (int j = 0; j < Phase::SLOTS; j++) slots[j] = read(row + i64(j) * a.H);
    SumOf<T> carry = a.carry[i64(r) * a.H + u];
    C::gate_backward(slots, product, carry, read(entering_h<T>(a, s, r) + u));
    a.carry[i64(r) * a.H + u] = carry;
#pragma unroll
    for (int j = 0; j < Phase::SLOTS; j++) write(row + i64(j) * a.H, slots[j]);
}

}  // namespace fastrnn
