"""How many descriptors this process has open, where the system tells."""

from __future__ import annotations

import os
from typing import Final

import pytest

_OPEN: Final = "/proc/self/fd"

counts_descriptors = pytest.mark.skipif(not os.path.isdir(_OPEN), reason=f"counts descriptors in {_OPEN}")
"""For the tests that call `descriptors`."""


def descriptors() -> int:
    """The number of open file descriptors."""
    return len(os.listdir(_OPEN))
