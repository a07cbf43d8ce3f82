"""Runs asyncstore with a slow disk under it: every open and every read of a file below a directory takes 10 ms.

    python benchmarks/slow_files.py --root DIR -- storescu -r -j 8 127.0.0.1 11112 DIR
    python benchmarks/slow_files.py --smoke       checks the delays themselves

It stands for a share or a disk whose data is not in memory: `preadv` with RWF_NOWAIT answers EAGAIN, as the kernel does
then, and any other open or read blocks the thread that asked. Only files below --root are slow; modules are not.

`--inline` is the variant to compare with: RWF_NOWAIT is ignored, so that a caller that tries without waiting first
reads right there, 10 ms long, and what makes asyncstore leave slow files to threads is switched off. Every open and
every read then takes place in the event loop.
"""

from __future__ import annotations

import argparse
import builtins
import errno
import io
import os
import runpy
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if not __package__:
    # The project comes first, and this directory's profile.py must not stand for Python's own.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

if TYPE_CHECKING:
    from types import ModuleType

_NO_WAIT: Final = getattr(os, "RWF_NOWAIT", 0)


class SlowFiles:
    """Replaces the functions that open and read files by slow ones; `install` it before asyncstore is imported."""

    def __init__(self, root: str, delay_seconds: float, *, inline: bool) -> None:
        self.root = os.fsencode(os.path.abspath(root))
        self.delay_seconds = delay_seconds
        self.inline = inline
        self.slow: set[int] = set()
        self.real_open = os.open
        self.real_close = os.close
        self.real_file_open = builtins.open

    def install(self) -> None:
        """Replace os.open, os.close, os.read, os.readv, os.pread, os.preadv and the built-in open."""
        replacements: list[tuple[ModuleType, str, Any]] = [
            (os, "open", self._open),
            (os, "close", self._close),
            (builtins, "open", self._file_open),
            (io, "open", self._file_open),
        ]
        for module, name, function in replacements:
            setattr(module, name, function)
        for name in ("read", "readv", "pread", "preadv"):
            if hasattr(os, name):
                setattr(os, name, self._reader(getattr(os, name)))

    def _is_slow(self, path: Any) -> bool:
        if isinstance(path, int):
            return path in self.slow
        return os.path.abspath(os.fsencode(path)).startswith(self.root)

    def _open(self, path: Any, flags: int, *rest: Any, **named: Any) -> int:
        slow = self._is_slow(path) and not flags & getattr(os, "O_DIRECTORY", 0)
        if slow:
            time.sleep(self.delay_seconds)
        descriptor = self.real_open(path, flags, *rest, **named)
        if slow:
            self.slow.add(descriptor)
        return descriptor

    def _close(self, descriptor: int) -> None:
        # Before the close: afterwards another thread may have got the same number for a file of its own.
        self.slow.discard(descriptor)
        self.real_close(descriptor)

    def _file_open(self, path: Any, *rest: Any, **named: Any) -> Any:
        if not isinstance(path, int) and self._is_slow(path):
            # The file object reads by itself, out of reach from here: its first read is paid for with the open.
            time.sleep(2 * self.delay_seconds)
        return self.real_file_open(path, *rest, **named)

    def _reader(self, real: Any) -> Any:
        takes_flags = real is getattr(os, "preadv", None)

        def read(descriptor: int, *rest: Any) -> Any:
            if descriptor in self.slow:
                flags = rest[2] if takes_flags and len(rest) > 2 else 0
                if flags & _NO_WAIT:
                    if not self.inline:
                        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
                    rest = (*rest[:2], flags & ~_NO_WAIT)
                time.sleep(self.delay_seconds)
            return real(descriptor, *rest)

        return read


def read_inline() -> None:
    """Have asyncstore take every file for a quick one, and read no more often than threads do."""
    from asyncstore.inputs import feed
    from asyncstore.inputs.pace import Pace
    from asyncstore.net import source_reader as reads
    from asyncstore.upper_layer import framing

    class NeverCold(Pace):
        def __init__(self) -> None:
            super().__init__()
            self.is_cold = False

        def _become_cold(self, now: float) -> None:
            pass

    vars(feed)["Pace"] = NeverCold
    vars(reads)["_SLOW_READ_SECONDS"] = float("inf")
    vars(framing)["RUN_BYTES"] = framing.LONG_RUN_BYTES


def smoke() -> int:
    """Check that a slow file is slow, that RWF_NOWAIT answers EAGAIN, and that other files are not touched."""
    with tempfile.TemporaryDirectory() as root:
        path = Path(root, "file")
        path.write_bytes(b"data")
        SlowFiles(root, 0.05, inline=False).install()
        started = time.perf_counter()
        descriptor = os.open(path, os.O_RDONLY)
        data = os.read(descriptor, 4)
        slow_seconds = time.perf_counter() - started
        refused = not _NO_WAIT
        try:
            os.preadv(descriptor, [bytearray(4)], 0, _NO_WAIT)
        except BlockingIOError:
            refused = True
        os.close(descriptor)
        started = time.perf_counter()
        Path(__file__).read_bytes()
        fast_seconds = time.perf_counter() - started
    print(f"slow open and read {slow_seconds * 1e3:.1f} ms, another file {fast_seconds * 1e3:.2f} ms")
    print(f"read without waiting: {'EAGAIN' if refused else 'data'}")
    return 0 if data == b"data" and refused and slow_seconds >= 0.1 > fast_seconds else 1


def main() -> int:
    """Make files slow, then become `python -m asyncstore`."""
    parser = argparse.ArgumentParser(description="Run asyncstore with a slow disk under it.")
    parser.add_argument("--root", help="only files below this directory are slow")
    parser.add_argument("--delay", type=float, default=0.010, metavar="SECONDS", help="of an open or read (0.010)")
    parser.add_argument("--inline", action="store_true", help="let reads that must not wait read all the same")
    parser.add_argument("--smoke", action="store_true", help="check the delays, run nothing")
    parser.add_argument("arguments", nargs="*", metavar="-- ARGUMENT", help="asyncstore's own arguments")
    arguments = parser.parse_args()
    if arguments.smoke:
        return smoke()
    if arguments.root is None or not arguments.arguments:
        parser.error("--root DIR and asyncstore's arguments are needed")
    SlowFiles(arguments.root, arguments.delay, inline=arguments.inline).install()
    if arguments.inline:
        read_inline()
    sys.argv = ["asyncstore", *arguments.arguments]
    runpy.run_module("asyncstore", run_name="__main__", alter_sys=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
