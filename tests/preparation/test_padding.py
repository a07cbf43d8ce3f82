"""Padding: a data set of odd length gets one byte, in the value that is odd, and nothing else changes."""

from __future__ import annotations

import io
import itertools
import struct
import tracemalloc
import warnings
from typing import TYPE_CHECKING, Final

import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncstore.errors import SourceChanged
from asyncstore.instances.source import BytesSource, FileSource
from asyncstore.preparation import padding
from asyncstore.preparation.padded_source import PaddedSource
from asyncstore.preparation.padding import padded
from asyncstore.uids import (
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_BIG_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
)
from tests.support.files import bare, data_set, dicom_file, element, file_meta, read_all

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from asyncstore.instances.source import DataSource

JPEG: Final = "1.2.840.10008.1.2.4.50"
UNDEFINED: Final = b"\xff\xff\xff\xff"
END: Final = bytes.fromhex("feffdde000000000")
END_OF_ITEM: Final = bytes.fromhex("feff0de000000000")


def item(content: bytes, length: bytes = b"") -> bytes:
    return b"\xfe\xff\x00\xe0" + (length or struct.pack("<I", len(content))) + content


def undefined(tag: int, vr: bytes, content: bytes) -> bytes:
    """An element of undefined length; without a VR for an implicit data set."""
    return (element(tag, vr, b"") if vr else bare(tag, b""))[:-4] + UNDEFINED + content + END


def big(tag: int, vr: bytes, value: bytes) -> bytes:
    head = struct.pack(">HH2s", tag >> 16, tag & 0xFFFF, vr)
    return head + (struct.pack(">HI", 0, len(value)) if vr == b"OB" else struct.pack(">H", len(value))) + value


def pixels(*fragments: bytes, table: Sequence[int] = ()) -> bytes:
    offsets = struct.pack(f"<{len(table)}I", *table)
    return undefined(0x7FE00010, b"OB", item(offsets) + b"".join(map(item, fragments)))


def offset_table(*offsets: int) -> bytes:
    """An Extended Offset Table; its VR, OV, has the long form of header."""
    value = struct.pack(f"<{len(offsets)}Q", *offsets)
    return struct.pack("<HH2sHI", 0x7FE0, 0x0001, b"OV", 0, len(value)) + value


NAME: Final = element(0x00100010, b"PN", b"Doe^Jane")
EXPLICIT: Final = EXPLICIT_VR_LITTLE_ENDIAN
IMPLICIT: Final = IMPLICIT_VR_LITTLE_ENDIAN
BIG: Final = EXPLICIT_VR_BIG_ENDIAN

# The transfer syntax, an odd data set, and the same as it is sent.
ODD: Final[dict[str, tuple[str, bytes, bytes]]] = {
    "pixel data": (
        EXPLICIT,
        NAME + element(0x7FE00010, b"OB", bytes(15)),
        NAME + element(0x7FE00010, b"OB", bytes(16)),
    ),
    "pixel data, implicit": (IMPLICIT, bare(0x7FE00010, b"\1" * 15), bare(0x7FE00010, b"\1" * 15 + b"\0")),
    "pixel data, big endian": (BIG, big(0x7FE00010, b"OB", b"\1" * 3), big(0x7FE00010, b"OB", b"\1\1\1\0")),
    "unknown": (EXPLICIT, element(0x00091001, b"UN", b"abc"), element(0x00091001, b"UN", b"abc\0")),
    "a text": (EXPLICIT, element(0x00081030, b"LO", b"ABC"), element(0x00081030, b"LO", b"ABC ")),
    "a text, implicit": (IMPLICIT, bare(0x00081030, b"ABC"), bare(0x00081030, b"ABC ")),
    "a text, big endian": (BIG, big(0x00081030, b"LO", b"ABC"), big(0x00081030, b"LO", b"ABC ")),
    "a UID": (EXPLICIT, element(0x0020000D, b"UI", b"1.2"), element(0x0020000D, b"UI", b"1.2\0")),
    "a UID, implicit": (IMPLICIT, bare(0x0020000D, b"1.2"), bare(0x0020000D, b"1.2\0")),
    "a private creator, implicit": (IMPLICIT, bare(0x00090010, b"ABC"), bare(0x00090010, b"ABC ")),
    "private, implicit": (IMPLICIT, bare(0x00091001, b"ABC"), bare(0x00091001, b"ABC\0")),
    "a VR that is none": (
        EXPLICIT,
        element(0x00091001, b"??", b"abc") + NAME,
        element(0x00091001, b"??", b"abc\0") + NAME,
    ),
    "the last of three": (
        EXPLICIT,
        element(0x00080050, b"SH", b"A") + element(0x00080090, b"PN", b"B") + element(0x00081030, b"LO", b"C") + NAME,
        element(0x00080050, b"SH", b"A") + element(0x00080090, b"PN", b"B") + element(0x00081030, b"LO", b"C ") + NAME,
    ),
    "group lengths": (
        EXPLICIT,
        element(0x00080000, b"UL", b"\x0d\0\0\0") + element(0x00080050, b"SH", b"ACC01") + NAME,
        element(0x00080000, b"UL", b"\x0e\0\0\0") + element(0x00080050, b"SH", b"ACC01 ") + NAME,
    ),
    "a sequence": (
        EXPLICIT,
        element(0x00081140, b"SQ", item(b"") + item(NAME + element(0x00101010, b"AS", b"010"))) + NAME,
        element(0x00081140, b"SQ", item(b"") + item(NAME + element(0x00101010, b"AS", b"010 "))) + NAME,
    ),
    "a sequence in a sequence": (
        IMPLICIT,
        bare(0x00081140, item(bare(0x00081140, item(bare(0x00080100, b"T")) + item(b"")))),
        bare(0x00081140, item(bare(0x00081140, item(bare(0x00080100, b"T ")) + item(b"")))),
    ),
    "an item without a length": (
        EXPLICIT,
        element(
            0x00081140,
            b"SQ",
            item(element(0x00080100, b"SH", b"T"), b"")[:4]
            + UNDEFINED
            + element(0x00080100, b"SH", b"T")
            + END_OF_ITEM,
        ),
        element(0x00081140, b"SQ", item(b"")[:4] + UNDEFINED + element(0x00080100, b"SH", b"T ") + END_OF_ITEM),
    ),
    "a sequence without a length": (
        EXPLICIT,
        undefined(0x00081140, b"SQ", item(element(0x00080100, b"SH", b"T"))) + NAME,
        undefined(0x00081140, b"SQ", item(element(0x00080100, b"SH", b"T "))) + NAME,
    ),
    "an unknown sequence, whose items are implicit": (
        EXPLICIT,
        element(0x00091001, b"UN", item(bare(0x00080100, b"T"))),
        element(0x00091001, b"UN", item(bare(0x00080100, b"T "))),
    ),
    "what only begins like items": (
        EXPLICIT,
        element(0x00091001, b"UN", item(b"T")[:-1] + b"\1"),
        element(0x00091001, b"UN", item(b"T")[:-1] + b"\1\0"),
    ),
    "the last fragment": (JPEG, NAME + pixels(b"\1\2", b"\3"), NAME + pixels(b"\1\2", b"\3\0")),
    "a fragment before others": (
        JPEG,
        pixels(b"\1", b"\2\3", b"\4\5", table=(0, 9, 19)),
        pixels(b"\1\0", b"\2\3", b"\4\5", table=(0, 10, 20)),
    ),
    "a fragment with an extended table": (
        JPEG,
        offset_table(0, 9) + pixels(b"\1", b"\2\3"),
        offset_table(0, 10) + pixels(b"\1\0", b"\2\3"),
    ),
    "fragments without a delimiter": (JPEG, NAME + pixels(b"\3")[:-8], NAME + pixels(b"\3\0")[:-8]),
    "a trailing element": (
        JPEG,
        pixels(b"\3\4") + element(0xFFFCFFFC, b"OB", b"\0"),
        pixels(b"\3\4") + element(0xFFFCFFFC, b"OB", b"\0\0"),
    ),
}

NOT_UNDERSTOOD: Final[dict[str, tuple[str, bytes]]] = {
    "the value is cut off": (EXPLICIT, element(0x7FE00010, b"OB", bytes(16))[:-1]),
    "the header is cut off": (EXPLICIT, NAME + b"\xe0\x7f\x10"),
    "a byte behind the end": (EXPLICIT, NAME + b"\0"),
    "no end of a sequence": (EXPLICIT, undefined(0x00081140, b"SQ", item(b"T"))[:-8]),
    "no end of an item": (EXPLICIT, element(0x00081140, b"SQ", item(b"T"))[:-9] + UNDEFINED + b"T"),
    "a sequence of no items": (EXPLICIT, element(0x00081140, b"SQ", b"abc")),
    "a delimiter between elements": (EXPLICIT, END + element(0x00081030, b"LO", b"ABC")),
    "fragments that are none": (JPEG, pixels(b"\1")[:12] + NAME + b"\0" + END),
    "an item longer than its sequence": (EXPLICIT, element(0x00081140, b"SQ", item(b"T")[:-1]) + b"T"),
    "the longest text": (EXPLICIT, element(0x00204000, b"LT", b" " * 0xFFFF)),
    "nested too deep": (
        EXPLICIT,
        (element(0x00081140, b"SQ", b"")[:-4] + UNDEFINED + item(b"", UNDEFINED)) * 100
        + element(0x00081030, b"LO", b"ABC")
        + (END_OF_ITEM + END) * 100,
    ),
}


def in_file(path: Path, data: bytes) -> FileSource:
    path.write_bytes(b"before" + data)
    return FileSource(str(path), 6, len(data), 6 + len(data), path.stat().st_mtime_ns)


@pytest.fixture(params=["in memory", "in a file"])
def is_in_file(request: pytest.FixtureRequest) -> bool:
    return bool(request.param == "in a file")


@pytest.mark.parametrize("name", ODD)
def test_the_last_odd_value_is_padded_and_the_lengths_around_it_grow(
    name: str, is_in_file: bool, tmp_path: Path
) -> None:
    transfer_syntax_uid, data, sent = ODD[name]
    assert len(data) % 2 == 1
    source: DataSource = in_file(tmp_path / "a", data) if is_in_file else BytesSource(data)
    result = padded(source, transfer_syntax_uid)
    assert read_all(result) == sent
    assert result.length_bytes == len(sent) == len(data) + 1
    assert result.view() is None
    assert read_all(source) == data
    result.let_go()
    result.close()
    assert read_all(result) == sent
    result.close()


@pytest.mark.parametrize("name", NOT_UNDERSTOOD)
def test_what_is_not_understood_to_its_end_stays_as_it_is(name: str, is_in_file: bool, tmp_path: Path) -> None:
    transfer_syntax_uid, data = NOT_UNDERSTOOD[name]
    assert len(data) % 2 == 1
    source: DataSource = in_file(tmp_path / "a", data) if is_in_file else BytesSource(data)
    assert padded(source, transfer_syntax_uid) is source
    source.close()


@pytest.mark.parametrize("transfer_syntax_uid", [EXPLICIT, IMPLICIT, JPEG])
def test_an_even_data_set_is_not_looked_at(transfer_syntax_uid: str) -> None:
    source = BytesSource(b"no data set!")
    assert padded(source, transfer_syntax_uid) is source


def test_a_deflated_data_set_is_not_looked_at() -> None:
    source = BytesSource(b"\1\2\3")
    assert padded(source, DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN) is source


def test_pydicom_reads_the_same_values_from_it() -> None:
    for name, (transfer_syntax_uid, data, sent) in ODD.items():
        found = []
        for body in (data, sent):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found.append(pydicom.dcmread(io.BytesIO(dicom_file(meta=file_meta(transfer_syntax_uid), body=body))))
        assert list(found[0].keys()) == list(found[1].keys()), name


@given(cuts=st.lists(st.integers(0, 40), max_size=6), at=st.integers(0, 39), where=st.integers(0, 36))
def test_it_is_read_in_any_pieces(cuts: list[int], at: int, where: int) -> None:
    data = bytes(range(39))
    replacement = b"\xf0\xf1\xf2"
    source = PaddedSource(BytesSource(data), at, b"\xff", [(where, replacement)])
    changed = data[:where] + replacement + data[where + 3 :]
    expected = changed[:at] + b"\xff" + changed[at:]
    assert source.length_bytes == 40
    edges = sorted({0, 40, *cuts})
    # Each part in a call of its own, in two holes.
    found = b""
    for begin, end in itertools.pairwise(edges):
        room = bytearray(end - begin)
        middle = len(room) // 2
        holes = [memoryview(room)[:middle], memoryview(room)[middle:]]
        assert source.read_into(holes, begin)
        found += room
    assert found == expected
    # All parts in one call.
    room = bytearray(40)
    holes = [memoryview(room)[begin:end] for begin, end in itertools.pairwise(edges)]
    assert source.read_into(holes, 0)
    assert room == expected


def test_of_a_large_file_only_headers_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixel_bytes = 3 << 30
    head = data_set(more=element(0x7FE00010, b"OB", b""))[:-4] + struct.pack("<I", pixel_bytes)
    tail = element(0xFFFCFFFC, b"OB", b"\1")
    length = len(head) + pixel_bytes + len(tail)
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.write(head)
        file.seek(pixel_bytes, io.SEEK_CUR)  # a hole in the file takes no room
        file.write(tail)
    source = FileSource(str(path), 0, length, length, path.stat().st_mtime_ns)
    read = 0
    read_into = FileSource.read_into

    def counted(self: FileSource, holes: Sequence[memoryview], offset: int, *, wait: bool = True) -> bool:
        nonlocal read
        read += sum(map(len, holes))
        return read_into(self, holes, offset, wait=wait)

    monkeypatch.setattr(FileSource, "read_into", counted)
    result = padded(source, EXPLICIT)
    assert result.length_bytes == length + 1
    assert read < 16384
    end = bytearray(16)
    assert result.read_into((memoryview(end),), result.length_bytes - 16)
    assert end.endswith(element(0xFFFCFFFC, b"OB", b"\1\0"))
    source.close()


def test_what_is_not_in_memory_is_left_to_a_thread() -> None:
    class Cold(BytesSource):
        def read_into(self, holes: Sequence[memoryview], offset: int, *, wait: bool = True) -> bool:
            return wait and super().read_into(holes, offset, wait=wait)

    source = PaddedSource(Cold(b"abc"), 3, b"\0", ())
    room = bytearray(4)
    assert not source.read_into((memoryview(room),), 0, wait=False)
    assert source.read_into((memoryview(room),), 0)
    assert room == b"abc\0"


def test_a_file_that_changed_is_not_padded(tmp_path: Path) -> None:
    source = in_file(tmp_path / "a", element(0x00081030, b"LO", b"ABC"))
    (tmp_path / "a").write_bytes(b"another")
    with pytest.raises(SourceChanged):
        padded(source, EXPLICIT)


def test_a_large_table_of_offsets_grows_in_little_memory() -> None:
    count = 500_000
    fragments = item(b"odd") + item(b"even")
    table = [0] + [11] * (count - 1)
    body = data_set(more=undefined(0x7FE00010, b"OB", item(struct.pack(f"<{count}I", *table)) + fragments))
    source = BytesSource(body)
    tracemalloc.start()
    try:
        sent = padded(source, JPEG)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak_bytes < 20 << 20
    at = body.index(item(b"odd")) - 4 * count
    grown = struct.unpack_from(f"<{count}I", read_all(sent), at)
    assert grown[:2] == (0, 12)
    assert set(grown[1:]) == {12}


def test_a_table_as_long_as_no_images_is_left_and_so_is_the_data_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(padding, "_LONGEST_TABLE_BYTES", 4)
    source = BytesSource(data_set(more=pixels(b"odd", b"even", table=(0, 11))))
    assert padded(source, JPEG) is source
