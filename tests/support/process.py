"""What this process has open and started, where the system tells."""

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


def children(process: int = 0) -> set[int]:
    """The process IDs of the children of a process (0: this one), zombies among them."""
    own = process or os.getpid()
    found = set()
    for name in filter(str.isdecimal, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat") as file:
                parent = int(file.read().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
        if parent == own:
            found.add(int(name))
    return found
