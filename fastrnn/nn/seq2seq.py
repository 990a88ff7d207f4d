"""Encoder and decoder: from one ragged sequence to another, with or without attention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from fastrnn import checks
from fastrnn.checks import State
from fastrnn.dropout import fresh_seed
from fastrnn.nn.arguments import indices
from fastrnn.nn.attention import SCORES, Attention, Memory
from fastrnn.nn.bridge import Bridge, check_kinds, fits
from fastrnn.nn.embedding import Embedding
from fastrnn.nn.linear import Linear
from fastrnn.nn.model import Model, ModelGradients
from fastrnn.nn.vocabulary import Vocabulary
from fastrnn.places import HOST, is_cupy
from fastrnn.recurrent import RecurrentLayer, recurrent_layer
from fastrnn.tape import Tape, tape_of

__all__ = ["Run", "Seq2Seq"]

# The places of dropout, for which the masks differ.
_SOURCE, _TARGET, _FEATURES = range(3)


class Run:
    """Calls the parts of a model by name; in training with tapes, seeds and dropout."""

    def __init__(self, model: Seq2Seq, seed: int | None = None, train: bool = False) -> None:
        self.model, self.train = model, train
        self.tapes: dict[str, Tape] = {}
        self.mixed: NDArray[Any] | None = None  # tanh, before dropout
        self.shape: tuple[int, ...] = ()  # of the logits
        if train:
            sequence = np.random.SeedSequence(fresh_seed() if seed is None else seed)
            self.own, encoder, decoder = [int(n) for n in sequence.generate_state(3, np.uint64)]
            self.seeds = {"encoder": encoder, "decoder": decoder}

    def __call__(self, name: str, *arguments: Any, **options: Any) -> Any:
        part = self.model.parts[name]
        if not self.train:
            return part(*arguments, **options)
        if name in self.seeds:
            options["seed"] = self.seeds[name]
        *results, self.tapes[name] = part.forward(*arguments, **options)
        return results[0] if len(results) == 1 else tuple(results)

    def drop(self, array: NDArray[Any], where: int) -> NDArray[Any]:
        """Dropout, in place."""
        if self.train and self.model.dropout:
            self.model.place.apply_mask(array, self.model.dropout, self.own, where)
        return array

    def back(self, grads: dict[str, Any], name: str, *incoming: Any, keep_tape: bool) -> Any:
        """``backward`` of a part, which is noted in ``grads``."""
        grads[name] = self.model.parts[name].backward(self.tapes[name], *incoming, keep_tape=keep_tape)
        return grads[name]


class _Sides(NamedTuple):
    """Checked arguments."""

    source: NDArray[Any]
    source_lengths: NDArray[np.int64] | None
    inputs: NDArray[Any]  # the target behind <bos>, without its last step
    target_lengths: NDArray[np.int64] | None


class Seq2Seq(Model):
    """An encoder-decoder: embedding, encoder, bridge, decoder, attention if asked for, output.

        state = bridge(final state of encoder(source))
        h = decoder(<bos>, target[:-1]; state)                    all steps in one call
        logits = output(h)                                        Sutskever, Vinyals and Le, "Sequence to sequence
                                                                  learning with neural networks", 2014
        logits = output(tanh(combine([attention(h), h])))         with attention, as Luong, Pham and Manning, 2015, have
                                                                  it: it stands behind the decoder, and does not feed it

    Parameters
    ----------
    encoder, decoder : fastrnn.RNN, LSTM or GRU
        Any cells, stacked or not; the encoder may be bidirectional. Of one dtype and device, time-major. Their input
        sizes are those of the embeddings. They become the model's own.
    source_size, target_size : int or Vocabulary
        How many symbols there are on either side, or which: a model that knows its symbols can't be loaded into one
        with others.
    bos, eos : int, optional
        The target's symbols that begin and end a sequence; default those of its vocabulary.
    attention : None, "dot", "general" or "additive"
        The score of ``Attention`` over the encoder's outputs.
    dropout : float, 0 <= dropout < 1
        On both embeddings and on what the output layer takes, in ``forward`` only; the layers have their own.
    seed : int, optional
        Of the parameters made here.

    The parts: ``source_embedding``, ``encoder``, ``bridge`` (a ``Bridge``; absent where the decoder can start from the
    encoder's state as it is), ``target_embedding``, ``decoder``, ``attention`` and ``combine`` (with attention),
    ``output``.

        logits, tape = model.forward(source, target, source_lengths, target_lengths)
        loss, dlogits = nn.softmax_cross_entropy(logits, target, lengths=target_lengths)
        optimizer.step(model.backward(tape, dlogits))
        found = nn.greedy_search(model, source, source_lengths)         or nn.beam_search

    source is (T, B) and target (U, B), integers; each row of target ends with ``eos`` at its last valid step, and has
    no ``bos``, which the model puts in front.

    Raises TypeError and ValueError for what does not fit together.
    """

    def __init__(
        self,
        encoder: RecurrentLayer,
        decoder: RecurrentLayer,
        source_size: int | Sequence[str],
        target_size: int | Sequence[str],
        *,
        bos: int | None = None,
        eos: int | None = None,
        attention: str | None = None,
        dropout: float = 0.0,
        seed: int | None = None,
    ) -> None:
        _check_layers(encoder, decoder)
        self.source_size, self.source_vocabulary = _size("source_size", source_size)
        self.target_size, self.target_vocabulary = _size("target_size", target_size)
        self.bos = self._end("bos", bos)
        self.eos = self._end("eos", eos)
        if self.bos == self.eos:
            raise ValueError(f"bos and eos must differ, got {self.bos} twice")
        if attention is not None and not (isinstance(attention, str) and attention in SCORES):
            raise ValueError(f"attention must be None or one of {SCORES}, got {attention!r}")
        self.attention_score, self.dropout = attention, checks.dropout(dropout)
        Q, M = decoder.hidden_size, encoder.num_directions * encoder.hidden_size
        draw = np.random.SeedSequence(checks.seed(seed)).generate_state(6) if seed is not None else [None] * 6
        seeds = [None if s is None else int(s) for s in draw]

        def options(k: int) -> dict[str, Any]:
            return {"dtype": encoder.dtype, "device": encoder.device, "seed": seeds[k]}

        parts: dict[str, Any] = {
            "source_embedding": Embedding(self.source_size, encoder.input_size, **options(0)),
            "encoder": encoder,
        }
        if not fits(encoder, decoder):
            parts["bridge"] = Bridge(encoder, decoder, seed=seeds[1])
        parts["target_embedding"] = Embedding(self.target_size, decoder.input_size, **options(2))
        parts["decoder"] = decoder
        if attention is not None:
            parts["attention"] = Attention(Q, M, attention, **options(3))
            parts["combine"] = Linear(M + Q, Q, **options(4))
        parts["output"] = Linear(Q, self.target_size, **options(5))
        super().__init__(**parts)

    def settings(self) -> dict[str, Any]:
        return {
            "encoder": self.encoder,
            "decoder": self.decoder,
            "source_size": self.source_size if self.source_vocabulary is None else list(self.source_vocabulary),
            "target_size": self.target_size if self.target_vocabulary is None else list(self.target_vocabulary),
            "bos": self.bos,
            "eos": self.eos,
            "attention": self.attention_score,
            "dropout": self.dropout,
        }

    def _end(self, name: str, value: Any) -> int:
        """The number of bos or eos."""
        if value is not None:
            return checks.integer(name, value, 0, self.target_size - 1)
        if self.target_vocabulary is None:
            raise TypeError(f"{name} must be given with a target_size that is no Vocabulary")
        try:
            return int(getattr(self.target_vocabulary, name))
        except KeyError:
            raise ValueError(f"{name} must be given: target_size is a Vocabulary without <{name}>") from None

    @property
    def place(self) -> Any:
        """Where the model's arrays lie."""
        return self.parts["encoder"].kind.place

    # Teacher forcing

    def __call__(
        self, source: Any, target: Any, source_lengths: Any = None, target_lengths: Any = None
    ) -> NDArray[Any]:
        """The logits (U, B, target_size) of each target symbol, given those before it; no dropout, nothing kept."""
        sides = self._check(source, target, source_lengths, target_lengths)
        run = Run(self)
        with self.place.current():
            return self._decode(run, sides, sides.inputs, *self.encode(sides.source, sides.source_lengths, run))

    def forward(
        self,
        source: Any,
        target: Any,
        source_lengths: Any = None,
        target_lengths: Any = None,
        *,
        sampling: float = 0.0,
        seed: int | None = None,
    ) -> tuple[NDArray[Any], Tape]:
        """The same for training, with dropout, and a tape.

        Parameters
        ----------
        source : (T, B) integers, target : (U, B) integers
            Past a row's length anything may stand.
        source_lengths, target_lengths : (B,) integers, on the host; default all T, all U
            Of target, ``eos`` counts.
        sampling : float, 0 <= sampling < 1
            Scheduled sampling: the chance that a step is given what the model itself would say at the step before,
            in place of the target. What it would say comes from one more run on the true target, so the decoder still
            takes all steps at once (Mihaylova and Martins, "Scheduled sampling for transformers", 2019); no gradient
            passes through the choice.
        seed : int, optional
            Of dropout and sampling; default a fresh one.

        Raises TypeError for other than integers; ValueError for a symbol out of range, for shapes and lengths that
        do not fit, and for a row of target that does not end with ``eos``, or has it or ``bos`` before.
        """
        sides = self._check(source, target, source_lengths, target_lengths)
        checks.fraction("sampling", sampling)
        run = Run(self, checks.seed(seed), train=True)
        with self.place.current():
            state, memory = self.encode(sides.source, sides.source_lengths, run)
            inputs = sides.inputs
            if sampling and len(inputs):
                said = self._decode(Run(self), sides, inputs, state, memory).argmax(axis=-1)
                drawn = np.random.default_rng((run.own, 1)).random(inputs.shape) < sampling
                drawn[0] = False
                inputs = self.place.from_host(inputs.copy())
                inputs[1:] = self.place.arrays.where(self.place.from_host(drawn[1:]), said[:-1], inputs[1:])
            logits = self._decode(run, sides, inputs, state, memory)
        run.shape = logits.shape
        return logits, Tape(cast(Any, self), cast(Any, run), None)

    def backward(self, tape: Tape, dlogits: NDArray[Any], *, keep_tape: bool = False) -> ModelGradients:
        """The gradients of all parameters; through output, attention, decoder, bridge, encoder and embeddings.

        Raises as a layer's ``backward``.
        """
        keep_tape = checks.flag("keep_tape", keep_tape)
        run = cast(Run, cast(Any, tape_of(tape).peek(cast(Any, self))))
        # Before anything is used up: parts would name what they are given.
        dlogits = checks.shaped("dlogits", dlogits, self.encoder.kind, run.shape, "(U, B, target_size)")
        if not keep_tape:
            tape.take()
        grads: dict[str, Any] = {}
        with self.place.current():
            dh, dmemory = self._back_to_decoder(run, grads, dlogits, keep_tape)
            decoder = run.back(grads, "decoder", dh, keep_tape=keep_tape)
            run.back(grads, "target_embedding", run.drop(decoder.x, _TARGET), keep_tape=keep_tape)
            dstate = decoder.state
            if "bridge" in self.parts:
                dstate = run.back(grads, "bridge", dstate, keep_tape=keep_tape).x
            encoder = run.back(grads, "encoder", dmemory, dstate, keep_tape=keep_tape)
            run.back(grads, "source_embedding", run.drop(encoder.x, _SOURCE), keep_tape=keep_tape)
        return self.gradients(**grads)

    def _back_to_decoder(
        self, run: Run, grads: dict[str, Any], dlogits: NDArray[Any], keep_tape: bool
    ) -> tuple[NDArray[Any], NDArray[Any] | None]:
        """From the logits to the outputs of decoder and, with attention, encoder."""
        dfeatures = run.drop(run.back(grads, "output", dlogits, keep_tape=keep_tape).x, _FEATURES)
        if "attention" not in self.parts:
            return dfeatures, None
        assert run.mixed is not None
        dfeatures *= 1 - run.mixed * run.mixed
        both = run.back(grads, "combine", dfeatures, keep_tape=keep_tape).x
        M = self.parts["attention"].memory_size
        attention = run.back(grads, "attention", both[..., :M], keep_tape=keep_tape)
        attention.x += both[..., M:]
        return attention.x, attention.memory

    def encode(self, source: Any, lengths: Any, run: Run | None = None) -> tuple[State, Memory | None]:
        """The decoder's initial state, and what attention looks at, of a checked source."""
        run = Run(self) if run is None else run
        x = run.drop(run("source_embedding", source), _SOURCE)
        attended = "attention" in self.parts
        options = {} if run.train or attended else {"return_sequences": False}
        memory, state = run("encoder", x, lengths=lengths, **options)
        if "bridge" in self.parts:
            state = run("bridge", state)
        return state, self.parts["attention"].prepare(memory, lengths) if attended else None

    def _decode(
        self, run: Run, sides: _Sides, inputs: NDArray[Any], state: State, memory: Memory | None
    ) -> NDArray[Any]:
        x = run.drop(run("target_embedding", inputs), _TARGET)
        h, _ = run("decoder", x, state, lengths=sides.target_lengths)
        return cast(NDArray[Any], run("output", self.features(run, h, memory)))

    def features(self, run: Run, h: NDArray[Any], memory: Memory | None) -> NDArray[Any]:
        """What the output layer takes."""
        if memory is not None:
            arrays = self.place.arrays
            both = arrays.concatenate((run("attention", h, memory), h), axis=-1)
            h = arrays.tanh(run("combine", both))
            if run.train:
                run.mixed = h.copy() if self.dropout else h
        return run.drop(h, _FEATURES)

    def _check(self, source: Any, target: Any, source_lengths: Any, target_lengths: Any) -> _Sides:
        source, source_lengths = self.check_source(source, source_lengths)
        B = source.shape[1]
        found = _table("target", target)
        if found.shape[1] != B:
            raise ValueError(f"target must have shape (U, B) = (U, {B}), as source has B rows, got {found.shape}")
        target_lengths = checks.lengths(target_lengths, len(found), B, False, name="target_lengths")
        valid = _valid(len(found), B, target_lengths)
        host = self.place.to_host(found) if is_cupy(found) else found
        host = indices("target", host, HOST, self.target_size, "target_size", valid)
        self._check_ends(host, valid, target_lengths)
        inputs = np.empty_like(host)
        inputs[:1], inputs[1:] = self.bos, host[:-1]
        return _Sides(source, source_lengths, inputs, target_lengths)

    def check_source(self, source: Any, lengths: Any, name: str = "source_lengths") -> tuple[NDArray[Any], Any]:
        """A checked source, and its lengths."""
        found = _table("source", source)
        T, B = found.shape
        lengths = checks.lengths(lengths, T, B, False, name=name)
        valid = _valid(T, B, lengths)
        # Symbols of the host stay there until they are looked up: the embedding sees to it that nothing waits.
        place, there = (self.place, self.place.from_host(valid)) if is_cupy(found) else (HOST, valid)
        return indices("source", found, place, self.source_size, "source_size", there), lengths

    def _check_ends(self, target: NDArray[Any], valid: NDArray[np.bool_], lengths: Any) -> None:
        U, B = target.shape
        rows = np.arange(B) if lengths is None else np.flatnonzero(lengths)
        last = (np.full(B, U) if lengths is None else lengths)[rows] - 1
        if U == 0 or not len(rows):
            return
        ends = target[last, rows]
        if (ends != self.eos).any():
            k = int(np.argmax(ends != self.eos))
            where = f"target[{last[k]}, {rows[k]}]"
            raise ValueError(
                f"each row of target must end with eos = {self.eos} at its last valid step, got {where} = {ends[k]}"
            )
        valid = valid.copy()
        valid[last, rows] = False
        for name, symbol, cure in (
            ("eos", self.eos, "give target_lengths that end there"),
            ("bos", self.bos, "the model puts it in front"),
        ):
            early = valid & (target == symbol)
            if early.any():
                t, b = (int(k) for k in np.argwhere(early)[0])
                raise ValueError(
                    f"target must not have {name} = {symbol} before a row's end: got it at [{t}, {b}]; {cure}"
                )


def _size(name: str, value: Any) -> tuple[int, Vocabulary | None]:
    """A number of symbols, and which they are, if that was said."""
    if isinstance(value, (list, tuple)):
        try:
            value = value if isinstance(value, Vocabulary) else Vocabulary(value)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{name}: {error}") from None
        return checks.integer(f"len({name})", len(value), 1, checks.MOST_SIZE), value
    return checks.integer(name, value, 1, checks.MOST_SIZE), None


def _table(name: str, value: Any) -> Any:
    """A two-dimensional array, of either place."""
    found = value if is_cupy(value) else HOST.own(name, value)
    if found.ndim != 2:
        letter = "T" if name == "source" else "U"
        raise ValueError(f"{name} must have shape ({letter}, B), got {found.shape}")
    return found


def _valid(T: int, B: int, lengths: NDArray[np.int64] | None) -> NDArray[np.bool_]:
    """(T, B), True before a row's length."""
    return np.ones((T, B), np.bool_) if lengths is None else np.arange(T)[:, None] < lengths


def _check_layers(encoder: Any, decoder: Any) -> None:
    for name, layer in (("encoder", encoder), ("decoder", decoder)):
        if recurrent_layer(layer, name).batch_first:
            raise ValueError(f"{name} must have batch_first=False: sequences are (T, B)")
    if decoder.bidirectional:
        raise ValueError("decoder must have bidirectional=False: it can't see what it has not said yet")
    check_kinds(encoder, decoder)
