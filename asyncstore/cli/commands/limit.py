"""`asyncstore limit`: set how many associations all workers of a migration have together."""

from __future__ import annotations

import typer

from asyncstore.cli import migrating, options
from asyncstore.cli.output.plain_text import count_text

DETAILS = f"""Workers follow within seconds. They have fewer associations than this while the peer struggles.

{migrating.EXIT_CODES}"""


def limit(
    context: typer.Context,
    dsn: migrating.Dsn,
    name: migrating.Name,
    associations: options.Annotated[
        int,
        options.argument(
            parser=migrating.association_count, metavar="N", help="Most associations of all workers together."
        ),
    ],
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    debug: options.Debug = False,
    log_level: options.LogLevel = None,
) -> None:
    """Limit a migration; the help is made from DETAILS."""
    text = f"at most {count_text(associations, 'association')} at once"
    raise typer.Exit(migrating.carry_out(context, lambda control: control.limit(associations), lambda _: text))
