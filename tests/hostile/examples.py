"""Drawing a public function and hostile arguments for it, and judging what comes of the call."""

from __future__ import annotations

import re
import sys
import warnings
from typing import Any

import numpy as np
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from tests.cases import DTYPES, LAYERS
from tests.hostile.forms import FORMS, REFUSED, SAME, plain
from tests.hostile.targets import TARGETS, Setting

__all__ = ["check", "examples", "run"]


@st.composite
def examples(draw, cells=tuple(LAYERS), dtypes=DTYPES):
    """A target, a setting, and one to three of its arguments with the forms that they take."""
    name = draw(st.sampled_from(sorted(TARGETS)))
    bits = draw(st.integers(0, 15))
    setting = Setting(
        draw(st.sampled_from(cells)), draw(st.sampled_from(dtypes)), bool(bits & 1), bool(bits & 2), bool(bits & 4),
        1 + bool(bits & 8),
    )  # fmt: skip
    kinds = TARGETS[name].kinds
    chosen = draw(st.lists(st.sampled_from(sorted(kinds)), min_size=1, max_size=3, unique=True))
    changes = [
        (argument, draw(st.integers(0, len(FORMS[kinds[argument]]) - 1)), draw(st.integers(0, 1000)))
        for argument in chosen
    ]
    return name, setting, changes


def check(example: Any) -> None:
    """Make the call; AssertionError unless it ends as it must."""
    name, setting, changes = example
    target = TARGETS[name]
    arguments = target.arguments(setting)
    expected, made = [], []
    for argument, number, k in changes:
        form = FORMS[target.kinds[argument]][number]
        if argument not in arguments or not form.applies(arguments[argument]):
            continue
        if form.name == "huge" and (target.patient or not target.exact):
            continue
        arguments[argument] = form.make(arguments[argument], k)
        made.append(argument)
        lenient = form.name in target.accepted.get(target.kinds[argument], ())
        refused = argument == "out" and form.name == "read_only"
        expected.append("any" if lenient else REFUSED if refused else form.expected)
    if not made:
        return
    copies = {argument: plain(value) for argument, value in arguments.items()}
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        got = _called(target, setting, arguments, made)
        what = f"{name}, {setting}, {[(a, FORMS[target.kinds[a]][n].name, k) for a, n, k in changes]}"
        if isinstance(got, Exception):
            refused = all(e == SAME for e in expected)
            assert not refused, f"{what}: refused: {got!r}"
            return
        assert REFUSED not in expected, f"{what}: accepted"
        want = _called(target, setting, copies, made)
    assert not isinstance(want, Exception), f"{what}: accepted, but not as plain arrays: {want!r}"
    _assert_same(_arrays(got), _arrays(want), target.exact, what)


def _called(target, setting, arguments, made):
    """What the call returns, or its error if that is a right one."""
    try:
        return target.call(setting, arguments)
    except (TypeError, ValueError) as error:
        words = re.findall(r"\w+", str(error))
        names = {name for argument in arguments for name in (argument, argument.rstrip("s"))}
        names |= set(target.also)
        # Parts of an argument have names of their own; what a size contradicts may be named instead.
        assert names & set(words), f"an error that names no argument of {sorted(names)}: {error!r}"
        return error
    except MemoryError as error:
        return error
    except OverflowError as error:
        raise AssertionError(f"{error!r} for {made}") from error


def _arrays(value: Any) -> list[np.ndarray]:
    if isinstance(value, (tuple, list)):
        return [array for part in value for array in _arrays(part)]
    if value is None:
        return []
    return [np.asarray(value)]


def _assert_same(got, want, exact, what):
    assert len(got) == len(want), what
    for mine, theirs in zip(got, want, strict=True):
        assert mine.shape == theirs.shape and mine.dtype == theirs.dtype, what
        if exact or mine.dtype.kind != "f":
            assert mine.tobytes() == theirs.tobytes(), what
        else:
            tolerance = 1e-4 if mine.dtype == np.float32 else 1e-11
            np.testing.assert_allclose(mine, theirs, rtol=tolerance, atol=tolerance, err_msg=what)


def run(number: int, count: int) -> None:
    """So many examples from a seed, in this process; prints a line every now and then, as the last before a death."""
    made = 0

    @seed(number)
    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(examples())
    def chunk(example):
        nonlocal made
        made += 1
        if made % 100 == 0:
            print(made, example, flush=True)
        check(example)

    chunk()
    print(f"{made} examples")


if __name__ == "__main__":
    run(int(sys.argv[1]), int(sys.argv[2]))
