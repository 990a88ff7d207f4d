"""``python -m bench onnx``: a model of an LSTM and a GRU, in ONNX's reference evaluator and in ONNX Runtime.

The evaluator runs with its own operators and with ``fastrnn.onnx``'s. Each is in a process of its own; blocks of calls
are taken in turn, and the ratios are of medians. The outputs are compared before anything is timed.
"""

from __future__ import annotations

import argparse
import importlib
import json
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from bench import RESULTS, machine
from bench.processes import Worker
from bench.tables import Table, markdown

__all__ = ["EVALUATORS", "PUBLISHED", "SIZES", "Evaluator", "add_onnx", "table_of", "text_of", "timed"]

PUBLISHED = RESULTS / "onnx-evaluators.json"
EVALUATORS = {
    "fastrnn": "the reference evaluator with fastrnn.onnx",
    "reference": "the reference evaluator's own operators",
    "onnxruntime": "ONNX Runtime",
}
SIZES = tuple((50, B, H) for B in (1, 16) for H in (128, 256))  # T, B, H; as many inputs as hidden units
_ROUNDS, _BLOCK_S, _TOLERANCE = 9, 0.1, 1e-4


def model(H: int, seed: int = 0) -> Any:
    """x (T, B, H) -> LSTM -> GRU, PyTorch's form -> y (T, 1, B, H)."""
    from onnx import TensorProto, checker, helper, numpy_helper

    rng = np.random.default_rng(seed)

    def weights(name: str, gates: int) -> list[Any]:
        shapes = {"W": (1, gates * H, H), "R": (1, gates * H, H), "B": (1, 2 * gates * H)}
        values = {k: rng.uniform(-1, 1, shape).astype(np.float32) / np.sqrt(H, dtype=np.float32)
                  for k, shape in shapes.items()}  # fmt: skip
        return [numpy_helper.from_array(value, f"{name}_{k}") for k, value in values.items()]

    nodes = [
        helper.make_node("LSTM", ["x", "lstm_W", "lstm_R", "lstm_B"], ["between"], hidden_size=H),
        helper.make_node("Squeeze", ["between", "axes"], ["h"]),
        helper.make_node("GRU", ["h", "gru_W", "gru_R", "gru_B"], ["y"], hidden_size=H, linear_before_reset=1),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["T", "B", H])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["T", 1, "B", H])
    constants = [*weights("lstm", 4), *weights("gru", 3), numpy_helper.from_array(np.array([1]), "axes")]
    found = helper.make_model(
        helper.make_graph(nodes, "lstm_gru", [x], [y], constants),
        opset_imports=[helper.make_opsetid("", 17)], ir_version=8,
    )  # fmt: skip
    checker.check_model(found)
    return found


class Evaluator:
    """One way to run the models, in a process of its own."""

    def __init__(self, name: str, threads: int) -> None:
        self.name, self.threads = name, threads

    def prepare(self, T: int, B: int, H: int) -> list[float]:
        """Load the model; a sample of its output."""
        found = model(H)
        x = np.random.default_rng(1).standard_normal((T, B, H)).astype(np.float32)
        if self.name == "onnxruntime":
            runtime = importlib.import_module("onnxruntime")
            options = runtime.SessionOptions()
            options.intra_op_num_threads = self.threads
            session = runtime.InferenceSession(found.SerializeToString(), options, ["CPUExecutionProvider"])
        else:
            evaluator = importlib.import_module("onnx.reference").ReferenceEvaluator
            operators = None
            if self.name == "fastrnn":
                importlib.import_module("fastrnn").set_num_threads(self.threads)
                operators = importlib.import_module("fastrnn.onnx").OPERATORS
            session = evaluator(found, new_ops=operators)
        self.run = lambda: session.run(None, {"x": x})[0]
        return [float(value) for value in self.run().reshape(-1)[:: max(1, T * B * H // 1000)]]

    def block(self) -> float:
        """Seconds of a call, over a block of calls."""
        self.run()
        calls, started = 0, time.perf_counter()
        while (elapsed := time.perf_counter() - started) < _BLOCK_S or not calls:
            self.run()
            calls += 1
        return elapsed / calls


def timed(threads: int, sizes: Any = SIZES, rounds: int = _ROUNDS) -> list[dict[str, Any]]:
    """For each size the seconds of a call, by evaluator. Raises ValueError where outputs differ."""
    workers = {n: Worker(f"{__name__}:Evaluator", {"name": n, "threads": threads}, threads) for n in EVALUATORS}
    rows = []
    try:
        for T, B, H in sizes:
            outputs = {name: worker.call("prepare", T=T, B=B, H=H) for name, worker in workers.items()}
            for name, output in outputs.items():
                difference = float(np.abs(np.subtract(output, outputs["onnxruntime"])).max())
                if not difference <= _TOLERANCE:
                    raise ValueError(f"{EVALUATORS[name]} differs from ONNX Runtime by {difference:.1e}")
            samples: dict[str, list[float]] = {name: [] for name in workers}
            for _ in range(rounds):
                for name, worker in workers.items():
                    samples[name].append(worker.call("block"))
            rows.append({"T": T, "B": B, "H": H, "seconds": {name: median(s) for name, s in samples.items()}})
    finally:
        for worker in workers.values():
            worker.close()
    return rows


def table_of(results: dict[str, Any]) -> Table:
    """Times of a call, and the others' in multiples of ours."""
    table = Table("An LSTM and a GRU in ONNX", ["T, B, H", "fastrnn.onnx", "reference", "ONNX Runtime"])
    for row in results["rows"]:
        ours, own, runtime = (row["seconds"][name] for name in EVALUATORS)
        cells = [f"{ours * 1e3:.2f} ms", f"{own * 1e3:.2f} ms ({own / ours:.1f})"]
        table.rows.append(
            [f"{row['T']}, {row['B']}, {row['H']}", *cells, f"{runtime * 1e3:.2f} ms ({runtime / ours:.2f})"]
        )
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    table.notes.append(
        f"In brackets: how many times as long as ours. float32, {results['threads']} threads; {versions}"
    )
    return table


def text_of(results: dict[str, Any]) -> str:
    """The table in Markdown."""
    table = table_of(results)
    return f"# {table.title}\n\nWritten by `python -m bench onnx`.\n\n{markdown(table)}\n"


def add_onnx(commands: Any) -> None:
    """Add the subcommand."""
    parser = commands.add_parser("onnx", help="fastrnn.onnx beside the reference evaluator's operators, ONNX Runtime")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--json", type=Path, default=PUBLISHED, help=f"results, .md beside (default: {PUBLISHED})")
    parser.set_defaults(command=_onnx)


def _onnx(options: argparse.Namespace) -> int:
    from bench.terminal import print_table, terminal

    try:
        versions = {name: importlib.import_module(name).__version__ for name in ("numpy", "onnx", "onnxruntime")}
    except ModuleNotFoundError as error:
        raise ValueError(f"bench onnx needs {error.name}: pip install onnx onnxruntime") from None
    threads = options.threads or machine.physical_cores()
    results = {"threads": threads, "versions": versions, "rows": timed(threads)}
    print_table(table_of(results))
    options.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    options.json.with_suffix(".md").write_text(text_of(results), encoding="utf-8")
    terminal.print(f"results: {options.json} and {options.json.with_suffix('.md').name}")
    return 0
