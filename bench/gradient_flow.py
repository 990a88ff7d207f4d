"""``python -m bench gradient-flow``: how the gradient fares on its way back through time, in numbers and a picture.

For a loss at the last step T, the norm of ∂s_T/∂s_k against the T - k steps between: a mean over random directions
(``fastrnn.nn.jacobian_flow``), along one sequence of noise. Every network is one layer with weights from a seed;
``NETWORKS`` says how each was made.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bench import RESULTS
from bench.tables import Table

__all__ = ["NETWORKS", "Flow", "add_gradient_flow", "flows"]

_DEFAULT = RESULTS / "local" / "gradient-flow.png"
_INPUTS = 8
_LOUDNESS = 0.1  # of the input: so that what is seen is the recurrence


class Network(NamedTuple):
    """A layer of H units that is to carry over T steps."""

    title: str
    make: Callable[[int, int], Any]
    colour: str
    style: str = "-"
    width: float = 1.5  # two curves that lie on each other are both seen


class Flow(NamedTuple):
    """What became of one network's gradient."""

    title: str
    steps_back: np.ndarray  # (T+1,): 0 to T
    log10_norm: np.ndarray  # (T+1,): of the mean square over directions

    @property
    def decades(self) -> float:
        """Powers of ten after all steps."""
        return float(self.log10_norm[-1])


def _plain(nonlinearity: str) -> Callable[[int, int], Any]:
    return _usual("RNN", nonlinearity=nonlinearity)


def _large(H: int, T: int) -> Any:
    """Normal recurrent weights of standard deviation 3 / √H: beyond 1 / √H a tanh network is chaotic."""
    layer = _plain("tanh")(H, T)
    layer.params["weight_hh_l0"][...] = 3 / math.sqrt(H) * np.random.default_rng(1).standard_normal((H, H))
    return layer


def _usual(kind: str, **options: Any) -> Callable[[int, int], Any]:
    def make(H: int, T: int) -> Any:
        import fastrnn

        return getattr(fastrnn, kind)(_INPUTS, H, seed=0, **options)

    return make


def _chrono(kind: str) -> Callable[[int, int], Any]:
    """Forget gates opened for memories of 1 to T steps: b = log U(1, T - 1), Tallec and Ollivier, ICLR 2018."""

    def make(H: int, T: int) -> Any:
        layer = _usual(kind)(H, T)
        opened = np.log(np.random.default_rng(2).uniform(1, T - 1, H))
        gates = {name: slice(k * H, (k + 1) * H) for k, name in enumerate(layer.cell.gates)}
        layer.params["bias_hh_l0"][gates["f" if kind == "LSTM" else "z"]] = opened
        if kind == "LSTM":
            layer.params["bias_hh_l0"][gates["i"]] = -opened
        return layer

    return make


NETWORKS = {
    "rnn": Network("tanh RNN", _plain("tanh"), "#555555"),
    "sigmoid": Network("sigmoid RNN", _plain("sigmoid"), "#CC79A7"),
    "large": Network("tanh RNN, large weights", _large, "#D55E00"),
    "lstm": Network("LSTM, gates open", _chrono("LSTM"), "#0072B2", width=3.5),
    "gru": Network("GRU, gates open", _chrono("GRU"), "#E69F00"),
    "lstm_usual": Network("LSTM, initial values U(-1/√H, 1/√H)", _usual("LSTM"), "#0072B2", ":", 3),
    "gru_usual": Network("GRU, initial values U(-1/√H, 1/√H)", _usual("GRU"), "#E69F00", ":"),
}
"""LSTM and GRU stand there twice: a gate that is half open forgets half a step, whatever the cell."""


def flows(T: int, H: int, names: tuple[str, ...] = tuple(NETWORKS), probes: int = 16) -> dict[str, Flow]:
    """What becomes of the gradient in each network over T steps."""
    from fastrnn import nn

    x = (_LOUDNESS * np.random.default_rng(0).standard_normal((T, _INPUTS))).astype(np.float32)
    found = {}
    for name in names:
        logs = nn.jacobian_flow(NETWORKS[name].make(H, T), x, probes=probes).log10_norms
        found[name] = Flow(NETWORKS[name].title, np.arange(T + 1), _mean(logs)[::-1])
    return found


def _mean(logs: np.ndarray) -> np.ndarray:
    """log10 of the root of the mean square over probes, without leaving the range of floats."""
    largest = logs.max(axis=1)
    safe = np.where(np.isfinite(largest), largest, 0.0)
    return largest + 0.5 * np.log10((10 ** (2 * (logs - safe[:, None]))).mean(axis=1))


def draw(found: dict[str, Flow], path: Path) -> Path:
    """Norms against steps back, logarithmic."""
    from matplotlib import pyplot as plt

    from bench.plots.style import dress

    figure, axes = plt.subplots(figsize=(10, 4.6), layout="constrained")
    for name, flow in found.items():
        network = NETWORKS[name]
        line = {"color": network.colour, "label": flow.title, "linewidth": network.width}
        axes.plot(flow.steps_back, flow.log10_norm, network.style, **line)
    T = len(next(iter(found.values())).steps_back) - 1
    axes.set_ylim(-40, 20)
    axes.set_xlim(0, T)
    axes.set_yticks(range(-40, 21, 10), [f"$10^{{{k}}}$" for k in range(-40, 21, 10)])
    axes.set_xlabel("steps back in time, T - k")
    axes.set_ylabel("norm of ∂s_T / ∂s_k, mean over directions")
    axes.set_title("What is left of the gradient", loc="left", fontsize=11)
    figure.legend(frameon=False, fontsize=8, loc="outside right upper")
    dress(axes)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return path


def table(found: dict[str, Flow]) -> Table:
    """Norms at a few distances."""
    T = len(next(iter(found.values())).steps_back) - 1
    distances = sorted({1, 10, T // 4, T})
    result = Table("norm of ∂s_T / ∂s_k", ["network", *(f"{d} steps back" for d in distances)])
    for flow in found.values():
        result.rows.append([flow.title, *(_power(flow.log10_norm[d]) for d in distances)])
    return result


def _power(logarithm: float) -> str:
    if not math.isfinite(logarithm):
        return "0"
    exponent = math.floor(logarithm)
    return f"{10 ** (logarithm - exponent):.1f}e{exponent:+d}"


def add_gradient_flow(commands: Any) -> None:
    """Add the subcommand."""
    parser = commands.add_parser("gradient-flow", help="how the gradient fares on its way back through time")
    parser.add_argument("--T", type=int, default=200, help="steps")
    parser.add_argument("--H", type=int, default=128, help="units")
    parser.add_argument("--out", type=Path, default=_DEFAULT, help=f"the picture (default: {_DEFAULT})")
    parser.set_defaults(command=_gradient_flow)


def _gradient_flow(options: argparse.Namespace) -> int:
    from bench.terminal import print_table, terminal

    if options.T < 4 or options.H < 1:
        raise ValueError(f"T must be at least 4 and H at least 1, got {options.T} and {options.H}")
    found = flows(options.T, options.H)
    print_table(table(found))
    try:
        terminal.print(f"picture: {draw(found, options.out)}")
    except ImportError as error:
        terminal.print(f"no picture: {error} (pip install matplotlib)")
    return 0
