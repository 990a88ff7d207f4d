"""Models: names, strict loading, gradients end to end, copies; what may not be put together."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

import fastrnn
from fastrnn import nn
from tests.cases import LAYERS
from tests.nn.finite_differences import check

V, E, H, T, B = 7, 3, 4, 5, 3
LENGTHS = [3, 0, 5]


def language_model(cell="lstm", dtype="float64", **options):
    kind, cell_options = LAYERS[cell]
    width = H * (2 if options.get("bidirectional") else 1)
    return nn.Model(
        embedding=nn.Embedding(V, E, dtype=dtype, seed=0),
        layer=getattr(fastrnn, kind)(E, H, dtype=dtype, seed=1, **cell_options | options),
        output=nn.Linear(width, V, dtype=dtype, seed=2),
    )


def loss_of(model, x, t, gradient=False, **options):
    """The loss, or its gradients, of a whole model over a ragged batch."""
    e, tape_e = model.embedding.forward(x)
    h, _, tape_h = model.layer.forward(e, lengths=LENGTHS)
    o, tape_o = model.output.forward(h)
    loss, do = nn.softmax_cross_entropy(o, t, lengths=LENGTHS, **options)
    if not gradient:
        return loss
    of_output = model.output.backward(tape_o, do)
    of_layer = model.layer.backward(tape_h, of_output.x)
    return model.gradients(embedding=model.embedding.backward(tape_e, of_layer.x), layer=of_layer, output=of_output)


@pytest.mark.parametrize(
    "cell, options",
    [
        ("lstm", {"num_layers": 2, "bidirectional": True}),
        ("gru_reset_before", {}),
        ("rnn_tanh", {"bidirectional": True}),
    ],
)
def test_gradients_end_to_end(cell, options):
    """Embedding -> layer -> output -> loss, ragged, label smoothing, summed over time and averaged over rows."""
    rng = np.random.default_rng(0)
    model = language_model(cell, **options)
    x, t = rng.integers(0, V, (T, B)), rng.integers(0, V, (T, B))
    how = {"label_smoothing": 0.1, "reduction": "batchmean"}
    grads = loss_of(model, x, t, gradient=True, **how)
    assert sorted(grads.params) == sorted(model.params)
    for name, array in model.params.items():
        check(lambda: loss_of(model, x, t, **how), array, grads.params[name], name, most=12)


def test_names_and_views():
    model = language_model()
    assert list(model.params)[:2] == ["embedding.weight", "layer.weight_ih_l0"]
    model.params["output.bias"][...] = 5
    assert (model.output.params["bias"] == 5).all() and model.parts["output"] is model.output
    with pytest.raises(TypeError, match="can't be replaced"):
        model.params["output.bias"] = np.zeros(V)
    with pytest.raises(AttributeError, match="no attribute or part 'nothing'"):
        model.nothing  # noqa: B018
    outer = nn.Model(inner=model, more=nn.Linear(2, 2))
    assert "inner.layer.weight_hh_l0" in outer.params and "more.bias" in outer.params


def test_loading_is_strict_and_whole():
    model, other = language_model(), language_model(dtype="float32")
    for array in other.params.values():
        array += 1
    model.load_params(other.params)
    for name, array in model.params.items():
        np.testing.assert_array_equal(array, other.params[name].astype(np.float64))
    before = {name: array.copy() for name, array in model.params.items()}
    good = {name: array * 2 for name, array in model.params.items()}
    bad = dict(good)
    del bad["output.bias"]
    bad["extra"] = np.zeros(1)
    with pytest.raises(ValueError, match=r"missing output\.bias; unexpected extra"):
        model.load_params(bad)
    with pytest.raises(ValueError, match=r"output: .*bias must have shape \(7,\), got \(8,\)"):
        model.load_params(good | {"output.bias": np.zeros(8)})
    model.layer.freeze()
    with pytest.raises(RuntimeError, match="layer is frozen"):
        model.load_params(good)
    with pytest.raises(TypeError, match="mapping must map"):
        model.load_params([1])
    for name, array in model.params.items():
        np.testing.assert_array_equal(array, before[name])


def test_copies_and_pickles():
    model = language_model()
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        other.layer.flat_params[...] = 0
        assert model.layer.flat_params.any() and repr(other) == repr(model)
        assert not other.params["layer.weight_hh_l0"].any()


def test_what_a_model_refuses():
    shared = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="b and a are the same part"):
        nn.Model(a=shared, b=shared)
    with pytest.raises(TypeError, match="a must be a layer"):
        nn.Model(a=3)
    with pytest.raises(ValueError, match="can't be called 'params'"):
        nn.Model(params=shared)
    model = language_model()
    with pytest.raises(ValueError, match="gradients must be those of embedding, layer, output, got output"):
        model.gradients(output=None)
