"""`asyncstore resume`: have the workers of a paused migration go on."""

from __future__ import annotations

import typer

from asyncstore.cli import migrating, options

DETAILS = f"""Also queues again what waits to be sent, should the queue have lost it.

{migrating.EXIT_CODES}"""


def resume(
    context: typer.Context,
    dsn: migrating.Dsn,
    name: migrating.Name,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    debug: options.Debug = False,
    log_level: options.LogLevel = None,
) -> None:
    """Resume a migration; the help is made from DETAILS."""

    def text(has_work: bool) -> str:
        return "it goes on" if has_work else "not paused; there is nothing left to send"

    raise typer.Exit(migrating.carry_out(context, lambda control: control.resume, text))
