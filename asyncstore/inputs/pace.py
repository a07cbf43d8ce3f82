"""Where files are read: in the event loop while that is quick, by threads while it is not."""

from __future__ import annotations

import itertools
import math
from typing import Final

try:
    import resource as _usage

    _usage.RUSAGE_THREAD  # noqa: B018  (not on macOS)
except (ImportError, AttributeError):
    _usage = None  # type: ignore[assignment]


# Opening and reading a small file that is in memory takes about 0.03 ms; 1 ms is more than a thread costs.
_SLOW_SECONDS_PER_FILE: Final = 0.001
_QUICK_SECONDS_PER_FILE: Final = 0.0005
# While threads read, a few files are tried in the event loop now and then, further apart each time that they were slow:
# a thread has to wait for its turn at the interpreter, so how long it took says little about the files.
PROBE_FILES: Final = 2
_FIRST_PROBE_SECONDS: Final = 0.25
_LAST_PROBE_SECONDS: Final = 16.0
# Threads that read: few where a file takes microseconds, since they and the event loop take turns at the interpreter
# (60,000 that were not in memory took 0.044 ms each with 2 threads and 0.052 ms with 4); many where each call waits for
# a disk or a network, however slow.
_FEW_READERS: Final = 2
MANY_READERS: Final = 16
_DISTANT_SECONDS_PER_FILE: Final = 0.002
# A thread gets many files at once: each hand-over costs about 0.1 ms, and a disk that knows what will be read next
# reads small files in a sixth of the time. Where a file takes long, a few are enough to wait for.
BATCH_FILES: Final = 64
_FEW_FILES: Final = 4


_count = itertools.count()


def waits_so_far() -> int:
    """How often this thread gave up the processor by itself, to wait; always 1 more where the system cannot tell.

    Time alone would not do: on a busy machine a thread is also made to pause while it reads from memory.
    """
    if _usage is None:
        return next(_count)
    return _usage.getrusage(_usage.RUSAGE_THREAD).ru_nvcsw


class Pace:
    """Says where files are to be read: in the event loop while they are quick (`is_cold` False), else by threads.

    So many `readers` then, each with so many `files_at_once`.
    """

    def __init__(self) -> None:
        self.is_cold = True  # until the first batch has shown otherwise: the first open may hang
        self.readers = _FEW_READERS
        self.files_at_once = _FEW_FILES
        self._probe_seconds = _FIRST_PROBE_SECONDS
        self._probe_at = math.inf

    def wants_probe(self, now: float) -> bool:
        """Whether it is time to try some files in the event loop again."""
        return now >= self._probe_at

    def read_slice(self, now: float, files: int, seconds: float, *, missed: int, waited: bool) -> None:
        """Files were read in the event loop; `missed` more were not in memory, and are left to a thread.

        `waited` says that the event loop's thread had to wait for something meanwhile.
        """
        if missed > files or (waited and seconds > files * _SLOW_SECONDS_PER_FILE):
            self._become_cold(now)
        elif files >= PROBE_FILES:
            self.is_cold = False
            self._probe_seconds = _FIRST_PROBE_SECONDS

    def read_batch(self, now: float, fastest_seconds: float, *, all_in_memory: bool) -> None:
        """Files were read by a thread, the fastest in that time: that one had to wait least for the interpreter."""
        is_distant = fastest_seconds > _DISTANT_SECONDS_PER_FILE
        self.readers = MANY_READERS if is_distant else _FEW_READERS
        self.files_at_once = _FEW_FILES if is_distant else BATCH_FILES
        if all_in_memory and fastest_seconds < _QUICK_SECONDS_PER_FILE:
            self.is_cold = False
        elif self._probe_at == math.inf:
            self._become_cold(now)

    def _become_cold(self, now: float) -> None:
        self.is_cold = True
        self._probe_at = now + self._probe_seconds
        self._probe_seconds = min(2 * self._probe_seconds, _LAST_PROBE_SECONDS)
