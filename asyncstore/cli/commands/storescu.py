"""`asyncstore storescu`: the documented application, and bulk transfers with the same options.

What is printed: the log (stderr, error level unless asked for otherwise), and with `--json` the outcomes (stdout). One
instance prints exactly what the document says. When there were several, a line at the end says how many were not
stored; how many were is said at info level, and always on a terminal. `-q` prints nothing of all this.
"""

# Annotations are no strings here: typer evaluates those several times, which took 4 ms of each start.

import itertools
import os
import sys
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, BinaryIO, Literal, cast

import typer

from asyncstore.cli import options, running
from asyncstore.cli.output.plain_text import path_text
from asyncstore.cli.sending import Sending
from asyncstore.dimse.messages import HIGH, LOW, MEDIUM
from asyncstore.errors import LocalProtocolError
from asyncstore.net.peer import Peer
from asyncstore.transfer.options import RetryPolicy, TransferOptions
from asyncstore.transfer.reactions import StatusReaction, parse_overrides

DETAILS = """PATH is a DICOM file or a directory; of a directory its direct files are sent, with -r everything below it.

Exit codes: 0 everything stored, 1 no association, 2 usage, 3 some instances failed, 4 stopped early with work left, \
5 nothing to send, 6 ledger or report cannot be written, 130 or 143 interrupted."""

_PRIORITIES = {"low": LOW, "medium": MEDIUM, "high": HIGH}
_PIECE_BYTES = 65536


def association_count(text: object) -> int | None:
    """How many associations; None for as many as pay."""
    if str(text).lower() == "auto":
        return None
    return options.whole_number(1, 1024, "auto or a number of associations")(text)


def report_name(text: object) -> str:
    """The name of a report file, which says the format."""
    from asyncstore.cli.output.records import REPORT_SUFFIXES, is_report_name

    if not is_report_name(str(text)):
        raise typer.BadParameter(f"{path_text(str(text))!r} must end in {' or '.join(REPORT_SUFFIXES)}")
    return str(text)


def status_reactions(texts: list[str] | None) -> tuple[StatusReaction, ...]:
    """The rows of `--on-status`."""
    try:
        return parse_overrides(texts or ())
    except LocalProtocolError as error:
        raise typer.BadParameter(str(error), param_hint="--on-status") from None


def listed_paths(name: str, *, ends_in_nul: bool) -> Iterator[str]:
    """The paths in a file, or in stdin for "-", one per line or each ended by NUL; read as they are asked for."""
    try:
        stream = sys.stdin.buffer if name == "-" else open(name, "rb")  # noqa: SIM115
    except OSError as error:
        message = f"cannot read {path_text(name)!r}: {error.strerror}"
        raise typer.BadParameter(message, param_hint="--files-from") from None
    return _split_paths(stream, b"\0" if ends_in_nul else b"\n")


def _split_paths(stream: BinaryIO, end: bytes) -> Iterator[str]:
    with stream:
        rest = b""
        # read1: what has been piped in so far, so that the first path is sent before the last is written.
        while piece := stream.read1(_PIECE_BYTES):  # type: ignore[attr-defined]
            *whole, rest = (rest + piece).split(end)
            yield from _decoded(whole, end)
        yield from _decoded([rest], end)


def _decoded(lines: list[bytes], end: bytes) -> Iterator[str]:
    for line in lines:
        path = line if end == b"\0" else line.removesuffix(b"\r")
        if path:
            yield os.fsdecode(path)


def storescu(
    context: typer.Context,
    addr: options.Address,
    port: options.PeerPort,
    paths: Annotated[
        list[str] | None,
        typer.Argument(parser=options.text, metavar="PATH", help="Files and directories to send.", show_default=False),
    ] = None,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    debug: options.Debug = False,
    log_level: options.LogLevel = None,
    recursive: Annotated[
        bool,
        options.option("-r", "--recursive", "--recurse", help="Search directories recursively.", panel=options.INPUT),
    ] = False,
    files_from: Annotated[
        str | None,
        options.option(
            parser=options.text,
            metavar="FILE|-",
            help="Read paths from a file, or from stdin, one per line.",
            panel=options.INPUT,
        ),
    ] = None,
    null: Annotated[
        bool,
        options.option("-0", "--null", help="The paths of --files-from end in NUL.", panel=options.INPUT),
    ] = False,
    calling_aet: options.CallingAET = "STORESCU",
    called_aet: options.CalledAET = "ANY-SCP",
    acse_timeout: options.AcseTimeout = 30.0,
    dimse_timeout: options.DimseTimeout = 30.0,
    network_timeout: options.NetworkTimeout = 30.0,
    connect_timeout: options.ConnectTimeout = 10.0,
    max_pdu: options.MaxPDU = 16382,
    max_send_pdu: Annotated[
        int,
        options.option(
            parser=options.maximum_pdu,
            metavar="BYTES",
            help="Longest PDU that we send, below what the peer takes; 0 for no limit of our own.",
            panel=options.NETWORK,
        ),
    ] = 0,
    request_little: options.RequestLittle = False,
    request_big: options.RequestBig = False,
    request_implicit: options.RequestImplicit = False,
    single_context: Annotated[
        bool,
        options.option(
            "-cx",
            "--single-context",
            "--required-contexts",
            help="Only request the presentation contexts that the input needs.",
            panel=options.MISCELLANEOUS,
        ),
    ] = False,
    associations: Annotated[
        int | None,
        options.option(
            "-j",
            "--associations",
            parser=association_count,
            metavar="N|auto",
            help="Parallel associations; auto grows to 8 while it pays.",
            show_default="auto",
            panel=options.BULK,
        ),
    ] = None,
    window: Annotated[
        int,
        options.option(
            "-w",
            "--window",
            parser=options.whole_number(1, 0xFFFF, "a number of operations"),
            metavar="N",
            help="Asynchronous operations window to propose; 1 proposes none.",
            panel=options.BULK,
        ),
    ] = 16,
    keep_together: Annotated[
        str,
        options.option(
            parser=options.choice("directory", "study"),
            metavar="directory|study",
            help="What stays on one association.",
            panel=options.BULK,
        ),
    ] = "directory",
    priority: Annotated[
        str,
        options.option(
            parser=options.choice(*_PRIORITIES),
            metavar="low|medium|high",
            help="C-STORE priority.",
            panel=options.BULK,
        ),
    ] = "low",
    ledger: Annotated[
        str | None,
        options.option(
            parser=options.text,
            metavar="FILE",
            help="Durable record; the same command run again resumes.",
            panel=options.BULK,
        ),
    ] = None,
    force_ledger: Annotated[
        bool,
        options.option("--force-ledger", help="Allow the ledger on a network file system.", panel=options.BULK),
    ] = False,
    dry_run: Annotated[
        bool,
        options.option("--dry-run", help="Scan, plan and print; no association.", panel=options.BULK),
    ] = False,
    retries: Annotated[
        int,
        options.option(
            parser=options.whole_number(0, 1000, "a number of attempts"),
            metavar="N",
            help="Attempts after the first.",
            panel=options.RETRY,
        ),
    ] = 4,
    retry_wait: Annotated[
        float,
        options.option(
            parser=options.wait_seconds,
            metavar="SECONDS",
            help="Longest first wait; it doubles, with full jitter.",
            panel=options.RETRY,
        ),
    ] = 1.0,
    outage_wait: Annotated[
        float | None,
        options.option(
            parser=options.wait_seconds,
            metavar="SECONDS",
            help="How long the peer may take nothing before the run gives up.",
            show_default="60, with --ledger 3600",
            panel=options.RETRY,
        ),
    ] = None,
    fail_fast: Annotated[
        bool,
        options.option("--fail-fast", help="Stop at the first instance that cannot be stored.", panel=options.RETRY),
    ] = False,
    on_status: Annotated[
        list[str] | None,
        options.option(
            parser=options.text,
            metavar="CODE=REACTION",
            help="React otherwise to a status or range: A702=stop, C000-C0FF=failed. Repeatable.",
            panel=options.RETRY,
        ),
    ] = None,
    on_duplicate: Annotated[
        str,
        options.option(
            parser=options.choice("duplicate", "stored", "failed"),
            metavar="duplicate|stored|failed",
            help="What an instance counts as that the peer had already.",
            panel=options.RETRY,
        ),
    ] = "duplicate",
    strict_warnings: Annotated[
        bool,
        options.option(
            "--strict-warnings",
            help="An instance of which the peer discarded elements (B006) has failed.",
            panel=options.RETRY,
        ),
    ] = False,
    report: Annotated[
        str | None,
        options.option(
            parser=report_name,
            metavar="FILE",
            help="A record per instance, as it happens: .jsonl or .csv.",
            panel=options.RESULTS,
        ),
    ] = None,
    json: Annotated[
        bool,
        options.option("--json", help="Outcomes and summary as JSON lines on stdout.", panel=options.RESULTS),
    ] = False,
    progress: Annotated[
        bool | None,
        options.option(
            "--progress/--no-progress",
            help="A progress bar on stderr (on a terminal).",
            panel=options.RESULTS,
            show_default=False,
        ),
    ] = None,
) -> None:
    """Send files and directories; the help is made from DETAILS."""
    level = options.log_level(context)
    if not paths and files_from is None:
        raise typer.BadParameter("give a file or directory to send, or --files-from", param_hint="PATH")
    if report is not None and ledger is not None and os.path.realpath(report) == os.path.realpath(ledger):
        raise typer.BadParameter("the report and the ledger cannot be one file", param_hint="--report")
    sources: Iterable[str] = paths or []
    if files_from is not None:
        sources = itertools.chain(sources, listed_paths(files_from, ends_in_nul=null))
    retry_policy = RetryPolicy if ledger is None else RetryPolicy.for_ledger
    outage: dict[str, Any] = {} if outage_wait is None else {"outage_seconds": outage_wait}
    transfer_options = TransferOptions(
        calling_ae_title=calling_aet,
        associations=associations,
        window=window,
        maximum_length=max_pdu,
        maximum_send_length=max_send_pdu,
        timeouts=options.timeouts(context),
        priority=_PRIORITIES[priority],
        only_transfer_syntax=options.transfer_syntax(context),
        only_needed_contexts=single_context,
        keep_together=cast("Literal['directory', 'study']", keep_together),
        recursive=recursive,
        retry=retry_policy(
            retries=retries,
            first_wait_seconds=retry_wait,
            overrides=status_reactions(on_status),
            on_duplicate=cast("Literal['duplicate', 'stored', 'failed']", on_duplicate),
            strict_warnings=strict_warnings,
            **outage,
        ),
        fail_fast=fail_fast,
    )
    sending = Sending(
        Peer(addr, port, called_aet),
        sources,
        transfer_options,
        ledger=ledger,
        force_ledger=force_ledger,
        report_path=report,
        json=json,
        progress=progress,
    )
    raise typer.Exit(running.run(level, sending.plan if dry_run else sending.run))
