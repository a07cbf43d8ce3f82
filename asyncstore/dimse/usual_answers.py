"""Knows the answer that nearly every C-STORE gets by its bytes: a success, written like the one before it.

A peer writes these answers alike. Of a command set that is one, all but the Message ID and the SOP Instance UID is
known after the first of its length in a presentation context, and a comparison takes the place of the decoding:

    | up to the Message ID Being Responded To | Message ID | up to the SOP Instance UID | SOP Instance UID |

An answer is taken here only if `decode` and `Operations.match` would make the very same of it, without a word to
`tolerate`. All others are left to them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias

from asyncstore.dimse.command_set import PADDING, pad_uid
from asyncstore.dimse.messages import CStoreRSP
from asyncstore.status import SUCCESS

if TYPE_CHECKING:
    from asyncstore.dimse.message_types import Message
    from asyncstore.dimse.operations import Operation, Operations
    from asyncstore.dimse.reassembly import Received

# The answers of one length in one context: their bytes up to the Message ID, and from there to the UID; the places of
# the latter and of the UID; the SOP Class UID.
_Usual: TypeAlias = "tuple[bytes, bytes, int, int, str]"

_MESSAGE_ID_BYTES: Final = 2
# Command Data Set Type, Status, and the header of the SOP Instance UID.
_MIDDLE_BYTES: Final = 10 + 10 + 8
# A peer that never writes two answers alike is not studied for ever.
_STUDIED_ANSWERS: Final = 256


class UsualAnswers:
    """The usual answers of one association to what `operations` has outstanding."""

    def __init__(self, operations: Operations) -> None:
        self._operations = operations
        self._usual: dict[tuple[int, int], _Usual] = {}
        self._left_to_study = _STUDIED_ANSWERS

    def may_learn_from(self, message: Message) -> bool:
        """Whether `learn` should see an answer that was decoded."""
        return bool(self._left_to_study) and type(message) is CStoreRSP and message.status is SUCCESS

    def learn(self, command_set: bytes, received: Received) -> None:
        """Learn from such an answer, which was matched; `command_set` is its last fragment."""
        message = received.message
        assert isinstance(message, CStoreRSP)
        self._left_to_study -= 1
        uid_bytes = len(pad_uid(message.affected_sop_instance_uid.encode()))
        # An answer that is written in another way than ours, or in several fragments, is decoded each time.
        if uid_bytes and command_set == message.encode():
            uid_at = len(command_set) - uid_bytes
            middle_at = uid_at - _MIDDLE_BYTES
            start, middle = command_set[: middle_at - _MESSAGE_ID_BYTES], command_set[middle_at:uid_at]
            key = (received.context_id, len(command_set))
            self._usual[key] = (start, middle, middle_at, uid_at, message.affected_sop_class_uid)

    def take(self, context_id: int, command_set: bytes) -> tuple[Operation, CStoreRSP] | None:
        """The operation that this answer ends, and the message; None if it is not the usual one."""
        usual = self._usual.get((context_id, len(command_set)))
        if usual is None:
            return None
        start, middle, middle_at, uid_at, sop_class_uid = usual
        if not (command_set.startswith(start) and command_set.startswith(middle, middle_at)):
            return None
        message_id = command_set[middle_at - 2] | command_set[middle_at - 1] << 8
        operation = self._operations.match_stored(message_id, context_id, command_set[uid_at:].rstrip(PADDING))
        if operation is None:
            return None
        uid = operation.request.affected_sop_instance_uid
        return operation, CStoreRSP(message_id, SUCCESS, sop_class_uid, uid)
