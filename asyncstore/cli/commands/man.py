"""`asyncstore man`: the manual page."""

from __future__ import annotations

import logging

import typer

from asyncstore.cli import running
from asyncstore.cli.exit_codes import ExitCode

DETAILS = """asyncstore man | man -l - shows it. For man asyncstore, write it to ~/.local/share/man/man1/asyncstore.1.

Exit codes: 0 printed, 2 usage, 6 stdout cannot be written."""


def man(context: typer.Context) -> None:
    """Print the page; the help is made from DETAILS."""

    def command(_: object) -> int:
        from asyncstore.cli import app
        from asyncstore.cli.output import man_page

        running.Results().print(*man_page.page(app.SUMMARY, map(app.load, app.COMMANDS)))
        return ExitCode.STORED

    raise typer.Exit(running.run(logging.ERROR, command))
