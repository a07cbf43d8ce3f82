"""`asyncstore storescu`: the documented application, and bulk transfers with the same options.

It prints the log on stderr (level error by default), and with `--json` the outcomes on stdout. One instance prints
exactly what the document says. After several, a last line counts those that were not stored; another counts those that
were, at info level, and always on a terminal. `-q` prints none of this.
"""

# Annotations are not strings here: to evaluate them takes longer.

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal, cast

import typer

from asyncstore.cli import (
    changing,
    committing,
    converting,
    delivering,
    descriptors,
    options,
    rebinding,
    recording,
    running,
    securing,
    selecting,
    showing,
)
from asyncstore.cli.named_paths import NamedPaths
from asyncstore.cli.output.plain_text import path_text
from asyncstore.cli.sending import StorescuRun
from asyncstore.net.peer import Peer
from asyncstore.transfer import limits
from asyncstore.transfer.limits import Limits
from asyncstore.transfer.options import TransferOptions
from asyncstore.transfer.schedule import windows

if TYPE_CHECKING:
    from asyncstore.preparation.conversions import Decompress

DETAILS = """PATH is a DICOM file, a directory, a ZIP or TAR archive, a member of one (study.zip!/1.dcm), or a \
DICOMDIR, which stands for the files that it references. Only files directly in a directory are sent; -r includes \
subdirectories.

Exit codes: 0 everything stored, 1 no association, 2 usage, 3 some instances failed or are not committed, 4 stopped \
early with work left, 5 nothing to send, 6 ledger or report cannot be written, 7 --verify found a difference, 129, \
130 or 143 interrupted."""


def opened_list(name: str, *, ends_in_nul: bool) -> Iterator[str]:
    """The paths in a file, or in stdin for "-"."""
    from asyncstore.inputs.listed import listed_paths

    try:
        stream = sys.stdin.buffer if name == "-" else open(name, "rb")  # noqa: SIM115
    except OSError as error:
        message = f"cannot read {path_text(name)!r}: {error.strerror}"
        raise typer.BadParameter(message, param_hint="--files-from") from None
    return listed_paths(stream, ends_in_nul=ends_in_nul)


@securing.calls
@changing.changes
@delivering.delivers
def storescu(
    context: typer.Context,
    addr: options.Address,
    port: options.PeerPort,
    paths: options.Annotated[
        list[str] | None,
        options.argument(
            parser=options.text, metavar="PATH", help="Files and directories to send.", show_default=False
        ),
    ] = None,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    debug: options.Debug = False,
    log_level: options.LogLevel = None,
    recursive: options.Annotated[
        bool,
        options.option("-r", "--recursive", "--recurse", help="Include subdirectories.", panel=options.INPUT),
    ] = False,
    files_from: options.Annotated[
        str | None,
        options.option(
            parser=options.text,
            metavar="FILE|-",
            help="Read paths from a file or from stdin (-), one per line.",
            panel=options.INPUT,
        ),
    ] = None,
    null: options.Annotated[
        bool,
        options.option(
            "-0", "--null", help="Each path of --files-from ends with NUL, not a newline.", panel=options.INPUT
        ),
    ] = False,
    archives: selecting.Archives = False,
    include: selecting.Include = None,
    exclude: selecting.Exclude = None,
    modality: selecting.Modality = None,
    newer_than: selecting.NewerThan = None,
    order: selecting.OrderOption = "found",
    calling_aet: options.CallingAET = "STORESCU",
    called_aet: options.CalledAET = "ANY-SCP",
    acse_timeout: options.AcseTimeout = 30,
    dimse_timeout: options.DimseTimeout = 30,
    network_timeout: options.NetworkTimeout = 30,
    connect_timeout: options.ConnectTimeout = 10,
    source_address: options.SourceAddress = None,
    max_pdu: options.SendersMaxPDU = 16382,
    associations: options.Annotated[
        Any,
        options.option(
            "-j",
            "--associations",
            parser=options.read_by(descriptors.association_counts),
            metavar="N|auto",
            help="Parallel associations, or a timetable of them: '08:00,2 18:00,auto'. auto adds some, up to 8, while "
            "throughput improves, and drops some when the peer struggles." + options.default_text("auto"),
            panel=options.BULK,
        ),
    ] = None,
    bwlimit: options.Annotated[
        Any,
        options.option(
            parser=options.read_by(limits.rates),
            metavar="RATE",
            help="Most bytes of data sets per second, on all associations together: 512k, 20M, 1G (KiB, MiB, GiB), "
            "100Mbit (12,500,000 bytes) or off. Or a timetable in local time: '08:00,20M 18:00,off', with days "
            "'Mon-08:00,20M Fri-18:00,off'." + options.default_text("off"),
            panel=options.BULK,
        ),
    ] = None,
    between: options.Annotated[
        Any,
        options.option(
            parser=options.read_by(windows),
            metavar="TIMES",
            help="Send in these windows of local time only: '18:00-06:00,Sat-00:00-Mon-06:00'. At other times no "
            "association is open.",
            panel=options.BULK,
        ),
    ] = None,
    max_duration: options.Annotated[
        float | None,
        options.option(
            parser=options.read_by(limits.duration),
            metavar="TIME",
            help="After this time (8h, 1h30m), finish what is in flight and stop.",
            panel=options.BULK,
        ),
    ] = None,
    control: options.Annotated[
        str | None,
        options.option(
            parser=options.text,
            metavar="FILE",
            help="Carry out the lines of this file whenever it changes: bwlimit RATE, associations N, pause, resume, "
            "stop.",
            panel=options.BULK,
        ),
    ] = None,
    keep_together: options.Annotated[
        str,
        options.option(
            parser=options.choice("directory", "study"),
            metavar="directory|study",
            help="Keep a directory on one association while there is other work, or never split a study between "
            "associations.",
            panel=options.BULK,
        ),
    ] = "directory",
    decompress: converting.DecompressOption = "lossless",
    transcode: converting.Transcode = None,
    check: converting.Check = True,
    workers: converting.Workers = None,
    ledger: recording.Ledger = None,
    force_ledger: options.Annotated[
        bool,
        options.option("--force-ledger", help="Allow the ledger on a network file system.", panel=options.BULK),
    ] = False,
    rebind: rebinding.Rebind = None,
    commit: committing.Commit = False,
    commit_port: committing.CommitPort = None,
    commit_plaintext: committing.CommitPlaintext = False,
    commit_wait: committing.CommitWait = 60,
    verify: committing.Verify = False,
    dry_run: options.Annotated[
        bool,
        options.option(
            "--dry-run",
            help="Print what would be sent, and how, and which of it the peer accepts; send nothing.",
            panel=options.BULK,
        ),
    ] = False,
    retry_set_aside: options.Annotated[
        bool,
        options.option(
            "--retry-set-aside",
            help="Send again what an earlier run with the same ledger has set aside.",
            panel=options.RETRY,
        ),
    ] = False,
    fail_fast: options.Annotated[
        bool,
        options.option("--fail-fast", help="Stop at the first instance that fails.", panel=options.RETRY),
    ] = False,
    report: showing.Report = None,
    json: showing.Json = False,
    metrics_file: showing.MetricsFile = None,
    progress: showing.Progress = None,
    stats: showing.Stats = None,
    summary: showing.SummaryTable = False,
    count: showing.Count = True,
    log_file: showing.LogFile = None,
) -> None:
    """Send files and directories; the help is made from DETAILS."""
    level = options.log_level(context)
    if not paths and files_from is None:
        raise typer.BadParameter("give a file or directory to send, or --files-from", param_hint="PATH")
    showing.check_files(report, ledger, log_file, metrics_file, paths or [])
    recording.check_place(ledger, moved=bool(rebind), commit=commit, forced=force_ledger)
    peer = Peer(addr, port, called_aet, source_address, securing.caller_tls(context))
    commit_options = committing.commit_options(context, peer)
    listed = None if files_from is None else opened_list(files_from, ends_in_nul=null)
    # A number goes where numbers always went; only a timetable is a limit.
    is_fixed = associations is not None and len(associations.entries) == 1
    fixed = associations.at(0) if is_fixed else None
    if source_address is not None and source_address[1] and fixed != 1:
        raise typer.BadParameter("a port serves one association at a time: add -j 1", param_hint="--source-address")
    transfer_options = TransferOptions(
        calling_ae_title=calling_aet,
        associations=fixed,
        maximum_length=max_pdu,
        timeouts=options.timeouts(context),
        keep_together=cast("Literal['directory', 'study']", keep_together),
        decompress=cast("Decompress", decompress),
        transcode=transcode,
        check=check,
        workers=workers,
        recursive=recursive,
        selection=selecting.selection(
            archives=archives,
            include=include,
            exclude=exclude,
            modality=modality,
            newer_than=newer_than,
            order=order,
        ),
        retry_set_aside=retry_set_aside,
        fail_fast=fail_fast,
        prepare=changing.preparer(context),
        user_identity=securing.user_identity(context),
        allow_plaintext_credentials=context.params["allow_plaintext_credentials"],
        limits=Limits(
            bytes_per_second=bwlimit,
            associations=None if is_fixed else associations,
            between=between,
            maximum_seconds=max_duration,
        ),
        **delivering.transfer_options(context, has_ledger=ledger is not None),
    )
    run = StorescuRun(
        peer,
        NamedPaths(paths or [], listed, list_name=files_from, ends_in_nul=null),
        transfer_options,
        ledger=ledger,
        force_ledger=force_ledger,
        moved=rebinding.checked(rebind, ledger=ledger, dry_run=dry_run),
        records_path=report,
        json=json,
        progress=progress,
        control_path=control,
        stats_seconds=stats,
        is_counted=count,
        summary=summary,
        log_path=log_file,
        metrics_path=metrics_file,
        commit=commit_options,
        verify=verify,
    )
    log_to = None if log_file is None else (log_file, options.file_log_level(context))
    command = run.plan if dry_run else securing.telling(context, run.run)
    raise typer.Exit(running.run(level, command, log_to=log_to))
