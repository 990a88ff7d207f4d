"""Weights from and to PyTorch: equal outputs, and what can't be represented."""

from __future__ import annotations

import numpy as np
import pytest

import fastrnn
from fastrnn.weights import from_torch, to_torch

torch = pytest.importorskip("torch", reason="the oracle is PyTorch")

from tests.weights import agree_torch  # noqa: E402


@pytest.mark.parametrize("agreement", agree_torch.agreements(), ids=str)
def test_outputs_agree(agreement):
    assert agreement.difference() <= agreement.tolerance


class Model(torch.nn.Module):
    """A model with two recurrent layers among others."""

    def __init__(self):
        super().__init__()
        self.encoder = torch.nn.ModuleDict({"lstm": torch.nn.LSTM(3, 4), "norm": torch.nn.LayerNorm(4)})
        self.decoder = torch.nn.GRU(4, 5, batch_first=True, dropout=0.25, num_layers=2)


def test_a_layer_of_a_model_by_its_prefix():
    model = Model()
    layer = from_torch(model.state_dict(), prefix="encoder.lstm.", dropout=0.0, seed=0)
    np.testing.assert_array_equal(layer.params["weight_hh_l0"], model.encoder["lstm"].weight_hh_l0.detach().numpy())
    with pytest.raises(ValueError, match="2 layers, with the prefixes"):
        from_torch(model.state_dict())
    with pytest.raises(ValueError, match="no array is called"):
        from_torch(model.state_dict(), prefix="encoder.gru.")
    with pytest.raises(TypeError, match="got Model"):
        from_torch(model)


def test_options_of_a_module_come_along():
    layer = from_torch(Model().decoder)
    assert repr(layer) == "GRU(4, 5, num_layers=2, batch_first=True, dropout=0.25, reset_after=True)"
    module = to_torch(layer)
    assert module.dropout == 0.25 and module.batch_first and module.num_layers == 2
    assert from_torch(Model().decoder, batch_first=False, dtype="float64").dtype == np.float64
    layer.params["weight_hh_l0"][...] = 0  # copies on both sides
    assert (module.weight_hh_l0 != 0).all()


def test_half_precision_is_widened_and_parametrizations_are_computed():
    module = torch.nn.LSTM(3, 4)
    layer = from_torch(torch.nn.LSTM(3, 4).to(torch.bfloat16))
    assert layer.dtype == np.float32
    torch.nn.utils.parametrizations.weight_norm(module, "weight_hh_l0")
    with torch.no_grad():
        module.parametrizations["weight_hh_l0"].original0.mul_(2.0)
    layer = from_torch(module)
    np.testing.assert_array_equal(layer.params["weight_hh_l0"], module.weight_hh_l0.detach().numpy())


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: from_torch(torch.nn.LSTM(3, 4, proj_size=2)), "proj_size"),
        (lambda: from_torch(torch.nn.LSTM(3, 4, proj_size=2).state_dict()), "proj_size"),
        (lambda: from_torch(torch.nn.GRU(3, 4), reset_after=False), "reset_after is True for these weights of GRU"),
        (lambda: from_torch(torch.nn.RNN(3, 4, nonlinearity="relu"), nonlinearity="tanh"), "nonlinearity is 'relu'"),
        (lambda: from_torch(torch.nn.GRU(3, 4).state_dict() | {"weight_hh_l1": torch.ones(1)}), "missing weight_ih_l1"),
        (
            lambda: from_torch(torch.nn.GRU(3, 4).state_dict() | {"weight_g_l0": torch.ones(1)}),
            "unexpected weight_g_l0",
        ),
        (lambda: from_torch(torch.nn.LSTM(3, 4).state_dict() | {"bias_hh_l0": torch.ones(9)}), r"\(16,\), got \(9,\)"),
        (lambda: from_torch({"weight_ih_l0": np.ones((8, 3)), "weight_hh_l0": np.ones((8, 4))}), "of no known cell"),
        (lambda: from_torch({"weight_ih_l0": np.ones((4, 3)), "weight_hh_l0": np.ones(4)}), "must be a matrix"),
        (lambda: from_torch({"weight_hh_l0": np.ones((4, 4))}), "missing weight_ih_l0"),
        (
            lambda: from_torch({"weight_hh_l999999999": np.ones((4, 4))} | torch.nn.GRU(3, 4).state_dict()),
            "999999999|1000000000",
        ),
        (lambda: from_torch({}), "found no weight_hh_l0"),
        (lambda: to_torch(fastrnn.GRU(3, 4)), "reset_after=True"),
        (lambda: to_torch(fastrnn.LSTM(3, 4, peephole=True)), "peephole=False"),
        (lambda: to_torch(fastrnn.LSTM(3, 4, coupled=True)), "coupled=False"),
        (lambda: to_torch(fastrnn.RNN(3, 4, nonlinearity="sigmoid")), "'tanh' and 'relu'"),
    ],
)
def test_what_can_not_be_represented_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_other_sources_are_refused():
    with pytest.raises(TypeError, match="a module of PyTorch or a state_dict, got list"):
        from_torch([1])
    with pytest.raises(TypeError, match="a prefix"):
        from_torch(torch.nn.LSTM(3, 4), prefix="x.")
    with pytest.raises(TypeError, match="weight_ih_l0 must be an array or a tensor, got int"):
        from_torch({"weight_ih_l0": 1, "weight_hh_l0": 1})
