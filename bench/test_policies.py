"""Timing every policy, by the stand-in: each runs where it can, and is the one that was asked for."""

from __future__ import annotations

import importlib

import pytest

from bench.cases import Case
from bench.cli import main
from bench.devices import WallTimer
from bench.policies import policies
from tests.cuda import emulator, stand_in

plan = importlib.import_module("fastrnn.kernels.cuda.plan")  # by its full name: the package has a function plan, too


@pytest.mark.skipif(bool(emulator.available()), reason=emulator.available() or "-")
def test_each_policy_is_timed_where_it_can_run(monkeypatch):
    ran = set()
    choose = plan._choose
    monkeypatch.setattr(plan, "_choose", lambda *given: (chosen := choose(*given), ran.add(chosen.kernel))[0])
    cases = [Case("lstm", 2, 1, H, H, dtype="float32", device="cuda") for H in (16, 17)]
    with stand_in.installed():
        table = policies(cases, "exact", WallTimer())
    assert ran == {"cluster", "persistent", "stepwise"}
    assert [row[0] for row in table.rows] == ["16, 1", "17, 1"]
    aligned, odd = (dict(zip(table.columns, row, strict=True)) for row in table.rows)
    assert odd["cluster forward"] == odd["cluster backward"] == "-", "clusters want rows of whole 16 bytes"
    for way in ("forward", "backward"):
        times = [aligned[f"{kernel} {way}"] for kernel in ("cluster", "persistent", "stepwise")]
        assert sum(time.endswith("*") for time in times) == 1 and all(" / " in time for time in times)


def test_without_a_gpu_it_says_so(monkeypatch, capsys):
    pytest.importorskip("rich")
    monkeypatch.setattr("bench.policies.missing", lambda device: "no CUDA driver")
    assert main(["policies"]) == 1
    assert "no CUDA driver" in capsys.readouterr().out
