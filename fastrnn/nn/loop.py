"""A training loop that notices when a training is lost, and keeps what was good."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from fastrnn import checks
from fastrnn.nn.model import leaves

__all__ = ["Diverged", "fit"]


class Diverged(RuntimeError):
    """A loss was NaN or infinite. The parameters are again those of the last finite loss that was kept.

    Attributes
    ----------
    step : int
        Whose loss it was, counted from 0.
    loss : float
    losses : list of float
        Those of the steps before.
    """

    def __init__(self, step: int, loss: float, losses: list[float], kept: int) -> None:
        kept_text = f"those with which step {kept} had loss {losses[kept]:.6g}" if losses else "the initial ones"
        super().__init__(f"the loss of step {step} is {loss}: stopped; the parameters are again {kept_text}")
        self.step, self.loss, self.losses, self.kept = step, loss, losses, kept

    def __reduce__(self) -> tuple[Any, ...]:
        return Diverged, (self.step, self.loss, self.losses, self.kept)


def fit(parts: Any, step: Callable[[int], Any], steps: int, *, keep_every: int = 1) -> list[float]:
    """Call ``step(k)`` for k = 0 to steps - 1, and return the losses.

    Parameters
    ----------
    parts : a model, a layer, a part, or a list of them
        Whose parameters are kept.
    step : function of k that takes a training step and returns its loss
        Forward, backward, and the optimiser's step. The loss is looked at, for which the host waits for a GPU.
    steps : int >= 0
    keep_every : int >= 1
        Copy the parameters before every so manieth step: one more pass over them, small beside a step.

    Raises ``Diverged`` (a RuntimeError) at the first loss that is NaN or infinite, which says at which step; the
    parameters are then those of the last kept step whose loss was finite. An optimiser's own state is not turned back.
    """
    steps, keep_every = checks.integer("steps", steps, 0), checks.integer("keep_every", keep_every, 1)
    checks.function("step", step)
    for _ in leaves(parts):  # says at once what is no part
        pass
    losses: list[float] = []
    good: list[Any] = []
    kept = 0
    for k in range(steps):
        candidate = _copies(parts) if k % keep_every == 0 else None
        loss = _number(step(k))
        if not math.isfinite(loss):
            _restore(parts, good or candidate or [])
            raise Diverged(k, loss, losses, kept)
        losses.append(loss)
        if candidate is not None:
            good, kept = candidate, k
    return losses


def _number(loss: Any) -> float:
    try:
        return float(loss)
    except (TypeError, ValueError, OverflowError):
        raise TypeError(f"step must return a loss that is a number, got {type(loss).__name__}") from None


def _copies(parts: Any) -> list[Any]:
    found = []
    for _, leaf in leaves(parts):
        with leaf.kind.place.current():
            found.append(leaf.flat_params.copy())
    return found


def _restore(parts: Any, copies: list[Any]) -> None:
    for (_, leaf), flat in zip(leaves(parts), copies, strict=True):
        with leaf.kind.place.current():
            leaf.flat_params[...] = flat
