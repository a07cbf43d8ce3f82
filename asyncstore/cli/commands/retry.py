"""`asyncstore retry`: have workers send again what has failed or was set aside."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from asyncstore.cli import migrating, options
from asyncstore.cli.output.plain_text import count_text

if TYPE_CHECKING:
    from asyncstore.cluster.control import Retried

DETAILS = f"""Puts back the batches that were set aside, and those with instances that failed or were set aside. \
What is stored of them is not sent again.

{migrating.EXIT_CODES}"""


def retry(
    context: typer.Context,
    dsn: migrating.Dsn,
    name: migrating.Name,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    debug: options.Debug = False,
    log_level: options.LogLevel = None,
) -> None:
    """Put back what was given up; the help is made from DETAILS."""

    def text(retried: Retried) -> str:
        if not retried.batches:
            return "nothing has failed or was set aside"
        batches = count_text(retried.batches, "batch")
        return f"{batches} put back, with {count_text(retried.instances, 'instance')} that are not stored"

    raise typer.Exit(migrating.carry_out(context, lambda control: control.retry, text))
