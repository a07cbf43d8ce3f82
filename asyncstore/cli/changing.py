"""The options that change attributes on the way, and the Preparer that they ask for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeVar

import typer

from asyncstore.cli import options, securing
from asyncstore.cli.output.plain_text import path_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from asyncstore.preparation.attributes.rules import Instruction, Rules
    from asyncstore.preparation.attributes.uids import NewUIDs
    from asyncstore.preparation.prepare import Preparation

_PANEL: Final = "Attribute Options"
_T = TypeVar("_T")


def _texts(metavar: str, help_text: str) -> Any:
    return options.Annotated[
        list[str] | None, options.option(parser=options.text, metavar=metavar, help=help_text, panel=_PANEL)
    ]


def _file(metavar: str, help_text: str) -> Any:
    return options.Annotated[
        str | None, options.option(parser=options.text, metavar=metavar, help=help_text, panel=_PANEL)
    ]


# Parameter -> its type.
_OPTIONS: Final = {
    "set": _texts(
        "TAG=VALUE",
        "Set an attribute of every instance: PatientID=4711, (0010,0021)=HOSPITAL, "
        "RequestAttributesSequence[0].StudyID=1, or [*] for each item. Repeatable.",
    ),
    "erase": _texts(
        "TAG",
        "Erase an attribute, a group as '(0019,*)', or everything 'private' at all levels. Repeatable.",
    ),
    "map": _file(
        "FILE.csv",
        "Set attributes by a table. The header names them: the first column is the old value, the others are new "
        "ones. An instance whose old value is not in it is not sent.",
    ),
    "rules": _file("FILE.toml", "Set and erase where conditions hold; see the README."),
    "new_uids": _file(
        "KEYFILE",
        "Replace the UIDs of studies, series, instances, frames of reference and all references to them by others "
        "that a secret key makes of them: the same ones in each run.",
    ),
    "no_original_attributes": options.Annotated[
        bool,
        options.option(
            "--no-original-attributes",
            help="Do not keep what was there before in the Original Attributes Sequence.",
            panel=_PANEL,
        ),
    ],
    "modification_reason": options.Annotated[
        str | None,
        options.option(
            parser=options.choice("coerce", "correct"),
            metavar="coerce|correct",
            help="The reason that stands there." + options.default_text("coerce"),
            panel=_PANEL,
        ),
    ],
}
_LONGEST_KEY_BYTES: Final = 1 << 16


def changes(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that change attributes."""
    return securing.with_options(command, _OPTIONS)


def preparer(context: typer.Context) -> Preparation | None:
    """What the options make of each instance; None: nothing. Everything that can be wrong is checked here."""
    given = context.params
    wanted = [name for name in ("set", "erase", "map", "rules", "new_uids") if given[name]]
    if not wanted:
        for name in ("no_original_attributes", "modification_reason"):
            if given[name] and options.is_typed(context, name):
                text = "no attribute is changed: give --set, --erase, --map, --rules or --new-uids"
                raise typer.BadParameter(text, param_hint=f"--{name.replace('_', '-')}")
        return None
    from asyncstore.preparation.attributes.change import AttributeChange
    from asyncstore.preparation.attributes.originals import Originals
    from asyncstore.preparation.prepare import Preparation

    originals = None
    if not given["no_original_attributes"]:
        originals = Originals((given["modification_reason"] or "coerce").upper())
    return Preparation(AttributeChange(_rules(given), originals))


def _rules(given: dict[str, Any]) -> Rules:
    from asyncstore.preparation.attributes.paths import BadRule
    from asyncstore.preparation.attributes.rules import Rules, check_consistent, erasing
    from asyncstore.preparation.attributes.rules_file import read_rules
    from asyncstore.preparation.attributes.value_map import ValueMap

    instructions = [_checked("--set", _setting, text) for text in given["set"] or ()]
    instructions += [_checked("--erase", erasing, name) for name in given["erase"] or ()]
    try:
        check_consistent(instructions)
    except BadRule as error:
        raise typer.BadParameter(path_text(str(error)), param_hint="--set") from None
    return Rules(
        rules=() if given["rules"] is None else _checked("--rules", read_rules, given["rules"], is_file=True),
        table=None if given["map"] is None else _checked("--map", ValueMap, given["map"], is_file=True),
        instructions=tuple(instructions),
        uids=None if given["new_uids"] is None else _checked("--new-uids", _new_uids, given["new_uids"], is_file=True),
    )


def _setting(text: str) -> Instruction:
    from asyncstore.preparation.attributes.paths import BadRule
    from asyncstore.preparation.attributes.rules import setting

    name, equals, value = text.partition("=")
    if not equals:
        raise BadRule(f"{text!r} is not TAG=VALUE, as in PatientID=4711")
    return setting(name, value)


def _new_uids(path: str) -> NewUIDs:
    from asyncstore.preparation.attributes.uids import NewUIDs

    with open(path, "rb") as file:
        return NewUIDs(file.read(_LONGEST_KEY_BYTES).strip(b"\r\n"))


def _checked(spelled: str, read: Callable[[str], _T], text: str, *, is_file: bool = False) -> _T:
    """What a function reads from a value, or from the file of that name. Raises typer.BadParameter."""
    from asyncstore.preparation.attributes.paths import BadRule

    where = f"{path_text(text)}: " if is_file else ""
    try:
        return read(text)
    except BadRule as error:
        raise typer.BadParameter(where + path_text(str(error)), param_hint=spelled) from None
    except OSError as error:
        message = f"cannot read {path_text(text)!r}: {error.strerror or error}"
        raise typer.BadParameter(message, param_hint=spelled) from None
