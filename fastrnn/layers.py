"""The layers: RNN, LSTM and GRU, with PyTorch's names, shapes and gate order.

In the equations x is the input of a step, h₋ and c₋ the state that enters it, ⊙ the elementwise product, σ the
logistic function, and z with a gate's name that gate's rows of x Wihᵀ + bih + h₋ Whhᵀ + bhh.
"""

from __future__ import annotations

from typing import Any

from fastrnn import checks
from fastrnn.recurrent import RecurrentLayer

__all__ = ["GRU", "LSTM", "RNN"]


class RNN(RecurrentLayer):
    """The simple recurrent layer of Elman, "Finding structure in time", Cognitive Science 14, 1990.

        h = φ(x Wihᵀ + bih + h₋ Whhᵀ + bhh)

    Parameters
    ----------
    input_size, hidden_size, num_layers : int >= 1
        I, H and L.
    nonlinearity : "tanh", "relu" or "sigmoid"
        φ.
    bias : bool
        Whether the two biases exist.
    batch_first : bool
        x and y are (B, T, ·) and not (T, B, ·); states are (L*D, B, H) and resets (T, B) all the same.
    bidirectional : bool
        Every layer also walks back in time; y is (T, B, 2*H), forward then reverse. D is 2, else 1.
    dropout : float, 0 <= dropout < 1
        Inverted dropout on the output of every layer but the last, in ``forward`` only.
    dtype : "float32" or "float64"; on a GPU also "float16" or "bfloat16"
        Of parameters, inputs and results; nothing is cast silently. Of the latter two, sums, c and the gradients of
        parameters are float32.
    device : "cpu" or "cuda"
        NumPy arrays, or CuPy arrays of the GPU that is current when the layer is made.
    seed : int, optional
        Of the initial parameters, U(-1/√H, 1/√H).

    Raises TypeError for an option of another type, ValueError for one out of range, ``fastrnn.GPUUnavailable`` (a
    RuntimeError) that says what is missing where device="cuda" can't be used.

    The parameters of layer k, with "_reverse" appended for the reverse direction: ``weight_ih_l{k}`` (H, I), or
    (H, D*H) above layer 0; ``weight_hh_l{k}`` (H, H); ``bias_ih_l{k}`` and ``bias_hh_l{k}`` (H,).
    """

    nonlinearity: str

    _kind = "RNN"
    _cell_defaults = {"nonlinearity": "tanh"}

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        bidirectional: bool = False,
        dropout: float = 0.0,
        dtype: Any = "float32",
        device: str = "cpu",
        seed: int | None = None,
    ) -> None:
        super().__init__(
            input_size,
            hidden_size,
            num_layers,
            {"nonlinearity": nonlinearity},
            bias=bias,
            batch_first=batch_first,
            bidirectional=bidirectional,
            dropout=dropout,
            dtype=dtype,
            device=device,
            seed=seed,
        )


class LSTM(RecurrentLayer):
    """Long short-term memory; its state is (h, c).

        i = σ(zi + pi⊙c₋)   f = σ(zf + pf⊙c₋)   g = tanh(zg)   c = f⊙c₋ + i⊙g   o = σ(zo + po⊙c)   h = o⊙tanh(c)

    Hochreiter and Schmidhuber, "Long short-term memory", Neural Computation 9, 1997; the forget gate: Gers,
    Schmidhuber and Cummins, "Learning to forget", 2000. The terms with p exist with ``peephole`` (Gers and
    Schmidhuber, "Recurrent nets that time and count", 2000). With ``coupled``, i = 1 - f (Greff et al., "LSTM: a
    search space odyssey", 2017). The two combine.

    Parameters
    ----------
    input_size, hidden_size, num_layers : int >= 1
        I, H and L.
    peephole, coupled : bool
        The variants above.
    bias : bool
        Whether the two biases exist.
    batch_first : bool
        x and y are (B, T, ·) and not (T, B, ·); states are (L*D, B, H) and resets (T, B) all the same.
    bidirectional : bool
        Every layer also walks back in time; y is (T, B, 2*H), forward then reverse. D is 2, else 1.
    dropout : float, 0 <= dropout < 1
        Inverted dropout on the output of every layer but the last, in ``forward`` only.
    dtype : "float32" or "float64"; on a GPU also "float16" or "bfloat16"
        Of parameters, inputs and results; nothing is cast silently. Of the latter two, sums, c and the gradients of
        parameters are float32.
    device : "cpu" or "cuda"
        NumPy arrays, or CuPy arrays of the GPU that is current when the layer is made.
    seed : int, optional
        Of the initial parameters, U(-1/√H, 1/√H).

    Raises TypeError for an option of another type, ValueError for one out of range, ``fastrnn.GPUUnavailable`` (a
    RuntimeError) that says what is missing where device="cuda" can't be used.

    The parameters of layer k, with "_reverse" appended for the reverse direction: ``weight_ih_l{k}`` (4*H, I), or
    (4*H, D*H) above layer 0; ``weight_hh_l{k}`` (4*H, H); ``bias_ih_l{k}`` and ``bias_hh_l{k}`` (4*H,): gates i, f,
    g, o. ``weight_peephole_l{k}`` (3*H,): i, f, o. Coupled: three gates f, g, o, and (2*H,) peepholes f, o.
    """

    peephole: bool
    coupled: bool

    _kind = "LSTM"
    _cell_defaults = {"peephole": False, "coupled": False}

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        peephole: bool = False,
        coupled: bool = False,
        bias: bool = True,
        batch_first: bool = False,
        bidirectional: bool = False,
        dropout: float = 0.0,
        dtype: Any = "float32",
        device: str = "cpu",
        seed: int | None = None,
    ) -> None:
        super().__init__(
            input_size,
            hidden_size,
            num_layers,
            {"peephole": checks.flag("peephole", peephole), "coupled": checks.flag("coupled", coupled)},
            bias=bias,
            batch_first=batch_first,
            bidirectional=bidirectional,
            dropout=dropout,
            dtype=dtype,
            device=device,
            seed=seed,
        )


class GRU(RecurrentLayer):
    """The gated recurrent unit of Cho et al., "Learning phrase representations using RNN encoder-decoder", 2014.

        r = σ(zr)   z = σ(zz)   h = z⊙h₋ + (1-z)⊙n
        n = tanh(x Winᵀ + bin + (r⊙h₋) Whnᵀ + bhn)      reset_after=False: Cho et al.; ONNX linear_before_reset=0
        n = tanh(x Winᵀ + bin + r⊙(h₋ Whnᵀ + bhn))      reset_after=True: PyTorch, cuDNN, the default of Keras

    The two forms are different functions of the same parameters: weights of a PyTorch or Keras model need
    ``reset_after=True``.

    Parameters
    ----------
    input_size, hidden_size, num_layers : int >= 1
        I, H and L.
    reset_after : bool
        Which form, as above.
    bias : bool
        Whether the two biases exist.
    batch_first : bool
        x and y are (B, T, ·) and not (T, B, ·); states are (L*D, B, H) and resets (T, B) all the same.
    bidirectional : bool
        Every layer also walks back in time; y is (T, B, 2*H), forward then reverse. D is 2, else 1.
    dropout : float, 0 <= dropout < 1
        Inverted dropout on the output of every layer but the last, in ``forward`` only.
    dtype : "float32" or "float64"; on a GPU also "float16" or "bfloat16"
        Of parameters, inputs and results; nothing is cast silently. Of the latter two, sums, c and the gradients of
        parameters are float32.
    device : "cpu" or "cuda"
        NumPy arrays, or CuPy arrays of the GPU that is current when the layer is made.
    seed : int, optional
        Of the initial parameters, U(-1/√H, 1/√H).

    Raises TypeError for an option of another type, ValueError for one out of range, ``fastrnn.GPUUnavailable`` (a
    RuntimeError) that says what is missing where device="cuda" can't be used.

    The parameters of layer k, with "_reverse" appended for the reverse direction: ``weight_ih_l{k}`` (3*H, I), or
    (3*H, D*H) above layer 0; ``weight_hh_l{k}`` (3*H, H); ``bias_ih_l{k}`` and ``bias_hh_l{k}`` (3*H,): gates r, z,
    n.
    """

    reset_after: bool

    _kind = "GRU"
    _cell_defaults = {"reset_after": False}

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        reset_after: bool = False,
        bias: bool = True,
        batch_first: bool = False,
        bidirectional: bool = False,
        dropout: float = 0.0,
        dtype: Any = "float32",
        device: str = "cpu",
        seed: int | None = None,
    ) -> None:
        super().__init__(
            input_size,
            hidden_size,
            num_layers,
            {"reset_after": checks.flag("reset_after", reset_after)},
            bias=bias,
            batch_first=batch_first,
            bidirectional=bidirectional,
            dropout=dropout,
            dtype=dtype,
            device=device,
            seed=seed,
        )
