"""The Original Attributes Sequence (PS3.3 C.12.1.1.9): what changed attributes were before, and who changed them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from asyncstore.instances import elements
from asyncstore.instances.elements import UNDEFINED_LENGTH, Encoding
from asyncstore.preparation.attributes.edits import Patch, sequence_bytes
from asyncstore.preparation.attributes.level import element_bytes
from asyncstore.preparation.attributes.paths import ORIGINAL_ATTRIBUTES
from asyncstore.preparation.attributes.values import CannotChange

if TYPE_CHECKING:
    from collections.abc import Sequence

    from asyncstore.preparation.attributes.level import Level

_MODIFIED_ATTRIBUTES: Final = 0x04000550
_MODIFICATION_TIME: Final = 0x04000562
_MODIFYING_SYSTEM: Final = 0x04000563
_SOURCE_OF_VALUES: Final = 0x04000564
_REASON: Final = 0x04000565
_DELIMITER_BYTES: Final = 8


class Originals:
    """Appends an item to the Original Attributes Sequence. `reason` is COERCE or CORRECT.

    All items of one run have the time of its beginning, so an instance that is sent again is the same.
    """

    def __init__(self, reason: str = "COERCE") -> None:
        self._reason = reason
        self._time = time.strftime("%Y%m%d%H%M%S%z")
        self._about: dict[Encoding, bytes] = {}

    def add(self, changes: list[Patch], level: Level) -> None:
        """Add what the changed attributes were to the changes, unless nothing was there before.

        Private attributes are not kept: who erases them wants them gone.
        """
        data = level.data
        before = b"".join(
            bytes(data[change.element.at : change.element.behind])
            for change in sorted(changes, key=lambda change: change.tag)
            if change.element is not None and not change.tag >> 16 & 1 and change.tag != ORIGINAL_ATTRIBUTES
        )
        if not before:
            return
        encoding = level.encoding
        modified = element_bytes(_MODIFIED_ATTRIBUTES, b"SQ", _item(before, encoding), encoding)
        item = _item(modified + self._about_the_change(encoding), encoding)
        change = _appended(item, changes, level)
        changes[:] = [each for each in changes if each.tag != ORIGINAL_ATTRIBUTES]
        place = next((n for n, each in enumerate(changes) if each.begin >= change.begin), len(changes))
        changes.insert(place, change)

    def _about_the_change(self, encoding: Encoding) -> bytes:
        found = self._about.get(encoding)
        if found is None:
            texts = (
                (_MODIFICATION_TIME, b"DT", self._time),
                (_MODIFYING_SYSTEM, b"LO", "asyncstore"),
                (_SOURCE_OF_VALUES, b"LO", ""),
                (_REASON, b"CS", self._reason),
            )
            found = self._about[encoding] = b"".join(
                element_bytes(tag, vr, _even(text.encode("ascii")), encoding) for tag, vr, text in texts
            )
        return found


def _appended(item: bytes, changes: Sequence[Patch], level: Level) -> Patch:
    """The change of the sequence by one item more; it is made if there is none."""
    earlier = next((change for change in changes if change.tag == ORIGINAL_ATTRIBUTES), None)
    element = level.find(ORIGINAL_ATTRIBUTES)
    if element is None or (earlier is not None and not earlier.data):
        at = level.place_of(ORIGINAL_ATTRIBUTES)
        begin, end = (at, at) if element is None else (element.at, element.behind)
        data = element_bytes(ORIGINAL_ATTRIBUTES, b"SQ", item, level.encoding)
        return Patch(ORIGINAL_ATTRIBUTES, begin, end, data, None)
    if element.vr == b"UN":
        raise CannotChange("its Original Attributes Sequence has no VR: --no-original-attributes leaves it as it is")
    whole = bytes(level.data[element.at : element.behind]) if earlier is None else earlier.data
    content = whole[element.value_at - element.at :]
    if element.length == UNDEFINED_LENGTH:
        content = content[:-_DELIMITER_BYTES]
    return Patch(
        ORIGINAL_ATTRIBUTES, element.at, element.behind, sequence_bytes(element, content + item, level), element
    )


def _item(content: bytes, encoding: Encoding) -> bytes:
    return element_bytes(elements.ITEM, b"", content, encoding)


def _even(data: bytes) -> bytes:
    return data + b" " * (len(data) & 1)
