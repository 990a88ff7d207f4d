"""Who says the vowels? Ragged sequences of real speech, classified by a bidirectional layer.

Japanese Vowels (Kudo, Toyama and Shimbo, Pattern Recognition Letters 20, 1999; UCI): nine men say /ae/; 12 cepstrum
coefficients a frame, 7 to 29 frames an utterance. 270 utterances to learn from and 370 held out, as published. The
files come with the packages aeon and sktime (``pip install --no-deps aeon``: nothing of them is imported).

    h = bidirectional(x), each direction's state after its last step;  O = [h→ h←] W + b;  softmax cross-entropy
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bench.workloads.runner import Settings, Training

__all__ = ["WORKLOAD", "Config", "Utterances", "Vowels", "epoch", "initial_weights", "padded", "utterances"]

_SPEAKERS, _COEFFICIENTS = 9, 12
_PACKAGES = ("aeon", "sktime")
_FILES = "datasets/data/JapaneseVowels/JapaneseVowels_{}.ts"


@dataclass(frozen=True)
class Config(Settings):
    cell: str = "gru"
    steps: int = 600
    B: int = 30
    hidden: int = 64
    rate: float = 2e-3
    clip: float = 1.0
    seed: int = 0

    @staticmethod
    def quick() -> Config:
        return Config(steps=150, hidden=32, rate=5e-3)


class Utterances(NamedTuple):
    """Sequences, each (frames, 12) float32, and who speaks, 0 to 8."""

    frames: list[np.ndarray]
    speakers: np.ndarray


def utterances(which: str) -> Utterances:
    """Those of "TRAIN" or "TEST", with the mean and deviation of each coefficient over TRAIN taken out.

    Raises ModuleNotFoundError that says what to install.
    """
    train = _read("TRAIN")
    every = np.concatenate(train.frames)
    mean, deviation = every.mean(axis=0), every.std(axis=0)
    wanted = train if which == "TRAIN" else _read(which)
    return Utterances([((f - mean) / deviation).astype(np.float32) for f in wanted.frames], wanted.speakers)


def _read(which: str) -> Utterances:
    """A file of the format .ts: a line an utterance, coefficients and the class between colons."""
    lines = _file(which).read_text(encoding="utf-8").partition("@data")[2].split()
    rows = [line.split(":") for line in lines]
    frames = [np.array([[float(v) for v in part.split(",")] for part in row[:-1]]).T for row in rows]
    return Utterances(frames, np.array([int(row[-1]) - 1 for row in rows]))


def _file(which: str) -> Path:
    for package in _PACKAGES:
        found = find_spec(package)
        if found is not None and found.submodule_search_locations:
            path = Path(found.submodule_search_locations[0]) / _FILES.format(which)
            if path.exists():
                return path
    raise ModuleNotFoundError("vowels reads a data set that comes with aeon: pip install --no-deps aeon")


def padded(frames: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """A ragged batch: x (T, B, 12), 0 past the lengths, and lengths (B,)."""
    lengths = np.array([len(f) for f in frames])
    x = np.zeros((lengths.max(), len(frames), _COEFFICIENTS), np.float32)
    for b, f in enumerate(frames):
        x[: len(f), b] = f
    return x, lengths


def epoch(data: Utterances, B: int, rng: np.random.Generator) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """All utterances once, in random batches: x, lengths, speakers."""
    order = rng.permutation(len(data.frames))
    picks = [order[k : k + B] for k in range(0, len(order), B)]
    return [(*padded([data.frames[k] for k in pick]), data.speakers[pick]) for pick in picks]


def initial_weights(config: Config) -> dict[str, np.ndarray]:
    """The parameters before training, float32, named as PyTorch names them: its law."""
    rng = np.random.default_rng(config.seed)
    H = config.hidden
    rows = {"rnn": 1, "lstm": 4, "gru": 3}[config.cell] * H
    shapes = {}
    for end in ("_l0", "_l0_reverse"):
        shapes |= {f"layer.weight_ih{end}": (rows, _COEFFICIENTS), f"layer.weight_hh{end}": (rows, H)}
        shapes |= {f"layer.bias_ih{end}": (rows,), f"layer.bias_hh{end}": (rows,)}
    shapes |= {"output.weight": (_SPEAKERS, 2 * H), "output.bias": (_SPEAKERS,)}
    bound = 1 / np.sqrt(H)
    return {name: rng.uniform(-bound, bound, shape).astype(np.float32) for name, shape in shapes.items()}


class Vowels:
    """The model and its training loop. ``train`` goes on where the last call stopped."""

    def __init__(self, config: dict[str, Any], threads: int) -> None:
        self.config = Config(**config)
        self.data, self.test = utterances("TRAIN"), utterances("TEST")
        self._rng = np.random.default_rng(self.config.seed + 1)
        self._batches: list[Any] = []
        self._build(initial_weights(self.config), threads)

    def train(self, steps: int) -> dict[str, Any]:
        """Take that many steps: ``{"losses": nats an utterance, "seconds", "frames"}``."""
        batches = []
        for _ in range(steps):
            self._batches = self._batches or epoch(self.data, self.config.B, self._rng)
            batches.append(self._batches.pop())
        started = time.perf_counter()
        losses = [self._step(*batch) for batch in batches]
        seconds = time.perf_counter() - started
        return {"losses": losses, "seconds": seconds, "frames": int(sum(lengths.sum() for _, lengths, _ in batches))}

    def held_out(self) -> float:
        """The share of the 370 test utterances whose speaker is told."""
        return float((self._answers() == self.test.speakers).mean())

    def sample(self) -> str:
        """Who was taken for whom: a row for each speaker."""
        answers = self._answers()
        rows = []
        for speaker in range(_SPEAKERS):
            counts = np.bincount(answers[self.test.speakers == speaker], minlength=_SPEAKERS)
            rows.append(f"speaker {speaker + 1}: " + " ".join(f"{count:3d}" for count in counts))
        return "\n".join(["taken for    " + " ".join(f"{k + 1:3d}" for k in range(_SPEAKERS)), *rows])

    def _answers(self) -> np.ndarray:
        x, lengths = padded(self.test.frames)
        return self._logits(x, lengths).argmax(axis=1)

    # What a rival writes in its own way

    def _build(self, weights: dict[str, np.ndarray], threads: int) -> None:
        import fastrnn
        from fastrnn import nn

        fastrnn.set_num_threads(threads)
        kinds = {"rnn": (fastrnn.RNN, {}), "lstm": (fastrnn.LSTM, {}), "gru": (fastrnn.GRU, {"reset_after": True})}
        kind, options = kinds[self.config.cell]
        layer = kind(_COEFFICIENTS, self.config.hidden, bidirectional=True, **options)
        self.model = nn.Model(layer=layer, output=nn.Linear(2 * self.config.hidden, _SPEAKERS))
        self.model.load_params(weights)
        self.optimizer = nn.Adam(self.model, self.config.rate)

    def _step(self, x: np.ndarray, lengths: np.ndarray, speakers: np.ndarray) -> float:
        from fastrnn import nn

        model, H = self.model, self.config.hidden
        _, state, tape = model.layer.forward(x, lengths=lengths)
        pair = isinstance(state, tuple)
        h = state[0] if pair else state
        o, tape_o = model.output.forward(np.concatenate([h[0], h[1]], axis=1))
        loss, do = nn.softmax_cross_entropy(o, speakers)
        of_output = model.output.backward(tape_o, do)
        dh = np.stack([of_output.x[:, :H], of_output.x[:, H:]])
        of_layer = model.layer.backward(tape, dstate=(dh, None) if pair else dh, input_grad=False)
        grads = model.gradients(layer=of_layer, output=of_output)
        nn.clip_grad_norm(grads, self.config.clip)
        self.optimizer.step(grads)
        return float(loss)

    def _logits(self, x: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        last, _ = self.model.layer(x, lengths=lengths, return_sequences=False)
        return self.model.output(last)


def _summary(figures: dict[str, Any], config: Config) -> str:
    mine = figures["fastrnn"]
    text = (
        f"{config.steps} steps of {config.B} utterances, bidirectional {config.cell}(12, {config.hidden}): speaker "
        f"told in {mine['after']:.1%} of 370 held-out utterances, {mine['frames_per_s']:,.0f} frames a second"
    )
    if "comparison" in figures:
        c = figures["comparison"]
        theirs = figures[c["against"]]
        text += (
            f"; {c['against']}: {theirs['after']:.1%}, first {c['losses_compared']} losses within "
            f"{c['largest_loss_difference']:.1e}, {theirs['frames_per_s']:,.0f} frames a second "
            f"(ours {c['speed_ratio']:.2f} times)"
        )
    return text


WORKLOAD = Training(
    name="vowels",
    about="who speaks, from ragged utterances, bidirectional",
    config=Config,
    implementations={
        "fastrnn": "bench.workloads.vowels:Vowels",
        "torch": "bench.workloads.vowels_torch:VowelsTorch",
    },
    unit="frames",
    summary=_summary,
    effort=15.0,
)
