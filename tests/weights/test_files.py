"""Layers to and from safetensors and npz files; files of other programs, and dangerous ones."""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile

import numpy as np
import pytest

import fastrnn
from fastrnn.weights import from_npz, from_safetensors, to_npz, to_safetensors
from fastrnn.weights.npz import NpzError, NpzFile
from fastrnn.weights.reverse import turned
from fastrnn.weights.safetensors import SafetensorsFile, write_safetensors
from tests.cases import LAYERS
from tests.cuda import stand_in
from tests.processes import run_python

STRUCTURES = [{}, {"num_layers": 2, "bidirectional": True, "batch_first": True, "dropout": 0.25, "bias": False}]


def layers():
    for kind, options in LAYERS.values():
        for structure in STRUCTURES:
            for dtype in ("float32", "float64"):
                yield getattr(fastrnn, kind)(3, 5, dtype=dtype, seed=1, **options, **structure)


@pytest.mark.parametrize("layer", list(layers()), ids=repr)
def test_layers_come_back(layer, tmp_path):
    path = tmp_path / "weights"
    to_safetensors(layer, path, prefix="encoder.rnn.")
    again = from_safetensors(path)
    assert repr(again) == repr(layer)
    np.testing.assert_array_equal(again.flat_params, layer.flat_params)
    to_npz(layer, path)
    options = {name: getattr(layer, name) for name in ("nonlinearity", "reset_after") if hasattr(layer, name)}
    if getattr(layer, "coupled", False):
        options["coupled"] = True
    again = from_npz(path, batch_first=layer.batch_first, dropout=layer.dropout, **options)
    assert repr(again) == repr(layer)
    np.testing.assert_array_equal(again.flat_params, layer.flat_params)
    other = type(layer)(3, 5, layer.num_layers, bidirectional=layer.bidirectional, bias=layer.bias, **_cell(layer))
    assert from_npz(path, other) is other
    np.testing.assert_array_equal(other.flat_params, layer.flat_params.astype(np.float32))


def _cell(layer):
    return {name: getattr(layer, name) for name in layer._cell_defaults}


def test_files_of_pytorch(tmp_path):
    """As safetensors.torch.save_file writes the state_dict of a model."""
    layer = fastrnn.GRU(3, 4, reset_after=True, seed=0)
    arrays = {"model.gru." + name: array for name, array in layer.params.items()} | {"model.head.weight": np.ones(3)}
    path = tmp_path / "model.safetensors"
    write_safetensors(path, arrays, {"format": "pt"})
    with pytest.raises(ValueError, match=r"give reset_after=True \(PyTorch's GRU\)"):
        from_safetensors(path)
    for prefix in (None, "model.gru."):
        again = from_safetensors(path, reset_after=True, prefix=prefix)
        np.testing.assert_array_equal(again.flat_params, layer.flat_params)
    into = fastrnn.GRU(3, 4, reset_after=True)
    from_safetensors(path, into)
    np.testing.assert_array_equal(into.flat_params, layer.flat_params)
    with pytest.raises(ValueError, match=r"weight_ih_l0 must have shape \(12, 2\), got \(12, 3\)"):
        from_safetensors(path, fastrnn.GRU(2, 4))
    with pytest.raises(ValueError, match="no array is called"):
        from_safetensors(path, prefix="model.head.")
    with pytest.raises(TypeError, match="into takes no options of a new layer, got reset_after"):
        from_safetensors(path, into, reset_after=True)
    with pytest.raises(TypeError, match="into must be an RNN, LSTM or GRU of fastrnn, got str"):
        from_safetensors(path, "x")


def test_only_the_layers_own_arrays_are_read(tmp_path, monkeypatch):
    read = []
    one = SafetensorsFile.__getitem__
    monkeypatch.setattr(SafetensorsFile, "__getitem__", lambda file, name: read.append(name) or one(file, name))
    path = tmp_path / "x"
    layer = fastrnn.RNN(2, 3)
    write_safetensors(path, {"a." + n: p for n, p in layer.params.items()} | {"huge": np.zeros(1000)})
    from_safetensors(path)
    assert sorted(read) == sorted("a." + name for name in layer.params)


def test_layers_within_models_are_described_by_their_prefix(tmp_path):
    """As fastrnn.nn writes them."""
    path = tmp_path / "x"
    with pytest.raises(ValueError, match="end with a dot"):
        to_safetensors(fastrnn.GRU(2, 3), path, prefix="gru")
    layer = fastrnn.GRU(2, 3, batch_first=True)
    to_safetensors(layer, path, prefix="encoder.gru.")
    file = SafetensorsFile(path)
    described = json.loads(file.metadata["fastrnn"])
    gru = described["parts"]["encoder"]["parts"]["gru"]
    assert gru["kind"] == "GRU" and gru["settings"]["batch_first"] and not gru["settings"]["reset_after"]
    arrays = {name.removeprefix("encoder."): file[name] for name in file}
    write_safetensors(path, arrays, {"fastrnn": json.dumps(described["parts"]["encoder"])})
    assert repr(from_safetensors(path)) == repr(layer)


def test_metadata_that_lies_is_refused(tmp_path):
    path = tmp_path / "x"
    params = dict(fastrnn.LSTM(2, 3).params)
    for told, message in [
        ("{", "can't be read"),
        ('{"kind": "GRU", "settings": {}}', "do not fit GRU"),
        ('{"kind": "LSTM", "settings": {"peephole": true}}', "missing weight_peephole_l0"),
        ('{"kind": "LSTM", "settings": {"peephole": "yes"}}', "peephole must be True or False"),
        ('{"kind": "LSTM", "settings": {"dropout": 7}}', "dropout must be"),
    ]:
        write_safetensors(path, params, {"fastrnn": told})
        with pytest.raises((ValueError, TypeError), match=message):
            from_safetensors(path)
    for told in ('{"kind": "os.system", "settings": {}}', "[]", '{"kind": [], "settings": 1}', '{"parts": 3}', "null"):
        write_safetensors(path, params, {"fastrnn": told})
        assert repr(from_safetensors(path)) == "LSTM(2, 3)"


def test_npz_files_of_numpy(tmp_path):
    """Compressed, in Fortran's order, big-endian, empty."""
    arrays = {
        "f4": np.random.default_rng(0).standard_normal((3, 4)).astype(">f4"),
        "fortran": np.asfortranarray(np.arange(12.0).reshape(3, 4)),
        "empty": np.zeros((0, 5)),
        "scalar": np.array(2.5),
    }
    np.savez_compressed(tmp_path / "x.npz", **arrays)
    file = NpzFile(tmp_path / "x.npz")
    assert set(file) == set(arrays) and len(file) == 4 and "f4" in file
    for name, array in arrays.items():
        np.testing.assert_array_equal(file[name], array)
        assert file.shape(name) == array.shape and file[name].dtype.isnative and file[name].flags.writeable


def npy(shape, data=b"", descr="<f4", version=(1, 0)):
    """An npy file that claims a shape."""
    file = io.BytesIO()
    header = {"descr": descr, "fortran_order": False, "shape": shape}
    (np.lib.format.write_array_header_1_0 if version == (1, 0) else np.lib.format.write_array_header_2_0)(file, header)
    return file.getvalue() + data


class Evil:
    """Unpickling makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def zipped(path, members, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


BROKEN = {
    "shape beyond memory": ({"w.npy": npy((1 << 40, 1 << 10))}, "takes 4503599627370496 bytes, not 0"),
    "shape that overflows": ({"w.npy": npy((1 << 62, 4))}, "takes 73786976294838206464 bytes"),
    "negative shape": ({"w.npy": npy((-2, -2), b"\0" * 16)}, "of shape"),
    "impossible empty shape": ({"w.npy": npy((0, 1 << 70))}, "impossible shape"),
    "no array": ({"w.npy": b"hello"}, "is no array"),
    "empty member": ({"w.npy": b""}, "is no array"),
    "cut off": ({"w.npy": npy((4,), b"\0" * 15)}, "takes 16 bytes, not 15"),
    "header is code": ({"w.npy": npy((2,)).replace(b"(2,)", b"x()#")}, "is no array"),
    "unknown version": ({"w.npy": b"\x93NUMPY\x09\x00" + b"\0" * 100}, "is no array"),
    "a name twice": ({"w.npy": npy((1,), b"\0" * 4), "w": npy((1,), b"\0" * 4)}, "comes twice"),
    "structure": ({"w.npy": npy((1,), b"\0" * 4, descr="|O")}, "pickled objects"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_npz_files_are_refused(name, tmp_path):
    members, message = BROKEN[name]
    path = tmp_path / "x.npz"
    zipped(path, members)
    with pytest.raises(NpzError, match=message):
        NpzFile(path)


def test_files_that_are_no_archives_are_refused(tmp_path):
    path = tmp_path / "x.npz"
    to_npz(fastrnn.LSTM(3, 4), path)
    whole = path.read_bytes()
    for content in (b"", b"PK\3\4", whole[:-30], whole[: len(whole) // 2], b"\x93NUMPY\x01\x00" + b"\0" * 100):
        path.write_bytes(content)
        with pytest.raises(NpzError, match="no readable npz file"):
            from_npz(path)
    path.write_bytes(whole[:200] + bytes(100) + whole[300:])
    with pytest.raises(NpzError, match="no readable npz file"):  # the checksum
        from_npz(path)
    zipped(path, {"w.npy": npy((1,), b"\0" * 4)}, zipfile.ZIP_LZMA)
    with pytest.raises(NpzError, match="another method"):
        from_npz(path)


def test_pickles_are_never_loaded(tmp_path):
    path, made = tmp_path / "x.npz", tmp_path / "made"
    np.savez(path, weight_hh_l0=np.array([Evil(str(made))], object), weight_ih_l0=np.ones(3))
    with pytest.raises(NpzError, match="pickled objects, which are never loaded"):
        from_npz(path)
    assert not made.exists()
    path.write_bytes(pickle.dumps(Evil(str(made))))
    for load in (from_npz, from_safetensors):
        with pytest.raises(ValueError):
            load(path)
    assert not made.exists()


def test_hostile_npz_files_take_little_memory(tmp_path):
    """4 GiB of zeros in 4 MiB, and a member that claims far more than it has."""
    pytest.importorskip("resource", reason="memory is limited by setrlimit")
    bomb, liar = tmp_path / "bomb.npz", tmp_path / "liar.npz"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        with archive.open("weight_hh_l0.npy", "w", force_zip64=True) as member:
            member.write(npy((1 << 14, 1 << 12)))
            for _ in range(16):
                member.write(bytes(1 << 24))
    zipped(liar, {"weight_hh_l0.npy": npy((1 << 40,))})
    script = """
import sys
from fastrnn.weights import from_npz
from tests.processes import limited_memory
with limited_memory(128 << 20):
    for path in sys.argv[1:]:
        try:
            from_npz(path)
        except ValueError as error:
            print(error)
"""
    printed = run_python(script, str(bomb), str(liar)).splitlines()
    assert len(printed) == 2 and "would inflate to" in printed[0] and "takes 4398046511104 bytes" in printed[1]


def test_layers_on_a_gpu_come_and_go(tmp_path):
    """On the stand-in for CuPy: parameters are copied from and to the device, also where they are bfloat16."""
    pytest.importorskip("ml_dtypes", reason="bfloat16 is a dtype of ml_dtypes")
    path = tmp_path / "x"
    with stand_in.installed() as cupy:
        layer = fastrnn.GRU(3, 4, device="cuda", dtype="bfloat16", seed=0)
        to_safetensors(layer, path)
        assert SafetensorsFile(path).dtype("weight_hh_l0") == "BF16"
        again = from_safetensors(path, device="cuda", dtype="bfloat16")
        assert repr(again) == repr(layer)
        want = cupy.asnumpy(layer.flat_params).astype(np.float32)
        np.testing.assert_array_equal(cupy.asnumpy(again.flat_params).astype(np.float32), want)
        np.testing.assert_array_equal(from_safetensors(path).flat_params, want)
        to_npz(layer, path)
        np.testing.assert_array_equal(from_npz(path, reset_after=False).flat_params, want)
        values, lengths = np.arange(24.0).reshape(4, 3, 2), np.array([2, 4, 0])
        for array, batch_first in ((values, False), (values.swapaxes(0, 1), True)):
            got = turned(cupy.asarray(array), lengths, batch_first, cupy)
            np.testing.assert_array_equal(cupy.asnumpy(got), turned(array, lengths, batch_first))


def test_importing_loads_no_other_library(tmp_path):
    run_python(
        """
import sys
import fastrnn
def loaded():
    return {name.partition(".")[0] for name in sys.modules}
others = {"torch", "keras", "onnx", "onnxruntime", "safetensors", "jax", "tensorflow", "cupy", "numba"}
assert not others & loaded()
assert not {"fastrnn.weights", "fastrnn.onnx"} & set(sys.modules)
import fastrnn.weights
assert not others & loaded(), others & loaded()
layer = fastrnn.LSTM(2, 3)
fastrnn.weights.from_torch(dict(layer.params))
fastrnn.weights.from_keras(*fastrnn.weights.to_keras_weights(layer))
fastrnn.weights.to_safetensors(layer, sys.argv[1])
fastrnn.weights.from_safetensors(sys.argv[1])
assert not others & loaded(), others & loaded()
""",
        str(tmp_path / "x"),
    )


@pytest.mark.parametrize("path", [True, 1, 2, None, 1.5, "a\0b"])
def test_a_number_is_no_path(path, capfd):
    """``open`` would take 1, and True, for the process's standard output."""
    layer = fastrnn.GRU(2, 3, seed=0)
    for write in (to_npz, to_safetensors):
        with pytest.raises((TypeError, ValueError), match="path must"):
            write(layer, path)
    for read in (from_npz, from_safetensors):
        with pytest.raises((TypeError, ValueError), match="path must"):
            read(path)
    assert capfd.readouterr() == ("", "")
