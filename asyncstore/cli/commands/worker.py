"""`asyncstore worker`: send batches of a migration, together with the workers of other hosts."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import typer

from asyncstore.cli import changing, converting, delivering, migrating, options, securing
from asyncstore.transfer.options import TransferOptions

if TYPE_CHECKING:
    from asyncstore.preparation.conversions import Decompress

DETAILS = """Takes batches that `asyncstore enqueue` has made, on as many hosts as you like, and sends each over an \
association of its own; it also helps to walk. Runs until it is interrupted, or with --until-done until nothing is \
left. While the database is away, it finishes what is in flight; before other workers take it for dead, it aborts.

Exit codes: 0 everything stored, 1 no association, 2 usage, 3 some instances failed or a batch is set aside, 4 stopped \
early with work left, 5 nothing to send, 6 the database cannot be used, 129, 130 or 143 interrupted."""


@securing.calls
@changing.changes
@delivering.delivers
def worker(
    context: typer.Context,
    dsn: migrating.Dsn,
    roots: migrating.Roots,
    name: options.Annotated[
        str | None,
        options.argument(
            parser=migrating.name,
            metavar="NAME",
            help="The name of the migration, if there are several.",
            show_default=False,
        ),
    ] = None,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    debug: options.Debug = False,
    log_level: options.LogLevel = None,
    associations: options.Annotated[
        int,
        options.option(
            "-j",
            "--associations",
            parser=options.whole_number(1, 64, "a number of associations"),
            metavar="N",
            help="Most batches that a process sends at once. All workers together have as many associations as "
            "`asyncstore limit` allows.",
            panel=options.BULK,
        ),
    ] = 4,
    processes: options.Annotated[
        int,
        options.option(
            "--processes",
            parser=options.whole_number(1, 64, "a number of processes"),
            metavar="N",
            help="Start so many processes, each with -j associations.",
            panel=options.BULK,
        ),
    ] = 1,
    until_done: options.Annotated[
        bool,
        options.option("--until-done", help="End when every batch is done or set aside.", panel=options.BULK),
    ] = False,
    calling_aet: options.CallingAET = "STORESCU",
    acse_timeout: options.AcseTimeout = 30,
    dimse_timeout: options.DimseTimeout = 30,
    network_timeout: options.NetworkTimeout = 30,
    connect_timeout: options.ConnectTimeout = 10,
    max_pdu: options.SendersMaxPDU = 16382,
    decompress: converting.DecompressOption = "lossless",
    transcode: converting.Transcode = None,
    check: converting.Check = True,
    workers: converting.Workers = None,
) -> None:
    """Work; the help is made from DETAILS."""
    from asyncstore.cli.working import Working

    working = Working(
        dsn,
        name,
        migrating.mounts_of(roots),
        TransferOptions(
            calling_ae_title=calling_aet,
            maximum_length=max_pdu,
            timeouts=options.timeouts(context),
            decompress=cast("Decompress", decompress),
            transcode=transcode,
            check=check,
            workers=workers,
            prepare=changing.preparer(context),
            user_identity=securing.user_identity(context),
            allow_plaintext_credentials=context.params["allow_plaintext_credentials"],
            **delivering.transfer_options(context, has_ledger=True),
        ),
        tls=securing.caller_tls(context),
        most=associations,
        until_done=until_done,
    )
    raise typer.Exit(working.run(options.log_level(context), processes, securing.telling(context, working.command)))
