"""The tables of UIDs, held against the data dictionary of pydicom (PS3.6 Annex A)."""

from __future__ import annotations

import re
from importlib.util import find_spec, module_from_spec
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncstore import uids
from asyncstore.uids import (
    STORAGE_SOP_CLASSES,
    TRANSFER_SYNTAXES,
    UNCOMPRESSED_TRANSFER_SYNTAXES,
    can_be_sent,
    can_be_sent_as_instance,
    is_well_formed,
    name_of,
)


def read_dictionary() -> dict[str, tuple[str, str, str, str, str]]:
    """UID -> name, kind, information, "Retired" or "", keyword: pydicom's table as it is in its file.

    Read anew, because pynetdicom adds UIDs of its own to the table of the running process when it is imported.
    """
    spec = find_spec("pydicom._uid_dict")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    table: dict[str, tuple[str, str, str, str, str]] = module.UID_dictionary
    return table


DICTIONARY: Final = read_dictionary()

# Called storage, yet no class of the Storage Service: a file-set, commitments, and retired print queue classes.
NOT_OF_THE_STORAGE_SERVICE = {
    "1.2.840.10008.1.3.10",
    "1.2.840.10008.1.20.1",
    "1.2.840.10008.1.20.2",
    "1.2.840.10008.5.1.1.27",
    "1.2.840.10008.5.1.1.29",
    "1.2.840.10008.5.1.1.30",
}


def names_in_dictionary(kind: str) -> dict[str, str]:
    return {uid: row[0] for uid, row in DICTIONARY.items() if row[1] == kind}


def is_retired(uid: str) -> bool:
    return uid in DICTIONARY and DICTIONARY[uid][3] == "Retired"


def test_storage_classes_are_those_of_the_dictionary() -> None:
    sop_classes = names_in_dictionary("SOP Class")
    storage = {
        uid: name for uid, name in sop_classes.items() if "Storage" in name and uid not in NOT_OF_THE_STORAGE_SERVICE
    }
    assert storage == STORAGE_SOP_CLASSES


# In PS3.6 since 2024; a dictionary that knows them must agree.
NEWER_THAN_THE_DICTIONARY = {
    "1.2.840.10008.1.2.4.110": "JPEG XL Lossless",
    "1.2.840.10008.1.2.4.111": "JPEG XL JPEG Recompression",
    "1.2.840.10008.1.2.4.112": "JPEG XL",
    "1.2.840.10008.1.2.8.1": "Deflated Image Frame Compression",
}


def test_transfer_syntaxes_are_those_of_the_dictionary_and_the_newer_ones() -> None:
    assert NEWER_THAN_THE_DICTIONARY | names_in_dictionary("Transfer Syntax") == TRANSFER_SYNTAXES


@pytest.mark.parametrize("table", [STORAGE_SOP_CLASSES, TRANSFER_SYNTAXES])
def test_retired_uids_come_after_current_ones(table: dict[str, str]) -> None:
    retired = [is_retired(uid) for uid in table]
    assert any(retired)
    assert retired == sorted(retired)


def test_the_uncompressed_syntaxes_are_in_the_documented_order() -> None:
    assert [name_of(uid) for uid in UNCOMPRESSED_TRANSFER_SYNTAXES] == [
        "Implicit VR Little Endian",
        "Explicit VR Little Endian",
        "Explicit VR Big Endian",
        "Deflated Explicit VR Little Endian",
    ]


@pytest.mark.parametrize(
    ("uid", "name"),
    [
        (uids.APPLICATION_CONTEXT, "DICOM Application Context Name"),
        (uids.VERIFICATION, "Verification SOP Class"),
        (uids.MEDIA_STORAGE_DIRECTORY, "Media Storage Directory Storage"),
        (uids.CT_IMAGE_STORAGE, "CT Image Storage"),
        (uids.MR_IMAGE_STORAGE, "MR Image Storage"),
        (uids.IMPLICIT_VR_LITTLE_ENDIAN, "Implicit VR Little Endian"),
    ],
)
def test_a_uid_has_the_name_of_the_dictionary(uid: str, name: str) -> None:
    assert name_of(uid) == name == DICTIONARY[uid][0]


def test_a_uid_that_nobody_named_is_its_own_name() -> None:
    assert name_of("1.2.3.4") == "1.2.3.4"


def test_we_name_ourselves_within_the_standards_limits() -> None:
    # PS3.5 B.2: below 2.25 a UUID as one decimal number; PS3.7 D.3.3.2.3: at most 16 characters.
    match = re.fullmatch(r"2\.25\.([1-9][0-9]*)", uids.IMPLEMENTATION_CLASS_UID)
    assert match is not None
    assert int(match[1]) < 1 << 128
    assert len(uids.IMPLEMENTATION_CLASS_UID) <= 64
    assert 1 <= len(uids.IMPLEMENTATION_VERSION_NAME) <= 16
    assert uids.IMPLEMENTATION_VERSION_NAME.isascii()


@pytest.mark.parametrize("uid", ["1.2.840.10008.1.2", "0.0", "2.25.0", "1.10.100", "1." * 31 + "10"])
def test_a_uid_of_the_standard_is_well_formed(uid: str) -> None:
    assert is_well_formed(uid)


@pytest.mark.parametrize(
    "uid", ["", ".", "1.", ".1", "1..2", "01.2", "1.02", "1.00", "1.a", "1 2", "1.2\n", "1.\u0663", "1." * 32 + "1"]
)
def test_another_is_not(uid: str) -> None:
    assert not is_well_formed(uid)


@given(st.text("0012.", max_size=9) | st.text(max_size=9))
def test_a_uid_is_well_formed_if_each_component_is(uid: str) -> None:
    are_numbers = all(re.fullmatch("[0-9]+", component) for component in uid.split("."))
    assert is_well_formed(uid) is (are_numbers and not re.search(r"(^|\.)0[0-9]", uid))


@pytest.mark.parametrize(("characters", "is_sent"), [(0, False), (1, True), (64, True), (65, False)])
def test_a_context_has_room_for_64_characters(characters: int, is_sent: bool) -> None:
    assert can_be_sent("1" * characters) is is_sent


@pytest.mark.parametrize(("characters", "is_sent"), [(0, False), (1, True), (65, True), (128, True), (129, False)])
def test_an_instance_may_have_a_longer_uid(characters: int, is_sent: bool) -> None:
    assert can_be_sent_as_instance("1" * characters) is is_sent


@pytest.mark.parametrize("uid", ["1.2\\3", "1 2", "1\n2", "1.\u00e4", "1\0"])
def test_no_message_has_room_for_control_characters_and_backslashes(uid: str) -> None:
    assert not can_be_sent(uid)
    assert not can_be_sent_as_instance(uid)
