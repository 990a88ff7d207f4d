"""Layers from ONNX models and back: equal outputs to ONNX Runtime, nodes found, what can't be represented named."""

from __future__ import annotations

import numpy as np
import pytest

import fastrnn
from fastrnn.weights import Reverse, from_onnx, to_onnx

onnx = pytest.importorskip("onnx", reason="models are built with onnx")
pytest.importorskip("onnxruntime", reason="the oracle is ONNX Runtime")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from tests.processes import run_python  # noqa: E402
from tests.weights import agree_onnx  # noqa: E402
from tests.weights.onnx_node import NodeCase  # noqa: E402


@pytest.mark.parametrize("agreement", agree_onnx.agreements(), ids=lambda a: f"{a.library.split()[-1]}-{a}")
def test_outputs_agree(agreement):
    assert agreement.difference() <= agreement.tolerance


def test_float64_comes_and_goes(tmp_path):
    layer = fastrnn.GRU(3, 4, 2, bidirectional=True, dtype="float64", seed=0)
    path = tmp_path / "model.onnx"
    to_onnx(layer, path, lengths=True)
    onnx.checker.check_model(str(path))
    again = from_onnx(path, "l0", "l1")
    assert repr(again) == repr(layer)
    np.testing.assert_array_equal(again.flat_params, layer.flat_params)
    (single,) = {
        repr(from_onnx(source, "l1")) for source in (path.read_bytes(), onnx.load(path), onnx.load(path).graph)
    }
    assert single == "GRU(8, 4, bidirectional=True, dtype='float64')"
    assert from_onnx(path, "l1", dtype="float32").dtype == np.float32


def two_nodes():
    """A model of two LSTMs, of which one has no name, and a node of another kind."""
    model = NodeCase("LSTM").model()
    second = NodeCase("LSTM", seed=1).model()
    for tensor in second.graph.initializer:
        tensor.name += "_2"
    (node,) = second.graph.node
    node.name = ""
    for k, name in enumerate(node.input):
        node.input[k] = name + "_2" if name in ("W", "R", "B") else name
    for k, name in enumerate(node.output):
        node.output[k] = name + "_2"
    model.graph.node.extend([helper.make_node("Identity", ["Y"], ["Z"]), node])
    model.graph.initializer.extend(second.graph.initializer)
    return model


def test_nodes_are_found_by_name_output_or_themselves():
    model = two_nodes()
    first, second = from_onnx(model, "the_node"), from_onnx(model, "Y_h_2")
    assert not np.array_equal(first.flat_params, second.flat_params)
    np.testing.assert_array_equal(from_onnx(model, model.graph.node[2]).flat_params, second.flat_params)
    with pytest.raises(ValueError, match=r"name a node of the model: .*'the_node' \(LSTM\), 'Y_2' \(LSTM\)"):
        from_onnx(model)
    with pytest.raises(ValueError, match="no recurrent nodes 'absent'"):
        from_onnx(model, "absent")
    with pytest.raises(TypeError, match="got NodeProto"):
        from_onnx(model, model.graph.node[1])


def test_weights_in_constants_and_behind_identities():
    model = NodeCase("GRU").model()
    want = from_onnx(model).flat_params
    w, rest = model.graph.initializer[0], model.graph.initializer[1:]
    nodes = [helper.make_node("Constant", [], ["W0"], value=w), helper.make_node("Identity", ["W0"], ["W"])]
    graph = helper.make_graph([*nodes, *model.graph.node], "g", model.graph.input, model.graph.output, rest)
    np.testing.assert_array_equal(from_onnx(graph).flat_params, want)


def test_weights_in_external_data(tmp_path):
    model = NodeCase("GRU", H=32).model()
    want = from_onnx(model).flat_params
    path = tmp_path / "model.onnx"
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    np.testing.assert_array_equal(from_onnx(path).flat_params, want)
    with pytest.raises(ValueError, match="give the model's path"):
        from_onnx(path.read_bytes())
    (tmp_path / "weights.bin").write_bytes(b"\0" * 100)
    with pytest.raises(ValueError, match=r"GRU 'the_node': W \('W'\) can't be read"):
        from_onnx(path)


def changed(case, **attributes):
    """The case's model with other attributes."""
    for name, value in attributes.items():
        case.attributes[name] = value
    return case.model()


@pytest.mark.parametrize(
    "model, message",
    [
        (lambda: changed(NodeCase("LSTM"), clip=1.0), "clip=1 can't be represented"),
        (lambda: changed(NodeCase("GRU"), activations=["HardSigmoid", "Tanh"]), "activations=.'hardsigmoid', 'tanh'"),
        (lambda: changed(NodeCase("RNN"), activations=["Elu"]), "activations=.'elu'"),
        (lambda: changed(NodeCase("RNN"), activations=["Swish"]), "'swish' is none of"),
        (lambda: changed(NodeCase("RNN"), activations=["Affine"]), "needs activation_alpha"),
        (lambda: changed(NodeCase("LSTM"), activations=["Sigmoid"]), "must have 3 names"),
        (
            lambda: changed(NodeCase("RNN", direction="bidirectional"), activations=["Tanh", "Relu"]),
            "activations=.'tanh', 'relu'",
        ),
        (lambda: changed(NodeCase("LSTM"), hidden_size=16), "hidden_size H = 16"),
        (
            lambda: changed(NodeCase("LSTM"), direction="bidirectional"),
            r"R of LSTM .* \(1, 68, 17\), not \(2, 68, 17\)",
        ),
        (lambda: changed(NodeCase("LSTM"), direction="sideways"), "direction must be"),
        (lambda: NodeCase("LSTM").model(weights_as_inputs=True), "W .'W'. is not stored"),
        (lambda: helper.make_graph([], "nothing", [], []), "it has no recurrent nodes"),
        (lambda: b"", "it has no recurrent nodes"),
        (lambda: b"\xff" * 100, "no readable ONNX model"),
    ],
)
def test_what_can_not_be_represented_is_named(model, message):
    with pytest.raises(ValueError, match=message):
        from_onnx(model())


def test_stacks_must_be_alike():
    model = two_nodes()
    with pytest.raises(ValueError, match=r"weight_ih_l1 must have shape \(68, 17\), got \(68, 4\)"):
        from_onnx(model, "the_node", "Y_2")
    model.graph.node[2].attribute.append(helper.make_attribute("input_forget", 1))
    with pytest.raises(ValueError, match="of one operator, with the same options"):
        from_onnx(model, "the_node", "Y_2")


def broken_tensor(change):
    model = NodeCase("GRU").model()
    change(model.graph.initializer[0])
    return model


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.dims.__setitem__(2, 1 << 40),
        lambda t: t.dims.extend([1 << 62, 1 << 62]),
        lambda t: t.dims.__setitem__(0, -1),
        lambda t: setattr(t, "raw_data", t.raw_data[:-3]),
        lambda t: setattr(t, "data_type", TensorProto.INT64),
        lambda t: setattr(t, "data_type", 12345),
        lambda t: t.CopyFrom(numpy_helper.from_array(np.ones((1, 51, 4), np.int32), "W")),
        lambda t: t.CopyFrom(numpy_helper.from_array(np.ones((1, 50, 4), np.float32), "W")),
        lambda t: t.CopyFrom(numpy_helper.from_array(np.array(["a"], object), "W")),
    ],
)
def test_broken_tensors_are_refused(change):
    with pytest.raises(ValueError, match="W"):
        from_onnx(broken_tensor(change))


def test_truncated_models_are_refused(tmp_path):
    whole = to_onnx(fastrnn.LSTM(3, 4)).SerializeToString()
    path = tmp_path / "cut.onnx"
    for cut in range(0, len(whole), 41):
        path.write_bytes(whole[:cut])
        with pytest.raises(ValueError):
            from_onnx(path)


def test_a_file_beyond_what_protobuf_can_hold_is_not_read(tmp_path):
    with open(tmp_path / "huge.onnx", "wb") as file:
        file.truncate(20 << 30)
    with pytest.raises(ValueError, match="no ONNX file has more"):
        from_onnx(tmp_path / "huge.onnx")


def test_hostile_models_take_little_memory(tmp_path):
    """Shapes beyond memory without data, and external data of 20 GB that are nearly all hole on the disk."""
    pytest.importorskip("resource", reason="memory is limited by setrlimit")
    with open(tmp_path / "weights.bin", "wb") as file:
        file.truncate(20 << 30)

    def external(length):
        tensor = TensorProto(name="W", data_type=TensorProto.FLOAT, dims=[1, 51, 4], data_location=TensorProto.EXTERNAL)
        for key, value in {"location": "weights.bin", "offset": "0", "length": length}.items():
            if value:
                tensor.external_data.add(key=key, value=value)
        return tensor

    shaped = TensorProto(name="W", data_type=TensorProto.FLOAT, dims=[1, 51, 1 << 40], raw_data=b"")
    typed = TensorProto(name="W", data_type=TensorProto.FLOAT, dims=[1 << 20, 51, 1 << 20], float_data=[1.0])
    paths = []
    for k, tensor in enumerate([shaped, typed, external(str(20 << 30)), external(None)]):
        model = broken_tensor(lambda first, tensor=tensor: first.CopyFrom(tensor))
        paths.append(tmp_path / f"{k}.onnx")
        paths[-1].write_bytes(model.SerializeToString())
    script = """
import sys
import onnx
from fastrnn.weights import from_onnx
from tests.processes import limited_memory
with limited_memory(128 << 20):
    for path in sys.argv[1:]:
        try:
            print(from_onnx(path))
        except ValueError as error:
            print("refused", error)
"""
    printed = run_python(script, *map(str, paths)).splitlines()
    assert [line.split()[0] for line in printed] == ["refused", "refused", "refused", "GRU(4,"], printed
    assert "takes 816 bytes" in printed[2]


def test_other_sources_are_refused():
    with pytest.raises(TypeError, match="a path, bytes or an ONNX model or graph, got int"):
        from_onnx(3)


def test_reverse_is_a_direction_of_a_bidirectional_layer():
    """With training: outputs, states and gradients are those of the reverse half."""
    both = fastrnn.LSTM(3, 5, bidirectional=True, dtype="float64", seed=0)
    layer = fastrnn.LSTM(3, 5, dtype="float64")
    layer.load_params({name: both.params[name + "_reverse"] for name in layer.params})
    reverse = Reverse(layer)
    rng = np.random.default_rng(0)
    x, dy = rng.standard_normal((6, 4, 3)), rng.standard_normal((6, 4, 5))
    resets = rng.random((6, 4)) < 0.3
    for lengths in (None, [2, 6, 0, 3], [6, 6, 6, 6]):
        y, state, tape = reverse.forward(x, lengths=lengths, resets=resets)
        want_y, want_state, want_tape = both.forward(x, lengths=lengths, resets=resets)
        np.testing.assert_allclose(y, want_y[:, :, 5:], rtol=0, atol=1e-14)
        for got, want in zip(state, want_state, strict=True):
            np.testing.assert_allclose(got[0], want[1], rtol=0, atol=1e-14)
        np.testing.assert_array_equal(reverse(x, lengths=lengths, resets=resets)[0], y)
        grads = reverse.backward(tape, dy)
        want = both.backward(want_tape, np.concatenate([np.zeros_like(dy), dy], axis=2))
        np.testing.assert_allclose(grads.x, want.x, rtol=0, atol=1e-13)
        np.testing.assert_allclose(
            grads.params["weight_hh_l0"], want.params["weight_hh_l0_reverse"], rtol=0, atol=1e-13
        )
    last, _ = reverse(x, return_sequences=False)
    np.testing.assert_allclose(last, reverse(x)[0][0], rtol=0, atol=1e-14)
    np.testing.assert_array_equal(reverse(x[:, 0])[0], reverse(np.ascontiguousarray(x[:, :1]))[0][:, 0])
    with pytest.raises(ValueError, match="bidirectional"):
        Reverse(both)
    with pytest.raises(TypeError, match="got int"):
        Reverse(3)
    with pytest.raises(ValueError, match="lengths must have shape"):
        reverse(x, lengths=[1])
