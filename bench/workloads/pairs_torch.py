"""The same encoder-decoder in PyTorch, from the same weights and data, to compare losses, speed and answers."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from bench.workloads.pairs import Batch, Scores
from bench.workloads.pairs_config import PairsConfig, config_of, load_pairs
from bench.workloads.pairs_model import build

__all__ = ["PaddedTorch", "PairsTorch"]

State = Any


class Bridge(nn.Module):
    """tanh of a Linear from the top layers' final states of both directions, for h and, with an LSTM, c."""

    def __init__(self, config: PairsConfig) -> None:
        super().__init__()
        self.layers, self.directions = config.layers, 1 + config.bidirectional
        wide = self.directions * config.encoder_hidden
        for name in ("h", "c")[: 1 + (config.cell == "lstm")]:
            for k in range(config.layers):
                self.add_module(f"{name}_l{k}", nn.Linear(wide, config.hidden))

    def forward(self, state: State) -> State:
        parts = state if isinstance(state, tuple) else (state,)
        made = []
        for name, part in zip(("h", "c"), parts, strict=False):
            rows = part.reshape(self.layers, self.directions, *part.shape[1:])
            layers = [getattr(self, f"{name}_l{k}")(torch.cat(tuple(rows[k]), -1)) for k in range(self.layers)]
            made.append(torch.tanh(torch.stack(layers)))
        return tuple(made) if len(made) > 1 else made[0]


class Attention(nn.Module):
    """See ``fastrnn.nn.Attention``."""

    def __init__(self, query: int, memory: int, score: str) -> None:
        super().__init__()
        self.score = score
        if score == "general":
            self.weight = nn.Parameter(torch.empty(query, memory))
        if score == "additive":
            self.weight_query = nn.Parameter(torch.empty(query, query))
            self.weight_memory = nn.Parameter(torch.empty(query, memory))
            self.weight_score = nn.Parameter(torch.empty(query))

    def forward(self, queries: torch.Tensor, memory: torch.Tensor, beyond: torch.Tensor) -> torch.Tensor:
        q, m = queries.transpose(0, 1), memory.transpose(0, 1)
        if self.score == "additive":
            mixed = torch.tanh((q @ self.weight_query.T)[:, :, None] + (m @ self.weight_memory.T)[:, None])
            scores = mixed @ self.weight_score
        else:
            scores = (q @ self.weight if self.score == "general" else q) @ m.transpose(1, 2)
        weights = scores.masked_fill(beyond[:, None], -torch.inf).softmax(-1)
        return (weights @ m).transpose(0, 1)


class Network(nn.Module):
    """Modules with the names of the parts of ``fastrnn.nn.Seq2Seq``."""

    def __init__(self, config: PairsConfig, sources: int, targets: int, packed: bool) -> None:
        super().__init__()
        E, H = config.embedding, config.hidden
        M = config.encoder_hidden * (1 + config.bidirectional)
        layer = nn.GRU if config.cell == "gru" else nn.LSTM
        inner = config.dropout if config.layers > 1 else 0.0
        self.source_embedding, self.target_embedding = nn.Embedding(sources, E), nn.Embedding(targets, E)
        self.encoder = layer(E, config.encoder_hidden, config.layers, bidirectional=config.bidirectional, dropout=inner)
        self.decoder = layer(E, H, config.layers, dropout=inner)
        self.bridge = Bridge(config) if config.bidirectional or config.encoder_hidden != H else None
        self.with_attention = config.score is not None
        if config.score is not None:
            self.attention = Attention(H, M, config.score)
            self.combine = nn.Linear(M + H, H)
        self.output = nn.Linear(H, targets)
        self.dropout = nn.Dropout(config.dropout)
        self.packed = packed

    def run(self, layer: nn.Module, x: torch.Tensor, lengths: torch.Tensor, state: State = None) -> Any:
        if not self.packed:
            return layer(x, state)
        y, state = layer(pack_padded_sequence(x, lengths, enforce_sorted=False), state)
        return pad_packed_sequence(y, total_length=len(x))[0], state

    def encode(self, source: torch.Tensor, lengths: torch.Tensor) -> tuple[Any, ...]:
        memory, state = self.run(self.encoder, self.dropout(self.source_embedding(source)), lengths)
        beyond = torch.arange(len(source)) >= lengths[:, None]
        return memory, beyond, state if self.bridge is None else self.bridge(state)

    def decode(self, h: torch.Tensor, memory: torch.Tensor, beyond: torch.Tensor) -> torch.Tensor:
        if self.with_attention:
            h = torch.tanh(self.combine(torch.cat((self.attention(h, memory, beyond), h), -1)))
        return self.output(self.dropout(h))

    def forward(
        self, source: torch.Tensor, source_lengths: torch.Tensor, inputs: torch.Tensor, target_lengths: torch.Tensor
    ) -> torch.Tensor:
        memory, beyond, state = self.encode(source, source_lengths)
        h, _ = self.run(self.decoder, self.dropout(self.target_embedding(inputs)), target_lengths, state)
        return self.decode(h, memory, beyond)


class PairsTorch:
    """As ``bench.workloads.pairs_model.PairsModel``: the same methods and figures. Ragged batches are packed."""

    packed = True

    def __init__(self, config: dict[str, Any], threads: int) -> None:
        torch.set_num_threads(threads)
        self.config = config_of(config)
        self.pairs = load_pairs(self.config)
        torch.manual_seed(self.config.seed)
        self.network = Network(self.config, len(self.pairs.sources), len(self.pairs.targets), self.packed)
        weights = build(self.config, self.pairs).params
        self.network.load_state_dict({name: torch.from_numpy(array.copy()) for name, array in weights.items()})
        self.loss = nn.CrossEntropyLoss(ignore_index=-1, label_smoothing=self.config.smoothing)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=self.config.rate)
        self.batches = self.pairs.batches(self.config.B, self.config.seed)
        self.done = 0

    def train(self, steps: int) -> dict[str, Any]:
        losses, pairs, started = [], 0, time.perf_counter()
        for _ in range(steps):
            batch = next(self.batches)
            losses.append(self._step(batch))
            pairs += batch.source.shape[1]
        return {"losses": losses, "seconds": time.perf_counter() - started, "pairs": pairs}

    def _step(self, batch: Batch) -> float:
        target, lengths = torch.from_numpy(batch.target), torch.from_numpy(batch.target_lengths)
        inputs = torch.cat((torch.full_like(target[:1], self.pairs.targets.bos), target[:-1]))
        source, source_lengths = torch.from_numpy(batch.source), torch.from_numpy(batch.source_lengths)
        logits = self.network(source, source_lengths, inputs, lengths)
        wanted = target.masked_fill(torch.arange(len(target))[:, None] >= lengths, -1)
        loss = self.loss(logits.flatten(0, 1), wanted.flatten())
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), self.config.clip)
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate(self.done)
        self.optimizer.step()
        self.done += 1
        return loss.item()

    def held_out(self) -> dict[str, float]:
        """Greedy answers as a loop over steps finds them, every row until the last of its batch has ended."""
        scores, seconds = Scores(), 0.0
        self.network.eval()
        with torch.inference_mode():
            for chosen, source, lengths in self.pairs.questions(self.config.B, 1 if self.done else 20):
                started = time.perf_counter()
                found = self._greedy(torch.from_numpy(source), torch.from_numpy(lengths)).T.tolist()
                seconds += time.perf_counter() - started
                for question, numbers in zip(chosen, found, strict=True):
                    scores.add(self.pairs.targets.decode(numbers), question.answers)
        self.network.train()
        return {
            "accuracy": scores.accuracy,
            "error_rate": scores.error_rate,
            "asked": scores.asked,
            "answers_per_s": scores.asked / seconds,
        }

    def _greedy(self, source: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        memory, beyond, state = self.network.encode(source, lengths)
        tokens = torch.full((source.shape[1],), self.pairs.targets.bos)
        ended = torch.zeros_like(tokens, dtype=torch.bool)
        said = []
        for _ in range(self.config.max_length):
            h, state = self.network.decoder(self.network.target_embedding(tokens)[None], state)
            tokens = self.network.decode(h, memory, beyond)[0].argmax(-1)
            said.append(tokens)
            ended |= tokens == self.pairs.targets.eos
            if bool(ended.all()):
                break
        return torch.stack(said)


class PaddedTorch(PairsTorch):
    """The same without packing, as most programs have it: the layers walk the padding, and start their reverse
    direction in it; only attention and the loss leave it out."""

    packed = False
