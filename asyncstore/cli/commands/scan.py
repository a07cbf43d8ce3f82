"""`asyncstore scan`: list what an archive contains; sends nothing."""

from __future__ import annotations

from typing import Annotated

import typer

from asyncstore.cli import options, running

DETAILS = """Searches directories recursively. Sends nothing and changes nothing.

Exit codes: 0 there are instances and all of them can be read, 2 usage, 3 something cannot be read, or a named file is \
not a DICOM file, 5 nothing to send."""


def scan(
    context: typer.Context,
    paths: Annotated[
        list[str], typer.Argument(parser=options.text, metavar="PATH", help="Files and directories to scan.")
    ],
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    debug: options.Debug = False,
    log_level: options.LogLevel = None,
    json: Annotated[bool, options.option("--json", help="Print one line of JSON.", panel=options.RESULTS)] = False,
) -> None:
    """Scan and print the inventory; the help is made from DETAILS."""

    def command(_: object) -> int:
        from asyncstore.cli.output import inventory_text
        from asyncstore.inputs.inventory import Inventory

        inventory = Inventory()
        inventory.scan(paths, recursive=True)
        text = [inventory_text.json_line(inventory)] if json else inventory_text.lines(inventory)
        running.Results().print(*text)
        return inventory_text.exit_code(inventory)

    raise typer.Exit(running.run(options.log_level(context), command))
