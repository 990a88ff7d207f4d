"""Attention over the states of an encoder, for all steps of a decoder at once."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from fastrnn import checks
from fastrnn.nn.arguments import place_of_array
from fastrnn.nn.part import Part
from fastrnn.parameters import Layout
from fastrnn.tape import Gradients, Tape

__all__ = ["Attention", "AttentionGradients", "Memory"]

SCORES = ("dot", "general", "additive")


class Memory(NamedTuple):
    """What queries look at, made by ``Attention.prepare``: batch-major, with what does not depend on the query."""

    values: NDArray[Any]  # (B, T, memory_size)
    keys: NDArray[Any]  # (B, T, ·): what a query is scored against
    beyond: NDArray[np.bool_] | None  # (B, 1, T): past a row's length

    def take(self, rows: Any) -> Memory:
        """The memory of these rows of the batch, in this order: integers, or a (B,) mask of booleans, on the host.

        Raises TypeError or ValueError for rows that there are not.
        """
        rows = place_of_array(self.values).from_host(checks.index_rows(rows, len(self.values)))
        values = self.values[rows]
        keys = values if self.keys is self.values else self.keys[rows]
        return Memory(values, keys, None if self.beyond is None else self.beyond[rows])


class AttentionGradients(Gradients):
    """As ``Gradients``, x being the queries' gradient (U, B, query_size), and ``memory`` (T, B, memory_size)."""

    __slots__ = ("memory",)

    def __init__(self, layout: Layout, flat: NDArray[Any], x: Any, memory: Any) -> None:
        super().__init__(layout, flat, x, cast(Any, None))
        self.memory = memory

    def __reduce__(self) -> tuple[Any, ...]:
        return AttentionGradients, (self.parameters.layout, self.flat, self.x, self.memory)


class _Record(NamedTuple):
    queries: NDArray[Any]  # (B, U, query_size)
    projected: NDArray[Any]  # (B, U, ·): as they meet the keys
    memory: Memory
    weights: NDArray[Any]  # (B, U, T)


class Attention(Part):
    """Each query gets the mean of the memory, weighted by softmax of a score of the two.

        context = Σ_t a_t m_t      a = softmax(score(q, m_t)) over the row's valid steps t

        score(q, m) = q · m                          "dot"; Luong, Pham and Manning, "Effective approaches to
                    = q · (weight m)                 "general"; attention-based neural machine translation", 2015
                    = weight_score · tanh(weight_query q + weight_memory m)
                                                     "additive"; Bahdanau, Cho and Bengio, "Neural machine translation
                                                     by jointly learning to align and translate", 2015

    Parameters
    ----------
    query_size, memory_size : int >= 1
        Q and M; equal for "dot".
    score : "dot", "general" or "additive"
    attention_size : int >= 1, optional
        A, of "additive" alone; default Q.
    dtype : "float32" or "float64"
    device : "cpu" or "cuda"
    seed : int, optional
        Of the initial parameters, U(-1/√n, 1/√n), n being the length of the sums that they stand in.

    The parameters: none for "dot"; ``weight`` (Q, M) for "general"; ``weight_query`` (A, Q), ``weight_memory`` (A, M)
    and ``weight_score`` (A,) for "additive".

        contexts = attention(queries, memory, lengths=None)             (U, B, M)
        contexts, tape = attention.forward(queries, memory, lengths=None)
        grads = attention.backward(tape, dcontexts)                     grads.x, grads.memory, grads.params, grads.flat

    queries are (U, B, Q), all steps of a decoder; memory is (T, B, M), all steps of an encoder, or what ``prepare``
    made of it; lengths (B,) the memory's valid steps, on the host. A row without any gets a context of zeros. What lies
    past a row's length is multiplied by zero, so it should be finite, as a layer's output is. "additive" keeps
    (B, T, A) numbers at a time and computes its tanh again in ``backward``.

    Raises TypeError for an option or array of another type, ValueError for a value or shape that does not fit.
    """

    def __init__(
        self,
        query_size: int,
        memory_size: int,
        score: str = "general",
        *,
        attention_size: int | None = None,
        dtype: Any = "float32",
        device: str = "cpu",
        seed: int | None = None,
    ) -> None:
        self.query_size = Q = checks.integer("query_size", query_size, 1, checks.MOST_SIZE)
        self.memory_size = M = checks.integer("memory_size", memory_size, 1, checks.MOST_SIZE)
        score = checks.choice("score", score, SCORES)
        if score == "dot" and Q != M:
            raise ValueError(f"score='dot' needs query_size equal to memory_size, got {Q} and {M}: use 'general'")
        if attention_size is not None and score != "additive":
            raise ValueError(f"attention_size must be None with score={score!r}, got {attention_size!r}")
        self.score = score
        self.attention_size: int | None = None
        shapes: dict[str, tuple[int, ...]] = {"weight": (Q, M)} if score == "general" else {}
        if score == "additive":
            A = Q if attention_size is None else checks.integer("attention_size", attention_size, 1, checks.MOST_SIZE)
            self.attention_size = A
            shapes = {"weight_query": (A, Q), "weight_memory": (A, M), "weight_score": (A,)}
        rng = np.random.default_rng(checks.seed(seed))
        values = {n: rng.uniform(-1, 1, shape) / math.sqrt(shape[-1]) for n, shape in shapes.items()}
        self._create(values, dtype, device)

    def settings(self) -> dict[str, Any]:
        return {
            "query_size": self.query_size,
            "memory_size": self.memory_size,
            "score": self.score,
            "attention_size": self.attention_size,
            "dtype": self.dtype.name,
        }

    # Calls

    def prepare(self, memory: NDArray[Any], lengths: Any = None) -> Memory:
        """What all queries to one memory share, for calls that come step by step. See the class for the arguments."""
        return self._at(self._prepare, memory, lengths)

    def __call__(self, queries: NDArray[Any], memory: Any, lengths: Any = None) -> NDArray[Any]:  # type: ignore[override]
        """The contexts (U, B, M) of queries (U, B, Q)."""
        return self._at(self._attend, queries, memory, lengths)[0]

    def weights(self, queries: NDArray[Any], memory: Any, lengths: Any = None) -> NDArray[Any]:
        """How much of each step of the memory each query takes: (U, B, T), rows of sum 1."""
        return self._at(self._attend, queries, memory, lengths)[1].weights.transpose(1, 0, 2)

    def forward(self, queries: NDArray[Any], memory: Any, lengths: Any = None) -> tuple[NDArray[Any], Tape]:  # type: ignore[override]
        """The contexts and a tape, which refers to the arguments without a copy."""
        contexts, record = self._at(self._attend, queries, memory, lengths)
        return contexts, Tape(self, (self.kind.place, record), None)

    def _prepare(self, memory: Any, lengths: Any) -> Memory:
        found = checks.array("memory", memory, self.kind)
        if found.ndim != 3 or found.shape[-1] != self.memory_size:
            raise ValueError(
                f"memory must have shape (T, B, memory_size) = (T, B, {self.memory_size}), got {found.shape}"
            )
        T, B, M = found.shape
        lengths = checks.lengths(lengths, T, B, False)
        values = found.transpose(1, 0, 2)
        keys = values
        if self.score == "additive":
            weight = self.params["weight_memory"]
            # One product over all T*B rows, in the order in which they lie.
            keys = self._product(found.reshape(T * B, M), weight.T).reshape(T, B, len(weight)).transpose(1, 0, 2)
        beyond = None
        if lengths is not None and (lengths < T).any():
            beyond = self.kind.place.from_host(np.arange(T) >= lengths[:, None, None])
        return Memory(values, keys, beyond)

    def _attend(self, queries: Any, memory: Any, lengths: Any) -> tuple[NDArray[Any], _Record]:
        queries = checks.array("queries", queries, self.kind)
        if isinstance(memory, Memory):
            if lengths is not None:
                raise ValueError("lengths must be None with a prepared memory: they are in it")
        else:
            memory = self._prepare(memory, lengths)
        B = len(memory.values)
        if queries.ndim != 3 or queries.shape[1:] != (B, self.query_size):
            what = f"(U, B, query_size) = (U, {B}, {self.query_size})"
            raise ValueError(f"queries must have shape {what}, got {queries.shape}")
        U = len(queries)
        by_row = queries.transpose(1, 0, 2)
        projected = by_row
        if self.score != "dot":
            weight = self.params["weight"] if self.score == "general" else self.params["weight_query"].T
            flat = self._product(queries.reshape(U * B, self.query_size), weight)
            projected = flat.reshape(U, B, weight.shape[1]).transpose(1, 0, 2)
        weights = self._softmax(self._scores(projected, memory.keys), memory.beyond)
        contexts = self._product(weights, memory.values).transpose(1, 0, 2)
        return contexts, _Record(by_row, projected, memory, weights)

    def _product(self, a: Any, b: Any, out: Any = None) -> NDArray[Any]:
        place = self.kind.place
        return cast(NDArray[Any], (place.product if a.ndim == b.ndim == 2 else place.arrays.matmul)(a, b, out=out))

    def _project(self, a: NDArray[Any], weight: NDArray[Any]) -> NDArray[Any]:
        """a (B, S, n) weight (n, m) as one product: NumPy takes one for each of the B, which is twice as long."""
        return self._product(_rows(a), weight).reshape(*a.shape[:2], weight.shape[1])

    def _scores(self, projected: NDArray[Any], keys: NDArray[Any]) -> NDArray[Any]:
        """(B, U, T)."""
        if self.score != "additive":
            return self._product(projected, keys.transpose(0, 2, 1))
        arrays, (B, U, _) = self.kind.place.arrays, projected.shape
        scores: NDArray[Any] = arrays.empty((B, U, keys.shape[1]), self.dtype)
        for u in range(U):
            mixed = arrays.tanh(projected[:, u, None] + keys)
            scores[:, u] = self._product(mixed, self.params["weight_score"])
        return scores

    def _softmax(self, scores: NDArray[Any], beyond: NDArray[np.bool_] | None) -> NDArray[Any]:
        """Over the last axis, in place; rows with nothing in them give zeros."""
        arrays = self.kind.place.arrays
        if not scores.shape[-1]:
            return scores
        if beyond is not None:
            scores = arrays.where(beyond, -np.inf, scores).astype(self.dtype, copy=False)
        peak = scores.max(axis=-1, keepdims=True)
        scores -= arrays.where(peak == -np.inf, self.dtype.type(0), peak)
        arrays.exp(scores, out=scores)
        total = scores.sum(axis=-1, keepdims=True)
        scores /= arrays.where(total == 0, self.dtype.type(1), total)
        return scores

    # Back

    def backward(  # type: ignore[override]
        self,
        tape: Tape,
        dy: NDArray[Any],
        *,
        input_grad: bool = True,
        keep_tape: bool = False,
        out: AttentionGradients | None = None,
    ) -> AttentionGradients:
        """The gradients of queries (``grads.x``), ``grads.memory``, and of every parameter.

        As a layer's ``backward``; dy is shaped as the contexts, (U, B, M). Without input_grad, grads.x and
        grads.memory are None.
        """
        return cast(AttentionGradients, super().backward(tape, dy, input_grad=input_grad, keep_tape=keep_tape, out=out))

    def _backward(self, tape: Any, dy: Any, input_grad: Any, keep_tape: Any, out: Any) -> Gradients:
        self._check_out(out)
        if out is not None and not isinstance(out, AttentionGradients):
            raise TypeError(f"out must be the AttentionGradients of an earlier backward, got {type(out).__name__}")
        keep_tape = checks.flag("keep_tape", keep_tape)
        found = super()._backward(tape, dy, input_grad, True, None)
        dqueries, dmemory = cast(Any, found.x) if input_grad else (None, None)
        grads = AttentionGradients(self.layout, found.flat, dqueries, dmemory)
        if out is not None and input_grad:
            self._check_total("out.x", out.x, cast(Any, dqueries))
            self._check_total("out.memory", out.memory, cast(Any, dmemory))
        if not keep_tape:
            tape.take()
        if out is None:
            return grads
        out.flat += grads.flat
        if input_grad:
            out.x += grads.x
            out.memory += grads.memory
        return cast(AttentionGradients, out)

    def _gradients(self, record: _Record, dy: Any, params: Mapping[str, Any], input_grad: bool) -> Any:
        """The gradients of queries and memory, or None."""
        queries, projected, memory, weights = record
        B, U, _ = weights.shape
        dcontexts = checks.shaped("dy", dy, self.kind, (U, B, self.memory_size), "(U, B, memory_size)")
        dcontexts = dcontexts.transpose(1, 0, 2)
        # Softmax: what raises every score alike changes nothing.
        dscores = self._product(dcontexts, memory.values.transpose(0, 2, 1))
        dscores -= (dscores * weights).sum(axis=-1, keepdims=True)
        dscores *= weights
        dvalues = self._product(weights.transpose(0, 2, 1), dcontexts)
        if self.score == "additive":
            dprojected, dkeys = self._back_additive(projected, memory.keys, dscores, params)
            self._product(_rows(dprojected).T, _rows(queries), out=params["weight_query"])
            self._product(_rows(dkeys).T, _rows(memory.values), out=params["weight_memory"])
            dqueries = self._project(dprojected, self.params["weight_query"])
            dvalues += self._project(dkeys, self.params["weight_memory"])
        else:
            dprojected = self._product(dscores, memory.keys)
            dvalues += self._product(dscores.transpose(0, 2, 1), projected)
            dqueries = dprojected
            if self.score == "general":
                self._product(_rows(queries).T, _rows(dprojected), out=params["weight"])
                dqueries = self._project(dprojected, self.params["weight"].T)
        return (dqueries.transpose(1, 0, 2), dvalues.transpose(1, 0, 2)) if input_grad else None

    def _back_additive(
        self, projected: NDArray[Any], keys: NDArray[Any], dscores: NDArray[Any], params: Mapping[str, Any]
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        arrays, weight = self.kind.place.arrays, self.params["weight_score"]
        dprojected, dkeys = arrays.empty_like(projected), arrays.zeros_like(keys)
        dweight = params["weight_score"]
        dweight[...] = 0
        for u in range(projected.shape[1]):
            mixed = arrays.tanh(projected[:, u, None] + keys)
            d = dscores[:, u, :, None]
            dweight += (d * mixed).sum(axis=(0, 1))
            mixed *= mixed
            mixed -= 1
            mixed *= -weight
            mixed *= d
            dkeys += mixed
            dprojected[:, u] = mixed.sum(axis=1)
        return dprojected, dkeys


def _rows(array: NDArray[Any]) -> NDArray[Any]:
    """(B, S, n) as (B*S, n)."""
    return array.reshape(-1, array.shape[-1])
