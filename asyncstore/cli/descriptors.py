"""How many files and connections this process may have open at once: as many as its associations need.

A process often starts with 1,024, and may raise that by itself as far as the administrator allows (`ulimit -Hn`).
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final

from asyncstore.errors import LocalProtocolError
from asyncstore.transfer import limits

if TYPE_CHECKING:
    from asyncstore.transfer.schedule import Timetable

_PER_ASSOCIATION: Final = 2  # its connection, and the file that is being sent or received
_BESIDE: Final = 64  # the event loop, ledger, report and log, and files whose heads are read


def association_counts(text: str) -> Timetable[int | None]:
    """Read the value of -j. Raises LocalProtocolError, also if the system allows too few open files for it."""
    counts = limits.association_counts(text)
    most = max(count or 0 for _, count in counts.entries)
    needed = _PER_ASSOCIATION * most + _BESIDE
    if most and (allowed := allow(needed)) < needed:
        raise LocalProtocolError(
            f"-j {most} needs {needed:,} open files, and the system allows {allowed:,}: see `ulimit -Hn`"
        )
    return counts


def allow(files: int) -> int:
    """Have the system allow so many open files; returns how many it allows, if these are fewer."""
    try:
        import resource
    except ImportError:  # not on this system
        return files
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= files:
        return files
    soft = files if hard == resource.RLIM_INFINITY else min(files, hard)
    with contextlib.suppress(ValueError, OSError):  # a kernel may have a limit of its own
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
