"""The operators for onnx.reference beyond the matrix of options: caching, shapes at random, dtypes, whole models."""

from __future__ import annotations

import io
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

onnx = pytest.importorskip("onnx", reason="the operators are for its evaluator")
pytest.importorskip("onnxruntime", reason="the oracle is ONNX Runtime")

from onnx import TensorProto, helper  # noqa: E402
from onnx.reference import ReferenceEvaluator  # noqa: E402

from fastrnn.onnx import OPERATORS, operators  # noqa: E402
from fastrnn.weights import from_onnx, from_torch, to_onnx  # noqa: E402
from tests.cases import Case  # noqa: E402
from tests.checks import make_layer  # noqa: E402
from tests.weights.agreement import largest  # noqa: E402
from tests.weights.onnx_node import GATES, NodeCase  # noqa: E402


@settings(max_examples=100, deadline=None)
@given(
    kind=st.sampled_from(sorted(GATES)),
    direction=st.sampled_from(["forward", "reverse", "bidirectional"]),
    sizes=st.tuples(*[st.integers(1, n) for n in (9, 7, 9, 21)]),
    flags=st.tuples(*[st.booleans()] * 5),
    clip=st.sampled_from([None, 0.4]),
    seed=st.integers(0, 99),
)
def test_shapes_and_options_at_random(kind, direction, sizes, flags, clip, seed):
    bias, ragged, initial, layout, variant = flags
    attributes = {} if clip is None else {"clip": clip}
    attributes |= {"LSTM": {"input_forget": int(variant)}, "GRU": {"linear_before_reset": int(variant)}}.get(kind, {})
    T, B, I, H = sizes
    case = NodeCase(
        kind, T, B, I, H, direction, bias, peephole=kind == "LSTM" and variant, ragged=ragged, initial=initial,
        layout=int(layout), attributes=attributes, seed=seed,
    )  # fmt: skip
    # Together, since a state of few numbers may be near zero by cancellation.
    ours, theirs = (np.concatenate([a.ravel() for a in by().values()]) for by in (case.by_us, case.by_onnxruntime))
    assert largest([ours], [theirs]) <= 1e-5


ALPHAS = {"activation_alpha": [0.7, 0.6, 0.4], "activation_beta": [0.4, 0.3, 0.2]}


FUNCTIONS = "Affine Elu HardSigmoid LeakyRelu Relu ScaledTanh Sigmoid Softplus Softsign Tanh ThresholdedRelu".split()
# ONNX Runtime takes 0 for an alpha that the specification does not state (of the first two) or states as 1.
WITHOUT_DEFAULTS = ("Affine", "ScaledTanh", "ThresholdedRelu")


@pytest.mark.parametrize(
    "name, attributes",
    [(name, ALPHAS) for name in FUNCTIONS] + [(name, {}) for name in FUNCTIONS if name not in WITHOUT_DEFAULTS],
)
def test_activations(name, attributes):
    for kind, names in (("RNN", [name]), ("GRU", ["Sigmoid", name]), ("LSTM", ["HardSigmoid", name, name])):
        case = NodeCase(kind, T=4, large=3.0, attributes={"activations": names, **attributes})
        assert largest(list(case.by_us().values()), list(case.by_onnxruntime().values())) <= 1e-6


def test_each_direction_has_its_activations():
    names = ["Sigmoid", "Relu", "Softsign", "HardSigmoid", "Tanh", "Tanh"]
    for kind, given_names in (("LSTM", names), ("RNN", ["Tanh", "Relu"])):
        case = NodeCase(kind, direction="bidirectional", ragged=True, attributes={"activations": given_names})
        assert largest(list(case.by_us().values()), list(case.by_onnxruntime().values())) <= 2e-6


@pytest.mark.parametrize("attributes", [{}, {"clip": 0.4}], ids=["layer", "loop"])
@pytest.mark.parametrize("kind", sorted(GATES))
def test_dtypes(kind, attributes):
    """float64 and float16, which ONNX Runtime does not compute, against float32."""
    single = NodeCase(kind, direction="bidirectional", peephole=kind == "LSTM", ragged=True, attributes=attributes)
    want = single.by_us()
    for dtype, tolerance in (("float64", 1e-6), ("float16", 5e-3)):
        case = NodeCase(
            kind, direction="bidirectional", peephole=kind == "LSTM", ragged=True, attributes=attributes, dtype=dtype
        )
        got = case.by_us()
        assert {a.dtype for a in got.values()} == {np.dtype(dtype)}
        assert largest([a.astype(np.float32) for a in got.values()], list(want.values())) <= tolerance


def test_outputs_without_a_name_are_none_to_later_nodes():
    """The evaluator keeps results by name, "" among them, which later nodes mean for an input that is left out."""
    case = NodeCase("LSTM", outputs=("Y_c",))
    model = case.model()
    model.graph.node.append(helper.make_node("LSTM", ["X", "W", "R", ""], ["Y2"], hidden_size=17))
    model.graph.output.append(helper.make_tensor_value_info("Y2", TensorProto.FLOAT, None))
    c, y = ReferenceEvaluator(model, new_ops=OPERATORS).run(None, case.feeds)
    assert c.shape == (1, 5, 17) and y.shape == (7, 1, 5, 17)
    plain = NodeCase("LSTM", bias=False, initial=False)
    plain.feeds = {"X": case.feeds["X"]}
    np.testing.assert_allclose(y, plain.by_onnxruntime()["Y"], atol=1e-6)


@pytest.fixture
def packs(monkeypatch):
    """How many times weights were prepared."""
    calls = []
    prepare = operators._prepare
    monkeypatch.setattr(operators, "_prepare", lambda *args: calls.append(1) or prepare(*args))
    return calls


@pytest.mark.parametrize("attributes", [{}, {"clip": 0.4}], ids=["layer", "loop"])
def test_initializers_are_packed_once(packs, attributes):
    case = NodeCase("LSTM", peephole=True, attributes=attributes)
    evaluator = ReferenceEvaluator(case.model(), new_ops=OPERATORS)
    first = evaluator.run(None, case.feeds)
    assert all(operators._immutable(a) for a in evaluator.rt_inits_.values())
    for _ in range(3):
        for a, b in zip(evaluator.run(None, case.feeds), first, strict=True):
            np.testing.assert_array_equal(a, b)
    assert len(packs) == 1


@pytest.mark.parametrize("attributes", [{}, {"clip": 0.4}], ids=["layer", "loop"])
def test_weights_that_are_inputs_may_change(packs, attributes):
    """In place, by another array of the same values, and by one of others: never is an old result given."""
    case = NodeCase("GRU", attributes=attributes)
    evaluator = ReferenceEvaluator(case.model(weights_as_inputs=True), new_ops=OPERATORS)
    feeds = case.feeds | case.weights

    def run():
        return evaluator.run(None, feeds)[0]

    first = run()
    feeds["W"] = feeds["W"].copy()
    np.testing.assert_array_equal(run(), first)
    assert len(packs) == 1
    case.weights["W"][0, 0, 0] += 1  # the array of the first run, in place
    feeds["W"] = case.weights["W"]
    assert not np.array_equal(run(), first) and len(packs) == 2
    case.weights["W"][0, 0, 0] -= 1
    np.testing.assert_allclose(run(), first, atol=1e-6)
    packs[1:] = []
    feeds["W"][0, 0, 0] += 1
    changed = run()
    assert len(packs) == 2 and not np.array_equal(changed, first)
    view = feeds["W"].view()
    view.flags.writeable = False  # a read-only view of what may be written to
    feeds["W"] = view
    np.testing.assert_array_equal(run(), changed)
    view.base[0, 0, 0] -= 1
    np.testing.assert_allclose(run(), first, atol=1e-6)
    feeds["W"] = locked = view.copy()
    locked.flags.writeable = False  # its owner may make it writeable again
    evaluator = ReferenceEvaluator(case.model(weights_as_inputs=True), new_ops=OPERATORS)
    np.testing.assert_allclose(run(), first, atol=1e-6)
    locked.flags.writeable = True
    locked[0, 0, 0] += 1
    locked.flags.writeable = False
    np.testing.assert_array_equal(run(), changed)
    feeds["W"] = view
    feeds["B"] = np.zeros_like(feeds["B"])
    case.weights["B"] = feeds["B"]
    case.weights["W"] = view.copy()
    np.testing.assert_allclose(run(), case.by_onnxruntime()["Y"], atol=1e-6)
    feeds["W"] = np.full_like(feeds["W"], np.nan)
    count = len(packs)
    assert np.isnan(run()).any() and np.isnan(run()).any() and len(packs) == count + 1


def test_a_whole_model():
    """A stack with transposes and slices between, lengths and initial states."""
    problem = Case("lstm_peephole", num_layers=2, bidirectional=True, batch_first=True, dtype="float32").problem()
    layer = make_layer(problem)
    x = np.ascontiguousarray(problem.x.swapaxes(0, 1))
    lengths = np.array([0, 3, 6, 1, 2], np.int32)
    feeds = {"x": x, "lengths": lengths, "h0": problem.state[0], "c0": problem.state[1]}
    got = ReferenceEvaluator(to_onnx(layer, state=True, lengths=True), new_ops=OPERATORS).run(None, feeds)
    y, (h, c) = layer(x, problem.state, lengths=lengths)
    assert largest(got, [y, h, c]) <= 1e-6


@pytest.mark.parametrize(
    "change, message",
    [
        ({"X": np.zeros((3, 4), np.float32)}, r"X must have shape \(T, B, I\) with I = 4, as W has it, got \(3, 4\)"),
        ({"sequence_lens": np.array([1, 2, 3, 4, 9], np.int32)}, "sequence_lens must be 5 integers of 0 to 7"),
        ({"initial_h": np.zeros((1, 4, 17), np.float32)}, r"initial_h must have shape \(D, B, H\) = \(1, 5, 17\)"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(change, message):
    case = NodeCase("LSTM", ragged=True)
    evaluator = ReferenceEvaluator(case.model(), new_ops=OPERATORS)
    with pytest.raises(ValueError, match=message):
        evaluator.run(None, case.feeds | change)


@pytest.mark.parametrize("name", ["RNN", "LSTM", "GRU"])
def test_models_that_pytorch_exports(name):
    """With batch-first input, a stack of two directions, dynamic sizes and a layer behind."""
    torch = pytest.importorskip("torch", reason="PyTorch exports the model")
    torch.manual_seed(0)
    rnn, head = getattr(torch.nn, name)(4, 5, 2, bidirectional=True, batch_first=True), torch.nn.Linear(10, 3)

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn, self.head = rnn, head

        def forward(self, x):
            return self.head(self.rnn(x)[0])

    file, x = io.BytesIO(), torch.randn(3, 7, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # this exporter is the older one; the newer needs another package
        axes = {"x": {0: "B", 1: "T"}}
        torch.onnx.export(Model().eval(), (x[:1, :2],), file, dynamo=False, input_names=["x"], dynamic_axes=axes)
    model = onnx.load_model_from_string(file.getvalue())
    (got,) = ReferenceEvaluator(model, new_ops=OPERATORS).run(None, {"x": x.numpy()})
    assert largest([got], [head(rnn(x)[0]).detach().numpy()]) <= 1e-6
    names = [node.name for node in model.graph.node if node.op_type == name]
    np.testing.assert_array_equal(from_onnx(model, *names).flat_params, from_torch(rnn).flat_params)
