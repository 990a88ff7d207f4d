"""Encoder and decoder, searches, the bridge between states, vocabularies."""

from __future__ import annotations

import functools

import numpy as np

import fastrnn
from fastrnn import nn
from tests.cases import LAYERS
from tests.hostile.targets.common import B, H, I, Setting, T, V, numbers, parts, target

BOS, EOS = 0, 1


@functools.lru_cache(maxsize=256)
def _model(s: Setting, dropout: float = 0.0):
    """The decoder is an LSTM or of the encoder's kind; attention of every score, and none."""
    score = [None, "dot", "general", "additive"][s.batch_first + 2 * s.unbatched]
    return nn.Seq2Seq(*_layers(s), V, V, bos=BOS, eos=EOS, attention=score, dropout=dropout, seed=3)


def _layers(s: Setting):
    kind, options = LAYERS[s.cell]
    encoder = getattr(fastrnn, kind)(I, H, s.layers, bidirectional=s.bidirectional, dtype=s.dtype, seed=1, **options)
    wide = H * (1 + s.bidirectional)
    if s.layers == 1:
        return encoder, fastrnn.LSTM(I + 1, wide, dtype=s.dtype, seed=2)
    return encoder, getattr(fastrnn, kind)(I + 1, wide, s.layers, dtype=s.dtype, seed=2, **options)


def _source():
    return np.arange(T * B).reshape(T, B) % V


def _target(lengths):
    """Symbols 2 to V - 1, and the end at each row's last step."""
    found = np.arange(T * B).reshape(T, B) % (V - 2) + 2
    for row, length in enumerate(lengths):
        found[max(0, length - 1), row] = EOS
    return found


_ENDS = np.array([T, T, T]), np.array([3, 2, T])


# Past a row's length any symbol may stand.
@target(
    "source=integers target=integers source_lengths=lengths target_lengths=lengths sampling=option seed=option"
    " dlogits=floats keep_tape=option tape=option",
    exact=False,
    also="dy",
    accepted={"integers": "out_of_range"},
)  # fmt: skip
def seq2seq_training(s):
    model = _model(s, 0.2)

    def run(dlogits, keep_tape, tape, seed, **arguments):
        logits, own = model.forward(**arguments, seed=seed)
        grads = model.backward(own if tape is None else tape, dlogits, keep_tape=keep_tape)
        return () if seed is None else (logits, *grads.flats)

    given = {"source": _source(), "target": _target(_ENDS[1]), "source_lengths": np.array([2, 1, T])}
    given |= {"target_lengths": _ENDS[1], "sampling": 0.5 if s.unbatched else 0.0, "seed": 3}
    return given | {"dlogits": numbers(T, B, V, dtype=s.dtype), "keep_tape": False, "tape": None}, run


@target("source=integers target=integers", patient=True)
def seq2seq_call(s):
    return {"source": _source(), "target": _target(_ENDS[0])}, _model(s)


# Behind the check of ``forward``: parts name what they are given.
@target("source=integers lengths=lengths", also="x memory", patient=True)
def seq2seq_encode(s):
    def run(source, lengths):
        state, memory = _model(s).encode(source, lengths)
        return state, None if memory is None else [memory.values, memory.keys, memory.beyond]

    return {"source": _source(), "lengths": np.array([2, 1, T])}, run


@target(
    "encoder=option decoder=option source_size=option target_size=option bos=option eos=option attention=option"
    " dropout=option seed=option"
)
def seq2seq_options(s):
    def run(**arguments):
        made = nn.Seq2Seq(**arguments)
        return () if arguments["seed"] is None else list(made.params.values())

    encoder, decoder = _layers(s)
    given = {"encoder": encoder, "decoder": decoder, "source_size": V, "target_size": nn.Vocabulary("abcdef")}
    return given | {"bos": 0, "eos": 1, "attention": "general", "dropout": 0.1, "seed": 1}, run


_SEARCH = "model=option source=integers source_lengths=lengths max_length=option"


@target(_SEARCH, accepted={"integers": "out_of_range"}, patient=True)
def greedy_search(s):
    def run(**arguments):
        found = nn.greedy_search(**_bounded(arguments))
        return *found, [np.array(row) for row in found.sequences()]

    return {"model": _model(s), "source": _source(), "source_lengths": np.array([2, 1, T]), "max_length": 5}, run


@target(_SEARCH + " beam=option length_penalty=option", accepted={"integers": "out_of_range"}, patient=True)
def beam_search(s):
    given = {"model": _model(s), "source": _source(), "source_lengths": np.array([2, 1, T]), "max_length": 5}
    return given | {"beam": 3, "length_penalty": 1.0}, lambda **arguments: nn.beam_search(**_bounded(arguments))


def _bounded(arguments):
    """A search that goes on for as long as it was told to is no error."""
    if type(arguments["max_length"]) is int and 1000 < arguments["max_length"] < 1 << 31:
        arguments["max_length"] = 1000
    return arguments


@target("final=states dstate=states keep_tape=option tape=option", exact=False)
def bridge(s):
    encoder, decoder = _layers(s)
    made = nn.Bridge(encoder, decoder, seed=1)

    def run(final, dstate, keep_tape, tape):
        state, own = made.forward(final)
        grads = made.backward(own if tape is None else tape, dstate, keep_tape=keep_tape)
        return made(final), state, grads.x, grads.flats

    states = len(decoder.cell.states)
    shape = (decoder.num_layers, B, decoder.hidden_size)
    dstate = tuple(numbers(*shape, dtype=s.dtype, seed=n) for n in range(states))
    given = {"final": parts(s, s.layers * (1 + s.bidirectional), B, H), "keep_tape": False, "tape": None}
    return given | {"dstate": dstate if states > 1 else dstate[0]}, run


@target("numbers=lengths", patient=True)
def vocabulary_decode(s):
    return {"numbers": np.array([3, 2, 5])}, lambda numbers: _texts(nn.Vocabulary("abcdef").decode(numbers))


@target("symbols=symbols sequences=sequences ends=option sequence=symbols batch=sequences", also="symbol")
def vocabulary(s):
    def run(symbols, sequences, ends, sequence, batch):
        made, collected = nn.Vocabulary(symbols), nn.Vocabulary.of(sequences, ends)
        found = *collected.batch(batch), made.encode(sequence)
        return _texts(made), _texts(collected), found, collected.bos, collected.eos

    given = {"symbols": "abc", "sequences": ["tree", "art"], "ends": True, "sequence": "cab", "batch": ["tea", "rat"]}
    return given, lambda **arguments: _without_key_error(run, arguments)


def _without_key_error(run, arguments):
    """Without ends there are no numbers of them, which is a KeyError, as for any mapping."""
    try:
        return run(**arguments)
    except KeyError as error:
        assert str(error) in ("'<bos>'", "'<eos>'")
        return ()


def _texts(symbols):
    return np.array([symbol.encode() for symbol in symbols])
