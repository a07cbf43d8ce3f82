"""DIMSE status codes of C-STORE and C-ECHO: their meanings, and whether trying again may help.

The general codes are from PS3.7 Annex C, those of the Storage Service Class from PS3.4 B.2.3.
"""

from __future__ import annotations

import enum
from functools import lru_cache
from typing import Final, TypeAlias

from asyncstore.record import record


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


StatusRow: TypeAlias = tuple[int, int, Category, str, bool]
"""Codes from the first to the last, both included, what they mean, and whether sending again may help.

The last agrees with what a transfer does by default (transfer/reactions.py): it sends the instance again after the
codes for which this is true. 0124 (not authorised) is among them. It says nothing against the instance, and a run that
gets it three times in a row leaves its instances for another run.
"""

# The first row with a code wins: single codes come before the ranges that include them.
STATUS_TABLE: Final[tuple[StatusRow, ...]] = (
    (0x0000, 0x0000, Category.SUCCESS, "Success", False),
    (0x0001, 0x0001, Category.WARNING, "Requested optional attributes are not supported", False),
    (0x0105, 0x0105, Category.FAILURE, "No such attribute", False),
    (0x0106, 0x0106, Category.FAILURE, "Invalid attribute value", False),
    (0x0107, 0x0107, Category.WARNING, "Attribute list error", False),
    (0x0110, 0x0110, Category.FAILURE, "Processing failure", True),
    (0x0111, 0x0111, Category.FAILURE, "Duplicate SOP instance", False),
    (0x0112, 0x0112, Category.FAILURE, "No such SOP instance", False),
    (0x0113, 0x0113, Category.FAILURE, "No such event type", False),
    (0x0114, 0x0114, Category.FAILURE, "No such argument", False),
    (0x0115, 0x0115, Category.FAILURE, "Invalid argument value", False),
    (0x0116, 0x0116, Category.WARNING, "Attribute value out of range", False),
    (0x0117, 0x0117, Category.FAILURE, "Invalid SOP instance", False),
    (0x0118, 0x0118, Category.FAILURE, "No such SOP class", False),
    (0x0119, 0x0119, Category.FAILURE, "Class-instance conflict", False),
    (0x0120, 0x0120, Category.FAILURE, "Missing attribute", False),
    (0x0121, 0x0121, Category.FAILURE, "Missing attribute value", False),
    (0x0122, 0x0122, Category.FAILURE, "SOP class not supported", False),
    (0x0123, 0x0123, Category.FAILURE, "No such action type", False),
    (0x0124, 0x0124, Category.FAILURE, "Not authorised", True),
    (0x0210, 0x0210, Category.FAILURE, "Duplicate invocation", True),
    (0x0211, 0x0211, Category.FAILURE, "Unrecognised operation", True),
    (0x0212, 0x0212, Category.FAILURE, "Mistyped argument", True),
    (0x0213, 0x0213, Category.FAILURE, "Resource limitation", True),
    (0xA700, 0xA7FF, Category.FAILURE, "Refused: out of resources", True),
    (0xA800, 0xA8FF, Category.FAILURE, "Refused: SOP class not supported", False),
    (0xA900, 0xA9FF, Category.FAILURE, "Error: data set does not match SOP class", False),
    (0xA000, 0xAFFF, Category.FAILURE, "Failure", True),
    (0xB000, 0xB000, Category.WARNING, "Coercion of data elements", False),
    (0xB006, 0xB006, Category.WARNING, "Elements discarded", False),
    (0xB007, 0xB007, Category.WARNING, "Data set does not match SOP class", False),
    (0xB000, 0xBFFF, Category.WARNING, "Warning", False),
    (0xC000, 0xCFFF, Category.FAILURE, "Error: cannot understand", True),
    (0xFE00, 0xFE00, Category.CANCEL, "Cancel", True),
    (0xFF00, 0xFF01, Category.PENDING, "Pending", True),
)
OUT_OF_RESOURCES: Final = ((0xA700, 0xA7FF), (0x0213, 0x0213))
"""The codes, first to last, with which a peer says that it has no room now (PS3.4 B.2.3, PS3.7 C.5.16)."""

_ANY_OTHER: Final = (Category.UNKNOWN, "Unknown status", True)


@record(frozen=True, slots=True)
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
        category, _, _ = _explained(self.value)
        return category

    @property
    def meaning(self) -> str:
        """The standard's words for the code, e.g. "Duplicate SOP instance"; without the peer's comment."""
        _, meaning, _ = _explained(self.value)
        return meaning

    @property
    def retryable(self) -> bool:
        """Whether sending the instance again may help."""
        _, _, retryable = _explained(self.value)
        return retryable

    @property
    def is_stored(self) -> bool:
        """Whether the peer has the instance: the status is success or a warning (PS3.4 B.2.3)."""
        category, _, _ = _explained(self.value)
        return category is Category.SUCCESS or category is Category.WARNING

    def __str__(self) -> str:
        return f"0x{self.value:04X} - {self.category.value}"


SUCCESS: Final = Status(0x0000)


@lru_cache(maxsize=1024)
def _explained(value: int) -> tuple[Category, str, bool]:
    rows = (
        (category, meaning, again) for first, last, category, meaning, again in STATUS_TABLE if first <= value <= last
    )
    return next(rows, _ANY_OTHER)
