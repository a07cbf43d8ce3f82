"""Tells a thread that had to wait from one that was only paused, as on a busy machine."""

from __future__ import annotations

import itertools

try:
    import resource as _usage

    _usage.RUSAGE_THREAD  # noqa: B018  (not on macOS)
except (ImportError, AttributeError):
    _usage = None  # type: ignore[assignment]

_count = itertools.count()


def waits_so_far() -> int:
    """How often this thread has waited for something; one more with each call if the system cannot tell.

    Elapsed time would not do: on a busy machine a thread is also paused while it reads from memory.
    """
    if _usage is None:
        return next(_count)
    return _usage.getrusage(_usage.RUSAGE_THREAD).ru_nvcsw
