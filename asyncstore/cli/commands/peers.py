"""`asyncstore peers`: list the named peers of the configuration file."""

from __future__ import annotations

import logging

import typer

from asyncstore.cli import options, running
from asyncstore.cli.exit_codes import ExitCode
from asyncstore.cli.output.plain_text import path_text

DETAILS = """A peer is a table of the file: \\[peers.archive] with address, port, called_aet, and the long names of \
other options, such as associations = 4. @archive then takes the place of ADDR PORT of any command. What the command \
line or the environment says comes first.

Exit codes: 0 printed, 2 usage, or there is no such file, or it is wrong, 6 stdout cannot be written."""


def peers(
    context: typer.Context,
    config: options.Annotated[
        str | None,
        options.option(parser=options.text, metavar="FILE", help=options.CONFIG_HELP, panel=options.GENERAL),
    ] = None,
) -> None:
    """Read and print; the help is made from DETAILS."""
    from asyncstore.cli.peers import PeersFile, path_of

    file = PeersFile(path_of(config), "--config")
    lines = [path_text(f"@{name}  {file.peer(name)}") for name in file.tables]

    def command(_: object) -> int:
        running.Results().print(*lines)
        return ExitCode.STORED

    raise typer.Exit(running.run(logging.ERROR, command))
