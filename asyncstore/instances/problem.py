"""Reasons why something cannot be sent: a file without an instance, or one that cannot be read."""

from __future__ import annotations

import enum
from typing import Final

from asyncstore.errors import SourceError
from asyncstore.record import record


class ProblemKind(enum.Enum):
    """Why a path that a scan met cannot be sent. The value is text for the user, e.g. "not a DICOM file".

    A failure only if the user named the path; passed over in a directory:
        NOT_DICOM     it contains no DICOM data set
        DICOMDIR      a DICOMDIR, which is an index and not sent
        NOT_A_FILE    a device, FIFO or socket

    Always a failure:
        DAMAGED       a DICOM file that cannot be parsed
        MISSING_UID   the SOP Class, SOP Instance or Transfer Syntax UID is not known
        NOT_FOUND     there is nothing of that name
        UNREADABLE    an error of the system, such as a missing permission
        SYMLINK_LOOP  a symbolic link leads back to itself
        CHANGED       the file changed while it was read
    """

    NOT_DICOM = "not a DICOM file"
    DAMAGED = "a damaged DICOM file"
    MISSING_UID = "a UID is missing"
    DICOMDIR = "a DICOMDIR, which is not sent"
    NOT_FOUND = "not found"
    UNREADABLE = "cannot be read"
    NOT_A_FILE = "not a file"
    SYMLINK_LOOP = "a loop of symbolic links"
    CHANGED = "changed while it was read"


PASSED_OVER: Final = frozenset((ProblemKind.NOT_DICOM, ProblemKind.DICOMDIR, ProblemKind.NOT_A_FILE))
"""The kinds that any archive has beside its instances: a failure only if the user named the path."""


@record(frozen=True, slots=True)
class ScanProblem:
    """A path that a scan met and that cannot be sent.

    `reason` is the kind of problem, `detail` one plain line about it, without the path. `error` is the exception that
    `instance_from` raises for this path.
    """

    path: str
    reason: ProblemKind
    detail: str
    error: SourceError | OSError


def unreadable(error: Exception) -> SourceError:
    """The error of an instance whose source failed: with an OSError, or with anything if the caller made the source."""
    what = error.strerror or error if isinstance(error, OSError) else repr(error)
    return SourceError(f"cannot read the data set: {what}")
