// Numbers: how elements are stored, in what they are summed, and the functions that gates are made of.
#pragma once
#include "device.cuh"

namespace fastrnn {

struct Half {
    u16 bits;
};
struct Bfloat16 {
    u16 bits;
};

// Sums, states that carry over many steps (c), and gates between load and store are in SumOf<T>.
template <class T> struct Number { using Sum = float; };
template <> struct Number<double> { using Sum = double; };
template <class T> using SumOf = typename Number<T>::Sum;

// The type that loads an element's bits.
template <class T> struct Bits { using Type = T; };
template <> struct Bits<Half> { using Type = u16; };
template <> struct Bits<Bfloat16> { using Type = u16; };

DEVICE float widen(float v) { return v; }
DEVICE double widen(double v) { return v; }
DEVICE float widen(Half v) { return half_to_float(v.bits); }
DEVICE float widen(Bfloat16 v) { return bfloat16_to_float(v.bits); }

DEVICE void narrow(float v, float& to) { to = v; }
DEVICE void narrow(double v, double& to) { to = v; }
DEVICE void narrow(float v, Half& to) { to.bits = float_to_half(v); }
DEVICE void narrow(float v, Bfloat16& to) { to.bits = float_to_bfloat16(v); }

template <class T> DEVICE SumOf<T> read(const T* p) { return widen(*p); }
template <class T> DEVICE void write(T* p, SumOf<T> v) { narrow(v, *p); }

// 16 bytes that another block may have written in this launch: NEAR, into this block's shared memory.
template <bool NEAR> DEVICE uint4 load_exchanged(const uint4* p) {
    if constexpr (NEAR) return *p;
    else return load_shared_by_blocks(p);
}

// As load_exchanged, COUNT elements: 16 bytes at a time where that is what they fill, which needs them aligned.
template <bool NEAR, int COUNT, class T> DEVICE void read_exchanged(const T* p, SumOf<T> (&out)[COUNT]) {
    if constexpr (COUNT * sizeof(T) == 16) {
        union {
            uint4 words;
            T values[COUNT];
        } loaded;
        loaded.words = load_exchanged<NEAR>(reinterpret_cast<const uint4*>(p));
#pragma unroll
        for (int e = 0; e < COUNT; e++) out[e] = widen(loaded.values[e]);
    } else {
        static_assert(COUNT == 1 && !NEAR, "one element, or 16 bytes of them");
        union {
            typename Bits<T>::Type word;
            T value;
        } loaded;
        loaded.word = load_shared_by_blocks(reinterpret_cast<const typename Bits<T>::Type*>(p));
        out[0] = widen(loaded.value);
    }
}

// 1 / (1 + exp(-x)): to 2 units in the last place of 1, at every x; exp's overflow ends at 0.
DEVICE float sigmoid(float x) { return __fdividef(1.0f, 1.0f + __expf(-x)); }
DEVICE double sigmoid(double x) { return 1.0 / (1.0 + exp(-x)); }
DEVICE float hyperbolic_tangent(float x) { return tanhf(x); }
DEVICE double hyperbolic_tangent(double x) { return tanh(x); }

}  // namespace fastrnn
