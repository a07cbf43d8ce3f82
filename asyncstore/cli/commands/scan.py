"""`asyncstore scan`: list what an archive contains; sends nothing."""

from __future__ import annotations

from typing import Annotated

import typer

from asyncstore.cli import options, running, selecting

DETAILS = """Searches directories recursively, and opens the archives and DICOMDIRs that are named. \
Sends nothing and changes nothing.

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
    archives: selecting.Archives = False,
    include: selecting.Include = None,
    exclude: selecting.Exclude = None,
    modality: selecting.Modality = None,
    newer_than: selecting.NewerThan = None,
    json: Annotated[bool, options.option("--json", help="Print one line of JSON.", panel=options.RESULTS)] = False,
) -> None:
    """Scan and print the inventory; the help is made from DETAILS."""

    selection = selecting.selection(
        archives=archives, include=include, exclude=exclude, modality=modality, newer_than=newer_than
    )

    def command(_: object) -> int:
        from asyncstore.cli.output import inventory_text
        from asyncstore.inputs.inventory import Inventory

        inventory = Inventory()
        inventory.scan(paths, recursive=True, selection=selection)
        text = [inventory_text.json_line(inventory)] if json else inventory_text.lines(inventory)
        running.Results().print(*text)
        return inventory_text.exit_code(inventory)

    raise typer.Exit(running.run(options.log_level(context), command))
