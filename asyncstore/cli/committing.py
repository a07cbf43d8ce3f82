"""The options of storescu that prove what it stored, by storage commitment or by queries, and the words about it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from asyncstore.cli.options import BULK, Annotated, is_typed, option, seconds, whole_number
from asyncstore.cli.output.documented_log import logger
from asyncstore.cli.output.plain_text import count_text, path_text, peer_text
from asyncstore.errors import LocalProtocolError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from asyncstore.net.peer import Peer
    from asyncstore.transfer.proof.committing import CommitOptions
    from asyncstore.transfer.report import Report

Commit = Annotated[
    bool,
    option(
        "--commit",
        help="Also ask the peer to commit to keep what it stored (storage commitment), beside the sending. What it "
        "does not commit is a failure; what it does not have is sent once more.",
        panel=BULK,
    ),
]
CommitPort = Annotated[
    int | None,
    option(
        parser=whole_number(1, 65535, "a TCP port"),
        metavar="PORT",
        help="With --commit: take reports of commitment on this port, too, called as our AE title. With --tls by TLS, "
        "with the certificate of --tls-cert.",
        panel=BULK,
    ),
]
CommitPlaintext = Annotated[
    bool,
    option(
        "--commit-plaintext",
        help="With --commit-port and --tls: take the reports without TLS.",
        panel=BULK,
    ),
]
CommitWait = Annotated[
    float,
    option(
        parser=seconds,
        metavar="SECONDS",
        help="With --commit: time to wait for a report before asking again, four times in all.",
        panel=BULK,
    ),
]

Verify = Annotated[
    bool,
    option(
        "--verify",
        help="After the sending, ask the peer (C-FIND) whether it has what was stored, with --ledger by any run. A "
        "difference is exit code 7.",
        panel=BULK,
    ),
]


def commit_options(context: typer.Context, peer: Peer) -> CommitOptions | None:
    """What the options of storage commitment ask for; None without --commit."""
    given = context.params
    if not given["commit"]:
        for name in ("commit_port", "commit_plaintext", "commit_wait"):
            if is_typed(context, name):
                raise typer.BadParameter("it goes with --commit", param_hint=f"--{name.replace('_', '-')}")
        return None
    if peer.source_address is not None and peer.source_address[1]:
        raise typer.BadParameter("a port serves one association at a time, and --commit asks on one of its own")
    from asyncstore.transfer.proof.committing import CommitOptions

    chosen = CommitOptions(given["commit_port"], given["commit_wait"], allow_plaintext=given["commit_plaintext"])
    try:
        chosen.tls_of(peer)
    except LocalProtocolError:
        message = "with --tls the reports must come by TLS: give --tls-cert and --tls-key, or --commit-plaintext"
        raise typer.BadParameter(message, param_hint="--commit-port") from None
    return chosen


def tell(report: Report) -> None:
    """Log how many instances are committed, and why others are not."""
    for count, reason in not_committed(report):
        logger.error("%s not committed: %s", count_text(count, "stored instance"), reason)
    logger.info("%s committed", count_text(report.committed or 0, "instance"))


def not_committed(report: Report) -> Iterator[tuple[int, str]]:
    """How many stored instances are not committed for each reason."""
    for reason, count in report.not_committed.most_common():
        if count:
            yield count, path_text(peer_text(reason, 400))
