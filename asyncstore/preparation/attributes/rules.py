"""Which attributes of which instances are changed, and how: the rules of one run."""

from __future__ import annotations

import fnmatch
import hashlib
import json
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from asyncstore.preparation.attributes.edits import PRIVATE_ERASED, Action, Edits
from asyncstore.preparation.attributes.paths import (
    ALL_PRIVATE,
    AttributePath,
    BadRule,
    check_changeable,
    group_of,
    path_of,
)
from asyncstore.preparation.attributes.values import NUMBERS, Value, decoded_text, number_text
from asyncstore.record import record

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from asyncstore.preparation.attributes.level import Level
    from asyncstore.preparation.attributes.uids import NewUIDs
    from asyncstore.preparation.attributes.value_map import ValueMap


class Instruction(NamedTuple):
    """One thing to do: set an attribute to a value, or erase an attribute, a group or everything private."""

    text: str
    path: AttributePath | None
    action: Action
    group: int | None = None

    def put_into(self, edits: Edits) -> None:
        """Add it to the changes of an instance."""
        if self.path is not None:
            edits.put(self.path.steps, self.action)
        elif self.group is not None:
            edits.groups[self.group] = self.action
        else:
            edits.private = True


def setting(name: str, value: str) -> Instruction:
    """Set an attribute, named as in `path_of`. Raises BadRule if it must not be changed, or does not fit its VR."""
    path = path_of(name)
    check_changeable(path, is_set=True)
    return Instruction(f"{name}={value}", path, Action(Value(path, value), f"{path} set"))


def erasing(name: str) -> Instruction:
    """Erase an attribute, a group as `(0019,*)`, or everything `private`. Raises BadRule."""
    if name.strip() == ALL_PRIVATE:
        return Instruction(name, None, Action(None, PRIVATE_ERASED))
    group = group_of(name)
    if group is not None:
        if group <= 8 or group >= 0x7FE0:
            raise BadRule(f"the group {name} cannot be erased as a whole")
        return Instruction(name, None, Action(None, f"{name.strip()} erased"), group)
    path = path_of(name)
    check_changeable(path, is_set=False)
    return Instruction(name, path, Action(None, f"{path} erased"))


def check_consistent(instructions: Sequence[Instruction]) -> None:
    """Raise BadRule if an attribute is set and also erased, itself or with the sequence or group that it is in.

    One of the data set itself may be set although its group is erased: it is what is left of the group.
    """
    for setter in instructions:
        if setter.path is None or setter.action.value is None:
            continue
        for eraser in instructions:
            if eraser.action.value is None and _takes_away(eraser, setter.path):
                raise BadRule(f"{setter.path} is set, and {eraser.text.strip()} is erased: leave out one of them")


def _takes_away(eraser: Instruction, path: AttributePath) -> bool:
    if eraser.path is None:
        return len(path.steps) > 1 and eraser.group == path.tag >> 16
    *outer, last = eraser.path.steps
    above = path.steps[: len(outer)]
    return len(path.steps) > len(outer) and list(above) == outer and path.steps[len(outer)].tag == last.tag


class Condition(NamedTuple):
    """An attribute of the data set, and patterns of which its value must fit one; `*` is any text."""

    path: AttributePath
    patterns: tuple[str, ...]

    def holds(self, level: Level) -> bool:
        """Whether a data set fulfils it; an attribute that is not there is empty."""
        value = value_text(level, self.path)
        return any(fnmatch.fnmatchcase(value, pattern) for pattern in self.patterns)


class Rule(NamedTuple):
    """What to do with the instances that fulfil all the conditions."""

    conditions: tuple[Condition, ...]
    instructions: tuple[Instruction, ...]


_LONGEST_TAG: Final = 0x7FE00000


@record(slots=True, eq=False)
class Rules:
    """The rules of a run. All conditions and keys look at the file's own values; of two instructions the later counts.

    `rules` come first, then the row of the `table`, then the `instructions`, which are for every instance.
    """

    rules: tuple[Rule, ...] = ()
    table: ValueMap | None = None
    instructions: tuple[Instruction, ...] = ()
    uids: NewUIDs | None = None

    def __bool__(self) -> bool:
        return bool(self.rules or self.table or self.instructions or self.uids)

    def before_tag(self) -> int:
        """The tag before which everything lies that they look at or change."""
        every = Edits(uids=self.uids)
        for instruction in self._all_instructions():
            instruction.put_into(every)
        if every.looks_everywhere:
            return _LONGEST_TAG
        looked_at = [condition.path.tag for rule in self.rules for condition in rule.conditions]
        looked_at += () if self.table is None else [path.tag for path in (*self.table.keys, *self.table.columns)]
        return max(every.last_tag(), *looked_at, 0) + 1 if looked_at else every.last_tag() + 1

    def _all_instructions(self) -> Iterator[Instruction]:
        for rule in self.rules:
            yield from rule.instructions
        yield from self.instructions

    def edits_of(self, level: Level) -> Edits:
        """The changes of one instance. Raises CannotChange if the table does not know it."""
        edits = Edits(uids=self.uids)
        for rule in self.rules:
            if all(condition.holds(level) for condition in rule.conditions):
                for instruction in rule.instructions:
                    instruction.put_into(edits)
        if self.table is not None:
            key = tuple(value_text(level, path) for path in self.table.keys)
            for path, action in self.table.row_of(key):
                edits.put(path.steps, action)
        for instruction in self.instructions:
            instruction.put_into(edits)
        return edits

    def record(self) -> dict[str, Any]:
        """What tells these rules from others, as plain data without any value; `options` says which of them differ."""
        rules = [
            [[[each.path.text, *each.patterns] for each in rule.conditions], [do.text for do in rule.instructions]]
            for rule in self.rules
        ]
        uids = None if self.uids is None else self.uids.fingerprint
        header = None if self.table is None else self.table.header
        options = {
            "--rules": rules,
            "--set": [each.text for each in self.instructions if each.action.value is not None],
            "--erase": [each.text for each in self.instructions if each.action.value is None],
            "--new-uids": uids,
            "--map": header,
        }
        return {
            "rules": _digest([rules, [each.text for each in self.instructions], uids, header]),
            "map": None if self.table is None else self.table.digest,
            "options": {name: _digest(given) for name, given in options.items() if given},
        }


def _digest(of: object) -> str:
    return hashlib.sha256(json.dumps(of).encode("utf-8", "surrogatepass")).hexdigest()[:32]


def value_text(level: Level, path: AttributePath) -> str:
    """The value of an attribute of the data set as a user writes it; "" if it is not there."""
    if path.vr not in NUMBERS:
        return text_of(level, path.tag)
    element = level.find(path.tag)
    if element is None:
        return ""
    return number_text(path.vr, level.data[element.value_at : element.behind], big_endian=level.encoding.big_endian)


def text_of(level: Level, tag: int) -> str:
    """The value of an attribute as text, without padding; "" if it is not there."""
    element = level.find(tag)
    return "" if element is None else decoded_text(level.value_of(element), level.character_set)
