"""Timing in rounds: who gets how many, and what is made of few samples."""

from __future__ import annotations

from bench.cases import Case
from bench.measure import Budget, ratio, time_case
from bench.workloads.runner import thinned

CASE = Case("lstm", 6, 3, 5, 8)
BUDGET = Budget(rounds=9, block_s=0.0, close=0.0)


class Invented:
    """A worker whose calls take made-up times; ``rounds`` counts its blocks."""

    def __init__(self, *seconds, variants=("",)):
        self.seconds, self.variants, self.rounds, self.asked = seconds, variants, 0, {}

    def call(self, method, **arguments):
        if method == "prepare":
            return {variant: {"status": "ready", "native": True} for variant in self.variants}
        if method == "peak_memory":
            return 1 << 20
        self.rounds, self.asked = self.rounds + 1, arguments
        return [self.seconds[self.rounds % len(self.seconds)]]


def rounds(**workers):
    time_case(CASE, workers, "", BUDGET, "fastrnn")
    return {name: worker.rounds for name, worker in workers.items()}


def test_a_rival_far_behind_sits_out_after_three_rounds_and_a_close_one_does_not():
    found = rounds(fastrnn=Invented(1e-3), close=Invented(3.9e-3), slow=Invented(4.1e-3))
    assert found == {"fastrnn": 9, "close": 9, "slow": 3}


def test_disturbed_blocks_do_not_send_a_rival_out():
    found = rounds(fastrnn=Invented(1e-3), disturbed=Invented(3e-3, 9e-3, 9e-3), once_long=Invented(3e-3, 5.0))
    assert found == {"fastrnn": 9, "disturbed": 9, "once_long": 9}


def test_ours_never_sits_out_for_being_slow_and_without_ours_nobody_does():
    assert rounds(fastrnn=Invented(1.0), quick=Invented(1e-3)) == {"fastrnn": 9, "quick": 9}
    assert rounds(one=Invented(1e-3), other=Invented(1.0)) == {"one": 9, "other": 9}


def test_a_call_of_seconds_is_timed_in_two_blocks():
    assert rounds(fastrnn=Invented(1.5), slow=Invented(2.1)) == {"fastrnn": 9, "slow": 2}


def test_a_close_call_gets_further_rounds_without_those_far_behind():
    workers = {"fastrnn": Invented(1e-3), "rival": Invented(1.01e-3), "slow": Invented(9e-3)}
    time_case(CASE, workers, "", Budget(rounds=4, block_s=0.0, close=0.08, extra_rounds=5), "fastrnn")
    assert [worker.rounds for worker in workers.values()] == [9, 9, 3]


def test_blocks_are_told_of_pauses():
    worker = Invented(1e-3)
    time_case(CASE, {"fastrnn": worker}, "", Budget(rounds=2, block_s=0.1, pause_s=0.01), "fastrnn")
    assert worker.asked == {"variant": "", "seconds": 0.1, "pause": 0.01}


def test_quartiles_lie_within_the_samples_however_few():
    entries = time_case(CASE, {"fastrnn": Invented(1.0), "slow": Invented(3.0, 5.0)}, "", BUDGET, "fastrnn")
    slow = entries["slow"]
    assert slow["samples"] == 2
    assert 3.0 <= slow["low"] <= slow["seconds"] <= slow["high"] <= 5.0
    middle, low, high = ratio(slow, entries["fastrnn"])
    assert 3.0 <= low <= middle <= high <= 5.0


def test_a_workloads_losses_are_thinned_evenly():
    assert thinned([1.0, 2.0]) == ([1.0, 2.0], 1)
    losses, every = thinned([float(i) for i in range(1201)])
    assert every == 13 and len(losses) == 93
    assert losses[:3] == [0.0, 13.0, 26.0]
    assert len(thinned([0.0] * 1200)[0]) == 100
