"""The table of CUDA kernels, on invented figures."""

from __future__ import annotations

import pytest

from bench import kernel_table, sass
from bench.cli import main
from fastrnn.cell_table import CELLS
from fastrnn.kernels.cuda import catalogue, compiler, devices
from fastrnn.kernels.cuda.cuts import Policy, Problem
from fastrnn.kernels.cuda.units import Shape


class FakeNVRTC:
    def getVersion(self):
        return (13, 5)


LOOP = sass.StepLoop(
    total=700, tensor=8, plain=0, around=50, wide=2, narrow=0, remote=7, remote_narrow=0, local=0, divisions=1,
    meeting={"BAR": 3, "MEMBAR": 1},
)  # fmt: skip


@pytest.fixture
def two_units(monkeypatch):
    """One whose kernel spills on Hopper, one that does not compile there; the grid's only kernel is of 32 products."""
    pytest.importorskip("rich")

    def of_each(sources, arch, read):
        for source in sources:
            if arch == "sm_90" and source == "b":
                yield compiler.CompileError("sm_90: b.cuh(3): error")
            else:
                used = {
                    "g": compiler.Resources(40, 8 * (arch == "sm_90"), 8, 0, 512),
                    "f": compiler.Resources(9, *[0] * 4),
                }
                loops = {"forward": LOOP} if source == "c" else {"f": LOOP, "g": None}
                lengths = {"f": 900, "g": 80} if sass.disassembler() else {}
                yield kernel_table._Read(used, loops if lengths else {}, lengths)

    def every_unit(capability, sizes, cells, dtypes):
        assert sizes == [100, 512, 1024] and set(cells) == set(CELLS)
        return iter([catalogue.Unit("unit b", "b", {}), catalogue.Unit("unit a", "a", {}, PROBLEM, POLICY)])

    grid = [catalogue.Unit("grid a", "c", {}, PROBLEM, POLICY)]
    monkeypatch.setattr(catalogue, "every_unit", every_unit)
    monkeypatch.setattr(catalogue, "chosen_units", lambda chip, problems: grid)
    monkeypatch.setattr(compiler, "of_each", of_each)
    monkeypatch.setattr(devices, "nvrtc", FakeNVRTC)
    monkeypatch.setattr(sass, "disassembler", lambda: None)


PROBLEM = Problem("lstm", "bfloat16", "exact", 512, 16, False)
POLICY = Policy("cluster", "", Shape(8, 32, 256, 2, 1, 16), 16, 2, 1024)


def test_a_row_a_kernel_and_a_column_an_architecture(two_units, tmp_path, capsys):
    out = tmp_path / "kernels.md"
    assert main(["kernels", "--archs", "sm_80,sm_90", "--out", str(out)]) == 1
    printed, written = capsys.readouterr().out, out.read_text()
    assert "unit b: sm_90: b.cuh(3): error" in printed and "unit b: sm_90: b.cuh(3): error" in written
    rows = [line for line in written.splitlines() if line.startswith("| ")]
    assert rows == [
        "| unit | kernel | shared, B | predicted us | sm_80 | sm_90 |",
        "| unit b | f | 0 | - | 9 | - |",
        "| unit b | g | 512 | - | 40 | - |",
        "| unit a | f | 1024 | 1.04 | 9 | 9 |",
        "| unit a | g | 1536 | 1.04 | 40 | 40 + 8 B |",
    ]
    assert "40 + 8 B" in printed and "NVRTC 13.5" in printed and f"pip install {sass.PACKAGE}" in written
    assert main(["kernels", "--units", "a"]) == 0


def test_with_a_disassembler_instructions_and_the_steps_of_the_grid(two_units, tmp_path, monkeypatch):
    monkeypatch.setattr(sass, "disassembler", lambda: "nvdisasm")
    out = tmp_path / "kernels.md"
    main(["kernels", "--archs", "sm_80,sm_90", "--out", str(out)])
    rows = [line for line in out.read_text().splitlines() if line.startswith("| ")]
    assert "| unit a | f | 1024 | 1.04 | 9 / 700 | 9 / 700 |" in rows, "a step's instructions"
    assert "| unit b | g | 512 | - | 40 / 80 | - |" in rows, "the kernel's"
    titles, row = ([cell.strip() for cell in line.split("|")[1:-1]] for line in rows[-2:])
    assert dict(zip(titles, row, strict=True)) == {
        "unit": "grid a", "cut": "32 units, 16 x 2", "instructions": "700", "products": "8", "model": "32",
        "around them": "50", "16-byte loads": "2", "narrower": "0", "to other blocks": "7", "narrower there": "0",
        "local": "0", "divisions": "1", "meets by": "BAR 3, MEMBAR 1", "issue us": "0.80", "predicted us": "1.04",
    }  # fmt: skip


def test_what_is_asked_for_must_exist(two_units, capsys):
    for arguments in (["--archs", "sm_60"], ["--units", "gru"]):
        with pytest.raises(SystemExit, match="2"):
            main(["kernels", *arguments])
    message = capsys.readouterr().err
    assert "archs must be some of sm_75" in message and "none has 'gru' in its name" in message


def test_without_nvrtc_it_says_what_to_install(two_units, monkeypatch, capsys):
    def missing():
        raise devices.GPUUnavailable('pip install "fastrnn[cuda13]"')

    monkeypatch.setattr(devices, "nvrtc", missing)
    assert main(["kernels"]) == 1
    assert 'pip install "fastrnn[cuda13]"' in capsys.readouterr().out
