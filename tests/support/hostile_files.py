"""Files and archives that somebody made to do harm, in a harmless form: each tries one guard, and none is large."""

from __future__ import annotations

import gzip
import io
import os
import socket
import struct
import tarfile
import zlib
from typing import TYPE_CHECKING, Final, NamedTuple

from asyncstore.uids import (
    CT_IMAGE_STORAGE,
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    MEDIA_STORAGE_DIRECTORY,
)
from tests.support import files
from tests.support.archives import dicom, write_tar, write_zip
from tests.support.transfers import uid_of

if TYPE_CHECKING:
    from pathlib import Path

SCREEN: Final = "\x1b[2J\x1b]0;x\x07"
"""It clears a terminal and renames its window, if it is printed as it is."""
MARKUP: Final = "[bold]x<script>alert(1)<&"

_UNDEFINED: Final = 0xFFFFFFFF
_ITEM: Final = struct.pack("<HHI", 0xFFFE, 0xE000, _UNDEFINED)
_ITEM_END: Final = struct.pack("<HHI", 0xFFFE, 0xE00D, 0)
_SEQUENCE_END: Final = struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)


class Case(NamedTuple):
    """A file, and what becomes of it: sent as it is, and converted."""

    content: bytes
    plain: str
    converted: str


def long_header(tag: int, vr: bytes, length: int) -> bytes:
    """The header of an element with a length of four bytes, in Explicit VR Little Endian."""
    return struct.pack("<HH2sHI", tag >> 16, tag & 0xFFFF, vr, 0, length)


def nested(depth: int, tag: int = 0x00081140) -> bytes:
    """A sequence in a sequence in a sequence ..."""
    return (long_header(tag, b"SQ", _UNDEFINED) + _ITEM) * depth + (_ITEM_END + _SEQUENCE_END) * depth


def deflated(data: bytes) -> bytes:
    deflater = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    return deflater.compress(data) + deflater.flush()


class _Tree:
    """Cases, each with a SOP Instance UID of its own."""

    def __init__(self) -> None:
        self.cases: dict[bytes, Case] = {}

    def add(
        self,
        name: str | bytes,
        plain: str,
        converted: str,
        *,
        more: bytes = b"",
        first: bytes = b"",
        body: bytes | None = None,
        meta: bytes | None = None,
        syntax: str = EXPLICIT_VR_LITTLE_ENDIAN,
        content: bytes | None = None,
    ) -> None:
        uid = uid_of(1000 + len(self.cases))
        if content is None:
            meta = files.file_meta(syntax, sop_instance_uid=uid) if meta is None else meta
            body = first + files.data_set(sop_instance_uid=uid, more=more) if body is None else body
            content = files.dicom_file(meta=meta, body=body)
        self.cases[os.fsencode(name)] = Case(content, plain, converted)


def _nesting(tree: _Tree) -> None:
    tree.add("deep.dcm", "stored", "source-problem", more=nested(20_000))
    tree.add("deep-first.dcm", "stored", "source-problem", first=nested(20_000, 0x00080001))
    tree.add("deep-open.dcm", "stored", "source-problem", more=nested(20_000)[: 20_000 * 20])
    inner = b""
    for _ in range(2_000):
        inner = struct.pack("<HHI", 0xFFFE, 0xE000, len(inner)) + inner
        inner = struct.pack("<HHI", 0x0008, 0x1140, len(inner)) + inner
    uids = files.bare(0x00080016, files.uid(CT_IMAGE_STORAGE)) + files.bare(0x00080018, files.uid(uid_of(900)))
    tree.add("deep-defined.dcm", "stored", "source-problem", body=uids + inner, syntax=IMPLICIT_VR_LITTLE_ENDIAN)
    odd = nested(100) + files.element(0x00204000, b"LT", b"odd")
    tree.add("deep-odd.dcm", "stored", "source-problem", more=odd)


def _lengths(tree: _Tree) -> None:
    for number, length in enumerate((0xFFFFFFFE, 0x7FFFFFFF)):
        pixels = long_header(0x7FE00010, b"OW", length) + bytes(64)
        tree.add(f"pixels-{number}.dcm", "stored", "source-problem", more=pixels)
        first = long_header(0x00080001, b"UN", length)
        tree.add(f"first-{number}.dcm", "stored", "source-problem", first=first)
        group = files.element(0x00020000, b"UL", struct.pack("<I", length))
        tree.add(f"meta-length-{number}.dcm", "stored", "stored", meta=group + files.file_meta()[12:])
        version = long_header(0x00020001, b"OB", length) + b"\0\1"
        tree.add(f"meta-past-end-{number}.dcm", "source-problem", "source-problem", meta=group + version)
    meta = files.element(0x00020000, b"UL", struct.pack("<I", 20)) + struct.pack("<HH2sH", 2, 2, b"UI", 0xFFFF)
    tree.add("meta-uid.dcm", "source-problem", "source-problem", content=bytes(128) + b"DICM" + meta + b"1.2")


def _vrs(tree: _Tree) -> None:
    unknown = files.element(0x00100020, b"ZZ", b"1234") + files.element(0x00100030, b"\0\0", b"12")
    tree.add("vr-unknown.dcm", "stored", "stored", more=unknown)
    tree.add("vr-escape.dcm", "stored", "stored", more=files.element(0x00100030, b"\x1b[", b"12"))
    uids = files.element(0x00080016, b"OB", files.uid(CT_IMAGE_STORAGE))
    tree.add("vr-wrong.dcm", "stored", "stored", body=uids + files.element(0x00080018, b"UN", files.uid(uid_of(901))))


def _deflated(tree: _Tree) -> None:
    data = files.data_set(sop_instance_uid=uid_of(902), more=long_header(0x7FE00010, b"OW", 0xFFFFFFF0))
    syntax = DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN
    tree.add("bomb.dcm", "stored", "source-problem", body=deflated(data + bytes(8 << 20)), syntax=syntax)
    tree.add("deflated-cut.dcm", "source-problem", "source-problem", body=deflated(data)[:20], syntax=syntax)


def _names(tree: _Tree) -> None:
    for name in (
        *(f"{SCREEN}.dcm", "new\nline.dcm", "cr\rE: no.dcm", f"{MARKUP}.dcm", "\u202egpj.dcm", "\u2028\x85.dcm"),
        *("=cmd|'calc'!A0.dcm", "@SUM(1).dcm", "-r", "%s%n{0}.dcm", " .dcm", "a!.dcm"),
        *(b"\xff\xfe\x9b2J.dcm", b"\x7f\x08\x01.dcm"),
    ):
        tree.add(name, "stored", "stored")
        damaged = bytes(128) + b"DICM" + files.file_meta()[:40]
        tree.add(b"damaged" + os.fsencode(name), "source-problem", "source-problem", content=damaged)
        tree.add(b"other" + os.fsencode(name), "skipped", "skipped", content=b"not DICOM" * 40)


def _values(tree: _Tree) -> None:
    """Elements with escape sequences and markup in the values that are shown."""
    hostile = f"1.2{SCREEN[:4]}{MARKUP[:14]}"
    uid = uid_of(903)
    tree.add("meta-class.dcm", "stored", "stored", meta=files.file_meta(sop_class_uid=hostile))
    tree.add("meta-uid-differs.dcm", "stored", "stored", meta=files.file_meta(sop_instance_uid=hostile))
    body = files.data_set("=1+1<b>[red]", uid_of(904))
    tree.add("class.dcm", "stored", "stored", body=body, meta=files.file_meta(sop_class_uid="=1+1<b>[red]"))
    body = files.data_set(CT_IMAGE_STORAGE, hostile)
    tree.add("uid.dcm", "source-problem", "source-problem", body=body)
    meta = files.file_meta("[red]<b>1.2", sop_instance_uid=uid)
    tree.add("syntax.dcm", "no-context", "no-context", body=files.data_set(sop_instance_uid=uid), meta=meta)
    values = files.element(0x00080060, b"CS", f"{SCREEN[:4]}<b>".encode())
    values += files.element(0x0020000D, b"UI", f"{hostile}".encode())
    tree.add("study.dcm", "stored", "stored", more=values)


def cases() -> dict[bytes, Case]:
    """Files by name."""
    tree = _Tree()
    for add in (_nesting, _lengths, _vrs, _deflated, _names, _values):
        add(tree)
    return tree.cases


def write_tree(folder: Path) -> None:
    """The files of `cases`, and what is not a file."""
    folder.mkdir()
    for name, case in cases().items():
        with open(os.path.join(os.fsencode(folder), name), "wb") as file:
            file.write(case.content)
    for link, target in (("loop", "loop"), ("a", "b"), ("b", "a"), (f"dangling{SCREEN}", "nowhere"), ("self", ".")):
        (folder / link).symlink_to(target)
    os.mkfifo(folder / f"fifo{SCREEN}")
    with socket.socket(socket.AF_UNIX) as server:
        here = os.open(folder, os.O_RDONLY)
        try:
            server.bind(f"/proc/self/fd/{here}/socket")  # the path of a socket is short
        finally:
            os.close(here)


# -- archives ----------------------------------------------------------------------------------------------------------


def _zip_entry(name: bytes, size: int, compressed: int, at: int, *, method: int = 0, crc: int = 0) -> bytes:
    fields = (b"PK\1\2", 20, 20, 0, method, 0, 0, crc, compressed, size, len(name), 0, 0, 0, 0, 0, at)
    return struct.pack("<4sHHHHHHLLLHHHHHLL", *fields) + name


def _zip_file(before: bytes, entries: list[bytes]) -> bytes:
    directory = b"".join(entries)
    count = len(entries) & 0xFFFF
    return before + directory + struct.pack("<4sHHHHLLH", b"PK\5\6", 0, 0, count, count, len(directory), len(before), 0)


def _zip_local(name: bytes, data: bytes) -> bytes:
    fields = (b"PK\3\4", 20, 0, 0, 0, 0, zlib.crc32(data), len(data), len(data), len(name), 0)
    return struct.pack("<4sHHHHHLLLHH", *fields) + name + data


def tar_header(name: bytes, size: bytes, kind: bytes = b"0") -> bytes:
    block = bytearray(512)
    block[: len(name)] = name
    block[100:108] = b"0000644\0"
    block[124:136] = size.ljust(12, b"\0")
    block[156:157] = kind
    block[257:265] = b"ustar\x0000"
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


_ENDLESS: Final = b"\x80" + (1 << 80).to_bytes(11, "big")


def _hostile_zips(folder: Path) -> None:
    outside = {"../../out.dcm": dicom(1), "/out.dcm": dicom(2), "C:\\out.dcm": dicom(3), "..\\out.dcm": dicom(4)}
    write_zip(folder / "outside.zip", {**outside, f"{SCREEN}\n=1.dcm": dicom(5), f"{MARKUP}.dcm": dicom(6)})
    data = dicom(7)
    local = _zip_local(b"a.dcm", data)
    size = len(data)
    one = _zip_entry(b"a.dcm", size, size, 0, crc=zlib.crc32(data))
    same = [one.replace(b"a.dcm", b"%05d" % number) for number in range(20_000)]
    (folder / "overlapping.zip").write_bytes(_zip_file(local, same))
    empty = [_zip_entry(b"%d.dcm" % number, 0, 0, 0) for number in range(20_000)]
    (folder / "many.zip").write_bytes(_zip_file(local, empty))
    folders = [_zip_entry(b"%d/" % number, 0, 0, 0) for number in range(20_000)]
    (folder / "folders.zip").write_bytes(_zip_file(local, folders))
    lies = [
        _zip_entry(b"longer.dcm", 0xFFFFFFF0, size, 0, method=8),
        _zip_entry(b"shorter.dcm", 10, size, 0, method=8),
        _zip_entry(b"beyond.dcm", size, size, 0xFFFFFFF0),
        _zip_entry(b"elsewhere.dcm", size, size, 3),
        _zip_entry(b"n" * 60_000, size, size, 0),
    ]
    (folder / "lying.zip").write_bytes(_zip_file(local + bytes(5 * size), lies))


def _hostile_tars(folder: Path) -> None:
    write_tar(folder / "outside.tar", {"../../out.dcm": dicom(8), "/out.dcm": dicom(9), f"{SCREEN}.dcm": dicom(10)})
    with tarfile.open(folder / "links.tar", "w") as archive:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.GNUTYPE_SPARSE):
            info = tarfile.TarInfo(f"kind-{kind.decode()}")
            info.type, info.linkname = kind, "../../../../etc/hostname"
            archive.addfile(info)
        data = dicom(11)
        info = tarfile.TarInfo("plain.dcm")
        info.size = len(data)
        archive.addfile(info, io.BytesIO(data))
    (folder / "endless.tar").write_bytes(tar_header(b"a.dcm", _ENDLESS) + bytes(1024))
    (folder / "endless-names.tar").write_bytes(tar_header(b"a.dcm", _ENDLESS, b"x") + bytes(1024))
    records = b"5020 size=" + b"9" * 5009 + b"\n"
    pax = tar_header(b"x", b"%011o\0" % len(records), b"x") + records.ljust(5120, b"\0")
    (folder / "long-number.tar").write_bytes(pax + tar_header(b"a.dcm", b"%011o\0" % 0) + bytes(1024))
    write_tar(
        folder / "long-names.tgz", {f"{'x' * 500_000}{number}": dicom(number) for number in (12, 13)}, mode="w:gz"
    )
    with gzip.open(folder / "cut.tgz", "wb") as file:
        file.write(tar_header(b"a.dcm", _ENDLESS) + bytes(8 << 20))


def _hostile_media(folder: Path) -> None:
    def write(name: str, records: bytes, length: int = _UNDEFINED, syntax: str = EXPLICIT_VR_LITTLE_ENDIAN) -> None:
        (folder / name).mkdir()
        body = long_header(0x00041220, b"SQ", length) + records
        body = deflated(body) if syntax == DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN else body
        meta = files.file_meta(syntax, MEDIA_STORAGE_DIRECTORY)
        (folder / name / "DICOMDIR").write_bytes(files.dicom_file(meta=meta, body=body))

    def record(file_id: bytes) -> bytes:
        content = files.element(0x00041500, b"CS", file_id)
        return struct.pack("<HHI", 0xFFFE, 0xE000, len(content)) + content

    write("outside", record(b"..\\..\\OUT ") + record(b"\\OUT") + record(SCREEN.encode()) + _SEQUENCE_END)
    write("many", (record(b"")[:8][:4] + bytes(4)) * 100_000 + _SEQUENCE_END)
    write("endless", record(b"OUT "), 0xFFFFFFF0)
    write("deep", _ITEM + nested(20_000))
    write("long", record(b"A\\" * 30_000) + _SEQUENCE_END)
    write("bomb", bytes(8 << 20), 0xFFFFFFF0, DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN)


def write_archives(folder: Path) -> list[Path]:
    """Archives and media; the paths to name."""
    folder.mkdir()
    _hostile_zips(folder)
    _hostile_tars(folder)
    _hostile_media(folder)
    return [path / "DICOMDIR" if path.is_dir() else path for path in sorted(folder.iterdir())]
