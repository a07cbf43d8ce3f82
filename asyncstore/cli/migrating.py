"""What the commands of a migration by many hosts share: how its database, its name and its roots are given."""

from __future__ import annotations

import itertools
import logging
import os
import re
from typing import TYPE_CHECKING, Any, Final

import typer

from asyncstore.cli import options, recording, running
from asyncstore.cli.exit_codes import ExitCode
from asyncstore.cli.output.plain_text import path_text
from asyncstore.ledger.opening import check_driver, is_database

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import ModuleType

EXIT_CODES: Final = "Exit codes: 0 done, 2 usage, 6 the database cannot be used, or has no such migration."

_LONGEST_NAME: Final = 200
_ROOT_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_NEEDED: Final = ("asyncpg", "pgqueuer")


def database(given: object) -> str:
    """The URI of a database of PostgreSQL, without a password."""
    dsn = recording.ledger_name(given)
    if not is_database(dsn):
        raise typer.BadParameter(f"{path_text(dsn)!r} is not the URI of a database: postgresql://HOST/NAME")
    return dsn


def name(given: object) -> str:
    """The name of a migration: some text on one line."""
    text = str(given)
    if not text.strip() or not text.isprintable() or len(text) > _LONGEST_NAME:
        raise typer.BadParameter(f"{path_text(text)!r} is not a name of up to {_LONGEST_NAME} characters")
    return text


Dsn = options.Annotated[
    str,
    options.argument(
        parser=database, metavar="DSN", help="The database of the migration, as postgresql://USER@HOST/NAME."
    ),
]
Name = options.Annotated[str, options.argument(parser=name, metavar="NAME", help="The name of the migration.")]


def root(given: object) -> tuple[str, str]:
    """The name of a root, and its directory on this host."""
    root_name, _, directory = str(given).partition("=")
    if not _ROOT_NAME.fullmatch(root_name) or not directory:
        raise typer.BadParameter(f"{path_text(str(given))!r} is not NAME=DIRECTORY, such as nas1=/mnt/old")
    if not os.path.isdir(directory):
        raise typer.BadParameter(f"{path_text(directory)!r} is not a directory: is it mounted?")
    return root_name, os.path.abspath(directory)


Roots = options.Annotated[
    list[Any],
    options.option(
        "--root",
        parser=root,
        metavar="NAME=DIR",
        help="A directory that all hosts see, perhaps each in another place, and the name by which they know it. "
        "Repeatable.",
        panel=options.INPUT,
        show_default=False,
    ),
]


def mounts_of(roots: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Where each root is on this host. Raises typer.BadParameter for two of a name, or one inside another."""
    mounts = dict(roots)
    if len(mounts) < len(roots):
        raise typer.BadParameter("two roots have the same name", param_hint="--root")
    real = {each: os.path.join(os.path.realpath(directory), "") for each, directory in mounts.items()}
    for inner, outer in itertools.permutations(real, 2):
        if real[inner].startswith(real[outer]):
            raise typer.BadParameter(f"{inner} lies in {outer}: its files would be sent twice", param_hint="--root")
    return mounts


def check_installed(dsn: str) -> None:
    """Raise LedgerError unless the packages of the extra are there."""
    check_driver(dsn, _NEEDED)
    # The engine tells its own story, with tracebacks; what matters of it is told by ours.
    logging.getLogger("pgqueuer").addHandler(logging.NullHandler())


association_count: Final = options.whole_number(1, 10_000, "a number of associations")


def carry_out(context: typer.Context, action: Callable[[ModuleType], Any], text: Callable[[Any], str]) -> int:
    """Do something to the migration that the command line names, say what that has led to, and return the exit code.

    `action` chooses what is done from `cluster.control`, which is loaded only then.
    """
    dsn, migration = context.params["dsn"], context.params["name"]

    def command(_: object) -> int:
        check_installed(dsn)
        from asyncstore.cluster import control

        running.Results().print(f"Migration {migration}: {text(control.changed(dsn, migration, action(control)))}")
        return ExitCode.STORED

    return running.run(options.log_level(context), command)
