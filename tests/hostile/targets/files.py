"""Layers and models in files: safetensors, npz, and what fastrnn.nn saves."""

from __future__ import annotations

import contextlib
import os
import tempfile

from fastrnn import nn, weights
from tests.hostile.targets.common import H, V, fresh, numbers, target


@contextlib.contextmanager
def _folder():
    """Names of files are made in a folder of their own. What the system says of a name is a right error."""
    before = os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            yield folder
        except OSError:
            pass
        finally:
            os.chdir(before)


def within_a_folder(run):
    def call(**arguments):
        with _folder():
            return run(**arguments)
        return ()

    return call


@target("path=paths layer=option prefix=option")
def to_safetensors(s):
    def run(path, layer, prefix):
        weights.to_safetensors(layer, path, prefix=prefix)
        return weights.from_safetensors(path).flat_params

    return {"path": "a.safetensors", "layer": fresh(s), "prefix": ""}, within_a_folder(run)


@target("path=paths layer=option prefix=option")
def to_npz(s):
    layer = fresh(s)
    options = {name: getattr(layer, name) for name in layer._cell_defaults}

    def run(path, layer, prefix):
        weights.to_npz(layer, path, prefix=prefix)
        return weights.from_npz(path, **options).flat_params

    return {"path": "a.npz", "layer": layer, "prefix": ""}, within_a_folder(run)


_READ = "path=paths into=option prefix=option"
_OPTIONS = " reset_after=option coupled=option dtype=option bias=option bidirectional=option batch_first=option"


@target(_READ + _OPTIONS)
def from_safetensors(s):
    s = s._replace(cell="gru_reset_after")
    return _reading(s, weights.to_safetensors, weights.from_safetensors)


@target(_READ + _OPTIONS)
def from_npz(s):
    s = s._replace(cell="gru_reset_after")
    return _reading(s, weights.to_npz, weights.from_npz)


def _reading(s, write, read):
    """Of a file that is there under the good path."""

    def run(path, into, prefix, coupled, **options):
        write(fresh(s), "good", prefix="a.b.")
        options |= {} if coupled is None else {"coupled": coupled}
        made = read(path, prefix=prefix, **({"into": into} if into is not None else options))
        return made.flat_params

    given = {"path": "good", "into": None, "prefix": "a.b.", "reset_after": True, "coupled": None, "dtype": s.dtype}
    return given | {"bias": True, "bidirectional": False, "batch_first": False}, within_a_folder(run)


@target("path=paths part=option notes=option device=option other=option weight=floats", accepted={
    "floats": "other_byte_order other_float pretender no_array",
}, also="mapping")  # fmt: skip
def nn_saving(s):
    def run(path, part, notes, device, other, weight):
        if part is None:
            part = nn.Model(layer=fresh(s), output=nn.Linear(H, V, dtype=s.dtype, seed=1))
            part.output.load_params({"weight": weight, "bias": numbers(V)})
        nn.save(path, part, notes=notes)
        nn.read_notes(path)
        made = nn.load(path, device=device)
        nn.load_into(path, made if other is None else other)
        return list(made.params.values())

    given = {"path": "m.safetensors", "part": None, "notes": {"a": [1, 2]}, "device": "cpu", "other": None}
    return given | {"weight": numbers(V, H, dtype=s.dtype)}, within_a_folder(run)
