"""Changing attributes gives what pydicom gives by hand, and everything else keeps its bytes."""

from __future__ import annotations

import copy
import io
import itertools
import time
import zlib
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import Dataset, Sequence, dcmread
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset

from asyncstore.inputs.opening import instance_from
from asyncstore.instances.elements import encoding_of
from asyncstore.instances.instance import Instance
from asyncstore.instances.source import BytesSource
from asyncstore.preparation.attributes import change as change_module
from asyncstore.preparation.attributes.change import AttributeChange
from asyncstore.preparation.attributes.level import Level
from asyncstore.preparation.attributes.originals import Originals
from asyncstore.preparation.attributes.paths import BadRule, check_readable, path_of
from asyncstore.preparation.attributes.rules import Condition, Instruction, Rule, Rules, erasing, setting
from asyncstore.preparation.attributes.uids import NewUIDs
from asyncstore.preparation.attributes.value_map import ValueMap
from asyncstore.preparation.attributes.values import CannotChange
from asyncstore.preparation.prepare import LATER, Changed
from asyncstore.uids import (
    CT_IMAGE_STORAGE,
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_BIG_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
)
from tests.support import files

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SYNTAXES = (EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_BIG_ENDIAN)
PIXELS = bytes(range(256)) * 16
KEY = b"a key of the test, not secret"


def encoded(data_set: Dataset, syntax: str) -> bytes:
    encoding = encoding_of(syntax)
    file = DicomBytesIO()
    file.is_implicit_VR, file.is_little_endian = not encoding.explicit, not encoding.big_endian
    write_dataset(file, copy.deepcopy(data_set))
    return file.getvalue()


def decoded(data: bytes, syntax: str) -> Dataset:
    if syntax == DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN:
        data, syntax = zlib.decompress(data, -zlib.MAX_WBITS), EXPLICIT_VR_LITTLE_ENDIAN
    data_set = dcmread(io.BytesIO(files.dicom_file(meta=files.file_meta(syntax), body=data)))
    del data_set.file_meta
    return Dataset(data_set)


def instance_of(data: bytes, syntax: str) -> Instance:
    source = BytesSource(data)
    return Instance(None, CT_IMAGE_STORAGE, "1.2.3", syntax, 0, len(data), source, len(data), 0)


def sent(changed: Changed | None) -> bytes:
    assert changed is not None
    assert changed.instance.data_set_length == changed.instance.source.length_bytes
    return files.read_all(changed.instance.source)


def all_of(*instructions: Instruction, **more: Any) -> Rules:
    return Rules(instructions=instructions, **more)


def data_set(**values: Any) -> Dataset:
    made = Dataset()
    made.SOPClassUID, made.SOPInstanceUID = CT_IMAGE_STORAGE, "1.2.3"
    for name, value in values.items():
        setattr(made, name, value)
    made.Rows, made.BitsAllocated, made.PixelData = 2, 16, PIXELS
    made["PixelData"].VR = "OW"
    return made


# -- against pydicom ---------------------------------------------------------------------------------------------------

_TEXTS = st.text("ABC 123^", max_size=12).map(str.strip)
_WORDS = ("PatientName", "PatientID", "AccessionNumber", "InstitutionName", "StudyDescription", "ProtocolName")


@st.composite
def items(draw: st.DrawFn, depth: int) -> Dataset:
    item = Dataset()
    for name in draw(st.sets(st.sampled_from(_WORDS))):
        setattr(item, name, draw(_TEXTS))
    if draw(st.booleans()):
        block = item.private_block(0x0019, "TEST", create=True)
        block.add_new(1, "LO", draw(_TEXTS))
    if depth and draw(st.booleans()):
        item.RequestAttributesSequence = Sequence(draw(st.lists(items(depth - 1), max_size=3)))
        item["RequestAttributesSequence"].is_undefined_length = draw(st.booleans())
        for inner in item.RequestAttributesSequence:
            inner.is_undefined_length_sequence_item = draw(st.booleans())
    return item


@st.composite
def data_sets(draw: st.DrawFn) -> Dataset:
    made = draw(items(2))
    made.SOPClassUID, made.SOPInstanceUID = CT_IMAGE_STORAGE, "1.2.3"
    if draw(st.booleans()):
        made.Rows, made.BitsAllocated, made.PixelData = 2, 16, PIXELS
        made["PixelData"].VR = "OW"
    return made


def apply_to_items(name: str, places: tuple[int, ...], act: Callable[[Dataset, str], None], data: Dataset) -> None:
    """Do something to an attribute of the data set, or of items in its sequence, in its sequence ..."""
    if not places:
        act(data, name)
        return
    sequence = data.get("RequestAttributesSequence") or []
    for number, item in enumerate(sequence):
        if places[0] in (-1, number):
            apply_to_items(name, places[1:], act, item)


def erase_private(data: Dataset) -> None:
    data.remove_private_tags()


_ACTIONS = st.tuples(
    st.sampled_from(_WORDS), st.lists(st.sampled_from([-1, 0, 1]), max_size=2).map(tuple), st.none() | _TEXTS
)


def instruction_of(action: tuple[str, tuple[int, ...], str | None]) -> Instruction:
    name, places, value = action
    path = "".join(f"RequestAttributesSequence[{'*' if n < 0 else n}]." for n in places) + name
    return erasing(path) if value is None else setting(path, value)


@given(data_sets(), st.sampled_from(SYNTAXES), st.lists(_ACTIONS, max_size=4), st.booleans())
def test_it_is_as_if_pydicom_did_it(
    given_set: Dataset, syntax: str, actions: list[tuple[str, tuple[int, ...], str | None]], private: bool
) -> None:
    before = encoded(given_set, syntax)
    # For one attribute of one item the later action counts, and [*] comes before a number, the innermost first.
    actions = list({(name, places): (name, places, value) for name, places, value in actions}.values())
    actions.sort(key=lambda action: action[1][::-1])
    by_hand = decoded(before, syntax)
    if private:
        erase_private(by_hand)
    for name, places, value in actions:

        def act(data: Dataset, name: str, value: str | None = value) -> None:
            if value is None:
                data.pop(name, None)
            else:
                setattr(data, name, value)

        apply_to_items(name, places, act, by_hand)
    instructions = [instruction_of(action) for action in actions] + [erasing("private")] * private
    changed = AttributeChange(all_of(*instructions))(instance_of(before, syntax))
    after = before if changed is None else sent(changed)
    assert encoded(decoded(after, syntax), syntax) == encoded(by_hand, syntax)
    if not private:
        assert_the_rest_keeps_its_bytes(
            before, after, syntax, {instruction.path.tag for instruction in instructions if instruction.path}
        )


def assert_the_rest_keeps_its_bytes(before: bytes, after: bytes, syntax: str, changed: set[int]) -> None:
    one, other = (Level(data, 0, len(data), encoding_of(syntax)) for data in (before, after))
    every, others = (list(level.matching(lambda _: True)) for level in (one, other))
    for element in every:
        if element.tag not in changed:
            twin = other.find(element.tag)
            assert twin is not None
            assert before[element.at : element.behind] == after[twin.at : twin.behind]
    assert [element.tag for element in every if element.tag not in changed] == [
        element.tag for element in others if element.tag not in changed
    ]


# -- what is kept ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_what_was_there_before_is_kept_in_the_original_attributes(syntax: str) -> None:
    first = Dataset()
    first.ModifyingSystem = "OTHER"
    given_set = data_set(PatientID="old", PatientName="A^B", OriginalAttributesSequence=[first])
    before = encoded(given_set, syntax)
    rules = all_of(setting("PatientID", "new"), erasing("PatientName"), setting("IssuerOfPatientID", "X"))
    changed = AttributeChange(rules, Originals("CORRECT"))(instance_of(before, syntax))
    after = decoded(sent(changed), syntax)
    assert changed is not None
    assert changed.changes == ("PatientID set", "PatientName erased", "IssuerOfPatientID set")
    kept, added = after.OriginalAttributesSequence
    assert kept == first
    (modified,) = added.ModifiedAttributesSequence
    assert (modified.PatientID, modified.PatientName) == ("old", "A^B")
    assert "IssuerOfPatientID" not in modified
    assert (added.ModifyingSystem, added.SourceOfPreviousValues) == ("asyncstore", "")
    assert added.ReasonForTheAttributeModification == "CORRECT"
    assert str(added.AttributeModificationDateTime).startswith(time.strftime("%Y"))
    assert after.PixelData == PIXELS


@pytest.mark.parametrize("is_undefined", [False, True])
def test_an_item_more_stands_within_the_sequence_whatever_its_length(is_undefined: bool) -> None:
    given_set = data_set(PatientID="old", OriginalAttributesSequence=[Dataset()])
    given_set["OriginalAttributesSequence"].is_undefined_length = is_undefined
    before = encoded(given_set, EXPLICIT_VR_LITTLE_ENDIAN)
    changed = AttributeChange(all_of(erasing("PatientID")), Originals())(instance_of(before, EXPLICIT_VR_LITTLE_ENDIAN))
    after = decoded(sent(changed), EXPLICIT_VR_LITTLE_ENDIAN)
    assert len(after.OriginalAttributesSequence) == 2
    assert after["OriginalAttributesSequence"].is_undefined_length is is_undefined
    assert (after.Rows, after.PixelData) == (2, PIXELS)


def test_nothing_is_kept_of_what_was_not_there_nor_of_private_attributes() -> None:
    given_set = data_set()
    given_set.private_block(0x0019, "TEST", create=True).add_new(1, "LO", "secret")
    before = encoded(given_set, EXPLICIT_VR_LITTLE_ENDIAN)
    rules = all_of(setting("PatientID", "new"), erasing("private"))
    after = sent(AttributeChange(rules, Originals())(instance_of(before, EXPLICIT_VR_LITTLE_ENDIAN)))
    assert b"secret" not in after
    assert "OriginalAttributesSequence" not in decoded(after, EXPLICIT_VR_LITTLE_ENDIAN)


@pytest.mark.parametrize("rules", [all_of(setting("PatientID", "old")), all_of(erasing("PatientName"))])
def test_an_instance_that_is_so_already_stays_as_it_is(rules: Rules) -> None:
    before = encoded(data_set(PatientID="old"), EXPLICIT_VR_LITTLE_ENDIAN)
    assert AttributeChange(rules, Originals())(instance_of(before, EXPLICIT_VR_LITTLE_ENDIAN)) is None


def test_lengths_of_groups_that_change_are_dropped_and_others_stay() -> None:
    before = (
        files.element(0x00080000, b"UL", b"\x10\0\0\0")
        + files.data_set()
        + files.element(0x00100000, b"UL", b"\x0c\0\0\0")
        + files.element(0x00100020, b"LO", b"old ")
    )
    after = sent(
        AttributeChange(all_of(setting("PatientID", "longer")))(instance_of(before, EXPLICIT_VR_LITTLE_ENDIAN))
    )
    level = Level(after, 0, len(after), encoding_of(EXPLICIT_VR_LITTLE_ENDIAN))
    assert level.find(0x00080000)
    assert not level.find(0x00100000)


# -- all kinds of sources ----------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:Expected explicit VR:UserWarning")
@pytest.mark.parametrize(
    "name", ["CT_small.dcm", "MR_small_bigendian.dcm", "image_dfl.dcm", "SC_rgb_jpeg.dcm", "rtplan.dcm"]
)
def test_files_of_all_kinds_are_changed(name: str) -> None:
    given_instance = instance_from(files.bundled(name))
    before = files.read_all(given_instance.source)
    changed = AttributeChange(all_of(setting("PatientID", "NEW")), Originals())(given_instance)
    after = decoded(sent(changed), given_instance.transfer_syntax_uid)
    old = decoded(before, given_instance.transfer_syntax_uid)
    assert after.PatientID == "NEW"
    for element in old:
        if element.tag != 0x00100020:
            assert str(after[element.tag]) == str(element)


@pytest.mark.parametrize("head_bytes", [10, 20_000, 400_000])
def test_a_large_file_is_read_as_far_as_its_head_reaches(tmp_path: Path, head_bytes: int) -> None:
    more = files.element(0x00091010, b"OB", bytes(head_bytes)) + files.element(0x00100020, b"LO", b"old ")
    pixels = files.element(0x7FE00010, b"OW", PIXELS * 64)
    path = tmp_path / "large.dcm"
    path.write_bytes(files.dicom_file(body=files.data_set(more=more + pixels)))
    given_instance = instance_from(path)
    change = AttributeChange(all_of(setting("PatientID", "longer")))
    at_once = change.at_once(given_instance)
    changed = change(given_instance)
    assert at_once is LATER or sent(at_once) == sent(changed)
    after = sent(changed)
    assert after.endswith(pixels)
    assert len(after) == given_instance.data_set_length + 2
    source = changed.instance.source if changed else None
    assert source is not None
    for at in range(0, len(after), 100_003):
        holes = [memoryview(bytearray(min(size, max(0, len(after) - at)))) for size in (0, 7, 1024)]
        holes = holes[:1] if at + sum(map(len, holes)) > len(after) else holes
        assert source.read_into(holes, at)
        assert b"".join(holes) == after[at : at + sum(map(len, holes))]


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (files.data_set() + b"\x10\x00\x20\x00LO\xff\x00abc", "its data set is damaged"),
        (files.data_set(more=files.element(0x00081110, b"SQ", b"\1\2\3\4\5\6\7\x08")), "cannot be changed"),
    ],
)
def test_a_damaged_head_is_told_and_not_sent(body: bytes, problem: str) -> None:
    rules = all_of(setting("PatientID", "1"), uids=NewUIDs(KEY))
    with pytest.raises(CannotChange, match=problem):
        AttributeChange(rules)(instance_of(body, EXPLICIT_VR_LITTLE_ENDIAN))


def test_sequences_in_sequences_without_end_are_refused() -> None:
    body = files.data_set() + (b"\x40\x00\x75\x02SQ\0\0\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\xff\xff\xff\xff") * 3000
    with pytest.raises(CannotChange):
        AttributeChange(all_of(uids=NewUIDs(KEY)))(instance_of(body, EXPLICIT_VR_LITTLE_ENDIAN))


@pytest.mark.parametrize("waits", [True, False], ids=["a-share", "a-busy-machine"])
def test_a_slow_share_is_left_to_threads_for_a_while_and_a_busy_machine_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, waits: bool
) -> None:
    path = tmp_path / "large.dcm"
    path.write_bytes(files.dicom_file(body=files.data_set(more=files.element(0x7FE00010, b"OW", bytes(200_000)))))
    change = AttributeChange(all_of(setting("PatientID", "1")))
    given_instance = instance_from(path)
    monkeypatch.setattr(change_module, "_SLOW_READ_SECONDS", -1.0)
    counted = itertools.count()
    monkeypatch.setattr(change_module, "waits_so_far", lambda: next(counted) if waits else 0)
    assert change.at_once(given_instance) is not LATER
    assert change.at_once(given_instance) is not LATER  # this one is looked at
    assert (change.at_once(given_instance) is LATER) is waits


# -- conditions, tables and UIDs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("patterns", "is_changed"),
    [(("CT",), True), (("C*",), True), (("MR", "CT"), True), (("",), False), (("c*",), False)],
)
def test_a_rule_is_for_those_that_fulfil_its_conditions(patterns: tuple[str, ...], is_changed: bool) -> None:
    before = encoded(data_set(Modality="CT"), EXPLICIT_VR_LITTLE_ENDIAN)
    rule = Rule((Condition(path_of("Modality"), patterns),), (setting("PatientID", "1"),))
    changed = AttributeChange(Rules(rules=(rule,)))(instance_of(before, EXPLICIT_VR_LITTLE_ENDIAN))
    assert (changed is not None) is is_changed


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize(
    ("name", "pattern", "holds"),
    [
        ("Rows", "2", True),
        ("Rows", "3", False),
        ("Columns", "", True),
        ("Rows", "", False),
        ("ReferencePixelX0", "-*", True),
        ("RecommendedDisplayFrameRateInFloat", "1.5", True),
        ("FrameIncrementPointer", "x", False),
        ("BluePaletteColorLookupTableDescriptor", "x", False),
        ("EventTimeOffset", "*", True),
        ("GrayLookupTableDescriptor", "x", False),
        ("SimpleFrameList", "1\\32", True),
    ],
)
def test_numbers_are_compared_as_they_are_written(syntax: str, name: str, pattern: str, *, holds: bool) -> None:
    given = data_set(
        ReferencePixelX0=-7, RecommendedDisplayFrameRateInFloat=1.5, SimpleFrameList=[1, 32], EventTimeOffset=2.0
    )
    try:
        check_readable(path_of(name))
    except BadRule:
        assert not holds
        return
    change = AttributeChange(Rules((Rule((Condition(path_of(name), (pattern,)),), (setting("PatientID", "new"),)),)))
    assert (change(instance_of(encoded(given, syntax), syntax)) is not None) is holds


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize(("old", "new"), [(32, 0), (0, 32), (0x2000, 0), (0x2020, 0x20)])
def test_numbers_with_bytes_that_would_be_padding_of_text_are_others(syntax: str, old: int, new: int) -> None:
    given = encoded(data_set(SeriesNumber=1, Columns=old), syntax)
    changed = sent(AttributeChange(all_of(setting("Columns", str(new))))(instance_of(given, syntax)))
    assert decoded(changed, syntax).Columns == new


def test_of_two_instructions_the_later_one_counts(tmp_path: Path) -> None:
    (tmp_path / "map.csv").write_text("PatientID,PatientName,PatientSex,StudyID\n7,of the map,M,of the map\n")
    rule = Rule((), (setting("PatientName", "of the rule"), setting("InstitutionName", "of the rule")))
    rules = Rules((rule,), ValueMap(tmp_path / "map.csv"), (setting("StudyID", "of all"), erasing("PatientSex")))
    before = encoded(data_set(PatientID="7", PatientSex="F"), EXPLICIT_VR_LITTLE_ENDIAN)
    after = decoded(
        sent(AttributeChange(rules)(instance_of(before, EXPLICIT_VR_LITTLE_ENDIAN))), EXPLICIT_VR_LITTLE_ENDIAN
    )
    assert (after.PatientName, after.InstitutionName, after.StudyID) == ("of the map", "of the rule", "of all")
    assert "PatientSex" not in after


def test_an_instance_that_the_table_does_not_know_is_not_sent(tmp_path: Path) -> None:
    (tmp_path / "map.csv").write_text("PatientID,PatientName\n7,X\n")
    before = encoded(data_set(PatientID="8"), EXPLICIT_VR_LITTLE_ENDIAN)
    change = AttributeChange(Rules(table=ValueMap(tmp_path / "map.csv")))
    for make in (change, change.at_once):
        with pytest.raises(CannotChange, match="its PatientID is not in the map"):
            make(instance_of(before, EXPLICIT_VR_LITTLE_ENDIAN))


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_new_uids_are_the_same_in_every_reference(syntax: str) -> None:
    reference, code = Dataset(), Dataset()
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = CT_IMAGE_STORAGE, "1.2.3"
    code.CodingSchemeUID = "1.2.9"
    given_set = data_set(
        StudyInstanceUID="1.2.1",
        SeriesInstanceUID="1.2.2",
        FrameOfReferenceUID="1.2.840.10008.1.4.1.1",
        ReferencedImageSequence=[reference],
        CodingSchemeIdentificationSequence=[code],
        FailedSOPInstanceUIDList=["1.2.1", "1.2.2"],
    )
    changed = AttributeChange(all_of(uids=NewUIDs(KEY)))(instance_of(encoded(given_set, syntax), syntax))
    after = decoded(sent(changed), syntax)
    assert changed is not None
    new = {old: NewUIDs(KEY).of(old.encode()).decode() for old in ("1.2.1", "1.2.2", "1.2.3")}
    assert changed.changes == ("UIDs replaced",)
    instance = changed.instance
    assert (instance.study_instance_uid, instance.series_instance_uid) == (new["1.2.1"], new["1.2.2"])
    assert instance.sop_instance_uid == after.SOPInstanceUID == new["1.2.3"]
    assert after.ReferencedImageSequence[0].ReferencedSOPInstanceUID == new["1.2.3"]
    assert after.ReferencedImageSequence[0].ReferencedSOPClassUID == CT_IMAGE_STORAGE
    assert after.FrameOfReferenceUID == "1.2.840.10008.1.4.1.1"
    assert after.CodingSchemeIdentificationSequence[0].CodingSchemeUID == "1.2.9"
    assert list(after.FailedSOPInstanceUIDList) == [new["1.2.1"], new["1.2.2"]]
    assert after.SOPClassUID == CT_IMAGE_STORAGE


def test_text_that_the_character_set_lacks_fails_with_its_instance() -> None:
    change = AttributeChange(all_of(setting("PatientName", "M\u00fcller")))
    latin = encoded(data_set(SpecificCharacterSet="ISO_IR 100"), EXPLICIT_VR_LITTLE_ENDIAN)
    after = decoded(sent(change(instance_of(latin, EXPLICIT_VR_LITTLE_ENDIAN))), EXPLICIT_VR_LITTLE_ENDIAN)
    assert after.PatientName == "M\u00fcller"
    with pytest.raises(CannotChange, match="the new PatientName has characters"):
        change(instance_of(encoded(data_set(), EXPLICIT_VR_LITTLE_ENDIAN), EXPLICIT_VR_LITTLE_ENDIAN))
