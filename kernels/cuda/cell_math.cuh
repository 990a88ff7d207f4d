// The cells: what each does with its accumulated slots at one step, forward and backward, for one unit of one row.
//
// The twin of ../cpu/cell_math.py, with the same functions and conventions. K, generated from the cell table, has the
// numbers of slots and peepholes by name: K::i, K::p_i; SLOTS, PEEPHOLES, STATES, PHASES and so on come from it too.
//
// forward(slots, h, c, p) -> h'                pre-activations in, activations (saved) out; c in and out
// backward(slots, dh, carry, h, c, p, dp)      activations in, dz out; adds the gradients of the peepholes into dp
//
// h, c are the states that enter the step (resets applied), dh is the gradient of h', and carry the gradient that flows
// to the step before without passing a product: dL/dc for the LSTM; dh * z for the GRU, which the step before adds to
// its dh; nothing for the RNN. A cell with two phases adds, for its first:
//
// gate(slots, h) -> operand                    what the second phase multiplies, instead of h
// gate_backward(slots, d, carry, h)            d: gradient of the operand; slots as backward left them
//
// A mix of two values is written a * u + (1 - a) * v: exact where a is 1, so that a gate held open carries a state
// unchanged for any number of steps.
#pragma once
#include "numbers.cuh"

namespace fastrnn {

template <class A> DEVICE A sigmoid_slope(A y) { return y * (A(1) - y); }
template <class A> DEVICE A tanh_slope(A y) { return A(1) - y * y; }

// What a cell with one phase inherits in place of the first of two.
struct OnePhase {
    template <class A> static DEVICE A gate(A*, A) { return A(0); }
    template <class A> static DEVICE void gate_backward(A*, A, A&, A) {}
};

// ------------------------------------------------------------------------------------------------ RNN (Elman 1990)

// h' = phi(z); F has phi, and the gradient of z by that of y = phi(z).
template <class K, class F> struct Rnn : K, OnePhase {
    template <class A> static DEVICE A forward(A* s, A, A&, const A*) { return s[K::h] = F::value(s[K::h]); }
    template <class A> static DEVICE void backward(A* s, A dh, A&, A, A, const A*, A*) {
        s[K::h] = F::gradient(dh, s[K::h]);
    }
};

struct Tanh {
    template <class A> static DEVICE A value(A z) { return hyperbolic_tangent(z); }
    template <class A> static DEVICE A gradient(A dy, A y) { return dy * tanh_slope(y); }
};
struct Sigmoid {
    template <class A> static DEVICE A value(A z) { return sigmoid(z); }
    template <class A> static DEVICE A gradient(A dy, A y) { return dy * sigmoid_slope(y); }
};
struct Relu {  // NaN stays NaN; the slope at 0 is 0
    template <class A> static DEVICE A value(A z) { return z < A(0) ? A(0) : z; }
    template <class A> static DEVICE A gradient(A dy, A y) { return y > A(0) ? dy : A(0); }
};

// ------------------------------------------------------------------- LSTM (Hochreiter and Schmidhuber 1997), variants

// i, f, o = sigmoid(z), g = tanh(zg); c' = f c + i g; h' = o tanh(c'). PEEPHOLE: i, f also see c and o sees c' (Gers and
// Schmidhuber 2000). COUPLED: i = 1 - f (Greff et al. 2017).
template <class K, bool PEEPHOLE, bool COUPLED> struct Lstm : K, OnePhase {
    template <class A> static DEVICE A input_gate(const A* s) {
        if constexpr (COUPLED) return A(1) - s[K::f];
        else return s[K::i];
    }

    template <class A> static DEVICE A forward(A* s, A, A& c, const A* p) {
        if constexpr (PEEPHOLE) {
            s[K::f] += p[K::p_f] * c;
            if constexpr (!COUPLED) s[K::i] += p[K::p_i] * c;
        }
        s[K::f] = sigmoid(s[K::f]);
        if constexpr (!COUPLED) s[K::i] = sigmoid(s[K::i]);
        s[K::g] = hyperbolic_tangent(s[K::g]);
        c = s[K::f] * c + input_gate(s) * s[K::g];
        if constexpr (PEEPHOLE) s[K::o] += p[K::p_o] * c;
        s[K::o] = sigmoid(s[K::o]);
        return s[K::o] * hyperbolic_tangent(c);
    }

    template <class A> static DEVICE void backward(A* s, A dh, A& carry, A, A c, const A* p, A* dp) {
        const A f = s[K::f], g = s[K::g], o = s[K::o], i = input_gate(s), c_new = f * c + i * g;
        const A t = hyperbolic_tangent(c_new);
        const A dzo = dh * t * sigmoid_slope(o);
        A dc = dh * o * tanh_slope(t) + carry;
        if constexpr (PEEPHOLE) dc += p[K::p_o] * dzo;
        const A dzf = dc * (COUPLED ? c - g : c) * sigmoid_slope(f);
        carry = dc * f;
        if constexpr (PEEPHOLE) {
            carry += p[K::p_f] * dzf;
            dp[K::p_f] += dzf * c;
            dp[K::p_o] += dzo * c_new;
        }
        if constexpr (!COUPLED) {
            const A dzi = dc * g * sigmoid_slope(i);
            if constexpr (PEEPHOLE) {
                carry += p[K::p_i] * dzi;
                dp[K::p_i] += dzi * c;
            }
            s[K::i] = dzi;
        }
        s[K::f] = dzf;
        s[K::g] = dc * i * tanh_slope(g);
        s[K::o] = dzo;
    }
};

// ---------------------------------------------------------------------------------------- GRU (Cho et al. 2014)

// r, z = sigmoid; n = tanh(zx + (r h) W); h' = z h + (1 - z) n. Phases: r and z, then n.
template <class K> struct ResetBefore : K {
    template <class A> static DEVICE A gate(A* s, A h) {
        s[K::r] = sigmoid(s[K::r]);
        s[K::z] = sigmoid(s[K::z]);
        return s[K::r] * h;
    }

    template <class A> static DEVICE A forward(A* s, A h, A&, const A*) {
        s[K::n] = hyperbolic_tangent(s[K::n]);
        return s[K::z] * h + (A(1) - s[K::z]) * s[K::n];
    }

    template <class A> static DEVICE void backward(A* s, A dh, A& carry, A h, A, const A*, A*) {
        const A z = s[K::z], n = s[K::n];
        s[K::z] = dh * (h - n) * sigmoid_slope(z);
        s[K::n] = dh * (A(1) - z) * tanh_slope(n);
        carry = dh * z;
    }

    template <class A> static DEVICE void gate_backward(A* s, A d, A& carry, A h) {
        const A r = s[K::r];
        s[K::r] = d * h * sigmoid_slope(r);
        carry += d * r;
    }
};

// n = tanh(zx + r hn), hn the recurrent product with its own bias (PyTorch, cuDNN).
template <class K> struct ResetAfter : K, OnePhase {
    template <class A> static DEVICE A forward(A* s, A h, A&, const A*) {
        s[K::r] = sigmoid(s[K::r]);
        s[K::z] = sigmoid(s[K::z]);
        s[K::n] = hyperbolic_tangent(s[K::n] + s[K::r] * s[K::hn]);
        return s[K::z] * h + (A(1) - s[K::z]) * s[K::n];
    }

    template <class A> static DEVICE void backward(A* s, A dh, A& carry, A h, A, const A*, A*) {
        const A n = s[K::n], r = s[K::r], z = s[K::z], dn = dh * (A(1) - z) * tanh_slope(n);
        s[K::r] = dn * s[K::hn] * sigmoid_slope(r);
        s[K::z] = dh * (h - n) * sigmoid_slope(z);
        s[K::n] = dn;
        s[K::hn] = dn * r;
        carry = dh * z;
    }
};

// ------------------------------------------------------------------------------------------ by the cell table's names

namespace cells {
template <class K> using rnn_tanh = Rnn<K, Tanh>;
template <class K> using rnn_relu = Rnn<K, Relu>;
template <class K> using rnn_sigmoid = Rnn<K, Sigmoid>;
template <class K> using lstm = Lstm<K, false, false>;
template <class K> using lstm_peephole = Lstm<K, true, false>;
template <class K> using lstm_coupled = Lstm<K, false, true>;
template <class K> using lstm_peephole_coupled = Lstm<K, true, true>;
template <class K> using gru_reset_before = ResetBefore<K>;
template <class K> using gru_reset_after = ResetAfter<K>;
}  // namespace cells

}  // namespace fastrnn
