"""What a user is told about an error besides the documented lines: which option, which peer, what may help."""

from __future__ import annotations

import logging

import pytest

from asyncstore.cli import advice
from asyncstore.cli.output import documented_log
from asyncstore.errors import (
    Aborted,
    AssociationRejected,
    ConnectFailed,
    LedgerError,
    NoAcceptedContext,
    StoreFailed,
    Timeout,
)
from asyncstore.net.peer import Peer
from asyncstore.status import Status

PEER = Peer("pacs", 104, "ARCHIVE")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (AssociationRejected(1, 1, 7), "E: We are US and called ARCHIVE: -aet and -aec set other AE titles\n"),
        (AssociationRejected(1, 1, 3), "E: We are US and called ARCHIVE: -aet and -aec set other AE titles\n"),
        (AssociationRejected(2, 3, 2), ""),
        (ConnectFailed("[Errno 111] Connection refused"), "E: No connection to pacs:104\n"),
        (Timeout("acse", 2), "E: the association request was not answered within 2 s (-ta)\n"),
        (
            Timeout("connect", 2),
            "E: No connection to pacs:104: the connection was not established within 2 s (--connect-timeout)\n",
        ),
        (NoAcceptedContext("no"), ""),
    ],
)
def test_a_failure_that_the_log_has_told_gets_what_it_left_out(
    capsys: pytest.CaptureFixture[str], error: Exception, line: str
) -> None:
    with documented_log.installed(logging.ERROR) as log:
        log.errors = 1
        advice.explain_failure(error, PEER, "US", log)
    assert capsys.readouterr().err == line


def test_a_failure_that_was_not_told_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with documented_log.installed(logging.ERROR) as log:
        advice.explain_failure(Aborted(0, 0), PEER, "US", log)
    assert capsys.readouterr().err == "E: association aborted by the peer: DUL service-user: No reason given\n"


def test_a_host_without_an_address_is_not_named_twice() -> None:
    error = ConnectFailed("cannot resolve 'pacs': Name or service not known")
    error.retryable = False
    assert advice.reason_text(error, PEER) == "cannot resolve 'pacs': Name or service not known"


@pytest.mark.parametrize(
    ("error", "may_pass"),
    [
        (None, True),
        (ConnectFailed("refused"), True),
        (Timeout("dimse", 1), True),
        (StoreFailed("out of resources", Status(0xA700), retryable=True), True),
        (StoreFailed("not authorised", Status(0x0124)), False),
        (AssociationRejected(1, 1, 7), False),
        (LedgerError("the disk is full"), False),
        (OSError("the caller's iterable"), False),
    ],
)
def test_a_run_is_worth_repeating_only_if_the_cause_may_pass(error: Exception | None, may_pass: bool) -> None:
    assert advice.may_pass(error) is may_pass
