"""The options that choose what is read of the input, and in which order."""

from __future__ import annotations

import datetime
import re
import time
from typing import TYPE_CHECKING, Final, cast, get_args

import typer

from asyncstore.cli import options
from asyncstore.errors import LocalProtocolError
from asyncstore.inputs.selection import Order, Selection

if TYPE_CHECKING:
    from collections.abc import Sequence

_DURATION: Final = r"(\d+(?:\.\d+)?)\s*([smhdw])"
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def point_in_time(text: object) -> float:
    """A date, a date and time, or a duration before now; in seconds since 1970."""
    duration = re.fullmatch(_DURATION, str(text).strip().lower())
    if duration is not None:
        return time.time() - float(duration[1]) * _SECONDS[duration[2]]
    try:
        return datetime.datetime.fromisoformat(str(text).strip()).timestamp()
    except (ValueError, OverflowError):
        example = "a date (2024-12-31, 2024-12-31T18:00) or a duration (90m, 12h, 7d, 2w)"
        raise typer.BadParameter(f"{str(text)!r} is not {example}") from None


Archives = options.Annotated[
    bool,
    options.option(
        "--archives",
        help="Also open ZIP and TAR archives that are found in directories. A named one always is.",
        panel=options.INPUT,
    ),
]
Include = options.Annotated[
    list[str] | None,
    options.option(
        parser=options.text,
        metavar="GLOB",
        help="Take only files whose path in the source, or its end, matches: '*.dcm', '/CT/**'. Repeatable.",
        panel=options.INPUT,
    ),
]
Exclude = options.Annotated[
    list[str] | None,
    options.option(
        parser=options.text,
        metavar="GLOB",
        help="Leave out files that match, also included ones: 'backup/', '*.{txt,pdf}'. Repeatable.",
        panel=options.INPUT,
    ),
]
Modality = options.Annotated[
    list[str] | None,
    options.option(
        parser=options.text,
        metavar="CT,MR",
        help="Take only instances of these modalities. Repeatable.",
        panel=options.INPUT,
    ),
]
NewerThan = options.Annotated[
    float | None,
    options.option(
        parser=point_in_time,
        metavar="DATE|DURATION",
        help="Take only files that were modified after a date (2024-12-31) or in the last 90m, 12h, 7d, 2w.",
        panel=options.INPUT,
    ),
]
OrderOption = options.Annotated[
    str,
    options.option(
        "--order",
        parser=options.choice(*get_args(Order)),
        metavar="|".join(get_args(Order)),
        help="Read files as the file system lists them, by name in each directory, or all sorted by time or size; "
        "sorting all takes 250 bytes of memory a file.",
        panel=options.INPUT,
    ),
]


def selection(
    *,
    archives: bool,
    include: Sequence[str] | None,
    exclude: Sequence[str] | None,
    modality: Sequence[str] | None,
    newer_than: float | None,
    order: str = "found",
) -> Selection:
    """What the options select. Raises typer.BadParameter."""
    modalities = tuple(filter(None, (each.strip() for text in modality or () for each in text.split(","))))
    if modality and not modalities:
        raise typer.BadParameter("give one or more, as CT,MR", param_hint="--modality")
    try:
        return Selection(
            include=tuple(include or ()),
            exclude=tuple(exclude or ()),
            modalities=modalities,
            newer_than=newer_than,
            archives=archives,
            order=cast("Order", order),
        )
    except LocalProtocolError as error:
        name = str(error).partition(" ")[0]
        hint = {"modalities": "--modality"}.get(name, f"--{name}")
        raise typer.BadParameter(str(error).partition(" has ")[2] or str(error), param_hint=hint) from None
