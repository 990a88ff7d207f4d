// Where things lie: rows of the tape by step, entries of the caller's arrays by time.
//
// A direction walks its steps s = 0, 1, ... over rows r sorted by length, longest first, as fastrnn/sequences.py says; the
// rows alive at a step are the first alive(s). In a dense batch all rows are, and the tables are null: packed rows are
// then in the order of time, also for the reverse direction, so that products over all of them read x as it is.
//
// Arguments, generated from layout.py, is the one argument of every kernel. T: type of elements, SumOf<T>: of sums.
#pragma once
#include "numbers.cuh"

namespace fastrnn {

template <class T> using Args = Arguments<T, SumOf<T>>;

template <class T> DEVICE int alive(const Args<T>& a, int s) {
    if (a.active) return int(a.active[s]);
    return s < a.steps ? a.B : 0;
}

// Row of the tape of (s, r).
template <class T> DEVICE i64 packed_row(const Args<T>& a, int s, int r) {
    if (a.offset) return a.offset[s] + r;
    return i64(a.reverse ? a.steps - 1 - s : s) * a.B + r;
}

template <class T> DEVICE i64 time_of(const Args<T>& a, int s, int r) {
    const i64 begin = a.start ? a.start[r] : a.begin;
    return a.reverse ? begin - s : begin + s;
}

template <class T> DEVICE i64 batch_entry(const Args<T>& a, int r) { return a.order ? a.order[r] : r; }

// The state that enters a step: on the tape, or in two buffers by turns (h), or in one (c, which its own thread alone
// reads and writes).
template <class T> DEVICE T* entering_h(const Args<T>& a, int s, int r) {
    return a.hs + (a.keep ? packed_row<T>(a, s, r) : i64(s & 1) * a.B + r) * a.H;
}

template <class T> DEVICE SumOf<T>* entering_c(const Args<T>& a, int s, int r) {
    return a.cs + (a.keep ? packed_row<T>(a, s, r) : r) * a.H;
}

// What the second phase multiplies.
template <class T> DEVICE T* operand_row(const Args<T>& a, int s, int r) {
    return a.operand + (a.keep ? packed_row<T>(a, s, r) : r) * a.H;
}

template <class C, class T> DEVICE T* slab_row(const Args<T>& a, int s, int r) {
    return a.slab + (packed_row<T>(a, s, r) - a.slab_first) * (C::SLOTS * a.H);
}

template <class T> DEVICE bool cut_before(const Args<T>& a, int s, int r) {
    return a.resets && a.resets[time_of<T>(a, s, r) * a.resets_time + batch_entry<T>(a, r)];
}

}  // namespace fastrnn
