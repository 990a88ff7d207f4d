"""What tests of the CUDA backend share."""

from __future__ import annotations

import pytest

from tests.cuda import stand_in


@pytest.fixture
def cupy():
    """The stand-in, in CuPy's place for the test: two devices. Writes beside arrays fail the test at its end."""
    with stand_in.installed(devices=2) as module:
        yield module
