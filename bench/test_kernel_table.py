"""The table of CUDA kernels, on invented figures."""

from __future__ import annotations

import pytest

from bench.cli import main
from fastrnn.kernels.cuda import catalogue, compiler, devices


class FakeNVRTC:
    def getVersion(self):
        return (13, 5)


@pytest.fixture
def two_units(monkeypatch):
    """One whose kernel spills on Hopper, one that does not compile there."""
    pytest.importorskip("rich")

    def resources_of_each(sources, arch):
        for source in sources:
            if arch == "sm_90" and source == "b":
                yield compiler.CompileError("sm_90: b.cuh(3): error")
            else:
                yield {
                    "g": compiler.Resources(40, 8 * (arch == "sm_90"), 8, 0, 512),
                    "f": compiler.Resources(9, *[0] * 4),
                }

    monkeypatch.setattr(catalogue, "every_unit", lambda capability: iter([("unit b", "b", {}), ("unit a", "a", {})]))
    monkeypatch.setattr(compiler, "resources_of_each", resources_of_each)
    monkeypatch.setattr(devices, "nvrtc", FakeNVRTC)


def test_a_row_a_kernel_and_a_column_an_architecture(two_units, tmp_path, capsys):
    out = tmp_path / "kernels.md"
    assert main(["kernels", "--archs", "sm_80,sm_90", "--out", str(out)]) == 1
    printed, written = capsys.readouterr().out, out.read_text()
    assert "unit b: sm_90: b.cuh(3): error" in printed and "unit b: sm_90: b.cuh(3): error" in written
    rows = [line for line in written.splitlines() if line.startswith("| unit ")]
    assert rows == [
        "| unit | kernel | static shared, B | sm_80 | sm_90 |",
        "| unit b | f | 0 | 9 | - |",
        "| unit b | g | 512 | 40 | - |",
        "| unit a | f | 0 | 9 | 9 |",
        "| unit a | g | 512 | 40 | 40 + 8 B |",
    ]
    assert "40 + 8 B" in printed and "NVRTC 13.5" in printed
    assert main(["kernels", "--units", "a"]) == 0


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
