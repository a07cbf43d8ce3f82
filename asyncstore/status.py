"""DIMSE status codes of C-STORE and C-ECHO: their meanings, and whether trying again may help.

The general codes are from PS3.7 Annex C, those of the Storage Service Class from PS3.4 B.2.3.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NamedTuple


class Category(enum.Enum):
    """The five kinds of status of PS3.7 Annex C, and one for all other codes.

    SUCCESS  the operation was performed
    WARNING  it was performed, and not quite as requested
    FAILURE  it was not performed
    CANCEL   it was cancelled; not a legal answer to a C-STORE
    PENDING  a response that is not the last one; not a legal answer to a C-STORE
    UNKNOWN  a code that the standard does not have
    """

    SUCCESS = "Success"
    WARNING = "Warning"
    FAILURE = "Failure"
    CANCEL = "Cancel"
    PENDING = "Pending"
    UNKNOWN = "Unknown"


class StatusRange(NamedTuple):
    """A row of the table: codes `first` to `last`, both included, and what they mean.

    `retryable` agrees with what a transfer does by default (transfer/reactions.py): it sends the instance again after
    the codes for which this is true. 0124 (not authorised) is among them. It says nothing against the instance, and a
    run that gets it three times in a row leaves its instances for another run.
    """

    first: int
    last: int
    category: Category
    meaning: str
    retryable: bool = False


# The first row with a code wins: single codes come before the ranges that include them.
STATUS_TABLE: Final[tuple[StatusRange, ...]] = (
    StatusRange(0x0000, 0x0000, Category.SUCCESS, "Success"),
    StatusRange(0x0001, 0x0001, Category.WARNING, "Requested optional attributes are not supported"),
    StatusRange(0x0105, 0x0105, Category.FAILURE, "No such attribute"),
    StatusRange(0x0106, 0x0106, Category.FAILURE, "Invalid attribute value"),
    StatusRange(0x0107, 0x0107, Category.WARNING, "Attribute list error"),
    StatusRange(0x0110, 0x0110, Category.FAILURE, "Processing failure", retryable=True),
    StatusRange(0x0111, 0x0111, Category.FAILURE, "Duplicate SOP instance"),
    StatusRange(0x0112, 0x0112, Category.FAILURE, "No such SOP instance"),
    StatusRange(0x0113, 0x0113, Category.FAILURE, "No such event type"),
    StatusRange(0x0114, 0x0114, Category.FAILURE, "No such argument"),
    StatusRange(0x0115, 0x0115, Category.FAILURE, "Invalid argument value"),
    StatusRange(0x0116, 0x0116, Category.WARNING, "Attribute value out of range"),
    StatusRange(0x0117, 0x0117, Category.FAILURE, "Invalid SOP instance"),
    StatusRange(0x0118, 0x0118, Category.FAILURE, "No such SOP class"),
    StatusRange(0x0119, 0x0119, Category.FAILURE, "Class-instance conflict"),
    StatusRange(0x0120, 0x0120, Category.FAILURE, "Missing attribute"),
    StatusRange(0x0121, 0x0121, Category.FAILURE, "Missing attribute value"),
    StatusRange(0x0122, 0x0122, Category.FAILURE, "SOP class not supported"),
    StatusRange(0x0123, 0x0123, Category.FAILURE, "No such action type"),
    StatusRange(0x0124, 0x0124, Category.FAILURE, "Not authorised", retryable=True),
    StatusRange(0x0210, 0x0210, Category.FAILURE, "Duplicate invocation", retryable=True),
    StatusRange(0x0211, 0x0211, Category.FAILURE, "Unrecognised operation", retryable=True),
    StatusRange(0x0212, 0x0212, Category.FAILURE, "Mistyped argument", retryable=True),
    StatusRange(0x0213, 0x0213, Category.FAILURE, "Resource limitation", retryable=True),
    StatusRange(0xA700, 0xA7FF, Category.FAILURE, "Refused: out of resources", retryable=True),
    StatusRange(0xA800, 0xA8FF, Category.FAILURE, "Refused: SOP class not supported"),
    StatusRange(0xA900, 0xA9FF, Category.FAILURE, "Error: data set does not match SOP class"),
    StatusRange(0xA000, 0xAFFF, Category.FAILURE, "Failure", retryable=True),
    StatusRange(0xB000, 0xB000, Category.WARNING, "Coercion of data elements"),
    StatusRange(0xB006, 0xB006, Category.WARNING, "Elements discarded"),
    StatusRange(0xB007, 0xB007, Category.WARNING, "Data set does not match SOP class"),
    StatusRange(0xB000, 0xBFFF, Category.WARNING, "Warning"),
    StatusRange(0xC000, 0xCFFF, Category.FAILURE, "Error: cannot understand", retryable=True),
    StatusRange(0xFE00, 0xFE00, Category.CANCEL, "Cancel", retryable=True),
    StatusRange(0xFF00, 0xFF01, Category.PENDING, "Pending", retryable=True),
)
OUT_OF_RESOURCES: Final = ((0xA700, 0xA7FF), (0x0213, 0x0213))
"""The codes, first to last, with which a peer says that it has no room now (PS3.4 B.2.3, PS3.7 C.5.16)."""

_ANY_OTHER: Final = StatusRange(0x0000, 0xFFFF, Category.UNKNOWN, "Unknown status", retryable=True)


@dataclass(frozen=True, slots=True)
class Status:
    """A peer's answer: the 16-bit status code `value` (PS3.7 Annex C), and its explanation.

    `comment` is the peer's Error Comment, as sent: escape it before you print it. `offending_elements` are the tags
    that the peer complained about, each as an integer (group << 16 | element).
    """

    value: int
    comment: str = ""
    offending_elements: tuple[int, ...] = ()

    @property
    def category(self) -> Category:
        """Success, warning, failure, cancel, pending or unknown."""
        return _row(self.value).category

    @property
    def meaning(self) -> str:
        """The standard's words for the code, e.g. "Duplicate SOP instance"; without the peer's comment."""
        return _row(self.value).meaning

    @property
    def retryable(self) -> bool:
        """Whether sending the instance again may help."""
        return _row(self.value).retryable

    @property
    def is_stored(self) -> bool:
        """Whether the peer has the instance: the status is success or a warning (PS3.4 B.2.3)."""
        category = _row(self.value).category
        return category is Category.SUCCESS or category is Category.WARNING

    def __str__(self) -> str:
        return f"0x{self.value:04X} - {self.category.value}"


SUCCESS: Final = Status(0x0000)


@lru_cache(maxsize=1024)
def _row(value: int) -> StatusRange:
    return next((row for row in STATUS_TABLE if row.first <= value <= row.last), _ANY_OTHER)
