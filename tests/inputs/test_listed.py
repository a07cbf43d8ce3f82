"""Lists of paths: read as they come, and bounded whatever comes."""

from __future__ import annotations

import io
import os
import tracemalloc

import pytest

from asyncstore.inputs.listed import listed_paths
from tests.support import command


class Endless(io.BytesIO):
    """So many bytes of a path that does not end, and then a path."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self._left = length

    def read1(self, size: int | None = -1, /) -> bytes:
        assert size
        if self._left > 0:
            self._left -= size
            return b"x" * size
        rest, self._left = (b"\nfine.dcm\n", -1) if self._left == 0 else (b"", -1)
        return rest


def test_what_is_no_list_of_paths_takes_no_memory_and_the_next_path_is_read() -> None:
    tracemalloc.start()
    try:
        long, fine = listed_paths(Endless(32 << 20), ends_in_nul=False)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert fine == "fine.dcm"
    assert 4096 < len(long) < 1 << 20  # the system takes no such name
    assert peak_bytes < 4 << 20


@pytest.mark.parametrize("end", [b"\n", b"\0"])
def test_paths_are_kept_byte_for_byte(end: bytes) -> None:
    given = [b"/a/\xff\x1b", b"b c", b"x" * 4096]
    paths = listed_paths(io.BytesIO(end.join(given)), ends_in_nul=end == b"\0")
    assert [os.fsencode(path) for path in paths] == given


def test_a_line_that_is_too_long_is_one_line_of_the_log_and_a_failure() -> None:
    done = command.run("storescu", "--files-from", "-", "localhost", 1, stdin=b"y" * 300_000 + b"\n/nowhere\n")
    assert done.returncode == 3
    assert "File name too long" in done.stderr
    assert "/nowhere" in done.stderr
    assert max(map(len, done.stderr.splitlines())) < 5000
