"""Decides where files are opened and read: in the event loop while that is quick, in threads while it is not."""

from __future__ import annotations

import math
from typing import Final

# Opening and reading a small file that is in memory takes about 0.03 ms; 1 ms is more than a thread costs.
_SLOW_SECONDS_PER_FILE: Final = 0.001
_QUICK_SECONDS_PER_FILE: Final = 0.0005
# While threads read, the event loop tries a few files now and then, at longer intervals each time they are slow. The
# time of a thread says little about the files, since it includes waiting for the interpreter.
PROBE_FILES: Final = 2
_FIRST_PROBE_SECONDS: Final = 0.25
_LAST_PROBE_SECONDS: Final = 16.0
# Reader threads: few if a file takes microseconds, since they take turns with the event loop at the interpreter (60,000
# files that were not in memory took 0.044 ms each with 2 threads, 0.052 ms with 4); many if each call waits for a disk
# or a network.
_FEW_READERS: Final = 2
MANY_READERS: Final = 16
_DISTANT_SECONDS_PER_FILE: Final = 0.002
# A thread gets many files at once: handing over costs about 0.1 ms, and a disk that knows what will be read next reads
# small files in a sixth of the time. If a file takes long, a thread gets only a few.
BATCH_FILES: Final = 64
_FEW_FILES: Final = 4


class Pace:
    """Decides where to read files: in the event loop while they are quick, with the help of threads while `is_cold`.

    `opens_ahead`: a thread opens them, and the event loop reads them when the disk has brought them. Otherwise threads
    do both: `readers` is their number, `files_at_once` the number of files that each gets.
    """

    def __init__(self) -> None:
        self.is_cold: bool = True  # until the first batch has shown otherwise: the first open may hang
        self.opens_ahead: bool = False
        self.readers: int = _FEW_READERS
        self.files_at_once: int = _FEW_FILES
        self._probe_seconds = _FIRST_PROBE_SECONDS
        self._probe_at = math.inf

    def wants_probe(self, now: float) -> bool:
        """Whether the event loop should try some files again."""
        return now >= self._probe_at

    def read_slice(
        self, now: float, files: int, seconds: float, *, missed: int, waited: bool, is_ahead: bool = False
    ) -> None:
        """Note that the event loop read `files`, and that `missed` more were not in memory and go to a thread.

        `waited` says that the thread of the event loop had to wait for something meanwhile, `is_ahead` that the files
        were opened ahead: that they are in memory then says nothing about others.
        """
        if waited and seconds > files * _SLOW_SECONDS_PER_FILE:
            self.opens_ahead = False
            self._become_cold(now)
        elif is_ahead:
            return
        elif missed > files:
            self.opens_ahead = True
            self._become_cold(now)
        elif files >= PROBE_FILES:
            self.is_cold = False
            self._probe_seconds = _FIRST_PROBE_SECONDS

    def opened(self, fastest_seconds: float) -> None:
        """Note that a thread opened files ahead; the fastest of them waited least for the interpreter."""
        if fastest_seconds > _DISTANT_SECONDS_PER_FILE:
            self._be_distant(True)

    def read_batch(self, now: float, fastest_seconds: float, *, all_in_memory: bool) -> None:
        """Note that a thread read files; the fastest of them waited least for the interpreter.

        A file that was not in memory shows that the system can tell: the event loop will not wait for one.
        """
        is_distant = fastest_seconds > _DISTANT_SECONDS_PER_FILE
        self.opens_ahead = not all_in_memory
        self._be_distant(is_distant)
        if all_in_memory and fastest_seconds < _QUICK_SECONDS_PER_FILE:
            self.is_cold = False
        elif self._probe_at == math.inf:
            self._become_cold(now)

    def _be_distant(self, is_distant: bool) -> None:
        self.opens_ahead = self.opens_ahead and not is_distant
        self.readers = MANY_READERS if is_distant else _FEW_READERS
        self.files_at_once = _FEW_FILES if is_distant else BATCH_FILES

    def _become_cold(self, now: float) -> None:
        self.is_cold = True
        self._probe_at = now + self._probe_seconds
        self._probe_seconds = min(2 * self._probe_seconds, _LAST_PROBE_SECONDS)
