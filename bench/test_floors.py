"""The table of predicted steps: every policy where it can run, and the least of them chosen."""

from __future__ import annotations

import pytest

from bench.cases import Case
from bench.cli import main
from bench.floors import calibrated, case_floors, floors
from bench.tables import mode_table
from fastrnn.cell_table import CELLS
from fastrnn.kernels.cuda.cost import HOPPER as ESTIMATES
from fastrnn.kernels.cuda.cuts import Chip, Problem
from fastrnn.kernels.cuda.plan import candidates

HOPPER, TURING = Chip(132, 227 * 1024, 90), Chip(68, 64 * 1024, 75)


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("cell", CELLS)
def test_the_least_is_chosen(cell, backward):
    table = floors(cell, "bfloat16", "exact", backward, HOPPER)
    for row in table.rows:
        times = dict(zip(table.columns[1:5], row[1:5], strict=True))
        chosen = row[5].split(",")[0]
        assert float(times[chosen]) == min(float(t) for t in times.values() if t != "-")
    kernels = {row[5].split(",")[0] for row in table.rows}
    assert kernels == {"cluster", "persistent", "stepwise"} | ({"split"} if backward else set()), "each has its region"


def test_more_work_never_costs_less():
    def seconds(H, B):
        return candidates(Problem("lstm", "float32", "exact", H, B, False), HOPPER)[0][0]

    for H in (64, 128, 256, 512, 1024):
        for B in (1, 8, 32, 128):
            assert seconds(H, B) <= seconds(2 * H, B) and seconds(H, B) <= seconds(H, 2 * B)


def test_an_older_chip_has_no_clusters_and_no_tensor_cores():
    for H in (64, 512):
        problem = Problem("gru_reset_before", "float16", "exact", H, 4, True)
        found = [policy for _, policy in candidates(problem, TURING)]
        assert {policy.kernel for policy in found} <= {"persistent", "stepwise"}
        assert all(policy.shape is None or not policy.shape.tensor for policy in found)


ABOUT = {"name": "Fake GPU", "multiprocessors": 132, "compute_capability": "9.0", "shared_bytes": 227 * 1024}
LIMITS = {"flops": {"float32": 5e13, "tf32": 4e14, "bfloat16": 8e14}, "bytes": {"memory": 3e12}}


def test_a_case_is_its_steps_and_the_products_over_all_steps(tmp_path):
    none = tmp_path / "none.json"
    forward = Case("lstm", 512, 16, 256, 512, dtype="bfloat16", device="cuda")
    (floor,) = case_floors(forward, ABOUT, LIMITS, none).values()
    step, policy = candidates(Problem("lstm", "bfloat16", "exact", 512, 16, False), HOPPER)[0]
    assert floor["seconds"] == pytest.approx(512 * step + 2 * 512 * 16 * 2048 * 256 / 8e14)
    assert floor["policy"] == policy.kernel and not floor["calibrated"]
    training = Case("lstm", 512, 16, 256, 512, mode="training", device="cuda")
    found = case_floors(training, ABOUT, LIMITS, none)
    assert list(found) == ["exact", "tf32", "3xtf32"]
    assert found["exact"]["seconds"] >= found["3xtf32"]["seconds"] >= found["tf32"]["seconds"]
    for precision, rate in {"exact": 5e13, "tf32": 4e14, "3xtf32": 4e14 / 3}.items():
        ways = [Problem("lstm", "float32", precision, 512, 16, backward) for backward in (False, True)]
        steps = sum(candidates(problem, HOPPER)[0][0] for problem in ways)
        products = 2 * 512 * 16 * 2048 * (3 * 256 + 512) / rate
        assert found[precision]["seconds"] == pytest.approx(512 * steps + products)
        assert ", back " in found[precision]["policy"]
    assert case_floors(Case("lstm", 8, 1, 8, 8, mode="step", device="cuda"), ABOUT, LIMITS, none) == {}


def test_measured_constants_come_from_a_file(tmp_path):
    file = tmp_path / "calibration.json"
    assert calibrated("Fake GPU", file) == (ESTIMATES, False)
    file.write_text('{"Fake GPU": {"grid_barrier": 1e-3, "cluster_exchange": 1e-3}, "Other": {"speed": 1}}')
    assert calibrated("Fake GPU", file) == (ESTIMATES._replace(grid_barrier=1e-3, cluster_exchange=1e-3), True)
    assert calibrated("Third", file) == (ESTIMATES, False)
    with pytest.raises(ValueError, match=r"Other.*speed"):
        calibrated("Other", file)
    (floor,) = case_floors(Case("lstm", 9, 1, 64, 64, dtype="bfloat16", device="cuda"), ABOUT, LIMITS, file).values()
    assert floor["calibrated"] and floor["policy"] == "stepwise", "with such barriers nothing else is faster"


def test_the_report_shows_floors_and_a_row_for_each_precision(tmp_path):
    case = Case("lstm", 512, 16, 512, 512, device="cuda")
    found = case_floors(case, ABOUT, LIMITS, tmp_path / "none.json")

    def timed(seconds):
        entry = {"status": "timed", "seconds": seconds, "blocks": [seconds] * 3, "error": 1e-6}
        return entry | {"native": True, "how": "invented", "peak_bytes": 1 << 20}

    entries = {
        f"fastrnn {v}": timed(2 * found[p]["seconds"]) for v, p in (("frozen", "exact"), ("frozen tf32", "tf32"))
    }
    entries |= {"torch fp32": timed(1.0), "torch tf32": timed(0.5)}
    row = {"case": case.to_json(), "threads": 2, "flops": case.flops, "limit": "GEMM", "floor_s": 1e-3}
    row |= {"entries": entries, "floors": found}
    table = mode_table({"device": "cuda", "dtype": "float32", "threads": 2, "mode": "forward"}, [row])
    exact, tf32 = (dict(zip(table.columns, cells, strict=True)) for cells in table.rows)
    assert (exact["cell"], tf32["cell"]) == ("lstm", "lstm tf32")
    assert exact["of floor"] == f"50% {found['exact']['policy']}" and tf32["of floor"].startswith("50% ")
    assert exact["floor"] != tf32["floor"]
    assert float(tf32["vs torch tf32"].split()[0]) == pytest.approx(0.25 / found["tf32"]["seconds"], rel=0.01)
    notes = " ".join(table.notes)
    assert "constants estimated" in notes and "in TF32 for each" in notes


def test_the_command(capsys):
    pytest.importorskip("rich")
    assert main(["floors", "--cells", "lstm,rnn_tanh", "--dtypes", "float64", "--backward"]) == 0
    printed = capsys.readouterr().out
    assert "lstm float64 backward" in printed and "rnn_tanh float64 backward" in printed
    with pytest.raises(SystemExit):
        main(["floors", "--cells", "gru"])
