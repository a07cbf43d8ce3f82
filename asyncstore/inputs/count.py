"""Counts the files of an input without opening one: a program of its own, so that sending does not wait for it.

It reads a Request as JSON from stdin, walks as the feed does, and writes lines to stdout: the number of entries so far
and their bytes; the last line ends with a third word. It takes the lowest priority, writes a line several times a
second, whatever the walk is doing, and so ends soon after its reader has gone.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import sys
from dataclasses import asdict, field, replace
from typing import TYPE_CHECKING, Final, cast

from asyncstore.inputs.listed import listed_paths
from asyncstore.inputs.own_files import OwnFiles
from asyncstore.inputs.selection import Choice, Selection
from asyncstore.inputs.walk import walk
from asyncstore.record import record

if TYPE_CHECKING:
    from collections.abc import Iterator

    from asyncstore.instances.problem import ScanProblem

_LINE_SECONDS: Final = 0.25
_LOWEST_PRIORITY: Final = 19
_EVERYTHING: Final = Selection()


@record(frozen=True, slots=True)
class Request:
    """What is to be counted: paths, and those in the file `listed`, each ended by NUL or a newline.

    `own_files` are those that the run itself writes. Of a `selection` that opens files nothing can be counted.
    """

    paths: list[str]
    recursive: bool
    listed: str | None = None
    ends_in_nul: bool = False
    own_files: tuple[str, ...] = ()
    selection: Selection = field(default_factory=Selection)

    def to_json(self) -> bytes:
        """The request for the program; undecodable bytes of a path survive as lone surrogates."""
        return json.dumps(asdict(self)).encode("ascii")

    @classmethod
    def from_json(cls, data: bytes) -> Request:
        request = json.loads(data)
        return cls(**request | {"selection": Selection(**request["selection"])})


def found(request: Request) -> Iterator[str | ScanProblem]:
    """All that the feed of a run will find and take, in some order: files, and paths that cannot be read."""
    selection = replace(request.selection, order="found")
    if request.listed is None:
        yield from _found(request.paths, selection, recursive=request.recursive)
        return
    # A directory may be listed again on purpose: the feed does not remember which it has walked either.
    with open(request.listed, "rb") as stream:
        for path in itertools.chain(request.paths, listed_paths(stream, ends_in_nul=request.ends_in_nul)):
            yield from _found([path], selection, recursive=request.recursive)


def _found(paths: list[str], selection: Selection, *, recursive: bool) -> Iterator[str | ScanProblem]:
    if selection == _EVERYTHING:
        yield from walk(paths, recursive=recursive)
        return
    from asyncstore.inputs.entry import FileEntry, entries_of

    for entry in entries_of(paths, recursive=recursive, walked={}, choice=Choice.of(selection)):
        yield entry.name if isinstance(entry, FileEntry) else cast("ScanProblem", entry.read_head())


class Tally:
    """Counts entries and their bytes, and writes a line whenever it is asked to."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._entries = 0
        self._size_bytes = 0

    def count(self, request: Request) -> None:
        """Count all."""
        own_files = OwnFiles(request.own_files) if request.own_files else None
        for path in found(request):
            if type(path) is str:
                if own_files is not None and path in own_files:
                    continue
                try:
                    size_bytes = os.stat(path).st_size
                except OSError:  # it has gone: the feed will say so
                    size_bytes = 0
                self._size_bytes += size_bytes
            self._entries += 1

    def write(self, end: str = "") -> None:
        """Write a line; ends the program if nobody reads it."""
        try:
            os.write(self._descriptor, f"{self._entries} {self._size_bytes}{end}\n".encode("ascii"))
        except OSError:
            os._exit(1)


def main() -> None:
    """Count what stdin asks for."""
    with contextlib.suppress(OSError):
        os.nice(_LOWEST_PRIORITY)
    request = Request.from_json(sys.stdin.buffer.read())
    tally = Tally(sys.stdout.fileno())
    if hasattr(signal, "setitimer"):
        signal.signal(signal.SIGALRM, lambda *_: tally.write())
        signal.setitimer(signal.ITIMER_REAL, _LINE_SECONDS, _LINE_SECONDS)
    tally.count(request)
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, 0)  # no line comes after the last one
    tally.write(" end")


if __name__ == "__main__":
    main()
