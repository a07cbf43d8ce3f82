"""What is to be changed in a data set, and how it is done: only what is changed gets other bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from asyncstore.instances import elements
from asyncstore.instances.elements import UNDEFINED_LENGTH, CutShort
from asyncstore.preparation.attributes.dictionary import attribute
from asyncstore.preparation.attributes.level import element_bytes, encoding_below, header_bytes
from asyncstore.preparation.reencode import DEEPEST_NESTING
from asyncstore.record import field, record

if TYPE_CHECKING:
    from collections.abc import Collection

    from asyncstore.preparation.attributes.level import Element, Level
    from asyncstore.preparation.attributes.paths import PathStep
    from asyncstore.preparation.attributes.uids import NewUIDs
    from asyncstore.preparation.attributes.values import Value

_LENGTH_TO_END: Final = 0x00080001
_EACH_ITEM: Final = -1
UIDS_REPLACED: Final = "UIDs replaced"
PRIVATE_ERASED: Final = "private attributes erased"


class Action(NamedTuple):
    """What becomes of an attribute: it is set to a value, or erased (None). `label` says so, in an outcome."""

    value: Value | None
    label: str


@record(slots=True, eq=False)
class Edits:
    """The changes of a data set, or of an item.

    `values` has what becomes of an attribute, by its tag. `groups` are erased as a whole, and with `private` every
    private element at every level. `below` are changes in the items of a sequence, by its tag and the number of the
    item (-1: each).
    """

    values: dict[int, Action] = field(default_factory=dict)
    groups: dict[int, Action] = field(default_factory=dict)
    private: bool = False
    below: dict[int, dict[int, Edits]] = field(default_factory=dict)
    uids: NewUIDs | None = None

    def put(self, steps: tuple[PathStep, ...], action: Action) -> None:
        """Set or erase an attribute; a later change of the same takes its place."""
        tag, item = steps[0]
        if len(steps) == 1:
            self.values[tag] = action
        else:
            self._items(tag, item).put(steps[1:], action)

    def of_item(self, tag: int, number: int) -> Edits:
        """The changes of one item of a sequence."""
        wanted = Edits(private=self.private, uids=self.uids)
        items = self.below.get(tag, {})
        for key in (_EACH_ITEM, number):
            if key in items:
                wanted._add(items[key])
        return wanted

    def _items(self, tag: int, item: int) -> Edits:
        return self.below.setdefault(tag, {}).setdefault(item, Edits())

    def _add(self, other: Edits) -> None:
        self.values.update(other.values)
        for tag, items in other.below.items():
            for item, edits in items.items():
                self._items(tag, item)._add(edits)

    @property
    def looks_everywhere(self) -> bool:
        """Whether every element must be looked at."""
        return self.private or self.uids is not None

    def last_tag(self) -> int:
        """The last tag of the data set that they need."""
        return max((*self.values, *self.below, *((group << 16) | 0xFFFF for group in self.groups)), default=0)


class Patch:
    """Other bytes, or none, in place of those from `begin` to `end`."""

    __slots__ = ("begin", "data", "element", "end", "tag")

    def __init__(self, tag: int, begin: int, end: int, data: bytes, element: Element | None) -> None:
        self.tag: int = tag
        self.begin: int = begin
        self.end: int = end
        self.data: bytes = data
        self.element: Element | None = element  # what was there


class Editor:
    """Makes the changes in one data set; `done` says which, each once."""

    def __init__(self) -> None:
        self.done: dict[str, None] = {}
        self._depth = 0

    def changes_of(self, level: Level, edits: Edits) -> list[Patch]:
        """The changes of a level, in the order of their places."""
        found: dict[int, Patch] = {}
        if edits.groups or edits.private:
            self._erase_groups(found, level, edits)
        for tag, action in edits.values.items():
            self._act(found, level, tag, action)
        if edits.looks_everywhere:
            self._look_everywhere(found, level, edits)
        else:
            for tag in edits.below:
                element = level.find(tag)
                if element is not None and tag not in found and level.is_sequence(element, "SQ"):
                    self._replace_items(found, level, element, edits)
        changes = list(found.values())
        if changes:
            self._drop_lengths(changes, level)
            changes.sort(key=_place)
        return changes

    def _erase_groups(self, found: dict[int, Patch], level: Level, edits: Edits) -> None:
        def is_wanted(tag: int) -> bool:
            return tag >> 16 in edits.groups or bool(edits.private and tag >> 16 & 1)

        for element in level.matching(is_wanted):
            group = element.tag >> 16
            if group in edits.groups:
                self.done[edits.groups[group].label] = None
            elif edits.private and group & 1:
                self.done[PRIVATE_ERASED] = None
            else:
                continue
            found[element.tag] = _erasure(element)

    def _act(self, found: dict[int, Patch], level: Level, tag: int, action: Action) -> None:
        element = level.find(tag)
        if action.value is not None:
            change = _setting(level, tag, element, action.value)
        else:
            change = None if element is None else _erasure(element)
        if change is None:
            found.pop(tag, None)
        else:
            found[tag] = change
            self.done[action.label] = None

    def _look_everywhere(self, found: dict[int, Patch], level: Level, edits: Edits) -> None:
        uids, has_vrs = edits.uids, level.encoding.explicit

        def is_wanted(tag: int) -> bool:
            return (uids is not None and uids.concerns(tag)) or (not has_vrs and attribute(tag).vr == "SQ")

        for element in level.matching(is_wanted):
            if element.tag in found:
                continue
            if edits.uids is not None and edits.uids.concerns(element.tag):
                old = level.value_of(element)
                new = edits.uids.replaced(old)
                if new != old:
                    self.done[UIDS_REPLACED] = None
                    data = element_bytes(element.tag, b"UI", new + b"\0" * (len(new) & 1), level.encoding)
                    found[element.tag] = Patch(element.tag, element.at, element.behind, data, element)
            elif element.vr not in _PLAIN and level.is_sequence(element, attribute(element.tag).vr):
                self._replace_items(found, level, element, edits)

    def _replace_items(self, found: dict[int, Patch], level: Level, element: Element, edits: Edits) -> None:
        self._depth += 1
        if self._depth > DEEPEST_NESTING:
            raise CutShort(f"its sequences are nested more than {DEEPEST_NESTING} deep")
        encoding = encoding_below(element, level.encoding)
        pieces: list[bytes] = []
        is_changed = False
        for number, (at, item, is_undefined) in enumerate(level.items_of(element)):
            changes = self.changes_of(item, edits.of_item(element.tag, number))
            if not changes:
                pieces.append(bytes(level.data[at : item.behind + 8 * is_undefined]))
                continue
            is_changed = True
            content = spliced(item, changes, at + 8, item.behind)
            length = UNDEFINED_LENGTH if is_undefined else len(content)
            pieces += [header_bytes(elements.ITEM, b"", length, encoding), content]
            if is_undefined:
                pieces.append(header_bytes(elements.ITEM_DELIMITATION, b"", 0, encoding))
        if is_changed:
            data = sequence_bytes(element, b"".join(pieces), level)
            found[element.tag] = Patch(element.tag, element.at, element.behind, data, element)
        self._depth -= 1

    def _drop_lengths(self, changes: list[Patch], level: Level) -> None:
        """Erase what says how long a part is that has another length now: group lengths, and Length to End."""
        lengths = {change.tag & 0xFFFF0000 for change in changes} | {_LENGTH_TO_END}
        for tag in lengths - {change.tag for change in changes}:
            element = level.find(tag)
            if element is not None:
                changes.append(Patch(tag, element.at, element.behind, b"", None))


# With these, and a defined length, an element is not a sequence.
_PLAIN: Final = elements.VRS - {b"SQ", b"UN"}


def _place(change: Patch) -> tuple[int, int]:
    return change.begin, change.tag


def _erasure(element: Element) -> Patch:
    return Patch(element.tag, element.at, element.behind, b"", element)


def _setting(level: Level, tag: int, element: Element | None, value: Value) -> Patch | None:
    """The change of an element to a value; None if it has that value already."""
    encoded = value.encoded(level.character_set, big_endian=level.encoding.big_endian)
    vr = value.vr.encode()
    if element is not None:
        old = bytes(level.data[element.value_at : element.behind])
        is_same = old == encoded or (value.is_text and old.rstrip(b" \0") == encoded.rstrip(b" \0"))
        if is_same and element.length == len(encoded) and element.vr in (vr, b""):
            return None
        return Patch(tag, element.at, element.behind, element_bytes(tag, vr, encoded, level.encoding), element)
    at = level.place_of(tag)
    return Patch(tag, at, at, element_bytes(tag, vr, encoded, level.encoding), None)


def sequence_bytes(element: Element, content: bytes, level: Level) -> bytes:
    """A sequence with other items: its length is defined or undefined as it was."""
    vr = element.vr or b"SQ"
    if element.length != UNDEFINED_LENGTH:
        return header_bytes(element.tag, vr, len(content), level.encoding) + content
    encoding = encoding_below(element, level.encoding)
    end = header_bytes(elements.SEQUENCE_DELIMITATION, b"", 0, encoding)
    return header_bytes(element.tag, vr, UNDEFINED_LENGTH, level.encoding) + content + end


def spliced(level: Level, changes: Collection[Patch], begin: int, end: int) -> bytes:
    """The bytes from `begin` to `end` with these changes, which are in the order of their places."""
    pieces: list[bytes] = []
    for change in changes:
        pieces += [bytes(level.data[begin : change.begin]), change.data]
        begin = change.end
    pieces.append(bytes(level.data[begin:end]))
    return b"".join(pieces)
