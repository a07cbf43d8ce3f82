"""The exit code of a command. It follows from counts, never from the last result.

An unwritable record comes first, since the rest cannot be trusted then. An interruption comes second, whatever else
happened.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from asyncstore.errors import AssociateError, LedgerError, LocalProtocolError

if TYPE_CHECKING:
    from asyncstore.transfer.report import Report


class ExitCode:
    """The exit codes of all commands. A script must treat any other code as a failure."""

    STORED: Final = 0  # everything is at the peer, warnings included
    NO_ASSOCIATION: Final = 1
    USAGE: Final = 2
    SOME_FAILED: Final = 3  # the run finished, and some instances were not stored
    STOPPED_EARLY: Final = 4  # instances are left: run it again
    NOTHING_TO_SEND: Final = 5  # no instance was found, and nothing failed
    CANNOT_RECORD: Final = 6  # the ledger, the report or stdout cannot be written
    DIFFERENT: Final = 7  # a verification found a difference
    INTERNAL_ERROR: Final = 70
    HUNG_UP: Final = 129
    INTERRUPTED: Final = 130
    TERMINATED: Final = 143


def interrupted_by(signal_number: int) -> int:
    """The exit code of a run that a signal ended, as in a shell: 129 for SIGHUP, 130 for SIGINT, 143 for SIGTERM."""
    return 128 + signal_number


def of_failure(error: Exception, otherwise: int) -> int:
    """The exit code of a command that an error ended before its work was done; `otherwise`: by an error of others."""
    if isinstance(error, LedgerError):
        return ExitCode.CANNOT_RECORD
    if isinstance(error, LocalProtocolError):  # the command asked for what cannot be done on this machine
        return ExitCode.USAGE
    return ExitCode.NO_ASSOCIATION if isinstance(error, AssociateError) else otherwise


def of_report(report: Report, *, signal_number: int | None = None, cannot_record: bool = False) -> int:
    """The exit code of a transfer, from its report.

    `signal_number` is the signal that ended it, if any. `cannot_record` says that an outcome could not be written.
    """
    if cannot_record or isinstance(report.stopped_because, LedgerError):
        return ExitCode.CANNOT_RECORD
    if signal_number is not None:
        return interrupted_by(signal_number)
    if isinstance(report.stopped_because, AssociateError) and not report.associations_established:
        return ExitCode.NO_ASSOCIATION
    if report.stopped_early:
        return ExitCode.STOPPED_EARLY
    if report.failed or report.not_committed.total():
        return ExitCode.SOME_FAILED
    return ExitCode.STORED if report.found else ExitCode.NOTHING_TO_SEND
