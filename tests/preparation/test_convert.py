"""Conversion: another transfer syntax, and element for element the same data set."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import gc
import os
import struct
import tempfile
import tracemalloc
import warnings
import zlib
from itertools import permutations
from typing import TYPE_CHECKING, Final

import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncstore.errors import SourceChanged, SourceError
from asyncstore.inputs.opening import instance_from, instance_from_bytes
from asyncstore.instances import deflated as deflated_module
from asyncstore.instances.head import read_head
from asyncstore.instances.instance import Instance
from asyncstore.instances.source import FileSource
from asyncstore.preparation import convert as convert_module
from asyncstore.preparation import reencode, spool
from asyncstore.preparation.convert import can_convert
from asyncstore.preparation.reencode import DEEPEST_NESTING, CannotConvert
from asyncstore.preparation.spool import NoTemporaryFile
from asyncstore.uids import (
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_BIG_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    UNCOMPRESSED_TRANSFER_SYNTAXES,
)
from tests.support.files import (
    BUNDLED,
    assert_same_elements,
    bare,
    bundled,
    data_set,
    decode,
    dicom_file,
    element,
    read_all,
)
from tests.support.files import file_meta as meta_of
from tests.support.process import counts_descriptors, descriptors

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from typing import IO

    from pydicom.dataelem import DataElement

SHORT: Final = {
    IMPLICIT_VR_LITTLE_ENDIAN: "implicit",
    EXPLICIT_VR_LITTLE_ENDIAN: "explicit",
    EXPLICIT_VR_BIG_ENDIAN: "big endian",
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN: "deflated",
}
needs_full = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
TRUNCATED: Final = {"MR_truncated.dcm", "rtplan_truncated.dcm"}


def convert(instance: Instance, transfer_syntax_uid: str) -> Instance:
    """The instance with its data set converted, to be read or converted again."""
    source = convert_module.convert(instance, transfer_syntax_uid)
    if source is instance.source:
        return instance
    return dataclasses.replace(
        instance,
        transfer_syntax_uid=transfer_syntax_uid,
        data_set_offset=0,
        data_set_length=source.length_bytes,
        source=source,
    )


def uncompressed(*, truncated: bool = False) -> list[Path]:
    """The bundled files with one of the four transfer syntaxes."""
    files = [(path, read_head(str(path))) for path in BUNDLED]
    return [
        path
        for path, found in files
        if isinstance(found, Instance)
        and found.transfer_syntax_uid in UNCOMPRESSED_TRANSFER_SYNTAXES
        and (path.name in TRUNCATED) == truncated
    ]


FILES: Final = uncompressed()


def assert_same(before: Instance, after: Instance) -> None:
    """Two instances hold the same elements with the same VRs and values, those of their items included.

    A private VR, or that of a tag in no dictionary, does not survive an implicit data set: the bytes of its value do.
    """
    assert (before.sop_class_uid, before.sop_instance_uid) == (after.sop_class_uid, after.sop_instance_uid)
    assert_same_elements(
        decode(before),
        decode(after),
        before.transfer_syntax_uid == EXPLICIT_VR_BIG_ENDIAN,
        after.transfer_syntax_uid == EXPLICIT_VR_BIG_ENDIAN,
    )


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_bundled_file_survives_all_twelve_conversions(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        original = instance_from(path)
        forms = {uid: convert(original, uid) for uid in UNCOMPRESSED_TRANSFER_SYNTAXES}
        for uid, form in forms.items():
            assert form.transfer_syntax_uid == uid
            assert form.data_set_length == form.source.length_bytes
            assert uid != DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN or form.data_set_length % 2 == 0
            assert_same(original, form)
        for given_uid, wanted in permutations(forms, 2):
            assert_same(original, convert(forms[given_uid], wanted))


@pytest.mark.parametrize("path", uncompressed(truncated=True), ids=lambda path: path.name)
def test_a_truncated_data_set_is_not_made_whole(path: Path) -> None:
    original = instance_from(path)
    wanted = next(
        uid for uid in (IMPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_BIG_ENDIAN) if uid != original.transfer_syntax_uid
    )
    with pytest.raises(CannotConvert, match="cut off"):
        convert(original, wanted)


def test_the_four_can_be_converted_and_no_other() -> None:
    jpeg = "1.2.840.10008.1.2.4.50"
    for pair in permutations(UNCOMPRESSED_TRANSFER_SYNTAXES, 2):
        assert can_convert(*pair)
    assert not can_convert(jpeg, EXPLICIT_VR_LITTLE_ENDIAN)
    assert not can_convert(EXPLICIT_VR_LITTLE_ENDIAN, jpeg)
    with pytest.raises(SourceError, match="no conversion"):
        convert(instance_from(bundled("JPEG2000.dcm")), EXPLICIT_VR_LITTLE_ENDIAN)
    with pytest.raises(SourceError, match="no conversion"):
        convert(instance_from(bundled("CT_small.dcm")), jpeg)


def test_the_same_transfer_syntax_is_the_same_instance() -> None:
    original = instance_from(bundled("CT_small.dcm"))
    assert convert(original, original.transfer_syntax_uid) is original


def test_what_is_known_of_the_file_stays_known() -> None:
    original = instance_from(bundled("rtplan.dcm"))
    original.study_instance_uid = "1.2.1"
    original.series_instance_uid = "1.2.2"
    converted = convert(original, EXPLICIT_VR_BIG_ENDIAN)
    kept = ("path", "size_bytes", "mtime_ns", "study_instance_uid", "series_instance_uid", "meta_difference")
    for name in kept:
        assert getattr(converted, name) == getattr(original, name)
        assert getattr(converted, name) is not None
    # The file holds something else: it cannot stand in for the converted bytes.
    before = read_all(converted.source)
    converted.let_go()
    assert read_all(converted.source) == before
    assert bytes(converted.source.view() or b"") == before


def instance_of(body: bytes, transfer_syntax_uid: str = EXPLICIT_VR_LITTLE_ENDIAN) -> Instance:
    return instance_from_bytes(dicom_file(meta=meta_of(transfer_syntax_uid), body=body))


def undefined(head: bytes) -> bytes:
    """An element or item header with its length made undefined."""
    return head[:-4] + b"\xff\xff\xff\xff"


ITEM: Final = b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
END_OF_ITEM: Final = b"\xfe\xff\x0d\xe0\0\0\0\0"
END: Final = b"\xfe\xff\xdd\xe0\0\0\0\0"


def item(content: bytes) -> bytes:
    return b"\xfe\xff\x00\xe0" + struct.pack("<I", len(content)) + content


# What single elements become


def implicit_element(tag: int, value: bytes, *around: tuple[int, bytes]) -> DataElement:
    """The element as pydicom finds it after a conversion from implicit to big endian."""
    body = b"".join(bare(*each) for each in sorted([(tag, value), *around]))
    converted = convert(instance_of(body, IMPLICIT_VR_LITTLE_ENDIAN), EXPLICIT_VR_BIG_ENDIAN)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return decode(converted)[tag]


def test_what_a_dictionary_calls_a_sequence_and_is_none_stays_unknown() -> None:
    body = bare(0x00081140, b"\1\2\3\4\5\6\7\x08")
    converted = convert(instance_of(body, IMPLICIT_VR_LITTLE_ENDIAN), EXPLICIT_VR_LITTLE_ENDIAN)
    assert read_all(converted.source) == element(0x00081140, b"UN", b"\1\2\3\4\5\6\7\x08")


def test_a_value_too_long_for_its_vr_is_written_as_unknown() -> None:
    body = bare(0x30060050, b"1\\" * 40_000)
    converted = convert(instance_of(body, IMPLICIT_VR_LITTLE_ENDIAN), EXPLICIT_VR_LITTLE_ENDIAN)
    assert read_all(converted.source) == element(0x30060050, b"UN", b"1\\" * 40_000)


def test_an_element_without_a_vr_in_an_explicit_data_set_gets_one() -> None:
    body = data_set() + bare(0x00280010, b"\1\0") + bare(0x00290001, b"\1\0") + bare(0x00290000, b"\1\0\0\0")
    converted = convert(instance_of(body), EXPLICIT_VR_BIG_ENDIAN)
    assert read_all(converted.source).endswith(
        struct.pack(">HH2sHH", 0x0028, 0x0010, b"US", 2, 1)
        + struct.pack(">HH2sHI", 0x0029, 0x0001, b"UN", 0, 2)
        + b"\1\0"
    )


VRS_THAT_ARE_NONE: Final = [b"--", b"??", b"  ", b"\0\0", b"pn"]


def short(tag: int, vr: bytes, value: bytes) -> bytes:
    return struct.pack("<HH2sH", tag >> 16, tag & 0xFFFF, vr, len(value)) + value


@pytest.mark.parametrize("vr", VRS_THAT_ARE_NONE)
@pytest.mark.parametrize("value", [b"", b"TEXT", b"T" * 1000], ids=len)
@pytest.mark.parametrize("behind", [b"", element(0x00291002, b"LO", b"MORE"), short(0x00291002, b"??", b"MORE")])
def test_an_element_whose_vr_is_none_keeps_its_value(vr: bytes, value: bytes, behind: bytes) -> None:
    creator = element(0x00290010, b"LO", b"NOBODY")
    body = data_set(more=creator + short(0x00291001, vr, value) + behind)
    implicit = read_all(convert(instance_of(body), IMPLICIT_VR_LITTLE_ENDIAN).source)
    rest = bare(0x00291002, b"MORE") if behind else b""
    assert implicit.endswith(bare(0x00290010, b"NOBODY") + bare(0x00291001, value) + rest)
    big = convert(instance_of(body), EXPLICIT_VR_BIG_ENDIAN)
    assert read_all(convert(big, IMPLICIT_VR_LITTLE_ENDIAN).source) == implicit
    found = decode(big)[0x00291001]
    assert (found.VR, found.value or b"") == ("UN", value)


@pytest.mark.parametrize("vr", VRS_THAT_ARE_NONE)
def test_an_element_whose_vr_is_none_gets_that_of_the_dictionary(vr: bytes) -> None:
    body = data_set(more=short(0x00280010, vr, b"\1\2") + element(0x00280011, b"US", b"\3\4"))
    assert decode(convert(instance_of(body), EXPLICIT_VR_BIG_ENDIAN)).Rows == 0x0201


@pytest.mark.parametrize("vr", VRS_THAT_ARE_NONE)
def test_an_item_may_end_with_an_element_whose_vr_is_none(vr: bytes) -> None:
    inner = item(short(0x00291001, vr, b"TEXT"))
    body = data_set(more=element(0x00089215, b"SQ", inner * 2) + element(0x00280010, b"US", b"\1\2"))
    first, second = decode(convert(instance_of(body), EXPLICIT_VR_BIG_ENDIAN))[0x00089215].value
    assert first[0x00291001].value == second[0x00291001].value == b"TEXT"


@pytest.mark.parametrize("value", [b"", b"TEXT", b"T" * 70_000], ids=len)
def test_a_vr_of_a_later_standard_has_a_long_header(value: bytes) -> None:
    later = struct.pack("<HH2sHI", 0x0029, 0x1001, b"ZZ", 0, len(value)) + value
    body = data_set(more=later + element(0x00291002, b"LO", b"MORE"))
    implicit = read_all(convert(instance_of(body), IMPLICIT_VR_LITTLE_ENDIAN).source)
    assert implicit.endswith(bare(0x00291001, value) + bare(0x00291002, b"MORE"))


@pytest.mark.parametrize("length", [0x0004, 0x2D2C, 0x3F3E, 0x10000, 0x20004, 0x80000])
def test_a_long_value_without_a_vr_is_not_taken_for_one_with_a_vr(length: int) -> None:
    body = data_set(more=bare(0x7FE00010, bytes(length)))
    implicit = read_all(convert(instance_of(body), IMPLICIT_VR_LITTLE_ENDIAN).source)
    assert implicit.endswith(bare(0x7FE00010, bytes(length)))


@pytest.mark.parametrize(
    ("tag", "value", "kept"),
    [
        (0x00081030, b"ABC", b"ABC "),
        (0x0020000D, b"1.2", b"1.2\0"),
        (0x00091001, b"ABC", b"ABC\0"),
        (0x7FE00010, b"ABC", b"ABC\0"),
    ],
)
def test_an_odd_value_is_padded_wherever_it_stands(tag: int, value: bytes, kept: bytes) -> None:
    last = bare(0x7FE10001, b"LAST")
    for more in (b"", bare(0x7FE00020, b"x")):
        body = bare(tag, value) + more + last
        explicit = convert(instance_of(body, IMPLICIT_VR_LITTLE_ENDIAN), EXPLICIT_VR_LITTLE_ENDIAN)
        assert read_all(convert(explicit, IMPLICIT_VR_LITTLE_ENDIAN).source) == (
            bare(tag, kept) + (bare(0x7FE00020, b"x\0") if more else b"") + last
        )


SIGNED: Final = (0x00280103, b"\1\0")
UNSIGNED: Final = (0x00280103, b"\0\0")


@pytest.mark.parametrize(
    ("tag", "value", "around", "vr", "expected"),
    [
        (0x00280106, b"\xff\xff", [SIGNED], "SS", -1),
        (0x00280106, b"\xff\xff", [UNSIGNED], "US", 65535),
        (0x00280106, b"\xff\xff", [], "US", 65535),
        # A padding value stands before nothing that says whether it is signed.
        (0x00189810, b"\xfe\xff", [SIGNED], "SS", -2),
        (0x00189810, b"\xfe\xff", [], "US", 65534),
        (0x00283002, b"\0\1\0\0\x10\0", [UNSIGNED], "US", [256, 0, 16]),
        (0x00283006, b"\1\2", [(0x00283002, b"\1\0\0\0\x10\0")], "US", 513),
        (0x00283006, b"\1\2", [(0x00283002, b"\2\0\0\0\x10\0")], "OW", b"\2\1"),
        (0x00283006, b"\1\2", [], "OW", b"\2\1"),
        (0x7FE00010, b"\1\2\3\4", [(0x00280100, b"\x08\0")], "OW", b"\2\1\4\3"),
        (0x7FE00010, b"\1\2\3\4", [(0x00280100, b"\x10\0")], "OW", b"\2\1\4\3"),
        (0x60003000, b"\1\2", [], "OW", b"\2\1"),
        (0x60023000, b"\1\2", [], "OW", b"\2\1"),
        (0x54001010, b"\1\2", [(0x54001004, b"\x08\0")], "OW", b"\2\1"),
        (0x00080018, b"1.2.3\0", [], "UI", "1.2.3"),
        (0x00200032, b"1\\2\\3 ", [], "DS", [1, 2, 3]),
        (0x00280009, b"\x18\0\x63\x10", [], "AT", 0x00181063),
        (0x00186018, b"\1\2\3\4", [], "UL", 0x04030201),
        (0x00189073, struct.pack("<d", 1.5), [], "FD", 1.5),
        (0x00420011, b"\1\2\3\4", [], "OB", b"\1\2\3\4"),
        (0x7FE00008, struct.pack("<f", 2.5), [], "OF", struct.pack(">f", 2.5)),
        (0x7FE00009, struct.pack("<d", 2.5), [], "OD", struct.pack(">d", 2.5)),
        (0x00091001, b"\1\2", [], "UN", b"\1\2"),
        (0x00091001, b"\1\2", [(0x00090010, b"NOBODY KNOWS IT ")], "UN", b"\1\2"),
        (0x00091001, b"ab", [(0x00090010, b"GEMS_IDEN_01")], "LO", "ab"),
        (0x00431012, b"\1\0\2\0", [(0x00430010, b"GEMS_PARM_01")], "SS", [1, 2]),
        (0x00090010, b"SOMEBODY", [], "LO", "SOMEBODY"),
        (0x0008FFFE, b"\1\2", [], "UN", b"\1\2"),
    ],
)
def test_an_implicit_element_gets_its_vr_and_byte_order(
    tag: int, value: bytes, around: Sequence[tuple[int, bytes]], vr: str, expected: object
) -> None:
    found = implicit_element(tag, value, *around)
    assert vr == found.VR
    assert found.value == expected


def test_the_signs_of_an_item_are_those_of_its_own_or_of_the_data_set_around_it() -> None:
    inner = item(bare(0x00280106, b"\xff\xff")) + item(bare(0x00280103, b"\0\0") + bare(0x00280106, b"\xff\xff"))
    # The sequence stands before the element that says so for the whole data set.
    body = bare(0x00081140, inner) + bare(*SIGNED)
    converted = decode(convert(instance_of(body, IMPLICIT_VR_LITTLE_ENDIAN), EXPLICIT_VR_LITTLE_ENDIAN))
    assert [(each[0x00280106].VR, each[0x00280106].value) for each in converted[0x00081140].value] == [
        ("SS", -1),
        ("US", 65535),
    ]


def test_unknown_values_stay_unknown_but_for_a_big_endian_reader_that_would_look_them_up() -> None:
    body = data_set(more=element(0x00280010, b"UN", b"\1\0") + element(0x00291010, b"UN", b"\1\0"))
    implicit = read_all(convert(instance_of(body), IMPLICIT_VR_LITTLE_ENDIAN).source)
    assert implicit.endswith(bare(0x00280010, b"\1\0") + bare(0x00291010, b"\1\0"))
    big = read_all(convert(instance_of(body), EXPLICIT_VR_BIG_ENDIAN).source)
    assert big.endswith(
        struct.pack(">HH2sHH", 0x0028, 0x0010, b"US", 2, 1)
        + struct.pack(">HH2sHI", 0x0029, 0x1010, b"UN", 0, 2)
        + b"\1\0"
    )


def test_an_unknown_element_of_undefined_length_is_an_implicit_sequence() -> None:
    inner = ITEM + bare(0x00080100, b"CODE") + END_OF_ITEM + END
    body = data_set(more=undefined(element(0x00400555, b"UN", b"")) + inner)
    for wanted in (IMPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_BIG_ENDIAN):
        (found,) = decode(convert(instance_of(body), wanted))[0x00400555].value
        assert found.CodeValue == "CODE"


def test_an_undefined_length_in_an_implicit_data_set_means_a_sequence() -> None:
    body = undefined(bare(0x00091010, b"")) + ITEM + bare(0x00080100, b"CODE") + END_OF_ITEM + END
    (found,) = decode(convert(instance_of(body, IMPLICIT_VR_LITTLE_ENDIAN), EXPLICIT_VR_LITTLE_ENDIAN))[
        0x00091010
    ].value
    assert found.CodeValue == "CODE"


@pytest.mark.parametrize(
    ("tag", "is_nested"),
    [
        (b"\xfe\xff\x0d\xe0", False),
        (b"\xfe\xff\xdd\xe0", False),
        (b"\xfe\xff\x00\xe0", False),
        (b"\xfe\xff\xdd\xe0", True),
        (b"\xfe\xff\x00\xe0", True),
    ],
)
def test_a_delimiter_between_elements_ends_nothing_and_is_refused(tag: bytes, is_nested: bool) -> None:
    content = tag + bytes(4) + element(0x00100020, b"LO", b"ID")
    more = element(0x00081140, b"SQ", item(content)) if is_nested else content
    with pytest.raises(CannotConvert, match="stands between elements"):
        convert(instance_of(data_set(more=more)), IMPLICIT_VR_LITTLE_ENDIAN)


def test_a_sequence_that_reaches_beyond_its_item_is_refused() -> None:
    inner = undefined(element(0x00081140, b"SQ", b"")) + item(element(0x00081155, b"UI", b"1.2\0"))
    outer = element(0x00081115, b"SQ", item(inner)) + b"\xfe\xff\xdd\xe0\0\0\0\0"
    with pytest.raises(CannotConvert, match="beyond its item"):
        convert(instance_of(data_set(more=outer)), IMPLICIT_VR_LITTLE_ENDIAN)


def test_a_sequence_too_short_for_an_item_stays_unknown_also_at_the_end() -> None:
    body = bare(0x00100010, b"Doe^Jane") + bare(0x00400275, b"abcd")
    converted = convert(instance_of(body, IMPLICIT_VR_LITTLE_ENDIAN), EXPLICIT_VR_LITTLE_ENDIAN)
    assert read_all(converted.source).endswith(element(0x00400275, b"UN", b"abcd"))


def test_group_lengths_that_would_be_untrue_are_left_out() -> None:
    body = element(0x00080000, b"UL", b"\x99\0\0\0") + data_set() + element(0x00110000, b"UL", b"\0\0\0\0")
    converted = convert(instance_of(body), IMPLICIT_VR_LITTLE_ENDIAN)
    assert not [tag for tag in decode(converted).keys() if not tag.element]  # noqa: SIM118
    body = bare(0x00080000, b"\0\0\0\0") + bare(0x00110000, b"\0\0\0\0") + bare(0x00110001, b"\1\2")
    converted = convert(instance_of(body, IMPLICIT_VR_LITTLE_ENDIAN), EXPLICIT_VR_LITTLE_ENDIAN)
    assert read_all(converted.source) == element(0x00110001, b"UN", b"\1\2")


def test_a_value_larger_than_a_piece_is_swapped_whole() -> None:
    value = bytes(range(250)) * 12_000
    body = data_set(more=element(0x7FE00010, b"OW", value) + element(0x7FE10001, b"OW", b"abc"))
    big = convert(instance_of(body), EXPLICIT_VR_BIG_ENDIAN)
    pixels = decode(big).PixelData
    assert pixels[0::2] == value[1::2]
    assert pixels[1::2] == value[0::2]
    # A value is padded before the byte order of its words changes.
    assert read_all(big.source).endswith(b"ba\0c")
    assert read_all(convert(big, EXPLICIT_VR_LITTLE_ENDIAN).source) == body[:-7] + b"\x04\0\0\0abc\0"


# What cannot be converted


@pytest.mark.parametrize(
    ("more", "text"),
    [
        (undefined(element(0x7FE00010, b"OB", b"")) + item(b"") + item(b"\xff\xd8") + END, "compressed"),
        (element(0x00081140, b"SQ", b"")[:-4] + b"\x30\0\0\0", "cut off"),
        (element(0x00081140, b"SQ", item(b"")[:-4] + b"\x30\0\0\0"), "beyond its sequence"),
        (element(0x00081140, b"SQ", element(0x00080100, b"SH", b"CODE")), "where an item must"),
        (undefined(element(0x00081140, b"SQ", b"")) + ITEM, "cut off"),
        (undefined(element(0x00081140, b"SQ", b"")), "cut off"),
        (element(0x00081140, b"LO", b"abcd")[:-1], "cut off"),
        (b"\x10\0\x20\0LO", "cut off"),
        ((undefined(element(0x00081140, b"SQ", b"")) + ITEM) * (DEEPEST_NESTING + 1), "deep"),
    ],
)
def test_what_is_damaged_is_refused(more: bytes, text: str) -> None:
    for wanted in (IMPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_BIG_ENDIAN):
        with pytest.raises(CannotConvert, match=text):
            convert(instance_of(data_set(more=more)), wanted)


@pytest.mark.parametrize(("tag", "name"), [(0x00080016, "0008,0016"), (0x00080018, "0008,0018")])
def test_a_uid_that_names_the_instance_is_never_swapped(tag: int, name: str) -> None:
    """The request would name another instance than the data set does."""
    body = element(tag, b"US", b"1.2.3.4\0")
    with pytest.raises(CannotConvert, match=rf"\({name}\) is a UID and has the VR US"):
        convert(instance_of(body), EXPLICIT_VR_BIG_ENDIAN)
    assert b"1.2.3.4\0" in read_all(convert(instance_of(body), IMPLICIT_VR_LITTLE_ENDIAN).source)


def test_compressed_pixels_in_an_implicit_data_set_are_refused() -> None:
    body = undefined(bare(0x7FE00010, b"")) + item(b"") + END
    with pytest.raises(CannotConvert, match="compressed"):
        convert(instance_of(body, IMPLICIT_VR_LITTLE_ENDIAN), EXPLICIT_VR_LITTLE_ENDIAN)


@given(
    data=st.data(),
    name=st.sampled_from(["rtplan.dcm", "test-SR.dcm", "reportsi.dcm", "UN_sequence.dcm", "nested_priv_SQ.dcm"]),
    given_uid=st.sampled_from(UNCOMPRESSED_TRANSFER_SYNTAXES),
    wanted=st.sampled_from(UNCOMPRESSED_TRANSFER_SYNTAXES),
)
def test_damaged_data_sets_are_converted_or_refused(
    data: st.DataObject, name: str, given_uid: str, wanted: str
) -> None:
    """Nothing but an Instance or CannotConvert comes of any bytes."""
    body = bytearray(bundled(name).read_bytes()[300:])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(body)))
        body[at : at + data.draw(st.integers(0, 8))] = data.draw(st.binary(max_size=8))
    instance = instance_of(data_set(more=bytes(body)))
    instance.transfer_syntax_uid = given_uid
    try:
        converted = convert(instance, wanted)
    except CannotConvert as error:
        assert "\n" not in str(error)  # noqa: PT017 - only some examples are refused
    else:
        assert converted.data_set_length == converted.source.length_bytes


# Deflated


def deflated(data: bytes) -> bytes:
    stream = zlib.compressobj(wbits=-15)
    return stream.compress(data) + stream.flush()


@pytest.mark.parametrize("length", range(40, 56))
def test_deflating_pads_to_an_even_length_and_inflating_gives_the_bytes_back(length: int) -> None:
    value = os.urandom(length)
    body = data_set(more=element(0x00091010, b"UN", value))
    converted = convert(instance_of(body), DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN)
    assert converted.data_set_length % 2 == 0
    back = convert(converted, EXPLICIT_VR_LITTLE_ENDIAN)
    assert read_all(back.source) == data_set(more=element(0x00091010, b"UN", value + bytes(length % 2)))


# A data set in a stored block (RFC 1951 3.2.4), longer than what a scan looks at.
LONG: Final = data_set(more=element(0x00100020, b"LO", bytes(30_000)))
STORED: Final = b"\0" + struct.pack("<HH", len(LONG), len(LONG) ^ 0xFFFF) + LONG


@pytest.mark.parametrize(("stream", "text"), [(STORED, "cut off"), (STORED + b"\7\0", "damaged")], ids=["cut", "bad"])
def test_a_damaged_deflated_stream_is_refused(stream: bytes, text: str) -> None:
    instance = instance_of(stream, DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN)
    for wanted in (EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN):
        with pytest.raises(CannotConvert, match=text):
            convert(instance, wanted)


def test_a_deflate_bomb_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convert_module, "LARGEST_INFLATED_BYTES", 20 << 20)
    bomb = deflated(data_set(more=element(0x00091010, b"UN", bytes(30 << 20))))
    assert len(bomb) < 1 << 16
    instance = instance_from_bytes(bomb, transfer_syntax_uid=DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN)
    with pytest.raises(CannotConvert, match="grows to more than"):
        convert(instance, EXPLICIT_VR_LITTLE_ENDIAN)


def test_a_stream_that_grows_as_no_image_does_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deflated_module, "BOMB_BYTES", 1 << 20)
    for filled, is_bomb in ((bytes(4 << 20), True), (bytes(range(256)) * (1 << 14), False)):
        stream = deflated(data_set(more=element(0x00091010, b"UN", filled)))
        instance = instance_from_bytes(stream, transfer_syntax_uid=DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN)
        with pytest.raises(CannotConvert, match="more than 500 times") if is_bomb else contextlib.nullcontext():
            convert(instance, EXPLICIT_VR_LITTLE_ENDIAN)


def test_private_creators_are_kept_for_one_group_only() -> None:
    groups = range(0x0009, 0xFFF0, 2)
    creators = b"".join(element(group << 16 | number, b"LO", b"x" * 64) for group in groups for number in (16, 17))
    instance = instance_of(data_set(more=creators), EXPLICIT_VR_LITTLE_ENDIAN)
    tracemalloc.start()
    try:
        converted = convert(instance, IMPLICIT_VR_LITTLE_ENDIAN)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert converted.data_set_length == instance.data_set_length
    assert peak_bytes < 3 * converted.data_set_length + (2 << 20)


# Large data sets


@pytest.fixture
def small_spool(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A limit that every bundled file is beyond, and a folder that the temporary files come and go in."""
    monkeypatch.setattr(spool, "SPOOL_BYTES", 1000)
    monkeypatch.setattr(spool, "PIECE_BYTES", 700)
    monkeypatch.setattr(convert_module, "PIECE_BYTES", 700)
    monkeypatch.setattr(reencode, "_PIECE_BYTES", 512)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@counts_descriptors
@pytest.mark.parametrize("given_uid", UNCOMPRESSED_TRANSFER_SYNTAXES, ids=SHORT.get)
@pytest.mark.parametrize("wanted", UNCOMPRESSED_TRANSFER_SYNTAXES, ids=SHORT.get)
def test_a_large_data_set_goes_through_a_temporary_file(small_spool: Path, given_uid: str, wanted: str) -> None:
    before = descriptors()
    original = instance_from(bundled("CT_small.dcm"))
    converted = convert(convert(original, given_uid), wanted)
    assert_same(original, converted)
    if wanted != EXPLICIT_VR_LITTLE_ENDIAN or given_uid != wanted:
        assert isinstance(converted.source, FileSource)
        assert converted.source.view() is None
        assert_same(original, converted)
        half = memoryview(bytearray(converted.data_set_length // 2))
        assert converted.source.read_into((half,), converted.data_set_length - len(half), wait=False)
        converted.source.close()
    del converted
    gc.collect()
    assert descriptors() == before
    assert not list(small_spool.iterdir())


@counts_descriptors
def test_nothing_is_left_of_a_conversion_that_failed(small_spool: Path) -> None:
    before = descriptors()
    body = data_set(more=element(0x7FE00010, b"OW", bytes(5000)) + element(0x7FE10010, b"LO", b"abcd")[:-1])
    with pytest.raises(CannotConvert):
        convert(instance_of(body), EXPLICIT_VR_BIG_ENDIAN)
    gc.collect()
    assert descriptors() == before
    assert not list(small_spool.iterdir())


def full(**_: object) -> IO[bytes]:
    return open("/dev/full", "r+b", buffering=0)


def none_found() -> str:
    raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']")


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("tempdir", "/no/such", "in /no/such: No such file or directory"),
        pytest.param("TemporaryFile", full, "in {}: No space left on device", marks=needs_full),
        ("gettempdir", none_found, ": No usable temporary directory found in ['/tmp']"),
    ],
)
def test_a_temporary_file_that_cannot_be_had_is_not_the_fault_of_the_data_set(
    small_spool: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: object, text: str
) -> None:
    monkeypatch.setattr(tempfile, name, value)
    with pytest.raises(NoTemporaryFile, match="temporary file") as caught:
        convert(instance_from(bundled("CT_small.dcm")), IMPLICIT_VR_LITTLE_ENDIAN)
    assert str(caught.value).endswith(text.format(small_spool))
    assert caught.value.retryable
    dataset = pydicom.dcmread(bundled("CT_small.dcm"))
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.UID(EXPLICIT_VR_BIG_ENDIAN)
    with pytest.raises(NoTemporaryFile, match="temporary file"):
        instance_from(dataset)


@pytest.mark.parametrize(
    ("given_uid", "wanted"),
    [
        (IMPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_LITTLE_ENDIAN),
        (IMPLICIT_VR_LITTLE_ENDIAN, DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN),
        (DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN),
    ],
)
def test_an_error_that_is_kept_keeps_no_data_set_in_memory(given_uid: str, wanted: str) -> None:
    make = element if given_uid == DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN else lambda tag, _, value: bare(tag, value)
    body = make(0x7FE00010, b"OW", os.urandom(3 << 20)) + make(0x7FE10010, b"LO", b"abcd")[:-1]
    instance = instance_of(deflated(body) if given_uid == DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN else body, given_uid)
    tracemalloc.start()
    try:
        with pytest.raises(CannotConvert, match="cut off") as caught:
            convert(instance, wanted)
        kept_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept_bytes < 1 << 20, caught.value


def test_a_file_that_changed_is_not_converted(tmp_path: Path) -> None:
    path = tmp_path / "instance"
    path.write_bytes(dicom_file(body=data_set(more=element(0x7FE00010, b"OW", bytes(200_000)))))
    instance = instance_from(path)
    os.truncate(path, 100_000)
    with pytest.raises(SourceChanged):
        convert(instance, IMPLICIT_VR_LITTLE_ENDIAN)
