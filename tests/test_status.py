"""Statuses: what each code is, whether the instance is stored, and whether trying again makes sense (PS3.4 B.2.3)."""

from __future__ import annotations

from collections import Counter

import pytest
from pynetdicom.status import GENERAL_STATUS, STORAGE_SERVICE_CLASS_STATUS

from asyncstore.status import STATUS_TABLE, SUCCESS, Category, Status

SUCCESS_ = Category.SUCCESS
WARNING = Category.WARNING
FAILURE = Category.FAILURE

# First and last code, category, retryable: typed from the conformance statement's table, not from the code.
EXPECTED = [
    (0x0000, 0x0000, SUCCESS_, False),
    (0x0001, 0x0001, WARNING, False),
    (0x0107, 0x0107, WARNING, False),
    (0x0116, 0x0116, WARNING, False),
    (0xB000, 0xBFFF, WARNING, False),
    (0xA700, 0xA7FF, FAILURE, True),
    (0x0213, 0x0213, FAILURE, True),
    (0xA800, 0xA8FF, FAILURE, False),
    (0x0122, 0x0122, FAILURE, False),
    (0x0112, 0x0112, FAILURE, False),
    (0xA900, 0xA9FF, FAILURE, False),
    (0xC000, 0xCFFF, FAILURE, True),
    (0x0110, 0x0110, FAILURE, True),
    (0x0111, 0x0111, FAILURE, False),
    (0x0105, 0x0106, FAILURE, False),
    (0x0114, 0x0115, FAILURE, False),
    (0x0117, 0x0121, FAILURE, False),
    (0x0124, 0x0124, FAILURE, True),
    (0x0113, 0x0113, FAILURE, False),
    (0x0123, 0x0123, FAILURE, False),
    (0x0210, 0x0212, FAILURE, True),
    (0xFE00, 0xFE00, Category.CANCEL, True),
    (0xFF00, 0xFF01, Category.PENDING, True),
    (0x0002, 0x0104, Category.UNKNOWN, True),
    (0x0214, 0x9FFF, Category.UNKNOWN, True),
    (0xD000, 0xFDFF, Category.UNKNOWN, True),
    (0xFF02, 0xFFFF, Category.UNKNOWN, True),
]
# The standard leaves these numbers between its own unused: anybody's, so like any other unknown code.
UNUSED = range(0x011A, 0x0120)


@pytest.mark.parametrize(("first", "last", "category", "retryable"), EXPECTED)
def test_every_code_has_its_category_and_retry_trait(
    first: int, last: int, category: Category, retryable: bool
) -> None:
    for value in (value for value in range(first, last + 1) if value not in UNUSED):
        status = Status(value)
        assert (status.category, status.retryable) == (category, retryable), f"{value:#06x}"
        assert status.is_stored is (category in (SUCCESS_, WARNING))


@pytest.mark.parametrize("value", UNUSED)
def test_a_code_that_the_standard_left_unused_is_unknown(value: int) -> None:
    assert Status(value).category is Category.UNKNOWN
    assert Status(value).retryable


def test_only_success_and_warnings_count_as_stored() -> None:
    stored = {value for value in range(0x10000) if Status(value).is_stored}
    assert stored == {0x0000, 0x0001, 0x0107, 0x0116, *range(0xB000, 0xC000)}


def test_the_categories_are_those_of_another_implementation() -> None:
    # It lists the Storage codes of PS3.4 and the general ones of PS3.7.
    theirs = {**GENERAL_STATUS, **STORAGE_SERVICE_CLASS_STATUS}
    differing = {value for value, (category, *_) in theirs.items() if Status(value).category.value != category}
    assert not differing


def test_no_row_is_hidden_behind_the_ones_before_it() -> None:
    seen: set[int] = set()
    for first, last, *explained in STATUS_TABLE:
        codes = set(range(first, last + 1))
        assert codes - seen, explained
        seen |= codes


def test_no_two_codes_of_the_standard_mean_the_same() -> None:
    single = Counter(meaning for first, last, _, meaning, _ in STATUS_TABLE if first == last)
    assert set(single.values()) == {1}


@pytest.mark.parametrize(
    ("value", "meaning"),
    [
        (0x0000, "Success"),
        (0x0111, "Duplicate SOP instance"),
        (0x0124, "Not authorised"),
        (0xA702, "Refused: out of resources"),
        (0xA900, "Error: data set does not match SOP class"),
        (0xB000, "Coercion of data elements"),
        (0xB006, "Elements discarded"),
        (0xB007, "Data set does not match SOP class"),
        (0xB123, "Warning"),
        (0xC123, "Error: cannot understand"),
        (0x4321, "Unknown status"),
    ],
)
def test_a_code_has_the_words_of_the_standard(value: int, meaning: str) -> None:
    assert Status(value).meaning == meaning


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0x0000, "0x0000 - Success"),
        (0xB007, "0xB007 - Warning"),
        (0xA702, "0xA702 - Failure"),
        (0xFE00, "0xFE00 - Cancel"),
        (0xFF00, "0xFF00 - Pending"),
        (0x4321, "0x4321 - Unknown"),
    ],
)
def test_a_status_is_printed_as_the_documented_log_has_it(value: int, text: str) -> None:
    assert str(Status(value, "a comment", (0x00080018,))) == text


def test_the_peers_comment_and_elements_are_kept() -> None:
    status = Status(0xB007, "why", (0x00080018,))
    assert (status.comment, status.offending_elements) == ("why", (0x00080018,))
    assert Status(0) == SUCCESS
    assert Status(0, "why") != SUCCESS
