"""Symbols to numbers and back."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from fastrnn import nn


def test_there_and_back():
    vocabulary = nn.Vocabulary.of(["tree", "art"], ends=True)
    assert tuple(vocabulary) == ("<bos>", "<eos>", "a", "e", "r", "t")
    tokens, lengths = vocabulary.batch(["tea", "", "rat"])
    assert lengths.tolist() == [4, 1, 4] and tokens.shape == (4, 3)
    assert tokens[:, 1].tolist() == [vocabulary.eos, 0, 0, 0]
    assert ["".join(vocabulary.decode(row)) for row in tokens.T] == ["tea", "", "rat"]
    plain = nn.Vocabulary("abc")
    assert plain.batch(["cab", "a"])[0].tolist() == [[2, 0], [0, 0], [1, 0]]
    assert plain.batch([])[0].shape == (0, 0)
    assert pickle.loads(pickle.dumps(vocabulary)).encode("tar").tolist() == vocabulary.encode("tar").tolist()
    assert vocabulary.encode("").dtype == np.int64


def test_what_is_refused():
    with pytest.raises(ValueError, match=r"symbol 'x' at position 2 is not in the vocabulary"):
        nn.Vocabulary("abc").encode("abx")
    with pytest.raises(ValueError, match=r"symbols must differ, got 'a' at 0 and 2"):
        nn.Vocabulary("aba")
    with pytest.raises(TypeError, match=r"symbols must be strings, got symbols\[1\] = 3"):
        nn.Vocabulary(["a", 3])
    with pytest.raises(KeyError):
        nn.Vocabulary("abc").eos  # noqa: B018
