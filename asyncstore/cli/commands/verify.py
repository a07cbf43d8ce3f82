"""`asyncstore verify`: compare what was sent, or a tree of files, with what a peer says it has."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from asyncstore.cli import options, recording, running, securing, selecting
from asyncstore.cli.exit_codes import ExitCode
from asyncstore.cli.output.documented_log import logger
from asyncstore.cli.output.plain_text import path_text
from asyncstore.net.peer import Peer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from asyncstore.cli.output.documented_log import DocumentedLog
    from asyncstore.inputs.selection import Selection
    from asyncstore.transfer.proof.expected import Expected

DETAILS = """Asks the peer for the instances of each study (C-FIND) and prints the studies that differ. \
LEDGER is the file or database that storescu --ledger wrote: what it calls stored is compared. PATH is a file, a \
directory with everything below it, or an archive. Sends no instance and changes nothing.

Exit codes: 0 no difference, 1 no association, 2 usage, 3 something could not be compared, 4 stopped early, 5 nothing \
to compare, 6 a ledger cannot be read, 7 the peer differs, 129, 130 or 143 interrupted."""


@securing.calls
def verify(
    context: typer.Context,
    sources: options.Annotated[
        list[str],
        options.argument(
            parser=options.text,
            check=recording.ledger_names,
            metavar="LEDGER|PATH",
            help="Ledgers, files and directories to compare.",
        ),
    ],
    addr: options.Address,
    port: options.PeerPort,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    debug: options.Debug = False,
    log_level: options.LogLevel = None,
    calling_aet: options.CallingAET = "STORESCU",
    called_aet: options.CalledAET = "ANY-SCP",
    acse_timeout: options.AcseTimeout = 30,
    dimse_timeout: options.DimseTimeout = 120,
    network_timeout: options.NetworkTimeout = 30,
    connect_timeout: options.ConnectTimeout = 10,
    source_address: options.SourceAddress = None,
    associations: options.Annotated[
        int,
        options.option(
            "-j",
            "--associations",
            parser=options.whole_number(1, 16, "a number of associations"),
            metavar="N",
            help="Number of queries at once; it pauses when the peer becomes slow.",
            panel=options.NETWORK,
        ),
    ] = 2,
    counts: options.Annotated[
        bool,
        options.option(
            "--counts",
            help="Take a study as equal if the peer's numbers of series and instances agree. Much quicker, but one "
            "missing instance and an extra one look like none.",
            panel=options.MISCELLANEOUS,
        ),
    ] = False,
    archives: selecting.Archives = False,
    include: selecting.Include = None,
    exclude: selecting.Exclude = None,
    modality: selecting.Modality = None,
    newer_than: selecting.NewerThan = None,
    missing_files: options.Annotated[
        bool,
        options.option(
            "--missing-files",
            help="Print only the paths of what is missing, for storescu --files-from.",
            panel=options.RESULTS,
        ),
    ] = False,
    null: options.Annotated[
        bool,
        options.option(
            "-0", "--null", help="End each path of --missing-files with NUL, not a newline.", panel=options.RESULTS
        ),
    ] = False,
    csv: options.Annotated[
        bool, options.option("--csv", help="Print a record for each difference, as CSV.", panel=options.RESULTS)
    ] = False,
    json: options.Annotated[
        bool,
        options.option("--json", help="Print a line of JSON for each study that differs.", panel=options.RESULTS),
    ] = False,
) -> None:
    """Compare and print; the help is made from DETAILS."""
    form = options.one_of(context, "missing_files", "csv", "json") or "text"
    if null and form != "missing_files":
        raise typer.BadParameter("it goes with --missing-files", param_hint="-0")
    selection = selecting.selection(
        archives=archives, include=include, exclude=exclude, modality=modality, newer_than=newer_than
    )
    if source_address is not None and source_address[1] and associations != 1:
        raise typer.BadParameter("a port serves one association at a time: add -j 1", param_hint="--source-address")
    peer = Peer(addr, port, called_aet, source_address, securing.caller_tls(context))
    level = options.log_level(context)
    settings = {
        "associations": associations,
        "by_counts": counts,
        "calling_ae_title": calling_aet,
        "timeouts": options.timeouts(context),
        "user_identity": securing.user_identity(context),
        "allow_plaintext_credentials": context.params["allow_plaintext_credentials"],
    }

    def command(log: DocumentedLog) -> int:
        from asyncstore.cli.output.proof_text import ProofText
        from asyncstore.cli.verifying import compare, log_problem
        from asyncstore.transfer.proof.expected import Expected

        text = ProofText(running.Results(), form, ends_in_nul=null)
        with Expected(log_problem) as expected:
            _collect(expected, sources, selection)
            code = running.run_async(compare, peer, expected, text, settings, log)
            if code == ExitCode.STORED:
                code = text.exit_code(expected.problems)
            if code == ExitCode.NOTHING_TO_SEND:
                logger.error("Nothing to compare: there is no instance in %s", ", ".join(map(path_text, sources[:3])))
        for line in text.print_summary():
            logger.warning("%s", line)
        return code

    raise typer.Exit(running.run(level, securing.telling(context, command)))


def _collect(expected: Expected, sources: Sequence[str], selection: Selection | None) -> None:
    from asyncstore.ledger.opening import is_ledger, open_reader

    ledgers = [source for source in sources if is_ledger(source)]
    for ledger in ledgers:
        with open_reader(ledger) as reader:
            expected.add_ledger(reader)
    expected.add_files([source for source in sources if source not in ledgers], selection)
