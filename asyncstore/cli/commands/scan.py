"""`asyncstore scan`: list what an archive contains, and what a peer would accept of it; sends nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import typer

from asyncstore.cli import converting, options, pages, running, selecting
from asyncstore.errors import LocalProtocolError
from asyncstore.net.peer import Peer, Timeouts
from asyncstore.transfer.options import TransferOptions

if TYPE_CHECKING:
    from asyncstore.cli.output.documented_log import DocumentedLog
    from asyncstore.preparation.conversions import Decompress

DETAILS = """Searches directories recursively, and opens the archives and DICOMDIRs that are named. Counts instances, \
bytes, studies and patients, SOP classes and transfer syntaxes, SOP Instance UIDs that more than one file has, and \
files that are no instances. Sends no instance and changes nothing.

With --to, associates and says which instances the peer accepts, which would be converted to another \
transfer syntax or decompressed (--decompress), and which would fail.

Exit codes: 0 there are instances and all of them can be read (and are accepted), 1 no association, 2 usage, 3 \
something cannot be read or is not accepted, or a named file is not a DICOM file, 5 nothing to send, 6 the page or \
stdout cannot be written."""


def address(text: object) -> tuple[str, int]:
    """Host and port of a peer: `pacs.example:104`, `[::1]:104`."""
    host, _, port = str(text).rpartition(":")
    is_one = host and (":" not in host or (host.startswith("[") and host.endswith("]")))
    if not is_one or not (port.isascii() and port.isdigit()):
        raise typer.BadParameter(f"{str(text)!r} is not ADDR:PORT, as pacs.example:104 or [::1]:104")
    try:
        return host, Peer(host, int(port)).port
    except LocalProtocolError as error:
        raise typer.BadParameter(str(error)) from None


def scan(
    context: typer.Context,
    paths: options.Annotated[
        list[str], options.argument(parser=options.text, metavar="PATH", help="Files and directories to scan.")
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
    to: options.Annotated[
        Any,
        options.option(
            "--to",
            parser=address,
            metavar="ADDR:PORT",
            help="Ask this peer which of the instances it accepts.",
            panel=options.NETWORK,
        ),
    ] = None,
    decompress: converting.DecompressOption = "lossless",
    calling_aet: options.CallingAET = "STORESCU",
    called_aet: options.CalledAET = "ANY-SCP",
    acse_timeout: options.AcseTimeout = 30,
    network_timeout: options.NetworkTimeout = 30,
    connect_timeout: options.ConnectTimeout = 10,
    csv: options.Annotated[
        bool,
        options.option("--csv", help="Print a row per SOP class and transfer syntax, as CSV.", panel=options.RESULTS),
    ] = False,
    json: options.Annotated[
        bool, options.option("--json", help="Print one line of JSON.", panel=options.RESULTS)
    ] = False,
    html: pages.PageFile = None,
    progress: options.Progress = None,
) -> None:
    """Scan and print the inventory; the help is made from DETAILS."""
    selection = selecting.selection(
        archives=archives, include=include, exclude=exclude, modality=modality, newer_than=newer_than
    )
    kind = options.one_of(context, "csv", "json")
    timeouts = Timeouts(connect_seconds=connect_timeout, acse_seconds=acse_timeout, network_seconds=network_timeout)
    transfer_options = TransferOptions(
        calling_ae_title=calling_aet,
        timeouts=timeouts,
        selection=selection,
        decompress=cast("Decompress", decompress),
    )

    def command(log: DocumentedLog) -> int:
        from asyncstore.cli.planning import Planning

        peer = None if to is None else Peer(to[0], to[1], called_aet)
        planning = Planning(transfer_options, peer, kind, html, progress)
        return planning.tell(planning.scan(paths, log), log, paths=paths)

    raise typer.Exit(running.run(options.log_level(context), command))
