"""`asyncstore enqueue`: walk the roots of a migration, and share out what is to be sent among many hosts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from asyncstore.cli import migrating, options, running
from asyncstore.cli.exit_codes import ExitCode, interrupted_by
from asyncstore.cli.output import scan_progress
from asyncstore.net.peer import Peer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from asyncstore.cli.output.documented_log import DocumentedLog

DETAILS = """Walks the directories below each --root and puts their files into batches, which `asyncstore worker` \
sends from any host that sees the roots. Opens no file, and sends nothing. Several hosts may walk at once. The same \
command again adds what is new or has changed, and goes on where one was interrupted.

Exit codes: 0 everything is in a batch, 2 usage, 3 a root is not the one it was, or something cannot be read, 6 the \
database cannot be used, or the migration has another destination, 129, 130 or 143 interrupted."""


def enqueue(
    context: typer.Context,
    dsn: migrating.Dsn,
    name: migrating.Name,
    addr: options.Address,
    port: options.PeerPort,
    roots: migrating.Roots,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    debug: options.Debug = False,
    log_level: options.LogLevel = None,
    called_aet: options.CalledAET = "ANY-SCP",
    cap: options.Annotated[
        int | None,
        options.option(
            parser=migrating.association_count,
            metavar="N",
            help="Most associations of all workers together."
            + options.default_text("8, or as `asyncstore limit` says"),
            panel=options.BULK,
        ),
    ] = None,
    heartbeat: options.Annotated[
        int | None,
        options.option(
            parser=options.whole_number(3, 3600, "a number of seconds"),
            metavar="SECONDS",
            help="Others take over from a worker of which they have not heard for so long."
            + options.default_text("60"),
            panel=options.BULK,
        ),
    ] = None,
    json: options.Annotated[
        bool, options.option("--json", help="Print one line of JSON.", panel=options.RESULTS)
    ] = False,
    progress: options.Progress = None,
) -> None:
    """Walk, and print what there is; the help is made from DETAILS."""
    mounts = migrating.mounts_of(roots)
    peer = Peer(addr, port, called_aet)

    def command(log: DocumentedLog) -> int:
        migrating.check_installed(dsn)
        from asyncstore.cli.output import migration_text
        from asyncstore.cluster.enqueue import enqueue as walk_all
        from asyncstore.cluster.walking import Progress

        walked = Progress()
        lines: list[str] = []

        async def walk() -> int:
            totals = await walk_all(dsn, name, str(peer), mounts, cap=cap, timeout_seconds=heartbeat, progress=walked)
            enqueued = migration_text.Enqueued(name, str(peer), totals, walked.new_batches)
            lines.extend([enqueued.json_line()] if json else enqueued.lines())
            return ExitCode.SOME_FAILED if totals.problems else ExitCode.STORED

        with scan_progress.line_shown(
            lambda seconds: scan_progress.files_line(walked.files, walked.size_bytes, seconds), log, wanted=progress
        ):
            code = running.run_async(_until_interrupted, walk)
        running.Results().print(*lines)
        return code

    raise typer.Exit(running.run(options.log_level(context), command))


async def _until_interrupted(walk: Callable[[], Awaitable[int]]) -> int:
    """Walk to the end, or until a signal: what is walked stays so."""
    import anyio

    with anyio.CancelScope() as scope, running.interrupts(scope.cancel, scope.cancel) as received:
        return await walk()
    return interrupted_by(received.signal_number or 0)
