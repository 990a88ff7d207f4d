"""The adding problem and the copy task: which cells remember over hundreds of steps.

    adding   x_t = (a number, a mark), two steps are marked; at the end: the sum of the two numbers. Hochreiter and
             Schmidhuber, 1997: solved where the error is below 0.04; always saying 1 has a mean square of 1/6.
    copy     ten symbols out of eight, T blanks, a sign: then the ten symbols in order. Hochreiter and Schmidhuber;
             as in Arjovsky, Shah and Bengio, ICML 2016. Without memory: 10 ln 8 / (T + 20) nats a step.

Initial values of gates as in Tallec and Ollivier, "Can recurrent neural networks warp time?", ICLR 2018, which open
them for memories of 1 to T steps: b_f = log U(1, T - 1), b_i = -b_f; in a GRU b_z. They train 128 units in batches of
50 by RMSprop at 1e-3, for tens of thousands of steps (``--set H=128 --set B=50 --set rate=0.001``); by default these
are 64 units, batches of 32 and Adam at 1e-2, which learn the adding problem in a twentieth of that. Every network is
trained from the same sequences and, beside PyTorch, from the same weights.
"""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from bench.processes import Worker
from bench.tables import Table
from bench.workloads.runner import Progress, Settings, falling, thinned

__all__ = ["KINDS", "WORKLOAD", "Config", "Memory", "Recall", "baseline", "initial_weights", "made"]

KINDS = {"rnn": "RNN", "lstm": "LSTM", "gru": "GRU"}
_SYMBOLS, _RECALLED = 8, 10  # copy: the alphabet without blank and sign; how many are to be recalled
_ENOUGH = 0.04  # an error of the sum that counts as right
_LEARNT = 0.05  # of the baseline: a loss below is that of a network that remembers


@dataclass(frozen=True)
class Config(Settings):
    """Sizes and the optimiser's settings; a network stops early once it has solved its task.

    rival_steps: how many of the steps PyTorch takes, enough to compare curves and speed; steps to compare ends.
    """

    tasks: tuple[str, ...] = ("adding", "copy")
    lengths: tuple[int, ...] = (200, 500)
    cells: tuple[str, ...] = ("rnn", "lstm", "gru")
    steps: int = 1200
    B: int = 32
    H: int = 64
    rate: float = 1e-2
    clip: float = 1.0
    rival_steps: int = 25
    seed: int = 0

    @staticmethod
    def quick() -> Config:
        return Config(lengths=(50,), steps=300, H=32)

    def learning_rate(self, step: int) -> float:
        """Constant for the first half, then falling linearly to a tenth."""
        return self.rate * falling(step, self.steps)


@dataclass(frozen=True)
class Recall:
    """One training: a task over T steps with a cell."""

    task: str
    T: int
    cell: str

    @property
    def sizes(self) -> tuple[int, int]:
        """Of the input and of the output."""
        return (2, 1) if self.task == "adding" else (_SYMBOLS + 2, _SYMBOLS + 1)

    def batch(self, rng: np.random.Generator, B: int) -> tuple[np.ndarray, np.ndarray]:
        """x (T, B, I) float32 and targets: of adding (B, 1) float32, of copy (T + 20, B) integers, 0 the blank."""
        return _adding(rng, self.T, B) if self.task == "adding" else _copy(rng, self.T, B)


def _adding(rng: np.random.Generator, T: int, B: int) -> tuple[np.ndarray, np.ndarray]:
    x = np.zeros((T, B, 2), np.float32)
    x[..., 0] = rng.random((T, B))
    rows = np.arange(B)
    first, second = rng.integers(0, T // 2, B), rng.integers(T // 2, T, B)
    x[first, rows, 1] = x[second, rows, 1] = 1
    return x, (x[first, rows, 0] + x[second, rows, 0])[:, None]


def _copy(rng: np.random.Generator, T: int, B: int) -> tuple[np.ndarray, np.ndarray]:
    whole = T + 2 * _RECALLED
    symbols = rng.integers(1, _SYMBOLS + 1, (_RECALLED, B))
    seen = np.zeros((whole, B), np.int64)
    seen[:_RECALLED] = symbols
    seen[T + _RECALLED - 1] = _SYMBOLS + 1
    targets = np.zeros((whole, B), np.int64)
    targets[-_RECALLED:] = symbols
    return np.eye(_SYMBOLS + 2, dtype=np.float32)[seen], targets


def baseline(task: str, T: int) -> float:
    """The loss of the best that knows nothing of what it saw."""
    return 1 / 6 if task == "adding" else _RECALLED * math.log(_SYMBOLS) / (T + 2 * _RECALLED)


def made(config: dict[str, Any]) -> Config:
    """A config after its way through JSON."""
    return Config(**{name: tuple(value) if isinstance(value, list) else value for name, value in config.items()})


def initial_weights(recall: Recall, config: Config) -> dict[str, np.ndarray]:
    """The parameters before training, by PyTorch's names: its law, and gates opened for T steps."""
    rng = np.random.default_rng(config.seed)
    (I, O), H = recall.sizes, config.H
    rows = {"rnn": 1, "lstm": 4, "gru": 3}[recall.cell] * H
    shapes = {"weight_ih_l0": (rows, I), "weight_hh_l0": (rows, H), "bias_ih_l0": (rows,), "bias_hh_l0": (rows,)}
    bound = 1 / math.sqrt(H)
    weights = {f"layer.{name}": rng.uniform(-bound, bound, shape) for name, shape in shapes.items()}
    weights |= {"output.weight": rng.uniform(-bound, bound, (O, H)), "output.bias": np.zeros(O)}
    opened = np.log(rng.uniform(1, recall.T - 1, H))
    bias = weights["layer.bias_ih_l0"]
    if recall.cell == "lstm":  # i f g o
        bias[:H], bias[H : 2 * H] = -opened, opened
    elif recall.cell == "gru":  # r z n
        bias[H : 2 * H] = opened
    return {name: array.astype(np.float32) for name, array in weights.items()}


class Memory:
    """All networks of the table, one at a time: ``start`` one, ``train`` it, ask for its ``held_out``."""

    def __init__(self, config: dict[str, Any], threads: int) -> None:
        import fastrnn

        fastrnn.set_num_threads(threads)
        self.config = made(config)

    def start(self, task: str, T: int, cell: str) -> None:
        """Begin a training."""
        self.recall = Recall(task, T, cell)
        self._rng, self._done = np.random.default_rng(self.config.seed + 1), 0
        self._build(initial_weights(self.recall, self.config))

    def train(self, steps: int) -> dict[str, Any]:
        """Take that many steps: ``{"losses", "seconds"}``."""
        batches = [self.recall.batch(self._rng, self.config.B) for _ in range(steps)]
        started = time.perf_counter()
        losses = []
        for x, targets in batches:
            losses.append(self._step(x, targets, self.config.learning_rate(self._done)))
            self._done += 1
        return {"losses": losses, "seconds": time.perf_counter() - started}

    def held_out(self) -> float:
        """The share of 500 new sequences' answers that are right: sums within 0.04, single symbols of the copy."""
        x, targets = self.recall.batch(np.random.default_rng(self.config.seed + 2), 500)
        o = self._outputs(x)
        if self.recall.task == "adding":
            return float((np.abs(o - targets) < _ENOUGH).mean())
        return float((o[-_RECALLED:].argmax(axis=-1) == targets[-_RECALLED:]).mean())

    # What a rival writes in its own way

    def _build(self, weights: dict[str, np.ndarray]) -> None:
        import fastrnn
        from fastrnn import nn

        (I, O), H = self.recall.sizes, self.config.H
        options = {"reset_after": True} if self.recall.cell == "gru" else {}
        layer = getattr(fastrnn, KINDS[self.recall.cell])(I, H, **options)
        self.model = nn.Model(layer=layer, output=nn.Linear(H, O))
        self.model.load_params(weights)
        self.optimizer = nn.Adam(self.model, self.config.rate)

    def _step(self, x: np.ndarray, targets: np.ndarray, rate: float) -> float:
        from fastrnn import nn

        model = self.model
        y, state, tape = model.layer.forward(x)
        if self.recall.task == "adding":
            o, tape_o = model.output.forward(y[-1])
            loss, do = nn.mean_squared_error(o, targets)
            of_output = model.output.backward(tape_o, do)
            dh = of_output.x[None]
            of_layer = model.layer.backward(
                tape, dstate=(dh, None) if isinstance(state, tuple) else dh, input_grad=False
            )
        else:
            o, tape_o = model.output.forward(y)
            loss, do = nn.softmax_cross_entropy(o, targets)
            of_output = model.output.backward(tape_o, do)
            of_layer = model.layer.backward(tape, of_output.x, input_grad=False)
        grads = model.gradients(layer=of_layer, output=of_output)
        nn.clip_grad_norm(grads, self.config.clip)
        self.optimizer.rate = rate
        self.optimizer.step(grads)
        return float(loss)

    def _outputs(self, x: np.ndarray) -> np.ndarray:
        """(B, 1) of adding, (T + 20, B, 9) of copy."""
        if self.recall.task == "adding":
            return self.model.output(self.model.layer(x, return_sequences=False)[0])
        return self.model.output(self.model.layer(x)[0])


@dataclass(frozen=True)
class _Table:
    """The workload: every task, length and cell, in turn with the rival's."""

    name: str = "memory"
    about: str = "the adding problem and the copy task"
    config: type[Any] = Config
    effort: float = 400.0
    always: bool = False
    block: int = 25

    def __call__(
        self, threads: int, progress: Progress, config: Config | None = None, against: str | None = None
    ) -> dict[str, Any]:
        config = config or Config()
        given = {"config": config.to_json(), "threads": threads}
        targets = {"fastrnn": "bench.workloads.memory:Memory", "torch": "bench.workloads.memory_torch:MemoryTorch"}
        runs = [Recall(task, T, cell) for task in config.tasks for T in config.lengths for cell in config.cells]
        workers: dict[str, Worker] = {}
        figures: dict[str, Any] = {"config": config.to_json(), "threads": threads, "runs": []}
        try:
            for name in ["fastrnn"] + [against] * (against is not None):
                progress.begin(f"memory: starting {name}", 0)
                workers[name] = Worker(targets[name], given, threads)
            for recall in runs:
                figures["runs"].append(self._one(recall, workers, config, progress, self.effort / len(runs)))
        finally:
            for worker in workers.values():
                worker.close()
        figures["summary"] = _summary(figures, config)
        figures["sample"] = _text(_table(figures))
        return figures

    def _one(
        self, recall: Recall, workers: dict[str, Worker], config: Config, progress: Progress, effort: float
    ) -> dict[str, Any]:
        found: dict[str, Any] = {**asdict(recall), "baseline": baseline(recall.task, recall.T)}
        losses: dict[str, list[float]] = {name: [] for name in workers}
        seconds = dict.fromkeys(workers, 0.0)
        for worker in workers.values():
            worker.call("start", **asdict(recall))
        while len(losses["fastrnn"]) < config.steps and not _solved(recall, losses["fastrnn"]):
            steps = min(self.block, config.steps - len(losses["fastrnn"]))
            progress.begin(f"memory: {recall.task} {recall.T}, {recall.cell}, step {len(losses['fastrnn'])}", effort)
            for name, worker in workers.items():
                if name != "fastrnn" and len(losses[name]) >= config.rival_steps:
                    continue
                done = worker.call("train", steps=steps)
                losses[name] += done["losses"]
                seconds[name] += done["seconds"]
            progress.advance(effort * steps / config.steps)
        found["steps"] = len(losses["fastrnn"])
        progress.advance(effort * (1 - found["steps"] / config.steps))
        for name, worker in workers.items():
            kept, every = thinned(losses[name])
            found[name] = {
                "steps": len(losses[name]),
                "held_out": worker.call("held_out"),
                "loss": float(np.mean(losses[name][-self.block :])),
                "losses": kept,
                "losses_every": every,
                "steps_per_s": len(losses[name]) / seconds[name],
            }
        for name in set(workers) - {"fastrnn"}:
            pairs = list(zip(losses["fastrnn"], losses[name], strict=False))[:50]
            found["first_losses_apart"] = max(abs(a - b) / abs(b) for a, b in pairs)
        return found


def _solved(recall: Recall, losses: list[float]) -> bool:
    """The last losses lie so far below the baseline that there is nothing left to learn."""
    return len(losses) >= 25 and float(np.mean(losses[-25:])) < 0.0015 * baseline(recall.task, recall.T)


def _table(figures: dict[str, Any]) -> Table:
    rivals = [name for name in ("torch",) if name in figures["runs"][0]]
    table = Table("", ["task", "T", "cell", "steps", "loss / baseline", "right", "steps/s"])
    for name in rivals:
        table.columns += [f"{name}: steps", "loss / baseline", "right", "steps/s", "losses apart"]
    for run in figures["runs"]:
        row = [run["task"], str(run["T"]), run["cell"], str(run["steps"]), *_of(run, "fastrnn")]
        for name in rivals:
            row += [str(run[name]["steps"]), *_of(run, name), f"{run['first_losses_apart']:.0e}"]
        table.rows.append(row)
    return table


def _of(run: dict[str, Any], name: str) -> list[str]:
    of = run[name]
    return [f"{of['loss'] / run['baseline']:.3f}", f"{of['held_out']:.1%}", f"{of['steps_per_s']:.1f}"]


def _text(table: Table) -> str:
    from bench.tables import markdown

    return markdown(table)


def _summary(figures: dict[str, Any], config: Config) -> str:
    """How many tasks each cell solved, and how much faster than the rival."""
    parts = []
    for cell in config.cells:
        runs = [run for run in figures["runs"] if run["cell"] == cell]
        right = sum(run["fastrnn"]["loss"] < _LEARNT * run["baseline"] for run in runs)
        text = f"{cell} learns {right} of {len(runs)}"
        if "torch" in runs[0]:
            ratios = [run["fastrnn"]["steps_per_s"] / run["torch"]["steps_per_s"] for run in runs]
            text += f" ({float(np.median(ratios)):.2f} times as fast as in torch)"
        parts.append(text)
    lengths = " and ".join(map(str, config.lengths))
    return f"{' and '.join(config.tasks)} over {lengths} steps, at most {config.steps} updates: " + "; ".join(parts)


WORKLOAD = _Table()
