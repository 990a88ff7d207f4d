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


@pytest.mark.parametrize("numbers", [[2, -1], [3], [2**70], [1.0], [True], "1", [[1]], [1, [2]], 5, None])
def test_numbers_of_no_symbol_are_refused(numbers):
    with pytest.raises((TypeError, ValueError), match="numbers"):
        nn.Vocabulary("abc").decode(numbers)


def test_what_has_numbers():
    vocabulary = nn.Vocabulary("abc")
    for numbers in ([2, 0], (2, 0), np.array([2, 0], np.uint8), iter([2, 0]), range(2, -1, -2)):
        assert vocabulary.decode(numbers) == ["c", "a"]
    assert vocabulary.decode([]) == []
