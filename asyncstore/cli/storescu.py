"""`asyncstore storescu`: the documented application, and bulk transfers with the same options.

What is printed: the log (stderr, error level unless asked for otherwise), and with `--json` the outcomes (stdout). One
instance prints exactly what the document says. When there were several, a line at the end says how many were not stored;
how many were is said at info level, and always on a terminal. `-q` prints nothing of all this.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import sys
from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer

from asyncstore.cli import exit_codes, options, running
from asyncstore.cli.documented_log import logger
from asyncstore.cli.plain_text import count_text, duration_text, path_text, size_text
from asyncstore.cli.version import package_version
from asyncstore.errors import AssociateError, AssociationRejected
from asyncstore.net.peer import Peer
from asyncstore.transfer.policy import RetryPolicy, StatusReaction, TransferOptions, parse_overrides

if TYPE_CHECKING:
    from collections.abc import Iterator

    from asyncstore.cli.documented_log import DocumentedLog
    from asyncstore.cli.records import RecordWriter
    from asyncstore.transfer.engine import Transfer
    from asyncstore.transfer.report import Report

DETAILS = """PATH is a DICOM file or a directory; of a directory its direct files are sent, with -r everything below it.

Exit codes: 0 everything stored, 1 no association, 2 usage, 3 some instances failed, 4 stopped early with work left,
5 nothing to send, 6 ledger or report cannot be written, 130 or 143 interrupted."""

# PS3.8 Table 9-21: the rejections that another AE title would have avoided.
_AE_TITLE_REJECTIONS = ((1, 3), (1, 7))


def associations(text: object) -> int:
    """How many associations; 0 stands for as many as pay."""
    if str(text).lower() == "auto":
        return 0
    return options.whole_number(1, 1024, "auto or a number of associations")(text)


def report_name(text: object) -> str:
    """The name of a report file, which says the format."""
    from asyncstore.cli.records import REPORT_SUFFIXES, is_report_name

    if not is_report_name(str(text)):
        raise typer.BadParameter(f"{path_text(str(text))!r} must end in {' or '.join(REPORT_SUFFIXES)}")
    return str(text)


def status_reactions(texts: list[str] | None) -> tuple[StatusReaction, ...]:
    try:
        return parse_overrides(texts or ())
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--on-status") from None


def storescu(
    context: typer.Context,
    addr: options.Address,
    port: options.PeerPort,
    paths: Annotated[
        list[str] | None,
        typer.Argument(
            parser=options.text_as_given, metavar="PATH...", help="Files and directories to send.", show_default=False
        ),
    ] = None,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    debug: options.Debug = False,
    log_level: options.LogLevel = None,
    recursive: Annotated[
        bool,
        typer.Option(
            "-r", "--recursive", "--recurse", help="Search directories recursively.", rich_help_panel=options.INPUT
        ),
    ] = False,
    files_from: Annotated[
        str | None,
        typer.Option(
            parser=options.text_as_given,
            metavar="FILE|-",
            help="Read paths from a file, or from stdin, one per line.",
            rich_help_panel=options.INPUT,
        ),
    ] = None,
    null: Annotated[
        bool,
        typer.Option("-0", "--null", help="The paths of --files-from end in NUL.", rich_help_panel=options.INPUT),
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
        typer.Option(
            parser=options.maximum_pdu,
            metavar="BYTES",
            help="Longest PDU that we send, below what the peer takes; 0 for no limit of our own.",
            rich_help_panel=options.NETWORK,
        ),
    ] = 0,
    request_little: options.RequestLittle = False,
    request_big: options.RequestBig = False,
    request_implicit: options.RequestImplicit = False,
    single_context: Annotated[
        bool,
        typer.Option(
            "-cx",
            "--single-context",
            "--required-contexts",
            help="Only request the presentation contexts that the input needs.",
            rich_help_panel=options.MISCELLANEOUS,
        ),
    ] = False,
    associations: Annotated[
        int,
        typer.Option(
            "-j",
            "--associations",
            parser=associations,
            metavar="N|auto",
            help="Parallel associations; auto grows to 8 while it pays.",
            rich_help_panel=options.BULK,
        ),
    ] = 0,
    window: Annotated[
        int,
        typer.Option(
            "-w",
            "--window",
            parser=options.whole_number(1, 0xFFFF, "a number of operations"),
            metavar="N",
            help="Asynchronous operations window to propose; 1 proposes none.",
            rich_help_panel=options.BULK,
        ),
    ] = 16,
    keep_together: Annotated[
        str,
        typer.Option(
            parser=options.choice("directory", "study"),
            metavar="directory|study",
            help="What stays on one association.",
            rich_help_panel=options.BULK,
        ),
    ] = "directory",
    priority: Annotated[
        str,
        typer.Option(
            parser=options.choice("low", "medium", "high"),
            metavar="low|medium|high",
            help="C-STORE priority.",
            rich_help_panel=options.BULK,
        ),
    ] = "low",
    ledger: Annotated[
        str | None,
        typer.Option(
            parser=options.text_as_given,
            metavar="FILE",
            help="Durable record; the same command run again resumes.",
            rich_help_panel=options.BULK,
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Scan, plan and print; no association.", rich_help_panel=options.BULK),
    ] = False,
    retries: Annotated[
        int,
        typer.Option(
            parser=options.whole_number(0, 1000, "a number of attempts"),
            metavar="N",
            help="Attempts after the first.",
            rich_help_panel=options.RETRY,
        ),
    ] = 4,
    retry_wait: Annotated[
        float,
        typer.Option(
            parser=options.wait_seconds,
            metavar="SECONDS",
            help="Longest first wait; it doubles, with full jitter.",
            rich_help_panel=options.RETRY,
        ),
    ] = 1.0,
    fail_fast: Annotated[
        bool,
        typer.Option(
            "--fail-fast", help="Stop at the first instance that cannot be stored.", rich_help_panel=options.RETRY
        ),
    ] = False,
    on_status: Annotated[
        list[str] | None,
        typer.Option(
            parser=options.text_as_given,
            metavar="CODE=REACTION",
            help="React otherwise to a status or range: A702=stop, C000-C0FF=failed. Repeatable.",
            rich_help_panel=options.RETRY,
        ),
    ] = None,
    on_duplicate: Annotated[
        str,
        typer.Option(
            parser=options.choice("duplicate", "stored", "failed"),
            metavar="duplicate|stored|failed",
            help="What an instance counts as that the peer had already.",
            rich_help_panel=options.RETRY,
        ),
    ] = "duplicate",
    strict_warnings: Annotated[
        bool,
        typer.Option(
            "--strict-warnings",
            help="An instance of which the peer discarded elements (B006) has failed.",
            rich_help_panel=options.RETRY,
        ),
    ] = False,
    report: Annotated[
        str | None,
        typer.Option(
            parser=report_name,
            metavar="FILE",
            help="A record per instance, as it happens: .jsonl or .csv.",
            rich_help_panel=options.RESULTS,
        ),
    ] = None,
    json: Annotated[
        bool,
        typer.Option("--json", help="Outcomes and summary as JSON lines on stdout.", rich_help_panel=options.RESULTS),
    ] = False,
    progress: Annotated[
        bool | None,
        typer.Option(
            "--progress/--no-progress",
            help="A progress bar on stderr (on a terminal).",
            rich_help_panel=options.RESULTS,
            show_default=False,
        ),
    ] = None,
) -> None:
    level = options.log_level(context)
    if not paths and files_from is None:
        raise typer.BadParameter("give a file or directory to send, or --files-from", param_hint="PATH")
    sources = _sources(paths or [], files_from, null)
    transfer_options = TransferOptions(
        calling_ae_title=calling_aet,
        associations=associations or None,
        window=window,
        maximum_length=max_pdu,
        maximum_send_length=max_send_pdu,
        timeouts=options.timeouts(context),
        priority=_priority(priority),
        only_transfer_syntax=options.transfer_syntax(context),
        only_needed_contexts=single_context,
        keep_together=cast("Literal['directory', 'study']", keep_together),
        recursive=recursive,
        retry=RetryPolicy(
            retries=retries,
            first_wait_seconds=retry_wait,
            overrides=status_reactions(on_status),
            on_duplicate=cast("Literal['duplicate', 'stored', 'failed']", on_duplicate),
            strict_warnings=strict_warnings,
        ),
        fail_fast=fail_fast,
    )
    command = Storescu(
        Peer(addr, port, called_aet),
        sources,
        transfer_options,
        level=level,
        ledger=ledger,
        report_file=report,
        json=json,
        progress=progress,
        dry_run=dry_run,
    )
    raise typer.Exit(running.run(level, command.run))
