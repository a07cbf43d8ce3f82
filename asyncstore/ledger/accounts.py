"""What a ledger keeps of an outcome, whatever database it is in.

Many instances share most of their outcome. That part is an account: a tuple with the fields of ACCOUNT_FIELDS, of which
a ledger keeps one row, and each instance refers to it.
"""

from __future__ import annotations

import os
import stat
import struct
from typing import TYPE_CHECKING, Any, Final

from asyncstore.instances.outcome import State
from asyncstore.ledger.packing import storable
from asyncstore.ledger.protocol import STORED, standing_of

if TYPE_CHECKING:
    from asyncstore.instances.outcome import Outcome

STORED_STATES: Final = ", ".join(f"'{state}'" for state in sorted(STORED))
"""The states in which the peer has an instance, as a list in SQL."""

ACCOUNT_FIELDS: Final[dict[str, type]] = {
    "sop_class": str,
    "transfer_syntax": str,
    "sent_transfer_syntax": str,
    "state": str,
    "standing": int,
    "losses": int,
    "retryable": bool,
    "attempts": int,
    "status": int,
    "reason": str,
    "comment": str,
    "offending_elements": bytes,
    "association_number": int,
    "context_id": int,
    "changes": str,
}
"""The fields of an account, in order, with the types that `account_values` gives them."""

CONTENT_COLUMNS: Final = """\
    nullif(a.sop_class, '') AS sop_class_uid,
    nullif(a.transfer_syntax, '') AS transfer_syntax_uid,
    nullif(coalesce(nullif(a.sent_transfer_syntax, ''), a.transfer_syntax), '') AS sent_transfer_syntax_uid,
"""
"""Columns of the view `instances` that say what was sent; `a` is the account of the instance `i`."""
SHARED_COLUMNS: Final = """\
    nullif(i.size_bytes, -1) AS size_bytes,
    CASE i.size_bytes WHEN -1 THEN NULL ELSE i.mtime_ns END AS mtime_ns,
    a.state AS state,
    a.retryable AS retryable,
    a.attempts + i.earlier_attempts AS attempts,
    a.losses AS losses,
    a.standing = 3 AS set_aside,
    nullif(a.status, -1) AS status,
    nullif(a.reason, '') AS reason,
    nullif(a.comment, '') AS comment,
    a.offending_elements AS offending_elements,
    a.association_number AS association_number,
    a.context_id AS context_id,
    a.run AS run,
    i.recorded_at AS recorded_at,
    i.bytes_sent AS bytes_sent,
    nullif(a.changes, '') AS changes,
"""
"""Those from the size of the file on, up to the UIDs under which it was sent."""

_LONGEST_TEXT: Final = 1000
# A file this young may be written to again without a change of its modification time.
_YOUNG_NS: Final = 2_000_000_000


def account_of(outcome: Outcome) -> tuple[Any, ...]:
    """The part of an outcome that others share. Unknown values are empty, or -1 for numbers."""
    instance, status, state = outcome.instance, outcome.status, outcome.state
    sop_class = syntax = sent = comment = ""
    offending: tuple[int, ...] = ()
    value = -1
    if instance is not None:
        sop_class, syntax = instance.sop_class_uid, instance.transfer_syntax_uid
        if outcome.transfer_syntax_uid != syntax:
            sent = outcome.transfer_syntax_uid
    if status is not None:
        value, comment, offending = status.value, status.comment, status.offending_elements
    return (
        sop_class,
        syntax,
        sent,
        # `state.value` takes as long as everything else here.
        "stored" if state is State.STORED else state.value,
        standing_of(outcome),
        outcome.losses,
        outcome.retryable,
        outcome.attempts,
        value,
        outcome.reason,
        comment,
        offending,
        outcome.association_number,
        outcome.context_id,
        # A line for each.
        "\n".join(outcome.changes) if outcome.changes else "",
    )


def account_values(account: tuple[Any, ...]) -> list[Any]:
    """An account as a database can store it."""
    # A peer's comment, or a file name in a reason, may contain characters that UTF-8 cannot encode.
    return [
        value[:_LONGEST_TEXT].encode("utf-8", "backslashreplace").decode()
        if isinstance(value, str)
        else struct.pack(f">{len(value)}I", *value)
        if isinstance(value, tuple)
        else value
        for value in account
    ]


def stays(earlier_state: str, outcome: Outcome, *, is_same_file: bool) -> bool:
    """Whether an earlier row must be kept instead of a new one for the same path.

    A stored instance stays stored while its file is unchanged. One that the run left keeps the account of earlier
    attempts.
    """
    if not is_same_file or outcome.state in STORED:
        return False
    return earlier_state in STORED or (outcome.state is State.LEFT and not outcome.attempts)


def size_and_time(path: str | None, recorded_at: int) -> tuple[int, int]:
    """Size and modification time of a file without an Instance; -1 each if they may change soon."""
    try:
        status = os.stat(path or "")
    except (OSError, ValueError):
        return -1, -1
    newest = max(status.st_mtime_ns, status.st_ctime_ns)
    if not stat.S_ISREG(status.st_mode) or newest > recorded_at * 1_000_000 - _YOUNG_NS:
        return -1, -1
    return status.st_size, storable(status.st_mtime_ns)
