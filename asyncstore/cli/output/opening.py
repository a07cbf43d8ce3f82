"""Who may read the files that a run makes, where the umask does not say less: openers for `open`."""

from __future__ import annotations

import functools
import os
import stat
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

_OWNER: Final = 0o600
_EVERYBODY: Final = 0o666


def for_owner(path: str, flags: int) -> int:
    """Only the owner may read a new file: paths may contain the names of patients. An earlier one keeps its mode."""
    return os.open(path, flags, _OWNER)


def in_place_of(earlier: str) -> Callable[[str, int], int]:
    """The same for a new file that replaces an earlier one."""
    try:
        mode = stat.S_IMODE(os.stat(earlier).st_mode)
    except OSError:
        mode = _OWNER
    return functools.partial(os.open, mode=mode)


def for_everybody(path: str, flags: int) -> int:
    """Programs of other users read the file, and it has numbers only."""
    return os.open(path, flags, _EVERYBODY)
