"""Data sources: every byte where it belongs, on every system, and a clear word when the file is another by now."""

from __future__ import annotations

import errno
import os
import threading
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from asyncstore.errors import SourceChanged
from asyncstore.instances import source
from asyncstore.instances.source import BytesSource, DataSource, FileSource, HeldSource
from tests.support.files import read_all
from tests.support.process import counts_descriptors, descriptors

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

CONTENT = bytes(range(256)) * 40
OFFSET = 300
LIMIT_SECONDS = 60.0


def file_source(path: Path, offset: int = OFFSET, length: int | None = None, *, padding_bytes: int = 0) -> FileSource:
    status = path.stat()
    if length is None:
        length = status.st_size - offset
    return FileSource(str(path), offset, length, status.st_size, status.st_mtime_ns, padding_bytes=padding_bytes)


def held_source(path: Path, *, padding_bytes: int = 0) -> HeldSource:
    status = path.stat()
    held = bytearray(path.read_bytes() + bytes(padding_bytes))
    length = status.st_size - OFFSET
    return HeldSource(str(path), OFFSET, length, status.st_size, status.st_mtime_ns, held, padding_bytes=padding_bytes)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "instance"
    path.write_bytes(CONTENT)
    return path


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sizes=st.lists(st.integers(0, 700), max_size=12), offset=st.integers(0, 1000), wait=st.booleans())
@example(sizes=[], offset=0, wait=True)
@example(sizes=[1] * 2500, offset=1, wait=True)
@example(sizes=[1] * 2500, offset=1, wait=False)
def test_any_holes_are_filled_in_order(path: Path, system: str, sizes: list[int], offset: int, wait: bool) -> None:
    expected = CONTENT[OFFSET:]
    sources: list[DataSource] = [
        file_source(path),
        BytesSource(CONTENT, OFFSET),
        BytesSource(memoryview(CONTENT), OFFSET, len(CONTENT) - OFFSET),
        held_source(path),
    ]
    for each in sources:
        assert each.length_bytes == len(expected)
        room = bytearray(b"\xee") * (sum(sizes) + len(sizes))
        holes, at = [], 0
        for size in sizes:
            holes.append(memoryview(room)[at : at + size])
            at += size + 1
        assert each.read_into(holes, offset, wait=wait)
        assert b"".join(holes) == expected[offset : offset + sum(sizes)]
        # Between the holes lie the headers.
        gaps = bytes(room[sum(sizes[: n + 1]) + n] for n in range(len(sizes)))
        assert gaps == b"\xee" * len(sizes)
        each.close()


@pytest.mark.parametrize("make", [file_source, lambda _: BytesSource(b"abcd"), held_source])
@pytest.mark.parametrize(("offset", "beyond"), [(0, 1), (-1, 0)])
def test_holes_beyond_the_data_set_are_the_callers_mistake(
    path: Path, make: Callable[[Path], DataSource], offset: int, beyond: int
) -> None:
    each = make(path)
    room = memoryview(bytearray(each.length_bytes + beyond))
    with pytest.raises(ValueError, match=r"bytes -?[0-9]+ to"):
        each.read_into((room,), offset)


@pytest.mark.parametrize(("offset", "length"), [(5, None), (-1, None), (2, 3), (1, -1)])
def test_a_source_of_bytes_that_are_not_there_is_refused(offset: int, length: int | None) -> None:
    with pytest.raises(ValueError, match="of 4 bytes"):
        BytesSource(b"abcd", offset, length)


def test_every_source_can_be_read_again_after_closing(path: Path, system: str) -> None:
    each: DataSource
    for each in (file_source(path), BytesSource(CONTENT, OFFSET), held_source(path)):
        for _ in range(3):
            assert read_all(each) == CONTENT[OFFSET:]
            each.close()
            each.close()


@counts_descriptors
def test_a_file_is_open_only_between_reading_and_closing(path: Path) -> None:
    before = descriptors()
    each = file_source(path)
    assert descriptors() == before
    read_all(each)
    read_all(each)
    assert descriptors() == before + 1
    each.close()
    assert descriptors() == before
    read_all(each)
    del each
    assert descriptors() == before


def test_a_data_set_in_memory_is_one_view_and_no_copy() -> None:
    data = bytearray(b"meta, data set, more")
    each = BytesSource(data, 6, 8)
    whole = each.view()
    assert whole is not None
    assert bytes(whole) == b"data set"
    data[6:10] = b"DATA"
    assert bytes(whole) == b"DATA set"
    each.close()
    assert bytes(each.view() or b"") == b"DATA set"
    assert read_all(each) == b"DATA set"


def test_the_view_of_numbers_is_one_of_bytes() -> None:
    whole = BytesSource(memoryview(bytearray(8)).cast("H"), 2).view()
    assert whole is not None
    assert (whole.format, len(whole)) == ("B", 6)


@pytest.mark.parametrize("padding_bytes", [0, 1])
def test_what_the_scan_read_is_one_view_until_it_is_let_go_and_then_the_file_is_read(
    path: Path, padding_bytes: int
) -> None:
    each = held_source(path, padding_bytes=padding_bytes)
    expected = CONTENT[OFFSET:] + bytes(padding_bytes)
    assert bytes(each.view() or b"") == read_all(each) == expected
    each.let_go()
    assert each.view() is None
    assert each.length_bytes == len(expected)
    for _ in range(2):
        each.let_go()
        assert read_all(each) == expected
        each.close()
    path.write_bytes(b"something else")
    with pytest.raises(SourceChanged):
        read_all(each)


def test_what_is_in_memory_only_is_never_let_go() -> None:
    each = BytesSource(CONTENT, OFFSET)
    each.let_go()
    assert read_all(each) == bytes(each.view() or b"") == CONTENT[OFFSET:]


def test_a_file_has_no_view_even_when_it_was_read(path: Path) -> None:
    each = file_source(path)
    assert each.view() is None
    read_all(each)
    assert each.view() is None
    each.close()


@pytest.mark.parametrize("wait", [True, False])
@pytest.mark.parametrize("cuts", [[], [1], [100], [4, 5], [101], [50, 1, 50]])
def test_a_padding_byte_follows_what_the_file_holds(path: Path, system: str, cuts: list[int], wait: bool) -> None:
    each = file_source(path, len(CONTENT) - 101, 101, padding_bytes=1)
    assert each.length_bytes == 102
    room = bytearray(b"\xee" * 102)
    offset = 0
    for size in [*cuts, 102 - sum(cuts)]:
        assert each.read_into((memoryview(room)[offset : offset + size],), offset, wait=wait)
        offset += size
    assert bytes(room) == CONTENT[-101:] + b"\0"
    each.close()


# What may have become of a file


def test_a_file_that_vanished_is_said_to_have(path: Path, system: str) -> None:
    each = file_source(path)
    path.unlink()
    with pytest.raises(SourceChanged, match="vanished") as caught:
        read_all(each)
    assert isinstance(caught.value.__cause__, FileNotFoundError)
    assert "\n" not in str(caught.value)


def change_size(path: Path) -> None:
    path.write_bytes(CONTENT + b"x")


def change_time(path: Path) -> None:
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1_000_000_000))


@pytest.mark.parametrize(("change", "text"), [(change_size, "size of the file changed"), (change_time, "written to")])
def test_a_file_that_changed_before_it_was_opened_is_not_read(
    path: Path, system: str, change: Callable[[Path], None], text: str
) -> None:
    each = file_source(path)
    change(path)
    with pytest.raises(SourceChanged, match=text):
        read_all(each)
    # Nor is it on the next attempt.
    with pytest.raises(SourceChanged, match=text):
        each.read_into((memoryview(bytearray(1)),), 0, wait=False)


@pytest.mark.parametrize(("change", "text"), [(change_size, "size of the file changed"), (change_time, "written to")])
def test_a_file_that_changed_while_it_was_read_does_not_reach_its_end(
    path: Path, system: str, change: Callable[[Path], None], text: str
) -> None:
    each = file_source(path)
    half = each.length_bytes // 2
    assert each.read_into((memoryview(bytearray(half)),), 0)
    change(path)
    with pytest.raises(SourceChanged, match=text):
        each.read_into((memoryview(bytearray(each.length_bytes - half)),), half)
    each.close()


def test_a_file_that_was_cut_while_it_was_read_is_said_to_be(path: Path, system: str) -> None:
    each = file_source(path)
    assert each.read_into((memoryview(bytearray(100)),), 0)
    os.truncate(path, OFFSET + 150)
    hole = (memoryview(bytearray(100)),)
    if system == "everything":
        # What is not there is not in memory either: the thread that may wait finds out.
        assert not each.read_into(hole, 100, wait=False)
    with pytest.raises(SourceChanged, match="cut after it was scanned") as caught:
        each.read_into(hole, 100)
    assert "\n" not in str(caught.value)
    each.close()


# What the system may answer


class FakePreadv:
    """Stands for os.preadv: fails as told where RWF_NOWAIT is asked for, and gives at most so many bytes a call."""

    def __init__(self, *, nowait: int | BaseException = 1 << 30, at_most: int = 1 << 30) -> None:
        self.nowait = nowait
        self.at_most = at_most
        self.asked_nowait = 0

    def __call__(self, fd: int, holes: Sequence[memoryview], at: int, flags: int = 0) -> int:
        assert len(holes) <= 1024
        limit = self.at_most
        if flags:
            self.asked_nowait += 1
            if isinstance(self.nowait, BaseException):
                raise self.nowait
            limit = self.nowait
        data = os.pread(fd, min(limit, sum(map(len, holes))), at)
        rest = memoryview(data)
        for hole in holes:
            part = rest[: len(hole)]
            hole[: len(part)] = part
            rest = rest[len(part) :]
        return len(data)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Callable[..., FakePreadv]:
    def install(**options: Any) -> FakePreadv:
        preadv = FakePreadv(**options)
        monkeypatch.setattr(source, "preadv", preadv)
        monkeypatch.setattr(source, "rwf_nowait", 8)
        monkeypatch.setattr(source, "devices_without_nowait", set())
        return preadv

    return install


@pytest.mark.parametrize("at_most", [1, 3, 100, 4096])
def test_short_reads_are_carried_on(path: Path, fake: Callable[..., FakePreadv], at_most: int) -> None:
    fake(at_most=at_most)
    each = file_source(path)
    room = bytearray(1000)
    view = memoryview(room)
    assert each.read_into((view[:0], view[:7], view[7:7], view[7:300], view[300:]), 5)
    assert bytes(room) == CONTENT[OFFSET + 5 :][:1000]
    each.close()


@pytest.mark.parametrize("nowait", [BlockingIOError(errno.EAGAIN, "cold"), 10])
def test_bytes_that_are_not_in_memory_are_not_waited_for(
    path: Path, fake: Callable[..., FakePreadv], nowait: int | BaseException
) -> None:
    fake(nowait=nowait)
    each = file_source(path)
    room = bytearray(each.length_bytes)
    assert not each.read_into((memoryview(room),), 0, wait=False)
    assert each.read_into((memoryview(room),), 0)
    assert bytes(room) == CONTENT[OFFSET:]
    each.close()


def test_a_file_system_that_cannot_tell_is_asked_once(path: Path, fake: Callable[..., FakePreadv]) -> None:
    preadv = fake(nowait=OSError(errno.EOPNOTSUPP, "not supported"))
    for _ in range(3):
        each = file_source(path)
        room = bytearray(each.length_bytes)
        assert each.read_into((memoryview(room),), 0, wait=False)
        assert bytes(room) == CONTENT[OFFSET:]
        each.close()
    assert preadv.asked_nowait == 1
    assert source.devices_without_nowait == {path.stat().st_dev}


def test_a_read_error_is_the_systems_own(path: Path, fake: Callable[..., FakePreadv]) -> None:
    fake(nowait=OSError(errno.EIO, "Input/output error"))
    each = file_source(path)
    with pytest.raises(OSError, match="Input/output error"):
        each.read_into((memoryview(bytearray(1)),), 0, wait=False)
    each.close()


def test_that_the_system_will_not_read_ahead_is_no_error(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []

    def fadvise(fd: int, offset: int, length: int, advice: int) -> None:
        asked.append((offset, length))
        raise OSError(errno.ENOSYS, "no")

    monkeypatch.setattr(source, "posix_fadvise", fadvise)
    with path.open("rb") as file:
        source.read_ahead(file.fileno(), OFFSET, 7)
    assert asked == [(OFFSET, 7)]


def test_a_leased_file_is_waited_for(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real_open = os.open

    def leased(name: str, flags: int) -> int:
        if flags & os.O_NONBLOCK:
            raise BlockingIOError(errno.EWOULDBLOCK, "leased")
        return real_open(name, flags)

    monkeypatch.setattr(os, "open", leased)
    each = file_source(path)
    assert read_all(each) == CONTENT[OFFSET:]
    each.close()


def test_a_device_that_would_block_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def blocking(name: str, flags: int) -> int:
        raise BlockingIOError(errno.EWOULDBLOCK, "busy")

    monkeypatch.setattr(os, "open", blocking)
    with pytest.raises(BlockingIOError):
        source.open_for_reading(os.devnull)


class Held:
    """Holds whoever calls it, in a thread, until it is let go."""

    def __init__(self, real: Callable[..., Any]) -> None:
        self.real = real
        self.is_there = threading.Event()
        self.may_go = threading.Event()

    def __call__(self, *arguments: Any) -> Any:
        if threading.current_thread() is threading.main_thread():
            return self.real(*arguments)
        self.is_there.set()
        assert self.may_go.wait(LIMIT_SECONDS)
        return self.real(*arguments)

    def reader_of(self, each: FileSource) -> tuple[threading.Thread, bytearray]:
        """A thread that is held while it reads all of a source, and where it reads it to."""
        room = bytearray(each.length_bytes)
        thread = threading.Thread(target=each.read_into, args=((memoryview(room),), 0))
        thread.start()
        assert self.is_there.wait(LIMIT_SECONDS)
        return thread, room


@counts_descriptors
@pytest.mark.parametrize("where", ["open_for_reading", "preadv"])
def test_a_source_that_is_closed_while_a_thread_reads_from_it_gives_the_right_bytes_and_leaves_nothing_open(
    where: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Held(getattr(source, where))
    monkeypatch.setattr(source, where, held)
    before = descriptors()
    each = file_source(path)
    thread, room = held.reader_of(each)
    each.close()
    others = [os.open(os.devnull, os.O_RDONLY) for _ in range(8)]  # who would get the number of a closed descriptor
    held.may_go.set()
    thread.join(LIMIT_SECONDS)
    for other in others:
        os.close(other)
    assert bytes(room) == CONTENT[OFFSET:]
    assert descriptors() == before


@counts_descriptors
def test_a_source_that_two_read_at_once_serves_both(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = Held(source.preadv)  # type: ignore[arg-type]
    monkeypatch.setattr(source, "preadv", held)
    before = descriptors()
    each = file_source(path)
    thread, room = held.reader_of(each)
    assert read_all(each) == CONTENT[OFFSET:]
    each.close()
    assert descriptors() == before + 1
    held.may_go.set()
    thread.join(LIMIT_SECONDS)
    assert bytes(room) == CONTENT[OFFSET:]
    assert descriptors() == before
