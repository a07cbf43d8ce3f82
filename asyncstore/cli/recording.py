"""The ledger of a command: how it is named, opened, and told of before a run."""

from __future__ import annotations

import contextlib
import logging
import sys
from typing import TYPE_CHECKING

import typer

from asyncstore.cli import options
from asyncstore.cli.output.documented_log import logger
from asyncstore.errors import LedgerError

if TYPE_CHECKING:
    from asyncstore.cli.output.documented_log import DocumentedLog


def ledger_name(given: object) -> str:
    """A file, or the URI of a database. A password in it could be read by everyone who lists the processes."""
    from asyncstore.ledger.opening import is_database
    from asyncstore.ledger.packing import has_password

    name = options.text(given)
    if is_database(name) and has_password(name):
        raise typer.BadParameter("no password here, where other users see it: use PGPASSFILE or a service file")
    return name


def ledger_names(given: list[str]) -> list[str]:
    """The same for several."""
    return [ledger_name(name) for name in given]


Ledger = options.Annotated[
    str | None,
    options.option(
        parser=ledger_name,
        metavar="FILE",
        help="Keep a durable record in a file, or in a database (postgresql://HOST/NAME); the same command run again "
        "resumes.",
        panel=options.BULK,
    ),
]


def check_place(ledger: str | None, *, moved: bool, commit: bool, forced: bool) -> None:
    """Refuse what only a ledger in a file can do. Raises typer.BadParameter."""
    if ledger is None:
        return
    from asyncstore.ledger.opening import is_database

    if not is_database(ledger):
        return
    for is_given, option in ((moved, "--rebind"), (commit, "--commit"), (forced, "--force-ledger")):
        if is_given:
            raise typer.BadParameter("it goes with a ledger in a file", param_hint=option)


async def tell_history(ledger: str | None, log: DocumentedLog) -> None:
    """Say on which runs a run goes on, and what is known: of a ledger of millions, only how many."""
    if ledger is None or not (logger.isEnabledFor(logging.INFO) or sys.stderr.isatty()):
        return
    import anyio.to_thread

    with contextlib.suppress(OSError, LedgerError):  # the transfer opens it, and says what is wrong with it
        for line in await anyio.to_thread.run_sync(_history_lines, ledger):
            log.notice(logging.INFO, line)


def _history_lines(ledger: str) -> list[str]:
    from asyncstore.ledger.opening import may_have_rows, open_reader

    if not may_have_rows(ledger):
        return []
    from asyncstore.cli.output.ledger_text import recorded_text, runs_text

    with open_reader(ledger, migration="") as reader:
        recorded = recorded_text(reader)
        return [f"Resuming after {runs_text(reader.runs())}", *([f"Recorded so far: {recorded}"] if recorded else [])]
