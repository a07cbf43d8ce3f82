"""Two files with the same SOP Instance UID: the same instance, or two that claim to be one."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final

from asyncstore.errors import SourceError
from asyncstore.instances.instance import Instance
from asyncstore.net.outcome import Outcome, State
from asyncstore.transfer.ledger_writer import storable

if TYPE_CHECKING:
    from asyncstore.instances.source import DataSource
    from asyncstore.transfer.ledger import KnownInstance

_PIECE_BYTES: Final = 1 << 20


def twin_outcome(instance: Instance, known: KnownInstance) -> Outcome | None:
    """What becomes of an instance whose SOP Instance UID is stored already, from the file of `known`; not sent for it.

    DUPLICATE when both have the same data set, byte for byte in the same transfer syntax, and CONFLICT when not. None
    when that cannot be told, because a file is no longer what it was, cannot be read, or there is none: then the peer
    has to decide. Blocks, for as long as reading both takes; nobody else may read `instance` meanwhile.
    """
    if known.path is None:
        return None
    try:
        stored = Instance.from_path(known.path)
        if (stored.size_bytes, storable(stored.mtime_ns)) != (known.size_bytes, known.mtime_ns):
            return None
        is_same = _is_same(instance, stored)
    except (OSError, SourceError):
        return None
    if is_same:
        reason = f"the same instance as {known.path!r}, which is stored"
        return Outcome(State.DUPLICATE, instance.path, instance, reason=reason, attempts=0)
    reason = f"another data set than {known.path!r}, which is stored, under the same SOP Instance UID"
    return Outcome(State.CONFLICT, instance.path, instance, reason=reason, attempts=0)


def _is_same(one: Instance, other: Instance) -> bool:
    if (one.transfer_syntax_uid, one.data_set_length) != (other.transfer_syntax_uid, other.data_set_length):
        return False
    with contextlib.closing(one.source), contextlib.closing(other.source):
        return _have_same_bytes(one.source, other.source, one.data_set_length)


def _have_same_bytes(one: DataSource, other: DataSource, length: int) -> bool:
    left, right = bytearray(min(_PIECE_BYTES, length)), bytearray(min(_PIECE_BYTES, length))
    for at in range(0, length, _PIECE_BYTES):
        if length - at < len(left):
            left, right = left[: length - at], right[: length - at]
        with memoryview(left) as hole:
            one.read_into([hole], at)
        with memoryview(right) as hole:
            other.read_into([hole], at)
        if left != right:
            return False
    return True
