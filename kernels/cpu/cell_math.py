"""The cells: what each does with its accumulated slots at one step, forward and backward, on SIMD vectors.

The loops in ``forward`` and ``backward`` hand over a tuple of vectors, one a slot, in the order of the cell table;
a cell returns the tuple that is to stand in its place. ``@cell_math("name")`` registers a class of such functions;
``self`` is a tag, the type of the panel at hand, and has no attributes at run time.

``forward(slots, h, c, p)``            -> slots, h', c'     slots: pre-activations in, activations (saved) out
``backward(slots, dh, carry, h, c, p)`` -> slots, carry'    slots: activations in, dz out

h, c are the states that enter the step (resets applied), p the peephole weights in the table's order. ``dh`` is the
gradient of h'; ``carry`` is the gradient that flows back to the step before without passing a product: dL/dc for the
LSTM; dh * z for the GRU, which finds it in ``dh`` a step later; unused by the RNN.

A cell with two phases adds, for its first:

``gate(slots, h)``                     -> slots, operand    operand: what the second phase multiplies, instead of h
``gate_backward(slots, d, carry, h)``  -> slots, carry'     d: gradient of the operand; slots as backward left them

Its ``forward`` and ``backward`` see the slots of both phases, the first's already activated. Slots come in the
order of the table; a function that leaves a slot alone returns it as it came.

What a cell does not use costs nothing: the loads are dead code.

A mix of two values is written a * u + (1 - a) * v, not v + a * (u - v): one operation more, but exact where a is 1,
so that a gate held open carries a state unchanged for any number of steps.
"""

from __future__ import annotations

from numba.extending import overload

from .jit import HELPER_OPTIONS, inlined
from .simd import fill, fma, sigmoid, tanh, where_less

__all__ = ["backward", "forward", "gate", "gate_backward"]

_CELLS: dict[str, type] = {}


def cell_math(name: str):
    """Register a class as the math of the cell ``name``."""

    def register(cls: type) -> type:
        _CELLS[name] = cls
        return cls

    return register


def forward(self, slots, h, c, p):
    """One step of the cell whose panel ``self`` is a tag of."""
    raise NotImplementedError("only in compiled code")


def backward(self, slots, dh, carry, h, c, p):
    """Back through one step."""
    raise NotImplementedError("only in compiled code")


def gate(self, slots, h):
    """The first of two phases."""
    raise NotImplementedError("only in compiled code")


def gate_backward(self, slots, d, carry, h):
    """Back through the first of two phases."""
    raise NotImplementedError("only in compiled code")


_OVERLOAD = {"jit_options": {**HELPER_OPTIONS, "forceinline": True}}


@overload(forward, **_OVERLOAD)
def _forward_of(self, slots, h, c, p):
    return _CELLS[self.cell.name].forward


@overload(backward, **_OVERLOAD)
def _backward_of(self, slots, dh, carry, h, c, p):
    return _CELLS[self.cell.name].backward


@overload(gate, **_OVERLOAD)
def _gate_of(self, slots, h):
    return _CELLS[self.cell.name].gate


@overload(gate_backward, **_OVERLOAD)
def _gate_backward_of(self, slots, d, carry, h):
    return _CELLS[self.cell.name].gate_backward


# ---------------------------------------------------------------- RNN (Elman 1990)


@cell_math("rnn_tanh")
class _TanhRNN:
    """h' = tanh(z)."""

    def forward(self, slots, h, c, p):
        y = tanh(slots[0])
        return (y,), y, c

    def backward(self, slots, dh, carry, h, c, p):
        (y,) = slots
        return (dh * (1.0 - y * y),), carry


@cell_math("rnn_sigmoid")
class _SigmoidRNN:
    """h' = sigmoid(z)."""

    def forward(self, slots, h, c, p):
        y = sigmoid(slots[0])
        return (y,), y, c

    def backward(self, slots, dh, carry, h, c, p):
        (y,) = slots
        return (dh * (y * (1.0 - y)),), carry


@cell_math("rnn_relu")
class _ReluRNN:
    """h' = max(z, 0); the gradient at 0 is 0; NaN stays NaN."""

    def forward(self, slots, h, c, p):
        zero = fill(slots[0], 0.0)
        y = where_less(slots[0], zero, zero, slots[0])
        return (y,), y, c

    def backward(self, slots, dh, carry, h, c, p):
        zero = fill(dh, 0.0)
        return (where_less(zero, slots[0], dh, zero),), carry


# ---------------------------------------------------------------- LSTM (Hochreiter and Schmidhuber 1997)


@inlined
def _dsigmoid(y):
    """Derivative of the sigmoid by its value."""
    return y * (1.0 - y)


@inlined
def _dtanh(y):
    """Derivative of the tanh by its value."""
    return 1.0 - y * y


@cell_math("lstm")
class _LSTM:
    """i, f, o = sigmoid(z), g = tanh(zg); c' = f c + i g; h' = o tanh(c')."""

    def forward(self, slots, h, c, p):
        i, f, g, o = sigmoid(slots[0]), sigmoid(slots[1]), tanh(slots[2]), sigmoid(slots[3])
        c = fma(f, c, i * g)
        return (i, f, g, o), o * tanh(c), c

    def backward(self, slots, dh, carry, h, c, p):
        i, f, g, o = slots
        t = tanh(fma(f, c, i * g))
        dzo = dh * t * _dsigmoid(o)
        dc = fma(dh * o, _dtanh(t), carry)
        return (dc * g * _dsigmoid(i), dc * c * _dsigmoid(f), dc * i * _dtanh(g), dzo), dc * f


@cell_math("lstm_peephole")
class _PeepholeLSTM:
    """The gates also see the cell state: i, f the old one, o the new (Gers and Schmidhuber 2000)."""

    def forward(self, slots, h, c, p):
        i = sigmoid(fma(p[0], c, slots[0]))
        f = sigmoid(fma(p[1], c, slots[1]))
        g = tanh(slots[2])
        c = fma(f, c, i * g)
        o = sigmoid(fma(p[2], c, slots[3]))
        return (i, f, g, o), o * tanh(c), c

    def backward(self, slots, dh, carry, h, c, p):
        i, f, g, o = slots
        t = tanh(fma(f, c, i * g))
        dzo = dh * t * _dsigmoid(o)
        dc = fma(p[2], dzo, fma(dh * o, _dtanh(t), carry))
        dzi, dzf = dc * g * _dsigmoid(i), dc * c * _dsigmoid(f)
        return (dzi, dzf, dc * i * _dtanh(g), dzo), fma(p[0], dzi, fma(p[1], dzf, dc * f))


@cell_math("lstm_coupled")
class _CoupledLSTM:
    """One gate for both: i = 1 - f (Greff et al. 2017)."""

    def forward(self, slots, h, c, p):
        f, g, o = sigmoid(slots[0]), tanh(slots[1]), sigmoid(slots[2])
        c = fma(f, c, (1.0 - f) * g)
        return (f, g, o), o * tanh(c), c

    def backward(self, slots, dh, carry, h, c, p):
        f, g, o = slots
        t = tanh(fma(f, c, (1.0 - f) * g))
        dzo = dh * t * _dsigmoid(o)
        dc = fma(dh * o, _dtanh(t), carry)
        return (dc * (c - g) * _dsigmoid(f), dc * (1.0 - f) * _dtanh(g), dzo), dc * f


@cell_math("lstm_peephole_coupled")
class _PeepholeCoupledLSTM:
    """Both: f sees the old cell state, o the new, i = 1 - f."""

    def forward(self, slots, h, c, p):
        f = sigmoid(fma(p[0], c, slots[0]))
        g = tanh(slots[1])
        c = fma(f, c, (1.0 - f) * g)
        o = sigmoid(fma(p[1], c, slots[2]))
        return (f, g, o), o * tanh(c), c

    def backward(self, slots, dh, carry, h, c, p):
        f, g, o = slots
        t = tanh(fma(f, c, (1.0 - f) * g))
        dzo = dh * t * _dsigmoid(o)
        dc = fma(p[1], dzo, fma(dh * o, _dtanh(t), carry))
        dzf = dc * (c - g) * _dsigmoid(f)
        return (dzf, dc * (1.0 - f) * _dtanh(g), dzo), fma(p[0], dzf, dc * f)


# ---------------------------------------------------------------- GRU (Cho et al. 2014)


@cell_math("gru_reset_before")
class _GRU:
    """r, z = sigmoid; n = tanh(zx + (r h) W); h' = z h + (1 - z) n. Phases: r and z, then n."""

    def gate(self, slots, h):
        r, z = sigmoid(slots[0]), sigmoid(slots[1])
        return (r, z), r * h

    def forward(self, slots, h, c, p):
        r, z, n = slots[0], slots[1], tanh(slots[2])
        return (r, z, n), fma(z, h, (1.0 - z) * n), c

    def backward(self, slots, dh, carry, h, c, p):
        r, z, n = slots
        return (r, dh * (h - n) * _dsigmoid(z), dh * (1.0 - z) * _dtanh(n)), dh * z

    def gate_backward(self, slots, d, carry, h):
        r, dz = slots
        return (d * h * _dsigmoid(r), dz), fma(d, r, carry)


@cell_math("gru_reset_after")
class _ResetAfterGRU:
    """n = tanh(zx + r hn), hn the recurrent product with its own bias (PyTorch, cuDNN). Slots n, r, z, hn."""

    def forward(self, slots, h, c, p):
        r, z, hn = sigmoid(slots[1]), sigmoid(slots[2]), slots[3]
        n = tanh(fma(r, hn, slots[0]))
        return (n, r, z, hn), fma(z, h, (1.0 - z) * n), c

    def backward(self, slots, dh, carry, h, c, p):
        n, r, z, hn = slots
        dn = dh * (1.0 - z) * _dtanh(n)
        return (dn, dn * hn * _dsigmoid(r), dh * (h - n) * _dsigmoid(z), dn * r), dh * z
