"""The safetensors format: the library's files read, ours read by it, and hostile ones refused in bounded memory."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest

from fastrnn.weights.safetensors import MOST_HEADER, SafetensorsError, SafetensorsFile, write_safetensors
from tests.processes import run_python


def example():
    """Arrays of many dtypes, orders and shapes."""
    rng = np.random.default_rng(0)
    return {
        "f4": rng.standard_normal((3, 4)).astype(np.float32),
        "strided": rng.standard_normal((4, 6))[:, ::2],
        "empty": np.zeros((0, 5)),
        "scalar": np.array(3.5, np.float16),
        "integers": np.arange(5),
        "flags": np.array([True, False]),
        "big-endian": np.arange(4, dtype=">f4"),
        "ü": np.array([np.nan, np.inf, -0.0]),
    }


def assert_same(got, want):
    assert set(got) == set(want)
    for name, array in want.items():
        np.testing.assert_array_equal(got[name], array)
        assert got[name].shape == array.shape and got[name].dtype == array.dtype.newbyteorder("=")


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / "weights.safetensors"
    write_safetensors(path, example(), {"format": "np"})
    file = SafetensorsFile(path)
    assert_same(file, example())
    assert file.metadata == {"format": "np"} and len(file) == len(example())
    assert file.shape("f4") == (3, 4) and file.dtype("f4") == "F32"
    assert file["f4"].flags.writeable and "absent" not in file
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_the_library_reads_ours_and_we_its(tmp_path):
    library = pytest.importorskip("safetensors.numpy", reason="the oracle is the safetensors library")
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    write_safetensors(ours, example())
    assert_same(library.load_file(ours), example())
    library.save_file(
        {name: np.array(a, a.dtype.newbyteorder("="), order="C") for name, a in example().items()}, theirs
    )
    assert_same(SafetensorsFile(theirs), example())


def test_bfloat16_is_read_as_float32(tmp_path):
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="bfloat16 is a dtype of ml_dtypes")
    values = np.random.default_rng(0).standard_normal(9).astype(ml_dtypes.bfloat16)
    write_safetensors(tmp_path / "x", {"w": values})
    file = SafetensorsFile(tmp_path / "x")
    assert file.dtype("w") == "BF16" and file["w"].dtype == np.float32
    np.testing.assert_array_equal(file["w"], values.astype(np.float32))


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "x"
    write_safetensors(path, {"w": np.ones(3)})
    with pytest.raises(TypeError, match="w has dtype complex128"):
        write_safetensors(path, {"w": np.ones(3, complex)})
    with pytest.raises(ValueError, match="__metadata__"):
        write_safetensors(path, {"__metadata__": np.ones(3)})
    np.testing.assert_array_equal(SafetensorsFile(path)["w"], np.ones(3))
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def file_of(header, data=b"\0" * 8, length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


BROKEN = {
    "empty": (b"", "8 say how long"),
    "cut within the length": (b"\1\0\0", "8 say how long"),
    "header of 10 GB": (file_of({}, length=10 << 30), f"at most {MOST_HEADER}"),
    "header of 2**64 - 1": (file_of({}, length=2**64 - 1), f"at most {MOST_HEADER}"),
    "header beyond the file": (file_of({}, b"", length=1 << 20), "the file ends after"),
    "no JSON": (file_of(b"\x80\x04pickle"), "can't be read"),
    "no UTF-8": (file_of(b'{"\xff": 1}'), "can't be read"),
    "deep": (file_of(b"[" * 1_000_000), "can't be read"),
    "a list": (file_of([]), "must be an object"),
    "a huge integer": (file_of(b'{"w": ' + b"9" * 100_000 + b"}"), "can't be read"),
    "a name twice": (file_of(b'{"w": %b, "w": %b}' % ((json.dumps(entry()).encode(),) * 2)), "comes twice"),
    "metadata of numbers": (file_of({"__metadata__": {"a": 1}, "w": entry()}), "strings to strings"),
    "no offsets": (file_of({"w": {"dtype": "F32", "shape": [2]}}), "data_offsets"),
    "dtype is a number": (file_of({"w": entry(dtype=4)}), "dtype must be a string"),
    "shape is a number": (file_of({"w": entry() | {"shape": 2}}), "list of at most"),
    "shape of booleans": (file_of({"w": entry(shape=(True, 2))}), "list of at most"),
    "negative shape": (file_of({"w": entry(shape=(-2, -1))}), "list of at most"),
    "too many axes": (file_of({"w": entry(shape=(1,) * 100)}), "list of at most"),
    "shape that overflows": (file_of({"w": entry(shape=(2**62, 4, 2))}), "takes 147573952589676412928 bytes"),
    "shape that overflows to the right size": (file_of({"w": entry(shape=(2**32, 2**30, 2))}), "takes"),
    "negative offsets": (file_of({"w": entry(offsets=(-8, 0))}), "begin and an end"),
    "offsets that turn back": (file_of({"w": entry(offsets=(8, 0))}), "begin and an end"),
    "overlap": (file_of({"a": entry(), "b": entry(shape=(1,), offsets=(4, 8))}), "'a' and 'b' overlap"),
    "hole": (file_of({"w": entry(shape=(1,), offsets=(4, 8))}), "hole of 4 bytes"),
    "beyond the end": (file_of({"w": entry(shape=(1000,), offsets=(0, 4000))}), "take 4000 bytes, but 8 follow"),
    "bytes left over": (file_of({}), "take 0 bytes, but 8 follow"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_refused(tmp_path, name):
    content, message = BROKEN[name]
    path = tmp_path / "hostile.safetensors"
    path.write_bytes(content)
    with pytest.raises(SafetensorsError, match=message) as refused:
        SafetensorsFile(path)
    assert str(path) in str(refused.value) and len(str(refused.value)) < 1000


def test_tensors_that_can_not_be_arrays_are_refused_when_asked_for(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(file_of({"w": entry(dtype="F8_E4M3", shape=(8,)), "e": entry(shape=(2**62, 0), offsets=(8, 8))}))
    file = SafetensorsFile(path)
    with pytest.raises(SafetensorsError, match="F8_E4M3"):
        file["w"]
    with pytest.raises(SafetensorsError, match="impossible shape"):
        file["e"]
    with pytest.raises(KeyError):
        file["absent"]
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(SafetensorsError, match="take 8 bytes, but 7 follow"):
        SafetensorsFile(path)


@pytest.mark.parametrize("cut", ["length", "header", "tensors"])
def test_truncated_files_are_refused(tmp_path, cut):
    path = tmp_path / "x"
    write_safetensors(path, example())
    whole = path.read_bytes()
    header = int.from_bytes(whole[:8], "little")
    path.write_bytes(whole[: {"length": 5, "header": 8 + header // 2, "tensors": 8 + header + 11}[cut]])
    with pytest.raises(SafetensorsError):
        SafetensorsFile(path)


def test_hostile_files_take_little_memory(tmp_path):
    """A file of 20 GB that is nearly all hole on the disk, and headers as wasteful as they can be."""
    pytest.importorskip("resource", reason="memory is limited by setrlimit")
    sparse = tmp_path / "sparse"
    with open(sparse, "wb") as file:
        file.write(struct.pack("<Q", 10 << 30) + b"{")
        file.truncate(20 << 30)
    wasteful = tmp_path / "wasteful"
    wasteful.write_bytes(file_of(b'{"w":[' + b"{}," * ((MOST_HEADER - 20) // 3) + b"{}]}"))
    script = """
import sys
from fastrnn.weights.safetensors import SafetensorsError, SafetensorsFile
from tests.processes import limited_memory
with limited_memory(768 << 20):
    for path in sys.argv[1:]:
        try:
            SafetensorsFile(path)
        except SafetensorsError as error:
            print(error)
"""
    printed = run_python(script, str(sparse), str(wasteful)).splitlines()
    assert len(printed) == 2 and "10737418240 bytes" in printed[0] and "data_offsets" in printed[1]
