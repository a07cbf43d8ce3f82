"""The members of archives as entries: each with its own head, and with size and time of the archive as its stamp.

A stored member is a part of the archive's file, and is sent as a file is: small ones are read once, large ones go
straight into the wire buffer. A deflated one is inflated piece by piece while it is sent. Only small ones are held in
memory, and nothing is written to disk.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Final

from asyncstore.errors import SourceError
from asyncstore.inputs.archives.archive import (
    LONGEST_NAME,
    Archive,
    Damaged,
    clean_name,
    leads_out,
    member_path,
    unreadable,
)
from asyncstore.inputs.archives.inflate import GZIP, RAW, InflatedSource, Inflater, Start
from asyncstore.inputs.archives.zip_members import LOCAL_BYTES, ZipMember, data_of
from asyncstore.instances.head import (
    HEAD_BYTES,
    SMALL_FILE_BYTES,
    identity_in,
    problem_of_error,
    problem_of_refused,
)
from asyncstore.instances.identity import HEAD_LIMIT_BYTES, Identity, Refused
from asyncstore.instances.instance import Instance
from asyncstore.instances.problem import ProblemKind, ScanProblem
from asyncstore.instances.source import FileSource, HeldPart
from asyncstore.uids import DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN

if TYPE_CHECKING:
    from collections.abc import Callable

    from asyncstore.inputs.archives.tar_members import TarMember
    from asyncstore.instances.source import DataSource

# A member of a stream is held up to this size, since inflating it again means to inflate what is before it, too.
HELD_OF_A_STREAM_BYTES: Final = 1 << 20
# How many deflated bytes must be inflated at most to get where a member begins.
_BETWEEN_STARTS_BYTES: Final = 1 << 20
_SKIPPED_BYTES: Final = 1 << 18


class GzipStream:
    """A file that gzip has deflated: it is read from its beginning to its end, at growing offsets."""

    def __init__(self, archive: Archive) -> None:
        self._inflater = Inflater(archive, Start(0, archive.size_bytes, GZIP))
        self._mark = self._inflater.mark()
        self._marked_at = 0

    def read(self, at: int, length: int) -> bytes:
        """The bytes at an offset that was not passed yet; fewer at the end. Blocks. Raises Damaged."""
        self._inflater.skip_to(at)
        return self._inflater.read(length)

    def skip_rest(self) -> None:
        """Inflate to the end, where the CRC is. Blocks. Raises Damaged."""
        while self._inflater.inflate(_SKIPPED_BYTES):
            pass

    def start_before(self, at: int) -> tuple[Start, int]:
        """A start from which the offset `at`, not passed yet, can be reached again; and how far it is from there.

        Starts are shared: one takes 40 KB while something refers to it.
        """
        mark = self._inflater.mark_after(self._mark.at + _BETWEEN_STARTS_BYTES)
        if mark is not None:
            self._mark, self._marked_at = mark, self._inflater.position
        return self._mark, at - self._marked_at


class MemberEntry:
    """A member of an archive; see Entry. `name` is its path, `inner_name` its name in the archive."""

    __slots__ = ("_archive", "inner_name", "is_named", "name")

    instance: Instance | None = None
    may_contain = False  # an archive in an archive is not opened

    def __init__(self, archive: Archive, name: str) -> None:
        self._archive = archive
        self.inner_name: str = clean_name(name)
        self.name: str = member_path(archive.path, self.inner_name)
        self.is_named: bool = False

    def rename(self, inner_name: str) -> None:
        """Give it another name, as the archive has several members of this one."""
        self.inner_name = inner_name
        self.name = member_path(self._archive.path, inner_name)

    def stamp(self) -> tuple[int, int] | None:
        return self._archive.size_bytes, self._archive.mtime_ns

    def begin_reading(self) -> None:
        """Nothing to do."""

    def read_head(self, *, wait: bool = True, missed: list[str] | None = None) -> Instance | ScanProblem | None:
        try:
            return self._read(wait=wait, missed=missed)
        except Refused as refused:
            return problem_of_refused(self.name, refused)
        except OSError as error:
            return problem_of_error(self.name, error)
        except SourceError as error:
            return unreadable(self.name, str(error))

    def close(self) -> None:
        """Nothing to do."""

    def _read(self, *, wait: bool, missed: list[str] | None) -> Instance | ScanProblem | None:
        raise NotImplementedError

    def _instance(self, identity: Identity, size: int, make_source: Callable[[int, int, int], DataSource]) -> Instance:
        """The instance in `size` bytes; `make_source(begin, length, padding)` makes the source of its data set."""
        begin = identity.data_set_at
        length = size - begin
        padding = length & 1 if identity.transfer_syntax_uid == DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN else 0
        return Instance(
            self.name,
            *identity[:3],
            begin,
            length + padding,
            make_source(begin, length, padding),
            self._archive.size_bytes,
            self._archive.mtime_ns,
            meta_difference=identity.meta_difference,
        )


class RefusedEntry(MemberEntry):
    """A member that is not read, whatever it is; `detail` says why, or with `is_other` what it is."""

    __slots__ = ("_detail", "_is_other")

    def __init__(self, archive: Archive, name: str, detail: str, *, is_other: bool = False) -> None:
        name = name[:LONGEST_NAME]
        super().__init__(archive, name)
        if leads_out(name):  # such a name is shown as it is
            self.name: str = member_path(archive.path, name)
        self._detail = detail
        self._is_other = is_other

    def _read(self, *, wait: bool, missed: list[str] | None) -> ScanProblem:
        problem = unreadable(self.name, self._detail)
        if self._is_other:
            return ScanProblem(self.name, ProblemKind.NOT_A_FILE, f"it is {self._detail}", problem.error)
        return problem


class StoredEntry(MemberEntry):
    """A member that is a part of the archive's file: `size` bytes from the offset `at`."""

    __slots__ = ("_at", "_size")

    def __init__(self, archive: Archive, name: str, at: int, size: int) -> None:
        super().__init__(archive, name)
        self._at = at
        self._size = size

    def begin_reading(self) -> None:
        self._archive.read_ahead(self._at, min(self._size, SMALL_FILE_BYTES) + HEAD_BYTES)

    def _read(self, *, wait: bool, missed: list[str] | None) -> Instance | None:
        archive, at, size = self._archive, self._at, self._size
        if at + size > archive.size_bytes:
            raise Damaged("it is cut off")
        is_small = size <= SMALL_FILE_BYTES
        # One byte more is the zero that pads a deflated stream of odd length.
        data = bytearray(size + 1 if is_small else HEAD_BYTES)
        identity: Identity | None = None
        while identity is None:
            wanted = min(size, len(data))
            if not self._fill(memoryview(data)[:wanted], at, wait, missed):
                return None
            try:
                identity = identity_in(data, wanted, complete=wanted == size)
            except Refused as refused:
                if not refused.more or wanted >= HEAD_LIMIT_BYTES:
                    raise
                data = bytearray(min(size, HEAD_LIMIT_BYTES))
        self._check(data, size)
        stamp = archive.size_bytes, archive.mtime_ns

        def source(begin: int, length: int, padding: int) -> DataSource:
            if is_small:
                return HeldPart(archive.path, at + begin, length, *stamp, data, begin, padding_bytes=padding)
            return FileSource(archive.path, at + begin, length, *stamp, padding_bytes=padding)

        return self._instance(identity, size, source)

    def _fill(self, hole: memoryview, at: int, wait: bool, missed: list[str] | None) -> bool:
        """Fill a hole from an offset of the archive; False if that would have to wait and may not."""
        archive = self._archive
        if not wait or missed is not None:
            got = archive.fill_cached((hole,), at)
            if got == len(hole):
                return True
            if missed is None:
                archive.read_ahead(at, SMALL_FILE_BYTES)
                return False
            missed.append(self.name)
        if archive.fill((hole,), at) < len(hole):
            archive.check_unchanged()
            raise Damaged("it is cut off")
        return True

    def _check(self, data: bytearray, size: int) -> None:
        """Raise an error if these bytes of the member are not what they should be."""
        self._archive.check_unchanged()


class ZipEntry(StoredEntry):
    """A stored member of a ZIP file; a local header of any length precedes it."""

    __slots__ = ("_member",)

    def __init__(self, archive: Archive, member: ZipMember) -> None:
        super().__init__(archive, member.name, member.at, member.size_bytes)
        self._member = member

    def _read(self, *, wait: bool, missed: list[str] | None) -> Instance | None:
        return super()._read(wait=wait, missed=missed) if self._find_data(wait, missed) else None

    def _find_data(self, wait: bool, missed: list[str] | None) -> bool:
        local = bytearray(LOCAL_BYTES)
        if not self._fill(memoryview(local), self._member.at, wait, missed):
            return False
        self._at = data_of(self._archive, self._member, local)
        return True

    def _check(self, data: bytearray, size: int) -> None:
        super()._check(data, size)
        if len(data) > size and zlib.crc32(memoryview(data)[:size]) != self._member.crc:
            raise Damaged("it is damaged: it does not have the CRC that the archive names")


class DeflatedEntry(ZipEntry):
    """A deflated member of a ZIP file."""

    __slots__ = ()

    def begin_reading(self) -> None:
        self._archive.read_ahead(self._at, min(self._member.compressed_bytes, SMALL_FILE_BYTES) + HEAD_BYTES)

    def _read(self, *, wait: bool, missed: list[str] | None) -> Instance | None:
        archive, member, size = self._archive, self._member, self._size
        if not self._find_data(wait, missed):
            return None
        start = Start(self._at, self._at + member.compressed_bytes, RAW)
        held: bytearray | None = None
        if max(size, member.compressed_bytes) <= SMALL_FILE_BYTES:
            held = self._inflated(wait, missed)
            if held is None:
                return None
            identity = identity_in(held, size, complete=True)
        elif wait:
            _, identity = _read_start(Inflater(archive, start).read, size)
        else:
            return None
        archive.check_unchanged()

        def source(begin: int, length: int, padding: int) -> DataSource:
            view = None if held is None else memoryview(held)[begin : begin + length + padding]
            whole = member.size_bytes, member.crc
            return InflatedSource(archive, start, begin, length, padding_bytes=padding, held=view, whole=whole)

        return self._instance(identity, size, source)

    def _inflated(self, wait: bool, missed: list[str] | None) -> bytearray | None:
        """The bytes of a small member, and a zero behind them; None if reading would have to wait and may not."""
        member, size = self._member, self._size
        deflated = bytearray(member.compressed_bytes)
        if not self._fill(memoryview(deflated), self._at, wait, missed):
            return None
        inflater = zlib.decompressobj(RAW)
        try:
            data = bytearray(inflater.decompress(deflated, size + 1))
        except zlib.error as error:
            raise Damaged(f"its deflated data is damaged: {error}") from None
        if len(data) != size or not inflater.eof or zlib.crc32(data) != member.crc:
            raise Damaged("its deflated data is damaged: it does not have the size or the CRC that the archive names")
        return data + b"\0"


class StreamedEntry(MemberEntry):
    """A member of a deflated stream. It is read before the next one is asked for, or not at all."""

    __slots__ = ("_member", "_stream")

    def __init__(self, archive: Archive, member: TarMember, stream: GzipStream) -> None:
        super().__init__(archive, member.name)
        self._member = member
        self._stream = stream

    def _read(self, *, wait: bool, missed: list[str] | None) -> Instance | None:
        archive, member, stream = self._archive, self._member, self._stream
        size = member.size_bytes
        start, distance = stream.start_before(member.at)
        position = member.at

        def read(length: int) -> bytes:
            nonlocal position
            piece = stream.read(position, length)
            position += len(piece)
            return piece

        head, identity = _read_start(read, size)
        held: bytearray | None = None
        if size <= HELD_OF_A_STREAM_BYTES:
            head += read(size - len(head))
            if len(head) < size:
                raise Damaged("it is cut off")
            held = head
            held += b"\0"

        def source(begin: int, length: int, padding: int) -> DataSource:
            view = None if held is None else memoryview(held)[begin : begin + length + padding]
            return InflatedSource(archive, start, distance + begin, length, padding_bytes=padding, held=view)

        return self._instance(identity, size, source)


def _read_start(read: Callable[[int], bytes], size: int) -> tuple[bytearray, Identity]:
    """The beginning of a member of `size` bytes, and the identity of the instance in it; `read` gives the next bytes.

    Raises Refused, and Damaged if there are fewer bytes.
    """
    data = bytearray()
    for limit in (HEAD_BYTES, HEAD_LIMIT_BYTES):
        wanted = min(size, limit)
        data += read(wanted - len(data))
        if len(data) < wanted:
            raise Damaged("it is cut off")
        try:
            return data, identity_in(data, wanted, complete=wanted == size)
        except Refused as refused:
            if not refused.more or limit == HEAD_LIMIT_BYTES:
                raise
    raise AssertionError("the last limit returns or raises")
