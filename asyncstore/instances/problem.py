"""Why something cannot be sent: a file that holds no instance, or one that cannot be read."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from asyncstore.errors import SourceError

if TYPE_CHECKING:
    from asyncstore.instances.instance import Instance


class ProblemKind(enum.Enum):
    """Why something that a scan met cannot be sent; the value is a sentence's beginning for the user."""

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
"""What lies beside instances in any archive, and takes nothing away from it: no failure unless the user named it."""


@dataclass(frozen=True, slots=True)
class ScanProblem:
    """Something on the way that is not an instance: which path, of what kind, and what exactly.

    `detail` is one plain line without the path. `error` is what `instance_from` raises for it.
    """

    path: str
    reason: ProblemKind
    detail: str
    error: SourceError | OSError


def unreadable(instance: Instance, error: Exception) -> SourceError:
    """What the system says of a file, or a source of the caller's own making failed with, which may be anything."""
    what = error.strerror or error if isinstance(error, OSError) else repr(error)
    return SourceError(f"cannot read {instance.path or 'the data set'}: {what}")
