"""What the encoder-decoder workloads share: their settings, their implementations, how their figures are told."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from importlib import import_module
from typing import Any, ClassVar, cast

from bench.workloads.pairs import Pairs
from bench.workloads.runner import Settings, Training

__all__ = ["PairsConfig", "config_of", "load_pairs", "summary", "workload"]

# OpenBLAS' second thread spins on after each product, and takes a core from the layers' two: with it a step of the GRU
# without attention took 214 ms, with one thread 70 (B 256, one run after the other).
_BLAS = {"OPENBLAS_NUM_THREADS": "1"}


@dataclass(frozen=True)
class PairsConfig(Settings):
    """A subclass has the data's own defaults, and ``pairs()``."""

    between: ClassVar[str] = ""
    """What stands between symbols where they are shown."""

    data: str
    """The module beside this one that holds the subclass, as ``Config``."""
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

    def pairs(self) -> Pairs:
        """All of the data. Raises ModuleNotFoundError that says what to install."""
        raise NotImplementedError

    @property
    def score(self) -> str | None:
        """The attention's."""
        return None if self.attention == "none" else self.attention

    def learning_rate(self, step: int) -> float:
        """A short rise, then half a cosine down."""
        rise = min(1.0, (step + 1) / (0.02 * self.steps + 1))
        cosine = 0.5 * (1 + math.cos(math.pi * step / self.steps))
        return self.rate * rise * (self.final_rate + (1 - self.final_rate) * cosine)


def config_of(settings: dict[str, Any]) -> PairsConfig:
    """A config from its ``to_json()``."""
    return cast(PairsConfig, import_module(f"bench.workloads.{settings['data']}").Config(**settings))


@functools.lru_cache(maxsize=1)
def load_pairs(config: PairsConfig) -> Pairs:
    """The pairs that a config asks for."""
    pairs = config.pairs()
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
    text += f"; {mine['pairs_per_s']:,.0f} pairs a second"
    for c in figures.get("comparisons", ()):
        rival = figures[c["against"]]
        text += (
            f"; {c['against']}: first {c['losses_compared']} losses within {c['largest_loss_difference']:.1e}, "
            f"{rival['pairs_per_s']:,.0f} pairs a second (ours {c['speed_ratio']:.2f} times)"
        )
    return text


def workload(name: str, about: str, config: type[PairsConfig]) -> Training:
    """One of them."""
    return Training(
        name=name,
        about=about,
        config=config,
        implementations={
            "fastrnn": "bench.workloads.pairs_model:PairsModel",
            "torch": "bench.workloads.pairs_torch:PairsTorch",
            "torch-padded": "bench.workloads.pairs_torch:PaddedTorch",
        },
        unit="pairs",
        summary=summary,
        effort=600.0,
        block=20,
        variables=_BLAS,
    )
