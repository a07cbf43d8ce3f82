"""The words of rules, tables and values: what is understood, and what is refused before the run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from asyncstore.preparation.attributes.paths import BadRule, path_of
from asyncstore.preparation.attributes.rules import check_consistent, erasing, setting
from asyncstore.preparation.attributes.rules_file import read_rules
from asyncstore.preparation.attributes.uids import NewUIDs
from asyncstore.preparation.attributes.value_map import ValueMap
from asyncstore.preparation.attributes.values import CannotChange

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("PatientID", [(0x00100020, -1)]),
        ("(0010,0020)", [(0x00100020, -1)]),
        ("0010,0020", [(0x00100020, -1)]),
        ("00100020", [(0x00100020, -1)]),
        ("RequestAttributesSequence[0].AccessionNumber", [(0x00400275, 0), (0x00080050, -1)]),
        ("RequestAttributesSequence[*].(0008,0050)", [(0x00400275, -1), (0x00080050, -1)]),
    ],
)
def test_an_attribute_is_named_by_keyword_tag_or_path(text: str, steps: list[tuple[int, int]]) -> None:
    assert [tuple(step) for step in path_of(text).steps] == steps


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("PatientIdd", "1", "is not the keyword of an attribute"),
        ("", "1", "is not an attribute"),
        ("0010002", "1", "is not an attribute"),
        ("PatientID[0]", "1", "ends in an item"),
        ("RequestAttributesSequence.StudyID", "1", "does not say which item"),
        ("PatientID[0].StudyID", "1", "is not a sequence"),
        ("RequestAttributesSequence", "1", "a value of VR SQ is not text"),
        ("StudyInstanceUID", "1.2", "--new-uids"),
        ("ReferencedImageSequence[*].ReferencedSOPInstanceUID", "1.2", "--new-uids"),
        ("(0002,0010)", "1.2", "is not in the data set"),
        ("(0010,0000)", "4", "length of a group"),
        ("PixelData", "1", "is not before the pixel data"),
        ("SpecificCharacterSet", "ISO_IR 192", "stays as it is"),
        ("OriginalAttributesSequence[0].ModifyingSystem", "x", "--no-original-attributes"),
        ("(0029,1010)", "x", "it can be erased"),
        ("PatientID", "x" * 65, "has 65 characters, VR LO allows 64"),
        ("PatientID", "a\x07", "control character"),
        ("PatientID", "a\\b", "takes 1 value, not 2"),
        ("PatientName", "A^B^C^D^E^F", "too many parts"),
        ("PatientName", "=".join(["x" * 65]), "has 65 characters"),
        ("PatientSex", "male", "does not fit VR CS"),
        ("PatientBirthDate", "20260231", "does not fit VR DA"),
        ("PatientBirthDate", "2026-02-01", "has 10 characters"),
        ("StudyTime", "256000", "does not fit VR TM"),
        ("AcquisitionDateTime", "20261301", "does not fit VR DT"),
        ("PatientAge", "64", "does not fit VR AS"),
        ("PatientWeight", "heavy", "does not fit VR DS"),
        ("SeriesNumber", "3000000000", "does not fit VR IS"),
        ("PatientSex", "\u00c4", "does not allow"),
        ("Rows", "70000", "is not a number of VR US"),
        ("Rows", "many", "is not a number of VR US"),
        ("ImageOrientationPatient", "1\\2", "takes 6 values, not 2"),
    ],
)
def test_what_can_never_be_right_is_refused(name: str, value: str, problem: str) -> None:
    with pytest.raises(BadRule) as raised:
        setting(name, value)
    assert problem in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "value", "encoded"),
    [
        ("PatientID", "4711", b"4711"),
        ("PatientID", "471", b"471 "),
        ("PatientID", "", b""),
        ("PatientName", "A^B", b"A^B "),
        ("PatientBirthDate", "20240229", b"20240229"),
        ("ImageType", "DERIVED\\PRIMARY", b"DERIVED\\PRIMARY "),
        ("Rows", "512", b"\x00\x02"),
        ("PatientComments", "a\\b", b"a\\b "),
        ("AcquisitionDateTime", "20241231235959.123456+0100", b"20241231235959.123456+0100"),
        ("ImageOrientationPatient", "1\\0\\0\\0\\1\\0", b"1\\0\\0\\0\\1\\0 "),
    ],
)
def test_a_value_is_encoded_with_its_padding(name: str, value: str, encoded: bytes) -> None:
    action = setting(name, value).action
    assert action.value is not None
    assert action.value.encoded(b"", big_endian=False) == encoded


@pytest.mark.parametrize(
    ("character_set", "encoded"),
    [
        (b"ISO_IR 100", "M\u00fcller".encode("latin-1")),
        (b"ISO_IR 192", "M\u00fcller".encode() + b" "),
        (b"\\ISO 2022 IR 100", b"M\x1b-A\xfcller "),
        (b"ISO 2022 IR 6\\ISO 2022 IR 87\\ISO 2022 IR 100", b"M\x1b-A\xfcller "),
        (b"", None),
        (b"ISO_IR 144", None),
        (b"ISO_IR 13", None),
        (b"NONSENSE", None),
    ],
)
def test_text_is_in_the_character_set_of_the_data_set(character_set: bytes, encoded: bytes | None) -> None:
    action = setting("PatientID", "M\u00fcller").action
    assert action.value is not None
    if encoded is None:
        with pytest.raises(CannotChange, match="character set"):
            action.value.encoded(character_set, big_endian=False)
    else:
        assert (
            action.value.encoded(character_set, big_endian=False).replace(b"\x1b(B", b"").rstrip() == encoded.rstrip()
        )


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("SOPInstanceUID", "--new-uids"),
        ("(0008,*)", "as a whole"),
        ("(7fe0,*)", "as a whole"),
        ("everything", "keyword"),
    ],
)
def test_what_must_stay_is_not_erased(name: str, problem: str) -> None:
    with pytest.raises(BadRule, match=problem):
        erasing(name)


# -- tables ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "line 1: the header"),
        (b"PatientID\n1\n", "line 1: there is no column of new values"),
        (b"PatientID,Patientname\n1,2\n", "line 1: 'Patientname' is not the keyword"),
        (b"PatientID,StudyInstanceUID\n1,2\n", "line 1: StudyInstanceUID is a UID"),
        (b"PatientID,PatientName,PatientName\n1,2,3\n", "line 1: PatientName is there twice"),
        (b"RequestAttributesSequence[0].StudyID,PatientID\n1,2\n", "line 1: "),
        (b"PatientID,PatientID\n", "no rows"),
        (b"PatientID,PatientID\n1,2,3\n", "line 2: it has 3 cells, the header has 2"),
        (b"PatientID,PatientID\n1,A\n\n2,B\n1,C\n", "line 5: its old value is that of line 2"),
        (b"PatientID,PatientID\n1,A\n1 ,B\n", "line 3: its old value is that of line 2"),
        (b"PatientID,PatientBirthDate\n1,yesterday\n", "line 2: PatientBirthDate: 'yesterday'"),
        (b"PatientID,PatientName\n1,M\xfcller\n", "line 2: it is not UTF-8"),
        ("PatientID,PatientID\n1,2\n".encode("utf-16"), "zero byte"),
        (b'PatientID,PatientID\n1,"2\n', "it is not CSV"),
        (b"PixelData,PatientID\n1,2\n", "line 1: PixelData is not before the pixel data"),
        (b"TransferSyntaxUID,PatientID\n1,2\n", "line 1: TransferSyntaxUID is not in the data set"),
        (b"PatientID,PatientID\n1," + b"x" * (1 << 20) + b"\n", "line 2: it is longer"),
    ],
)
def test_a_bad_table_is_refused_with_one_line(tmp_path: Path, content: bytes, problem: str) -> None:
    (tmp_path / "map.csv").write_bytes(content)
    with pytest.raises(BadRule) as raised:
        ValueMap(tmp_path / "map.csv")
    assert problem in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("start", ["", "\ufeff"])
def test_a_table_gives_the_new_values_of_an_old_one(tmp_path: Path, delimiter: str, start: str) -> None:
    rows = [
        ["old PatientID", "IssuerOfPatientID", "old Modality", "PatientID"],
        ["1", "X", "CT", ""],
        ["1", "Y", "MR", "9"],
    ]
    text = start + "\r\n".join(delimiter.join(row) for row in rows)
    (tmp_path / "map.csv").write_bytes(text.encode())
    table = ValueMap(tmp_path / "map.csv")
    values = [(path.text, action.value and action.value.text) for path, action in table.row_of(("1", "MR"))]
    assert values == [("IssuerOfPatientID", "Y"), ("PatientID", "9")]
    assert [path.text for path, _ in table.row_of(("1", "CT"))] == ["IssuerOfPatientID"]
    with pytest.raises(CannotChange, match="its PatientID and Modality are not in the map"):
        table.row_of(("2", "CT"))


# -- rules in a file ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "it has no rule"),
        ("[[rule]]\n", "rule 1: it has neither set nor erase"),
        ("[[rule]]\nset = { PatientID = 1 }", "rule 1: the value of PatientID is not text"),
        ("[[rule]]\nset = { PatientIDD = '1' }", "rule 1: 'PatientIDD' is not the keyword"),
        ("[[rule]]\nerase = 'PatientName'", "rule 1: erase is not a list"),
        ("[[rule]]\nsets = { PatientID = '1' }", "rule 1: 'sets' is not known"),
        ("[[rule]]\nerase = ['PatientName']\n[[rule]]\nwhen = { Modality = 1 }\nerase = ['PatientName']", "rule 2: "),
        ("rules = 1\n[[rule]]\nerase = ['PatientName']", "'rules' is not known"),
        ("[[rule]", "it is not TOML"),
        ("[[rule]]\nwhen = { 'RequestAttributesSequence[0].StudyID' = '' }\nerase = ['PatientName']", "in a sequence"),
        ("[[rule]]\nwhen = { PixelData = '*' }\nerase = ['PatientName']", "PixelData is not before the pixel data"),
        ("[[rule]]\nwhen = { TransferSyntaxUID = '*' }\nerase = ['PatientName']", "is not in the data set"),
        ("[[rule]]\nwhen = { EncapsulatedDocument = '*' }\nerase = ['PatientName']", "neither text nor a number"),
        (
            "[[rule]]\nset = { PatientID = '1' }\nerase = ['(0010,0020)']",
            "PatientID is set, and (0010,0020) is",
        ),
    ],
)
def test_bad_rules_are_refused_with_one_line(tmp_path: Path, content: str, problem: str) -> None:
    (tmp_path / "rules.toml").write_text(content)
    with pytest.raises(BadRule) as raised:
        read_rules(tmp_path / "rules.toml")
    assert problem in str(raised.value)


@pytest.mark.parametrize(
    ("set_name", "value", "erased", "is_refused"),
    [
        ("PatientID", "1", "PatientID", True),
        ("PatientID", "1", "(0010,0020)", True),
        ("PatientID", "1", "PatientName", False),
        ("PatientID", "1", "(0010,*)", False),  # what is left of the group
        ("PatientID", "1", "private", False),
        ("RequestAttributesSequence[0].StudyID", "1", "RequestAttributesSequence", True),
        ("RequestAttributesSequence[0].StudyID", "1", "(0040,*)", True),
        ("RequestAttributesSequence[0].StudyID", "1", "RequestAttributesSequence[0].StudyID", True),
        ("RequestAttributesSequence[0].StudyID", "1", "RequestAttributesSequence[*].StudyID", False),
        ("RequestAttributesSequence[0].StudyID", "1", "RequestAttributesSequence[0].AccessionNumber", False),
        ("RequestAttributesSequence[0].StudyID", "1", "StudyID", False),
    ],
)
def test_nothing_can_be_set_and_erased(set_name: str, value: str, erased: str, *, is_refused: bool) -> None:
    both = [setting(set_name, value), erasing(erased)]
    for instructions in (both, both[::-1]):
        if is_refused:
            with pytest.raises(BadRule, match=r"is set, and .* is erased"):
                check_consistent(instructions)
        else:
            check_consistent(instructions)


# -- UIDs --------------------------------------------------------------------------------------------------------------


def test_new_uids_depend_on_the_key_and_nothing_else() -> None:
    one, same, other = NewUIDs(b"k" * 16), NewUIDs(b"k" * 16), NewUIDs(b"l" * 16)
    assert one.replaced(b"1.2.3") == same.replaced(b"1.2.3") != other.replaced(b"1.2.3")
    assert one.replaced(b"1.2.3\\1.2.4").split(b"\\") == [one.of(b"1.2.3"), one.of(b"1.2.4")]
    assert one.fingerprint == same.fingerprint != other.fingerprint
    new = one.of(b"1.2.3").decode()
    assert new.startswith("2.25.")
    assert len(new) <= 44
    assert int(new[5:]) < 1 << 128


@pytest.mark.parametrize("uid", [b"", b"1.2.840.10008.1.2", b"1.2.840.10008.1.4.1.1"])
def test_uids_of_the_standard_stay(uid: bytes) -> None:
    assert NewUIDs(b"k" * 16).of(uid) == uid


def test_a_short_key_is_refused() -> None:
    with pytest.raises(BadRule, match="6 bytes: it needs 16 random ones"):
        NewUIDs(b"secret")


@pytest.mark.parametrize(
    ("tag", "is_replaced"),
    [
        (0x00080018, True),
        (0x0020000D, True),
        (0x0020000E, True),
        (0x00200052, True),
        (0x00081155, True),
        (0x00080016, False),
        (0x00081150, False),
        (0x0008010C, False),
        (0x00181002, False),
    ],
)
def test_only_uids_of_instances_and_their_groups_are_replaced(tag: int, is_replaced: bool) -> None:
    assert NewUIDs(b"k" * 16).concerns(tag) is is_replaced
