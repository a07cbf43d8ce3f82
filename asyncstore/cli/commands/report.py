"""`asyncstore report`: summarise a ledger, also while a run is writing it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from asyncstore.cli import options, pages, recording, running
from asyncstore.cli.exit_codes import ExitCode
from asyncstore.ledger.opening import is_database

if TYPE_CHECKING:
    from asyncstore.cli.output.ledger_text import Account
    from asyncstore.ledger.reading import RecordReader

DETAILS = """Prints counts by state, status and reason, the directories with the most failures, and the studies that \
are not complete. Of a migration of many hosts, prints how far its batches are, its rate, its workers, and what was \
set aside. Sends nothing and changes nothing; it can be used while a run is writing the ledger.

Exit codes: 0 the ledger was read, whatever it says, 2 usage, 6 the ledger cannot be read, or the \
page or stdout cannot be written."""


def report(
    context: typer.Context,
    ledger: options.Annotated[
        str,
        options.argument(
            parser=options.text,
            check=recording.ledger_name,
            metavar="LEDGER",
            help="The file or database that storescu --ledger wrote, or that asyncstore enqueue did.",
        ),
    ],
    migration: options.Annotated[
        str | None,
        options.argument(
            parser=options.text,
            metavar="NAME",
            help="The migration of many hosts, if the database has several.",
            show_default=False,
        ),
    ] = None,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    debug: options.Debug = False,
    log_level: options.LogLevel = None,
    studies: options.Annotated[
        bool,
        options.option(
            "--studies",
            help="List each study, and not only the incomplete ones; needs a run with --keep-together study.",
            panel=options.RESULTS,
        ),
    ] = False,
    failed_files: options.Annotated[
        bool,
        options.option(
            "--failed-files",
            help="Print only the paths of instances that failed, for storescu --files-from.",
            panel=options.RESULTS,
        ),
    ] = False,
    doubtful: options.Annotated[
        bool,
        options.option(
            "--doubtful",
            help="With --failed-files: also the instances that were stored less than a minute before the peer ran out "
            "of resources.",
            panel=options.RESULTS,
        ),
    ] = False,
    null: options.Annotated[
        bool,
        options.option(
            "-0", "--null", help="End each path of --failed-files with NUL, not a newline.", panel=options.RESULTS
        ),
    ] = False,
    csv: options.Annotated[
        bool, options.option("--csv", help="Print one record per instance, as CSV.", panel=options.RESULTS)
    ] = False,
    json: options.Annotated[
        bool, options.option("--json", help="Print the counts as one line of JSON.", panel=options.RESULTS)
    ] = False,
    html: pages.PageFile = None,
) -> None:
    """Read and print; the help is made from DETAILS."""
    level = options.log_level(context)
    chosen = options.one_of(context, "failed_files", "csv", "json")
    if studies and chosen not in (None, "json") and html is None:
        raise typer.BadParameter("it goes with the counts, as text, --json or --html", param_hint="--studies")
    if doubtful and chosen != "failed_files":
        raise typer.BadParameter("it goes with --failed-files", param_hint="--doubtful")
    if migration is not None and not is_database(ledger):
        raise typer.BadParameter("only a database has several migrations", param_hint="NAME")
    if null and chosen != "failed_files":
        raise typer.BadParameter("it goes with --failed-files", param_hint="-0")

    def command(_: object) -> int:
        with _opened(ledger, migration) as reader:
            account = _account(reader, studies=studies, in_database=is_database(ledger))
            _print(account, chosen, doubtful=doubtful, ends_in_nul=null)
            return ExitCode.STORED if html is None else _write_page(html, reader, studies=studies)

    raise typer.Exit(running.run(level, command))


def _opened(ledger: str, migration: str | None) -> RecordReader:
    from asyncstore.ledger.opening import check_driver, open_reader

    if not is_database(ledger):
        return open_reader(ledger)
    check_driver(ledger)
    from asyncstore.cluster.overview import MigrationReader

    return MigrationReader(ledger, migration)


def _account(reader: RecordReader, *, studies: bool, in_database: bool) -> Account:
    """The counts of a ledger; of a migration of many hosts, how far it is, unless studies are asked for."""
    from asyncstore.cli.output.ledger_text import Account

    if in_database and not studies:
        from asyncstore.cli.output.migration_text import MigrationAccount
        from asyncstore.cluster.overview import MigrationReader

        if isinstance(reader, MigrationReader) and reader.migration:
            return MigrationAccount(reader)
    return Account(reader, studies=studies)


def _write_page(path: str, reader: RecordReader, *, studies: bool) -> int:
    from asyncstore.cli.output import ledger_page

    return pages.write(path, ledger_page.page(reader, all_studies=studies)) or ExitCode.STORED


def _print(account: Account, chosen: str | None, *, doubtful: bool, ends_in_nul: bool) -> None:
    results = running.Results()
    if chosen == "failed_files":
        account.write_failed_files(results, doubtful=doubtful, ends_in_nul=ends_in_nul)
    elif chosen == "csv":
        account.write_csv(results)
    elif chosen == "json":
        results.print(account.json_line())
    else:
        for line in account.lines():
            results.print(line)
