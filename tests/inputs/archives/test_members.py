"""Members of archives: read where they are, byte by byte as they were packed, and refused in one line where not."""

from __future__ import annotations

import gzip
import os
import random
import struct
import tarfile
import zipfile
import zlib
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from asyncstore import NotDicom, SourceChanged, SourceError, instance_from, scan
from asyncstore.inputs.archives import members
from asyncstore.inputs.archives.archive import clean_name, leads_out
from asyncstore.instances import deflated
from asyncstore.instances import source as source_module
from asyncstore.instances.instance import Instance
from asyncstore.instances.problem import ProblemKind, ScanProblem
from asyncstore.instances.source import FileSource
from asyncstore.uids import DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN
from tests.support import archives, files
from tests.support.archives import KINDS, dicom, write_any, write_same_names, write_tar, write_zip
from tests.support.transfers import uid_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

SMALL, MIDDLE, LARGE = 9_000, 300_000, 3_000_000


def noise(count: int, seed: int = 0) -> bytes:
    return random.Random(f"{count} {seed}").randbytes(count)


def sent(instance: Instance) -> bytes:
    """The bytes of a data set as an association reads them: in runs, from the beginning to the end."""
    source = instance.source
    view = source.view()
    if view is not None:
        return bytes(view)
    data = bytearray(source.length_bytes)
    for at in range(0, len(data), 100_000):
        hole = memoryview(data)[at : at + 100_000]
        half = len(hole) // 2
        assert source.read_into((hole[:half], hole[half:]), at)
    source.close()
    return bytes(data)


def instances_in(path: Path | str) -> dict[str, Instance]:
    """The instances of an archive by name; there is nothing else in it."""
    found = {}
    for each in scan(path):
        assert isinstance(each, Instance), each
        assert each.path is not None
        found[each.path.partition("!/")[2]] = each
    return found


def problems_in(path: Path) -> list[tuple[str, ProblemKind, str]]:
    """What is wrong, as the name of the member, or empty for the archive; kind; and detail."""
    found = (each for each in scan(path) if isinstance(each, ScanProblem))
    return [(each.path.removeprefix(f"{path}").removeprefix("!/"), each.reason, each.detail) for each in found]


CONTENT = {
    "a/small.dcm": dicom(1, pixels=noise(SMALL)),
    "a/middle.dcm": dicom(2, pixels=noise(MIDDLE)),
    "b/large.dcm": dicom(3, pixels=noise(LARGE)),
    "last": dicom(4),
}


@pytest.mark.parametrize("name", KINDS)
def test_each_member_is_the_instance_that_was_packed(name: str, tmp_path: Path) -> None:
    path = write_any(tmp_path / name, CONTENT)
    found = instances_in(path)
    assert found.keys() == CONTENT.keys()
    for number, (member, data) in enumerate(CONTENT.items(), 1):
        instance = found[member]
        assert instance.sop_instance_uid == uid_of(number)
        assert instance.path == f"{path}!/{member}"
        assert (instance.size_bytes, instance.mtime_ns) == (path.stat().st_size, path.stat().st_mtime_ns)
        assert sent(instance) == data[instance.data_set_offset :]
        instance.let_go()
        assert instance.source.view() is None
        assert sent(instance) == data[instance.data_set_offset :]


@pytest.mark.parametrize("name", ["a.stored.zip", "a.tar"])
def test_a_stored_member_is_a_part_of_the_file_and_read_as_a_file_is(name: str, tmp_path: Path) -> None:
    for instance in instances_in(write_any(tmp_path / name, CONTENT)).values():
        assert isinstance(instance.source, FileSource)


@pytest.mark.parametrize("name", KINDS)
def test_no_large_member_is_held_in_memory(name: str, tmp_path: Path) -> None:
    found = instances_in(write_any(tmp_path / name, CONTENT))
    held = {member: getattr(instance.source, "held_bytes", 0) for member, instance in found.items()}
    assert SMALL < held["a/small.dcm"] < 2 * SMALL
    assert held["b/large.dcm"] < 100_000


@pytest.mark.parametrize("name", KINDS)
def test_a_data_set_can_be_read_from_anywhere_and_by_several_at_once(name: str, tmp_path: Path) -> None:
    instance = instances_in(write_any(tmp_path / name, CONTENT))["b/large.dcm"]
    expected = CONTENT["b/large.dcm"][instance.data_set_offset :]
    for at in (2_000_000, 0, 1_000_000, len(expected) - 7, 3):
        hole = bytearray(7)
        assert instance.source.read_into((memoryview(hole),), at)
        assert hole == expected[at : at + 7]
    with pytest.raises(ValueError, match="holes for bytes"):
        instance.source.read_into((memoryview(bytearray(8)),), len(expected) - 7)
    instance.source.close()


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_a_deflated_data_set_of_odd_length_has_its_byte_of_padding(name: str, size: int, tmp_path: Path) -> None:
    for pixels in (noise(size), noise(size - 2), noise(size - 4), noise(size - 6)):
        stream = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        body = stream.compress(files.data_set(more=files.element(0x7FE00010, b"OW", pixels))) + stream.flush()
        if len(body) % 2:
            break
    else:
        body += b"\0"  # then none is needed, and none is there
    meta = files.file_meta(DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN)
    path = write_any(tmp_path / name, {"x": files.dicom_file(meta=meta, body=body)})
    (instance,) = instances_in(path).values()
    for _ in range(2):
        assert sent(instance) == body + b"\0" * (len(body) % 2)
        instance.let_go()


@pytest.mark.parametrize("name", KINDS)
def test_what_is_not_dicom_in_an_archive_is_told_as_in_a_directory(name: str, tmp_path: Path) -> None:
    inner = write_zip(tmp_path / "inner", {"y": dicom(2)}).read_bytes()
    path = write_any(tmp_path / name, {"notes.txt": b"hello", "x": dicom(1), "inner.zip": inner, "empty": b""})
    assert [kind for _, kind, _ in problems_in(path)] == [ProblemKind.NOT_DICOM] * 3
    assert sum(isinstance(each, Instance) for each in scan(path)) == 1


@pytest.mark.parametrize("name", KINDS)
def test_a_name_that_leads_out_is_refused_and_the_rest_is_read(name: str, tmp_path: Path) -> None:
    names = ["/etc/x", "../x", "a/../../x", "\\x", "C:\\x", "a\\..\\x", "./fine", "a//fine", "..fine", "a/fine.."]
    path = write_any(tmp_path / name, {each: dicom(number) for number, each in enumerate(names, 1)})
    outside = "its name leads out of the archive"
    assert problems_in(path) == [(each, ProblemKind.UNREADABLE, outside) for each in names[:6]]
    found = [each.path for each in scan(path) if isinstance(each, Instance)]
    assert found == [f"{path}!/{each}" for each in ("fine", "a/fine", "..fine", "a/fine..")]


@given(st.lists(st.sampled_from(["a", "b.c", "..", ".", "", "..."]), min_size=1, max_size=6))
@example(["a", ""])
def test_only_names_with_a_part_of_two_dots_or_that_are_absolute_lead_out(parts: list[str]) -> None:
    name = "/".join(parts)
    assert leads_out(name) is (".." in parts or name.startswith("/"))
    if not leads_out(name):
        assert clean_name(name) == "/".join(part for part in parts if part not in ("", "."))


# -- one member by its name --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", KINDS)
def test_a_path_with_a_member_is_that_member(name: str, tmp_path: Path) -> None:
    path = write_any(tmp_path / name, {**CONTENT, "notes": b"hello"})
    assert sent(instance_from(f"{path}!/b/large.dcm")) == sent(instances_in(write_any(path, CONTENT))["b/large.dcm"])
    write_any(path, {**CONTENT, "notes": b"hello"})
    with pytest.raises(FileNotFoundError, match="no such member"):
        instance_from(f"{path}!/nothing")
    with pytest.raises(NotDicom):
        instance_from(f"{path}!/notes")
    with pytest.raises(FileNotFoundError, match="No such file"):
        instance_from(f"{tmp_path}/other.zip!/a")


@pytest.mark.parametrize("name", KINDS)
def test_members_are_found_in_any_order_and_in_the_archives_order_in_one_pass(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = archives.members(20)
    path = write_any(tmp_path / name, content)
    opened: list[str] = []
    before = source_module.open_for_reading

    def open_for_reading(path: str) -> int:
        opened.append(path)
        return before(path)

    monkeypatch.setattr(source_module, "open_for_reading", open_for_reading)
    for order in (list(content), sorted(content, reverse=True)):
        opened.clear()
        found = [each for each in scan([f"{path}!/{member}" for member in order]) if isinstance(each, Instance)]
        assert [each.path for each in found] == [f"{path}!/{member}" for member in order]
        if order == list(content):
            assert opened.count(str(path)) == 2  # to see what it is, and to read it


def test_a_directory_with_such_a_name_is_a_directory(tmp_path: Path) -> None:
    (tmp_path / "a.zip!").mkdir()
    (tmp_path / "a.zip!" / "x").write_bytes(dicom(1))
    assert instance_from(tmp_path / "a.zip!" / "x").sop_instance_uid == uid_of(1)


# -- damaged archives and bombs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", KINDS)
def test_an_archive_that_is_cut_anywhere_is_told_and_gives_nothing_wrong(name: str, tmp_path: Path) -> None:
    content = {member: dicom(number, pixels=noise(400)) for number, member in enumerate("abc", 1)}
    whole = write_any(tmp_path / name, content).read_bytes()
    path = tmp_path / f"cut.{name}"
    ends = {*range(1, len(whole), 97), *range(len(whole) - 40, len(whole))}
    for end in sorted(ends):
        path.write_bytes(whole[:end])
        found = list(scan(path))
        for each in found:
            if isinstance(each, Instance):
                member = str(each.path)[-1]
                assert sent(each) == content[member][each.data_set_offset :]
        is_end_mark = name == "a.tar" and len(whole) - tarfile.RECORDSIZE + 3 * tarfile.BLOCKSIZE < end
        if len([each for each in found if isinstance(each, Instance)]) < 3:
            assert [each for each in found if isinstance(each, ScanProblem)] or is_end_mark, end


@pytest.mark.parametrize("name", KINDS)
def test_an_archive_that_is_damaged_anywhere_never_raises(name: str, tmp_path: Path) -> None:
    whole = write_any(tmp_path / name, {member: dicom(number) for number, member in enumerate("abc", 1)}).read_bytes()
    path = tmp_path / f"damaged.{name}"
    chance = random.Random(1)
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(chance.choice((1, 2, 8))):
            data[chance.randrange(len(data))] = chance.choice((0, 0xFF, chance.randrange(256)))
        path.write_bytes(data)
        for each in scan(path):
            if isinstance(each, Instance):
                try:
                    sent(each)
                except SourceError:
                    assert name == "a.tgz"


@pytest.mark.parametrize("name", ["a.stored.zip", "a.zip"])
def test_a_member_whose_crc_is_wrong_is_refused(name: str, tmp_path: Path) -> None:
    path = write_any(tmp_path / name, {"x": dicom(1, pixels=noise(SMALL)), "y": dicom(2)})
    data = path.read_bytes()
    at = data.index(b"PK\1\2") + 16
    path.write_bytes(data[:at] + b"\0\0\0\0" + data[at + 4 :])
    ((member, kind, detail),) = problems_in(path)
    assert (member, kind) == ("x", ProblemKind.UNREADABLE)
    assert "the CRC that the archive names" in detail


def test_a_large_deflated_member_whose_crc_is_wrong_fails_before_its_end(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", {"x": dicom(1, pixels=noise(LARGE))}, method=zipfile.ZIP_DEFLATED)
    data = path.read_bytes()
    at = data.index(b"PK\1\2") + 16
    path.write_bytes(data[:at] + b"\0\0\0\0" + data[at + 4 :])
    (instance,) = instances_in(path).values()
    with pytest.raises(SourceError, match="the CRC that the archive names"):
        sent(instance)


@pytest.mark.parametrize("name", KINDS)
def test_an_archive_that_changes_after_the_scan_is_not_sent(name: str, tmp_path: Path) -> None:
    path = write_any(tmp_path / name, CONTENT)
    found = instances_in(path)
    os.utime(path, ns=(1, 1))
    for instance in found.values():
        instance.let_go()
        with pytest.raises(SourceChanged, match="was written to after it was scanned"):
            sent(instance)
    path.unlink()
    with pytest.raises(SourceChanged, match="vanished after it was scanned"):
        sent(found["b/large.dcm"])


def test_a_deflated_stream_that_grows_as_no_image_does_is_a_bomb(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deflated, "BOMB_BYTES", 1 << 20)
    zeros = bytes(4 << 20)
    path = write_any(tmp_path / "a.zip", {"bomb": dicom(1, pixels=zeros), "fine": dicom(2)})
    found = instances_in(path)
    assert sent(found["fine"])
    with pytest.raises(SourceError, match="grows to more than 500 times its size"):
        sent(found["bomb"])
    path = write_any(tmp_path / "a.tgz", {"before": dicom(1), "bomb": zeros, "behind": dicom(2)})
    assert [each.path for each in scan(path) if isinstance(each, Instance)] == [f"{path}!/before"]
    assert problems_in(path)[-1][0] == ""
    assert "grows to more than 500 times its size" in problems_in(path)[-1][2]


def test_empty_images_that_are_deflated_well_are_no_bomb(tmp_path: Path) -> None:
    path = write_any(tmp_path / "a.zip", {"blank": dicom(1, pixels=bytes(30 << 20))})
    assert path.stat().st_size < 60_000
    (instance,) = instances_in(path).values()
    assert sent(instance).endswith(bytes(30 << 20))


def test_members_that_overlap_are_not_read(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", {"x": dicom(1, pixels=noise(SMALL))})
    data = path.read_bytes()
    begin, end = data.index(b"PK\1\2"), data.index(b"PK\5\6")
    many = data[begin:end] * 5
    last = bytearray(data[end:])
    struct.pack_into("<HHL", last, 8, 5, 5, len(many))
    path.write_bytes(data[:begin] + many + last)
    assert problems_in(path) == [
        (
            "",
            ProblemKind.UNREADABLE,
            "the ZIP archive is damaged: its members take more room than it has: they overlap",
        )
    ]


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tgz"])
def test_refused_members_of_one_name_have_paths_of_their_own(name: str, tmp_path: Path) -> None:
    path = write_same_names(tmp_path / name, "../x.dcm", [dicom(1), dicom(2)])
    assert len({problem[0] for problem in problems_in(path)}) == 2


def test_a_name_that_no_file_has_is_refused_and_shown_in_part(tmp_path: Path) -> None:
    path = write_any(tmp_path / "a.tgz", {"x" * 5000: dicom(1), "y" * 4000: dicom(2)})
    ((name, kind, detail),) = problems_in(path)
    assert len(name) <= 4096
    assert (kind, detail) == (ProblemKind.UNREADABLE, "its name is longer than that of any file")
    (instance,) = (each for each in scan(path) if isinstance(each, Instance))
    assert instance.path == f"{path}!/{'y' * 4000}"


# -- ZIP ---------------------------------------------------------------------------------------------------------------


def patched(path: Path, offset: int, value: bytes) -> Path:
    """Change the first entry of the central directory."""
    data = bytearray(path.read_bytes())
    at = data.index(b"PK\1\2") + offset
    data[at : at + len(value)] = value
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("offset", "value", "detail"),
    [
        (8, b"\1\0", "it is encrypted"),
        (10, b"\x63\0", "it is encrypted"),
        (10, b"\x09\0", "it is compressed by Deflate64: only Deflate is read"),
        (10, b"\x0e\0", "it is compressed by LZMA: only Deflate is read"),
        (10, b"\x22\0", "it is compressed by method 34: only Deflate is read"),
        (24, b"\0\0\0\0", "its two sizes contradict each other"),
        (42, b"\1\0\0\0", "it is not where the central directory says"),
        (42, b"\0\0\0\x70", "it is cut off"),
        (20, b"\0\0\0\x70\0\0\0\x70", "it is cut off"),
    ],
)
def test_a_member_that_is_not_read_is_one_line_and_the_rest_goes_on(
    offset: int, value: bytes, detail: str, tmp_path: Path
) -> None:
    path = patched(write_zip(tmp_path / "a.zip", {"x": dicom(1), "y": dicom(2)}), offset, value)
    assert problems_in(path) == [("x", ProblemKind.UNREADABLE, detail)]
    assert sum(isinstance(each, Instance) for each in scan(path)) == 1


def test_names_are_read_in_both_encodings(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", {"Müller/ß": dicom(1), "plain": dicom(2), "多": dicom(3)})
    assert list(instances_in(path)) == ["Müller/ß", "plain", "多"]
    path.write_bytes(path.read_bytes().replace(b"plain", "ümläü".encode("cp437")))
    assert list(instances_in(path)) == ["Müller/ß", "ümläü", "多"]


@pytest.mark.parametrize("before", [b"", b"MZ" + bytes(500)], ids=["alone", "behind a program"])
@pytest.mark.parametrize("comment", [b"", b"a comment with PK\5\6 in it", bytes(65535)], ids=len)
def test_the_directory_is_found_behind_a_program_and_before_a_comment(
    before: bytes, comment: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(before)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("x", dicom(1))
        archive.comment = comment
    assert list(instances_in(path)) == ["x"]


def test_a_directory_of_zip64_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 1000)
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 2)
    content = {str(number): dicom(number, pixels=noise(SMALL)) for number in range(1, 6)}
    path = write_zip(tmp_path / "a.zip", content)
    assert b"PK\6\6" in path.read_bytes()
    found = instances_in(path)
    assert found.keys() == content.keys()
    for member, instance in found.items():
        assert sent(instance) == content[member][instance.data_set_offset :]


def test_a_part_of_a_split_archive_is_told(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", {"x": dicom(1)})
    data = bytearray(path.read_bytes())
    struct.pack_into("<H", data, data.index(b"PK\5\6") + 4, 3)
    path.write_bytes(data)
    assert problems_in(path) == [
        ("", ProblemKind.UNREADABLE, "the ZIP archive is damaged: it is a part of a split archive")
    ]


def test_an_archive_without_members_has_none(tmp_path: Path) -> None:
    assert list(scan(write_zip(tmp_path / "a.zip", {}))) == []
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.writestr("directory/", b"")
    assert list(scan(tmp_path / "b.zip")) == []


# -- TAR ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_long_and_foreign_names_are_read_in_each_format(layout: int, mode: str, tmp_path: Path) -> None:
    names = ["short", "d" * 90 + "/" + "n" * 90]
    if layout != tarfile.USTAR_FORMAT:
        names += ["Müller/ß", "n" * 3000, os.fsdecode(b"\xff\xfe")]
    content = {name: dicom(number) for number, name in enumerate(names, 1)}
    assert list(instances_in(write_tar(tmp_path / "a", content, mode=mode, layout=layout))) == names


@given(
    st.dictionaries(
        st.text(st.characters(codec="utf-8", exclude_characters="/\\\0:"), min_size=1, max_size=120).filter(
            lambda name: not name.startswith(".") and name == name.strip()
        ),
        st.integers(0, 3000),
        min_size=1,
        max_size=4,
    ),
    st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
    st.sampled_from(["w", "w:gz"]),
)
@example({"\b": 0}, tarfile.GNU_FORMAT, "w")
@example({"\2": 0}, tarfile.PAX_FORMAT, "w:gz")
def test_it_finds_what_tarfile_wrote(
    tmp_path_factory: pytest.TempPathFactory, sizes: dict[str, int], layout: int, mode: str
) -> None:
    content = {name: dicom(number, pixels=noise(size)) for number, (name, size) in enumerate(sizes.items(), 1)}
    path = write_tar(tmp_path_factory.mktemp("tar") / "a", content, mode=mode, layout=layout)
    found = instances_in(path)
    assert list(found) == list(content)
    for name, instance in found.items():
        assert sent(instance) == content[name][instance.data_set_offset :]


@pytest.mark.parametrize("mode", ["w", "w:gz"])
@pytest.mark.parametrize(
    ("kind", "reason", "detail"),
    [
        (tarfile.LNKTYPE, ProblemKind.NOT_A_FILE, "it is a link to another member"),
        (tarfile.SYMTYPE, ProblemKind.NOT_A_FILE, "it is a symbolic link"),
        (tarfile.FIFOTYPE, ProblemKind.NOT_A_FILE, "it is a FIFO"),
        (tarfile.CHRTYPE, ProblemKind.NOT_A_FILE, "it is a character device"),
        (tarfile.GNUTYPE_SPARSE, ProblemKind.UNREADABLE, "it is a sparse file of GNU tar, which is not read"),
        (tarfile.DIRTYPE, None, ""),
    ],
)
def test_what_is_no_plain_file_is_told(
    mode: str, kind: bytes, reason: ProblemKind | None, detail: str, tmp_path: Path
) -> None:
    path = tmp_path / "a"
    info = tarfile.TarInfo("special")
    info.type, info.linkname = kind, "x"
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        archive.addfile(info)
    assert problems_in(path) == ([] if reason is None else [("special", reason, detail)])


def test_the_old_format_and_base_256_sizes_are_read(tmp_path: Path) -> None:
    data = dicom(1)
    path = write_tar(tmp_path / "a.tar", {"x": data}, layout=tarfile.USTAR_FORMAT)
    block = bytearray(path.read_bytes()[:512])
    block[257:265] = bytes(8)
    block[124:136] = b"\x80" + len(data).to_bytes(11, "big")
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    path.write_bytes(block + path.read_bytes()[512:])
    assert list(instances_in(path)) == ["x"]


@pytest.mark.parametrize("name", ["a.tar", "a.tgz"])
def test_a_missing_end_mark_is_told_since_more_may_be_missing(name: str, tmp_path: Path) -> None:
    path = write_any(tmp_path / name, {"x": dicom(1)})
    data = gzip.decompress(path.read_bytes()) if name == "a.tgz" else path.read_bytes()
    end = len(data.rstrip(b"\0"))
    data = data[: -(-end // 512) * 512]
    path.write_bytes(gzip.compress(data) if name == "a.tgz" else data)
    assert [str(each.path)[-1] for each in scan(path) if isinstance(each, Instance)] == ["x"]
    detail = "the TAR archive is damaged: it ends without its end mark: it may be cut off"
    assert problems_in(path) == [("", ProblemKind.UNREADABLE, detail)]


def test_gzip_streams_behind_one_another_are_one_archive(tmp_path: Path) -> None:
    path = write_any(tmp_path / "a.tar", CONTENT)
    data = path.read_bytes()
    pieces = [data[at : at + 70_000] for at in range(0, len(data), 70_000)]
    packed = tmp_path / "a.tgz"
    packed.write_bytes(b"".join(map(gzip.compress, pieces)) + bytes(512))
    assert {name: sent(each) for name, each in instances_in(packed).items()} == {
        name: sent(each) for name, each in instances_in(path).items()
    }


def test_a_deflated_file_that_is_no_archive_is_what_it_was(tmp_path: Path) -> None:
    path = tmp_path / "x.dcm.gz"
    path.write_bytes(gzip.compress(dicom(1)))
    assert [kind for _, kind, _ in problems_in(path)] == [ProblemKind.NOT_DICOM]


def test_starts_in_a_deflated_stream_are_shared_and_near(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(members, "_BETWEEN_STARTS_BYTES", 100_000)
    content = {str(number): dicom(number, pixels=noise(SMALL, number)) for number in range(1, 101)}
    found = instances_in(write_any(tmp_path / "a.tgz", content))
    starts = {id(instance.source._start) for instance in found.values()}  # type: ignore[attr-defined]
    assert 4 < len(starts) < 12
    for name, instance in found.items():
        instance.let_go()
        assert sent(instance) == content[name][instance.data_set_offset :]


# -- many --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", KINDS)
def test_nothing_is_kept_of_a_member_that_was_read(name: str, tmp_path: Path) -> None:
    import tracemalloc

    def peak(content: Mapping[str, bytes]) -> int:
        path = write_any(tmp_path / name, content)
        for _ in scan(path):  # what is loaded and remembered once
            pass
        tracemalloc.start()
        try:
            for _ in scan(path):
                pass
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    few = peak(archives.members(300))
    assert peak(archives.members(3000)) < few + 150_000
