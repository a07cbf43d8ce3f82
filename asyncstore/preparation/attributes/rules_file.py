"""Rules in a TOML file: conditions, and what to set and erase where they hold."""

from __future__ import annotations

import tomllib
from typing import TYPE_CHECKING, Any

from asyncstore.preparation.attributes.paths import BadRule, check_readable, path_of
from asyncstore.preparation.attributes.rules import Condition, Instruction, Rule, check_consistent, erasing, setting

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

_KEYS = frozenset(("when", "set", "erase"))


def read_rules(file: str | os.PathLike[str]) -> tuple[Rule, ...]:
    """The rules in a file:

        [[rule]]
        when = { Modality = "CT", InstitutionName = ["St. Mary*", ""] }
        set = { InstitutionName = "North Hospital" }
        erase = ["(0019,*)", "private"]

    Raises BadRule for the first mistake, OSError if it cannot be read.
    """
    with open(file, "rb") as stream:
        try:
            content = tomllib.load(stream)
        except UnicodeDecodeError:
            raise BadRule("it is not UTF-8") from None
        except tomllib.TOMLDecodeError as error:
            raise BadRule(f"it is not TOML: {error}") from None
    rules = content.pop("rule", None)
    if content:
        raise BadRule(f"{next(iter(content))!r} is not known: a rule begins with [[rule]]")
    if not isinstance(rules, list) or not rules:
        raise BadRule("it has no rule: one begins with [[rule]]")
    return tuple(_rule(number, rule) for number, rule in enumerate(rules, 1))


def _rule(number: int, content: Any) -> Rule:
    try:
        if not isinstance(content, dict):
            raise BadRule("it is not a table")
        unknown = next((key for key in content if key not in _KEYS), None)
        if unknown is not None:
            raise BadRule(f"{unknown!r} is not known: there are when, set and erase")
        instructions = (*_settings(content.get("set", {})), *_erasures(content.get("erase", [])))
        if not instructions:
            raise BadRule("it has neither set nor erase")
        check_consistent(instructions)
        return Rule(tuple(_conditions(content.get("when", {}))), instructions)
    except BadRule as error:
        raise BadRule(f"rule {number}: {error}") from None


def _table(content: Any, key: str) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise BadRule(f'{key} is not a table: {key} = {{ PatientID = "1" }}')
    return content


def _settings(content: Any) -> Iterator[Instruction]:
    for name, value in _table(content, "set").items():
        if not isinstance(value, str):
            raise BadRule(f'the value of {name} is not text: write "{value}"')
        yield setting(name, value)


def _erasures(content: Any) -> Iterator[Instruction]:
    if not isinstance(content, list) or not all(isinstance(name, str) for name in content):
        raise BadRule('erase is not a list of texts: erase = ["PatientName"]')
    yield from map(erasing, content)


def _conditions(content: Any) -> Iterator[Condition]:
    for name, value in _table(content, "when").items():
        path = path_of(name)
        check_readable(path)
        patterns = value if isinstance(value, list) else [value]
        if not patterns or not all(isinstance(pattern, str) for pattern in patterns):
            raise BadRule(f'the condition on {name} is not text: write "{value}"')
        yield Condition(path, tuple(patterns))
