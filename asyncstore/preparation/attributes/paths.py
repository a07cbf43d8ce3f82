"""Names of attributes as a user writes them: `PatientID`, `(0010,0020)`, `RequestAttributesSequence[*].StudyID`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

from asyncstore.instances.elements import tag_from
from asyncstore.preparation.attributes.dictionary import attribute, tag_of

if TYPE_CHECKING:
    from collections.abc import Iterator

ALL_PRIVATE: Final = "private"

_STEP: Final = re.compile(r"(?P<name>[^\[\]]*)(?:\[(?P<number>[0-9]{1,9}|\*)\])?")
_KEYWORD: Final = re.compile(r"[A-Za-z][A-Za-z0-9]*")
_GROUP: Final = re.compile(r"\((?P<group>[0-9A-Fa-f]{4}),(?:\*|[xX]{4})\)")
_SPECIFIC_CHARACTER_SET: Final = 0x00080005
ORIGINAL_ATTRIBUTES: Final = 0x04000561
FIRST_OF_PIXELS: Final = 0x7FE00000
_BINARY_VRS: Final = frozenset(("AT", "OB", "OD", "OF", "OL", "OV", "OW"))


class BadRule(ValueError):
    """A rule that cannot be applied to any instance: the message is one line for the user."""


class PathStep(NamedTuple):
    """One attribute of a path, and of a sequence the number of an item; -1: each item."""

    tag: int
    item: int = -1


class AttributePath(NamedTuple):
    """An attribute of the data set, or of items in it: `text` as the user wrote it, `vr` and `vm` of the dictionary."""

    text: str
    steps: tuple[PathStep, ...]
    vr: str
    vm: str

    @property
    def tag(self) -> int:
        """The attribute of the data set itself."""
        return self.steps[0].tag

    def __str__(self) -> str:
        return self.text


def path_of(text: str) -> AttributePath:
    """The path that a user wrote. Raises BadRule."""
    names = list(_names(text))
    *outer, (tag, item, _) = names
    for above, place, name in outer:
        if attribute(above).vr != "SQ":
            raise BadRule(f"{name!r} in {text!r} is not a sequence")
        if place is None:
            raise BadRule(f"{text!r} does not say which item of {name}: write {name}[0] or {name}[*]")
    if item is not None:
        raise BadRule(f"{text!r} ends in an item: name an attribute of it, {text}.PatientID say")
    steps = tuple(PathStep(above, -1 if place is None else place) for above, place, _ in names)
    return AttributePath(text, steps, *attribute(tag)[:2])


def _names(text: str) -> Iterator[tuple[int, int | None, str]]:
    """Tag, number of an item (-1: each, None: none is given) and name of each attribute on the way."""
    for part in text.strip().split("."):
        found = _STEP.fullmatch(part.strip())
        name, number = found.groups() if found else ("", None)
        tag = tag_from(name)
        if tag is None:
            tag = tag_of(name)
        if tag is None and _KEYWORD.fullmatch(name):
            raise BadRule(f"{name!r} is not the keyword of an attribute (PS3.6): PatientID is one")
        if tag is None:
            raise BadRule(f"{text!r} is not an attribute: write PatientID, (0010,0020) or Sequence[0].PatientID")
        yield tag, None if number is None else -1 if number == "*" else int(number), name


def group_of(text: str) -> int | None:
    """The group that `(0019,*)` names; None if the text is another one."""
    found = _GROUP.fullmatch(text.strip())
    return None if found is None else int(found["group"], 16)


def check_readable(path: AttributePath) -> None:
    """Raise BadRule for an attribute whose value cannot be looked at: no value would ever fit it."""
    if len(path.steps) > 1 or path.vr == "SQ":
        raise BadRule(f"{path} is in a sequence: an old value is one of the data set itself")
    group, element = path.tag >> 16, path.tag & 0xFFFF
    if group <= 6:
        raise BadRule(f"{path} is not in the data set")
    if not element:
        raise BadRule(f"{path} is the length of a group")
    if path.tag >= FIRST_OF_PIXELS:
        raise BadRule(f"{path} is not before the pixel data: only what is before it is looked at")
    if path.vr in _BINARY_VRS or " or " in path.vr:
        raise BadRule(f"{path} is neither text nor a number: its VR is {path.vr}")


def check_changeable(path: AttributePath, *, is_set: bool) -> None:
    """Raise BadRule for an attribute that must stay as it is."""
    for step in path.steps:
        group, element = step.tag >> 16, step.tag & 0xFFFF
        if group <= 6:
            raise BadRule(f"{path} is not in the data set")
        if not element:
            raise BadRule(f"{path} is the length of a group, which follows from the others")
        if step.tag >= FIRST_OF_PIXELS:
            raise BadRule(f"{path} is not before the pixel data: only what is before it can be changed")
        if step.tag == ORIGINAL_ATTRIBUTES:
            raise BadRule(f"{path} says what was changed: --no-original-attributes leaves that out")
        if step.tag == _SPECIFIC_CHARACTER_SET:
            raise BadRule(f"{path} says how the text of the data set is encoded, and stays as it is")
    if path.vr == "UI":
        raise BadRule(f"{path} is a UID: UIDs are only changed all together, by --new-uids KEYFILE")
    if is_set and path.vr == "UN":
        raise BadRule(f"{path} cannot be set: the standard does not say what it is; it can be erased")
