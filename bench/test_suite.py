"""The suite itself: it refuses what is wrong, notices what got slower, and keeps what it measured."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest

from bench.cases import Case, cases_for, parse_shapes
from bench.checks import largest_error, reference_outputs
from bench.cli import main
from bench.compare import changes
from bench.contender import Contender
from bench.crossover import answers
from bench.measure import Budget, time_case
from bench.peers import OURS, REGISTRY
from bench.peers.base import Program
from bench.peers.numpy_reference import NumpyReference
from bench.processes import Worker, WorkerError
from bench.report import PUBLISHED, write_report
from bench.results import SCHEMA, ResultsError, load, pause_of, save
from bench.run import Plan, execute
from bench.tables import groups, mode_table

SMALL = Case("lstm", 6, 3, 5, 8)


class SwappedGates(NumpyReference):
    """Gates f and g exchanged: what an adapter with a wrong gate order computes."""

    def program(self, case, variant):
        program = super().program(case, variant)
        params = {}
        for name, array in case.problem().params.items():
            i, f, g, o = np.split(array, 4)
            params[name] = np.concatenate([i, g, f, o])
        network = case.problem().network(np.float32)
        network.params = params
        problem = case.problem()

        def run():
            y, final, tape = network.forward(problem.x, problem.state)
            zeros = tuple(np.zeros_like(s) for s in final)
            grads = network.backward(tape, problem.dy, zeros) if case.mode == "training" else None
            return y, final, grads

        return Program(run, program.outputs, how="swapped")


class Slowed(NumpyReference):
    """A kernel that became slower by about five milliseconds, more than a busy machine hides."""

    def program(self, case, variant):
        program = super().program(case, variant)

        def run():
            time.sleep(5e-3)
            return program.run()

        return Program(run, program.outputs, how="slowed")


def reference_file(case, folder):
    path = folder / "reference.npz"
    np.savez(path, **reference_outputs(case))
    return str(path)


@pytest.mark.parametrize("mode", ["forward", "training"])
def test_a_peer_with_swapped_gates_is_refused(mode, tmp_path):
    case = Case("lstm", 6, 3, 5, 8, mode=mode)
    expected = reference_file(case, tmp_path)
    honest = Contender("bench.peers.numpy_reference:NumpyReference", threads=1)
    assert honest.prepare(case.to_json(), expected)[""]["status"] == "ready"
    swapped = Contender(f"{__name__}:SwappedGates", threads=1)
    report = swapped.prepare(case.to_json(), expected)[""]
    assert report["status"] == "refused"
    assert report["error"] > 0.01
    with pytest.raises(KeyError):
        swapped.block("", 0.01)


def test_an_output_that_is_missing_misshapen_or_nan_is_an_infinite_error():
    want = {"y": np.ones((2, 2))}
    assert largest_error({}, want)[0] == np.inf
    assert largest_error({"y": np.ones(2)}, want)[0] == np.inf
    assert largest_error({"y": np.full((2, 2), np.nan)}, want)[0] == np.inf
    assert largest_error({"y": np.ones((2, 2))}, want)[0] == 0


def measured(ours, folder):
    """A results file in miniature: the peer named is timed as ours, beside the honest NumPy rival."""
    rival = {"peer": "bench.peers.numpy_reference:NumpyReference", "threads": 1}
    workers = {OURS: Worker("bench.contender:Contender", {"peer": ours, "threads": 1}, 1)}
    try:
        workers["numpy"] = Worker("bench.contender:Contender", rival, 1)
        versions = {name: worker.call("describe") for name, worker in workers.items()}
        budget = Budget(rounds=5, block_s=0.01, close=0)
        entries = time_case(SMALL, workers, reference_file(SMALL, folder), budget, OURS)
    finally:
        for worker in workers.values():
            worker.close()
    row = {
        "case": SMALL.to_json(),
        "threads": 1,
        "compile_s": 0.1,
        "flops": SMALL.flops,
        "limit": "FMA",
        "floor_s": 1e-9,
    }
    return {"schema": SCHEMA, "contenders": versions, "cases": [row | {"entries": entries}]}


def test_compare_finds_a_slowed_kernel_and_nothing_in_the_same_code(tmp_path):
    honest = "bench.peers.numpy_reference:NumpyReference"
    before, same, slowed = (measured(peer, tmp_path) for peer in (honest, honest, f"{__name__}:Slowed"))
    assert [c.verdict for c in changes(before, slowed)] == ["slower"]
    assert [c.verdict for c in changes(slowed, before)] == ["faster"]
    # A busy machine can shift one of two short runs; then the noise is large and says so.
    (change,) = changes(before, same)
    assert change.verdict == "same" or change.noise > 0.05
    ((about, rows),) = groups(before)
    assert mode_table(about, rows).rows[0][0] == "lstm"


def test_a_pause_comes_before_every_call(tmp_path):
    contender = Contender("bench.peers.numpy_reference:NumpyReference", threads=1)
    contender.prepare(SMALL.to_json(), reference_file(SMALL, tmp_path))
    assert len(contender.block("", seconds=0.05, pause=0.02)) <= 3 < len(contender.block("", seconds=0.05))


def test_calls_with_pauses_are_said_to_be_and_compared_with_their_like(tmp_path, capsys):
    pytest.importorskip("rich")
    asked = ["--cells", "lstm", "--shapes", "2,1,4,8", "--modes", "forward", "--threads", "1", "--peers", "none"]
    for name, pause in (("dense", "0"), ("paused", "2")):
        file = ["--no-workload", "--json", str(tmp_path / f"{name}.json")]
        assert main([*asked, *file, "--pause", pause]) == 0
        assert ("each call 2 ms after the last" in capsys.readouterr().out) == (name == "paused")
    assert pause_of(load(tmp_path / "paused.json")) == 0.002
    for arguments in (["compare", str(tmp_path / "dense.json"), str(tmp_path / "paused.json")], ["--pause", "-1"]):
        with pytest.raises(SystemExit):
            main(arguments)
    assert "different intervals" in (said := capsys.readouterr().err) and "pause must be between" in said


class Interrupted:
    """A progress bar at which the user presses Ctrl-C during the second case."""

    def __init__(self):
        self.cases = 0

    def begin(self, what, effort):
        self.cases += what.startswith("lstm ")
        if self.cases == 2:
            raise KeyboardInterrupt

    def advance(self, effort):
        pass

    def say(self, line):
        pass


def test_a_broken_off_run_keeps_what_it_measured(tmp_path, monkeypatch):
    monkeypatch.setitem(REGISTRY, OURS, REGISTRY["numpy"])
    monkeypatch.setattr("bench.run.compile_kernels", lambda *arguments: {})
    cases = list(cases_for(["lstm"], [(6, 3, 5, 8)]))
    plan = Plan(cases=cases, rivals=(), threads=(1,), budget=Budget(rounds=2, block_s=0.002))
    path = tmp_path / "results.json"
    results = execute(plan, Interrupted(), keep=lambda r: save(r, path))
    assert len(results["cases"]) == 1
    assert not results["complete"]
    assert load(path) == json.loads(json.dumps(results))


def test_a_child_that_fails_says_why_and_one_that_hangs_is_ended():
    worker = Worker("bench.contender:Contender", {"peer": REGISTRY["numpy"].target, "threads": 1}, 1)
    try:
        with pytest.raises(WorkerError, match="KeyError") as caught:
            worker.call("block", variant="none", seconds=0.1)
        assert caught.value.kind == "KeyError"
        with pytest.raises(WorkerError, match="no answer"):
            worker.call("describe", timeout=0)
    finally:
        worker.close()


def test_results_of_another_schema_are_named(tmp_path):
    path = tmp_path / "r.json"
    path.write_text(json.dumps({"schema": SCHEMA + 1}))
    with pytest.raises(ResultsError, match="schema version"):
        load(path)
    path.write_text("[]")
    with pytest.raises(ResultsError, match="not a results file"):
        load(path)


def test_a_file_of_the_first_days_is_readable_compared_and_reported(tmp_path):
    stored = load(PUBLISHED)
    del stored["machine"]["devices"], stored["elapsed_s"]
    save(stored, tmp_path / "first.json")
    results = load(tmp_path / "first.json")
    assert results["schema"] == SCHEMA
    assert changes(results, results) and {c.verdict for c in changes(results, results)} == {"same"}
    text = write_report(results, tmp_path, []).read_text()
    assert "limits with 2 threads" in text and "CPU or GPU" not in text
    assert answers(results) == []


def test_shapes_are_read_or_refused():
    assert parse_shapes("100,1,32,32; 5,2,3,4") == ((100, 1, 32, 32), (5, 2, 3, 4))
    for wrong in ("", "big", "1,2,3", "1,2,3,0", "1,2,3,x"):
        with pytest.raises(ValueError, match="shapes must be"):
            parse_shapes(wrong)
