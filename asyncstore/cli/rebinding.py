"""The option that moves the paths of a ledger, for files that are at another place now."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from asyncstore.cli import options
from asyncstore.cli.output.documented_log import logger
from asyncstore.cli.output.plain_text import count_text, path_text

if TYPE_CHECKING:
    from collections.abc import Mapping


def places(text: object) -> tuple[str, str]:
    """The old place and the new one."""
    old, _, new = str(text).partition("=")
    if not old or not new:
        raise typer.BadParameter(f"{path_text(str(text))!r} is not OLD=NEW, as in /mnt/old=/mnt/new")
    return old, new


Rebind = options.Annotated[
    list[Any] | None,
    options.option(
        parser=places,
        metavar="OLD=NEW",
        help="What the ledger recorded at OLD is at NEW now: a mount, a directory or an archive that has moved. "
        "Files with the same size and time are not sent again. Repeatable.",
        panel=options.BULK,
    ),
]


def checked(rebind: list[tuple[str, str]] | None, *, ledger: str | None, dry_run: bool) -> dict[str, str]:
    """The places that moved, each with its new one. Raises typer.BadParameter."""
    moved = dict(rebind or ())
    if moved and ledger is None:
        raise typer.BadParameter("it goes with --ledger", param_hint="--rebind")
    if moved and dry_run:
        raise typer.BadParameter("it changes the ledger, and --dry-run changes nothing", param_hint="--rebind")
    if len(moved) < len(rebind or ()):
        raise typer.BadParameter("a place has moved to one other place only", param_hint="--rebind")
    return moved


def rebind_ledger(ledger: str, moved: Mapping[str, str], *, destination: str, forced: bool) -> None:
    """Move the paths in a ledger. Raises LocalProtocolError if the places make no sense, and LedgerError."""
    from asyncstore.ledger.sqlite.rebind import rebind

    counts = rebind(ledger, moved, destination=destination, forced=forced)
    for (old, new), count in zip(moved.items(), counts.values(), strict=True):
        logger.info("Ledger: %s moved from %s to %s", count_text(count, "path"), path_text(old), path_text(new))
