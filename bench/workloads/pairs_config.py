"""The settings of the encoder-decoder workloads, and how their figures are told."""

from __future__ import annotations

import functools
import math
from dataclasses import asdict, dataclass
from importlib import import_module
from typing import Any, cast

from bench.workloads.pairs import Pairs

__all__ = ["BLAS", "PairsConfig", "load_pairs", "summary"]

# OpenBLAS' second thread spins on after each product, and takes a core from the layers' two: with it a step of the GRU
# without attention took 214 ms, with one thread 70 (B 256, one run after the other).
BLAS = {"OPENBLAS_NUM_THREADS": "1"}


@dataclass(frozen=True)
class PairsConfig:
    """Sizes and the optimiser's settings; every implementation of the model takes the same."""

    data: str
    """The module beside this one whose ``pairs()`` are the data."""
    steps: int
    thin: int = 1
    """Every so many pairs."""
    B: int = 128
    cell: str = "gru"
    embedding: int = 64
    hidden: int = 256
    encoder_hidden: int = 256
    """In each direction."""
    layers: int = 1
    bidirectional: bool = True
    attention: str = "none"
    dropout: float = 0.2
    smoothing: float = 0.0
    rate: float = 3e-3
    final_rate: float = 1e-2
    """Of the rate, at the end."""
    clip: float = 2.0
    beam: int = 5
    max_length: int = 40
    seed: int = 0

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def score(self) -> str | None:
        """The attention's."""
        return None if self.attention == "none" else self.attention

    def learning_rate(self, step: int) -> float:
        """A short rise, then half a cosine down."""
        rise = min(1.0, (step + 1) / (0.02 * self.steps + 1))
        cosine = 0.5 * (1 + math.cos(math.pi * step / self.steps))
        return self.rate * rise * (self.final_rate + (1 - self.final_rate) * cosine)


@functools.lru_cache(maxsize=1)
def _all_pairs(data: str) -> Pairs:
    return cast(Pairs, import_module(f"bench.workloads.{data}").pairs())


def load_pairs(config: PairsConfig) -> Pairs:
    """The pairs that a config asks for; they are read once in a process."""
    pairs = _all_pairs(config.data)
    return pairs if config.thin == 1 else pairs.thinned(config.thin)


def summary(figures: dict[str, Any], config: PairsConfig) -> str:
    """One line on a training."""
    mine = figures["fastrnn"]
    after = mine["after"]
    attention = "without attention" if config.score is None else f"{config.attention} attention"
    text = (
        f"{config.steps} steps of {config.B} pairs, {config.cell.upper()}({config.embedding}, {config.hidden}), "
        f"{attention}: {after['accuracy']:.1%} of {after['asked']:,} held-out sources exact, "
        f"{after['error_rate']:.1%} of symbols wrong"
    )
    if "accuracy_without_stress" in after:
        text += f" ({after['accuracy_without_stress']:.1%} and {after['error_rate_without_stress']:.1%} without stress)"
    text += f"; {mine['pairs_per_s']:,.0f} pairs a second"
    for c in figures.get("comparisons", ()):
        rival = figures[c["against"]]
        text += (
            f"; {c['against']}: first {c['losses_compared']} losses within {c['largest_loss_difference']:.1e}, "
            f"{rival['pairs_per_s']:,.0f} pairs a second (ours {c['speed_ratio']:.2f} times)"
        )
    return text
