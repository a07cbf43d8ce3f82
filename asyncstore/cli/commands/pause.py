"""`asyncstore pause`: stop the workers of a migration, without ending them."""

from __future__ import annotations

import typer

from asyncstore.cli import migrating, options

DETAILS = f"""Workers finish the instances in flight, close their associations and wait for `asyncstore resume`.

{migrating.EXIT_CODES}"""


def pause(
    context: typer.Context,
    dsn: migrating.Dsn,
    name: migrating.Name,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    debug: options.Debug = False,
    log_level: options.LogLevel = None,
) -> None:
    """Pause a migration; the help is made from DETAILS."""
    text = "paused; workers finish what is in flight, and send nothing new"
    raise typer.Exit(migrating.carry_out(context, lambda control: control.pause, lambda _: text))
