"""The encoder-decoder: gradients end to end, its parts, sampling, dropout; what is refused."""

from __future__ import annotations

import copy

import numpy as np
import pytest

import fastrnn
from fastrnn import nn
from tests.nn.finite_differences import check

V, W, E, H, B = 6, 7, 3, 4, 4
BOS, EOS = 0, 1
SOURCE_LENGTHS, TARGET_LENGTHS = np.array([5, 2, 4, 3]), np.array([3, 4, 1, 2])


def made(encoder="GRU", decoder="GRU", dtype="float64", bidirectional=True, layers=(1, 1), **options):
    encoder = getattr(fastrnn, encoder)(E, H, layers[0], bidirectional=bidirectional, dtype=dtype, seed=1)
    width = 2 * H if options.get("attention") == "dot" and bidirectional else H
    decoder = getattr(fastrnn, decoder)(E + 1, width, layers[1], dtype=dtype, seed=2)
    model = nn.Seq2Seq(encoder, decoder, V, W, bos=BOS, eos=EOS, seed=3, **options)
    for array in model.params.values():
        array *= 2  # so that no gradient is small beside the others
    return model


def sides(seed=0):
    """A source (5, B) and a target (4, B), ragged; past the lengths stands what is out of range."""
    rng = np.random.default_rng(seed)
    source, target = rng.integers(0, V, (5, B)), rng.integers(2, W, (4, B))
    target[TARGET_LENGTHS - 1, np.arange(B)] = EOS
    source[np.arange(5)[:, None] >= SOURCE_LENGTHS] = -1
    target[np.arange(4)[:, None] >= TARGET_LENGTHS] = 99
    return source, target


def loss_of(model, source, target):
    logits = model(source, target, SOURCE_LENGTHS, TARGET_LENGTHS)
    return nn.softmax_cross_entropy(logits, target, lengths=TARGET_LENGTHS, reduction="sum", gradient=False)[0]


CASES = [
    ("GRU", "GRU", {"attention": score}) for score in (None, "dot", "general", "additive")
] + [
    ("LSTM", "LSTM", {"attention": score}) for score in (None, "dot", "general", "additive")
] + [
    ("LSTM", "GRU", {"layers": (2, 1), "attention": "general"}),
    ("RNN", "LSTM", {"layers": (1, 3)}),
    ("GRU", "GRU", {"bidirectional": False, "attention": "additive"}),
    ("LSTM", "LSTM", {"bidirectional": False, "layers": (2, 2)}),
]  # fmt: skip


@pytest.mark.parametrize("encoder, decoder, options", CASES)
def test_gradients_end_to_end(encoder, decoder, options):
    """Embedding -> encoder -> bridge -> decoder -> attention -> output -> loss, ragged on both sides."""
    model = made(encoder, decoder, **options)
    source, target = sides()
    assert ("bridge" in model.parts) == (options.get("bidirectional", True) or encoder != decoder)
    logits, tape = model.forward(source, target, SOURCE_LENGTHS, TARGET_LENGTHS)
    assert np.array_equal(logits, model(source, target, SOURCE_LENGTHS, TARGET_LENGTHS))
    _, dlogits = nn.softmax_cross_entropy(logits, target, lengths=TARGET_LENGTHS, reduction="sum")
    grads = model.backward(tape, dlogits, keep_tape=True)
    assert sorted(grads.params) == sorted(model.params)
    for name, array in model.params.items():
        assert np.abs(grads.params[name]).max() > 1e-5, name
        check(lambda: loss_of(model, source, target), array, grads.params[name], name, most=6)
    again = model.backward(tape, dlogits)
    assert all(np.array_equal(a, b) for a, b in zip(grads.flats, again.flats, strict=True))
    with pytest.raises(RuntimeError, match="consumed"):
        model.backward(tape, dlogits)


def test_a_row_alone_is_the_row_in_a_batch():
    model = made(attention="general")
    source, target = sides()
    whole = model(source, target, SOURCE_LENGTHS, TARGET_LENGTHS)
    for b in range(B):
        T, U = SOURCE_LENGTHS[b], TARGET_LENGTHS[b]
        alone = model(source[:T, b : b + 1], target[:U, b : b + 1])
        np.testing.assert_allclose(alone[:, 0], whole[:U, b], rtol=1e-12)


def test_gradients_with_dropout_are_those_of_its_mask():
    model = made(attention="general", dropout=0.4)
    source, target = sides()

    def forward():
        logits, tape = model.forward(source, target, SOURCE_LENGTHS, TARGET_LENGTHS, seed=5)
        return *nn.softmax_cross_entropy(logits, target, lengths=TARGET_LENGTHS, reduction="sum"), tape

    _, dlogits, tape = forward()
    grads = model.backward(tape, dlogits)
    for name, array in model.params.items():
        check(lambda: forward()[0], array, grads.params[name], name, most=4)
    other = model.forward(source, target, SOURCE_LENGTHS, TARGET_LENGTHS, seed=6)[0]
    assert not np.allclose(other, model.forward(source, target, SOURCE_LENGTHS, TARGET_LENGTHS, seed=5)[0])


def test_scheduled_sampling_feeds_what_the_model_says():
    """Nearly certain sampling is the run on its own answers; gradients are those of the inputs it chose."""
    model = made(attention="general")
    rng = np.random.default_rng(0)
    source, target = rng.integers(0, V, (5, B)), rng.integers(2, W, (4, B))
    target[-1] = EOS
    said = model(source, target).argmax(axis=-1)
    mixed = np.where(said[:-1] == EOS, 2, said[:-1])
    own = np.concatenate((mixed, target[-1:]))
    if (said[:-1] <= EOS).any():  # such a target would be refused: what is fed is then told apart by hand
        model.output.params["bias"][:2] = -100
        said = model(source, target).argmax(axis=-1)
        own = np.concatenate((said[:-1], target[-1:]))
    sampled, tape = model.forward(source, target, sampling=1 - 1e-12, seed=1)
    assert np.array_equal(sampled, model(source, own))
    grads = model.backward(tape, np.ones_like(sampled))
    plain, tape = model.forward(source, own)
    want = model.backward(tape, np.ones_like(plain))
    assert all(np.array_equal(a, b) for a, b in zip(grads.flats, want.flats, strict=True))
    assert np.array_equal(model.forward(source, target, sampling=0.0, seed=1)[0], model(source, target))


def test_it_learns_to_reverse():
    rng = np.random.default_rng(0)
    model = nn.Seq2Seq(
        fastrnn.GRU(8, 24, bidirectional=True, seed=0),
        fastrnn.GRU(8, 24, seed=1),
        5, 7, bos=0, eos=1, attention="general", seed=2,
    )  # fmt: skip
    optimizer = nn.Adam(model, rate=1e-2)
    for _ in range(150):
        lengths = rng.integers(1, 7, 32)
        source = rng.integers(0, 5, (int(lengths.max()), 32))
        target = np.full((len(source) + 1, 32), 1)
        for b, n in enumerate(lengths):
            target[:n, b] = 2 + source[:n, b][::-1]
        logits, tape = model.forward(source, target, lengths, lengths + 1)
        _, dlogits = nn.softmax_cross_entropy(logits, target, lengths=lengths + 1)
        optimizer.step(model.backward(tape, dlogits))
    found = nn.greedy_search(model, source, lengths, max_length=10).sequences()
    right = [row == target[:n, b].tolist() for b, (row, n) in enumerate(zip(found, lengths, strict=True))]
    assert np.mean(right) > 0.9


def test_copies_and_files(tmp_path):
    model = made("LSTM", "GRU", attention="additive", dropout=0.1)
    source, target = sides()
    nn.save(tmp_path / "model.safetensors", model)
    loaded = nn.load(tmp_path / "model.safetensors")
    for other in (copy.deepcopy(model), loaded):
        for got in (other(source, target, SOURCE_LENGTHS, TARGET_LENGTHS),):
            assert np.array_equal(got, model(source, target, SOURCE_LENGTHS, TARGET_LENGTHS))
    assert loaded.dropout == 0.1
    encoder, decoder = fastrnn.LSTM(E, H, bidirectional=True, dtype="float64"), fastrnn.GRU(E + 1, H, dtype="float64")
    more = nn.Seq2Seq(encoder, decoder, V + 1, W, bos=BOS, eos=2, attention="additive", dropout=0.1)
    with pytest.raises(ValueError, match=r"source_size is 6 in the file, 7 in the model; eos is 1 in the file, 2 in"):
        nn.load_into(tmp_path / "model.safetensors", more)


def test_symbols_are_saved_and_must_agree(tmp_path):
    sources, targets = nn.Vocabulary("abc"), nn.Vocabulary.of(["xyz"], ends=True)

    def make(sources, targets, **options):
        return nn.Seq2Seq(fastrnn.GRU(2, 3), fastrnn.GRU(2, 3), sources, targets, **options)

    model = make(sources, targets)
    assert (model.source_size, model.target_size, model.bos, model.eos) == (3, 5, 0, 1)
    nn.save(tmp_path / "model.safetensors", model)
    loaded = nn.load(tmp_path / "model.safetensors")
    assert loaded.source_vocabulary == sources and loaded.target_vocabulary.eos == 1
    nn.load_into(tmp_path / "model.safetensors", make(sources, targets))
    with pytest.raises(ValueError, match=r"source_size\[2\] is 'c' in the file, 'd' in the model"):
        nn.load_into(tmp_path / "model.safetensors", make(nn.Vocabulary("abd"), targets))
    with pytest.raises(ValueError, match=r"target_size has 5 entries in the file, 4 in the model"):
        nn.load_into(tmp_path / "model.safetensors", make(sources, nn.Vocabulary.of(["xy"], ends=True)))
    with pytest.raises(ValueError, match=r"eos must be given: target_size is a Vocabulary without <eos>"):
        make(sources, nn.Vocabulary("xyz"), bos=0)
    with pytest.raises(TypeError, match=r"bos must be given with a target_size that is no Vocabulary"):
        make(sources, 5, eos=1)


REFUSED = [
    ({"source": [[0, 6]]}, ValueError, r"source must lie in 0..5 .*, got source\[0, 1\] = 6"),
    (
        {"target": [[2, 2], [9, 1], [1, 1]], "target_lengths": [3, 2]},
        ValueError,
        r"target must .*target\[1, 0\]",
    ),
    (
        {"target": [[2, 2], [1, 3]]},
        ValueError,
        r"must end with eos = 1 at its last valid step, got target\[1, 1\] = 3",
    ),
    (
        {"target": [[2, 2], [1, 1]], "target_lengths": [1, 2]},
        ValueError,
        r"end with eos = 1 .*, got target\[0, 0\] = 2",
    ),
    ({"target": [[2, 1], [1, 1]]}, ValueError, r"must not have eos = 1 before a row's end: got it at \[0, 1\]"),
    ({"target": [[0, 0], [1, 1]]}, ValueError, r"must not have bos = 0 .* at \[0, 0\]; the model puts it in front"),
    ({"target": [[2, 2, 1]]}, ValueError, r"target must have shape \(U, B\) = \(U, 2\), as source has B rows"),
    ({"target": [2, 1]}, ValueError, r"target must have shape \(U, B\), got \(2,\)"),
    ({"source": [[0.0, 1.0]]}, TypeError, r"source must be integers, got dtype float64"),
    ({"source_lengths": [1, 2]}, ValueError, r"source_lengths must lie in 0..1 \(T\), got source_lengths\[1\] = 2"),
    ({"target_lengths": [1, 2, 1]}, ValueError, r"target_lengths must have shape \(B,\) = \(2,\), got \(3,\)"),
]


@pytest.mark.parametrize("change, error, message", REFUSED)
def test_bad_input_is_named(change, error, message):
    model = made()
    given = {"source": np.array([[0, 1]]), "target": np.array([[2, 3], [1, 1]])} | {
        name: np.array(value) for name, value in change.items()
    }
    with pytest.raises(error, match=message):
        model.forward(**given)


def test_layers_that_do_not_go_together_are_refused():
    def make(encoder=None, decoder=None, **options):
        encoder, decoder = encoder or fastrnn.GRU(E, H), decoder or fastrnn.GRU(E, H)
        return nn.Seq2Seq(encoder, decoder, V, W, **{"bos": 0, "eos": 1} | options)

    for options, error, message in (
        ({"decoder": fastrnn.GRU(E, H, bidirectional=True)}, ValueError, "decoder must have bidirectional=False"),
        ({"decoder": fastrnn.GRU(E, H, dtype="float64")}, ValueError, "decoder must have the encoder's dtype"),
        ({"encoder": fastrnn.GRU(E, H, batch_first=True)}, ValueError, "encoder must have batch_first=False"),
        ({"encoder": nn.Linear(E, H)}, TypeError, "encoder must be an RNN, LSTM or GRU of fastrnn, got Linear"),
        ({"eos": 0}, ValueError, "bos and eos must differ"),
        ({"eos": W}, ValueError, "eos must be at most 6, got 7"),
        ({"attention": "cosine"}, ValueError, "attention must be None or one of"),
        ({"dropout": 1.0}, ValueError, "dropout must be a number"),
        ({"decoder": fastrnn.GRU(E, H + 1), "attention": "dot"}, ValueError, "needs query_size equal"),
    ):
        with pytest.raises(error, match=message):
            make(**options)
