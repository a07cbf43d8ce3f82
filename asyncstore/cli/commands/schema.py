"""`asyncstore schema`: what the lines of --json and of .jsonl reports look like."""

from __future__ import annotations

import logging

import typer

from asyncstore.cli import running
from asyncstore.cli.exit_codes import ExitCode

DETAILS = """Each line has the version of the schema as `schema`; the schema says when that grows. It is JSON Schema, \
draft 2020-12.

Exit codes: 0 printed, 2 usage, 6 stdout cannot be written."""


def schema(context: typer.Context) -> None:
    """Print the file; the help is made from DETAILS."""

    def command(_: object) -> int:
        from asyncstore.cli.output.records import SCHEMA_FILE

        with open(SCHEMA_FILE, encoding="ascii") as file:
            running.Results().print(file.read().rstrip())
        return ExitCode.STORED

    raise typer.Exit(running.run(logging.ERROR, command))
