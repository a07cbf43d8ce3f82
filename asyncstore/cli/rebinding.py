"""The option that moves the paths of a ledger, for files that are at another place now."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

from asyncstore.cli import options
from asyncstore.cli.output.documented_log import logger
from asyncstore.cli.output.plain_text import count_text, path_text

if TYPE_CHECKING:
    from asyncstore.cli.sending import StorescuRun


def places(text: object) -> tuple[str, str]:
    """The old place and the new one."""
    old, _, new = str(text).partition("=")
    if not old or not new:
        raise typer.BadParameter(f"{path_text(str(text))!r} is not OLD=NEW, as in /mnt/old=/mnt/new")
    return old, new


Rebind = Annotated[
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


def rebind_ledger(run: StorescuRun) -> None:
    """Move the paths in the ledger of a run. Raises LocalProtocolError if they make no sense, LedgerError."""
    from asyncstore.ledger.sqlite.rebind import rebind

    assert run.ledger is not None, "checked before"
    moved = rebind(os.fspath(run.ledger), run.moved, destination=str(run.peer), forced=run.force_ledger)
    for (old, new), count in zip(run.moved.items(), moved.values(), strict=True):
        logger.info("Ledger: %s moved from %s to %s", count_text(count, "path"), path_text(old), path_text(new))
