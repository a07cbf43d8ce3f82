"""Knows the answer that nearly every C-STORE gets by its bytes: a success, written like the one before it.

A peer writes these answers alike. Of the PDU that brings one, all but the Message ID and the SOP Instance UID is known
after the first of its length in a presentation context, and a comparison takes the place of the decoding:

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
# these two in the PDU, and its length; the context and the SOP Class UID.
_Usual: TypeAlias = "tuple[bytes, bytes, int, int, int, int, str]"

# The first bytes of the PDU: how long it is, and in which presentation context.
_KEY_BYTES: Final = 12
_MESSAGE_ID_BYTES: Final = 2
# Command Data Set Type, Status, and the header of the SOP Instance UID.
_MIDDLE_BYTES: Final = 10 + 10 + 8
# A peer that never writes two answers alike is not studied for ever.
_STUDIED_ANSWERS: Final = 256


class UsualAnswers:
    """The usual answers of one association to what `operations` has outstanding."""

    def __init__(self, operations: Operations) -> None:
        self._operations = operations
        self._usual: dict[bytes, _Usual] = {}
        self._left_to_study = _STUDIED_ANSWERS

    def may_learn_from(self, message: Message) -> bool:
        """Whether `learn` should see an answer that was decoded."""
        return bool(self._left_to_study) and type(message) is CStoreRSP and message.status is SUCCESS

    def learn(self, pdu: bytes, received: Received) -> None:
        """Learn from such an answer, which was matched; `pdu` is the PDU that has the end of its command set."""
        message = received.message
        assert isinstance(message, CStoreRSP)
        self._left_to_study -= 1
        uid_bytes = len(pad_uid(message.affected_sop_instance_uid.encode()))
        # An answer that is written in another way than ours is decoded each time.
        if uid_bytes and pdu.endswith(message.encode()):
            uid_at = len(pdu) - uid_bytes
            middle_at = uid_at - _MIDDLE_BYTES
            start, middle = pdu[: middle_at - _MESSAGE_ID_BYTES], pdu[middle_at:uid_at]
            facts = (received.context_id, message.affected_sop_class_uid)
            self._usual[pdu[:_KEY_BYTES]] = (start, middle, middle_at, uid_at, len(pdu), *facts)

    def take(self, data: bytes, at: int) -> tuple[int, Operation, CStoreRSP] | None:
        """The usual answer in the bytes from `at`: where it ends, the operation, which has ended, and the message.

        None if something else is there, or only a part of an answer.
        """
        usual = self._usual.get(data[at : at + _KEY_BYTES])
        if usual is None:
            return None
        start, middle, middle_at, uid_at, pdu_bytes, context_id, sop_class_uid = usual
        middle_at, end = at + middle_at, at + pdu_bytes
        if end > len(data) or not (data.startswith(start, at) and data.startswith(middle, middle_at)):
            return None
        message_id = data[middle_at - 2] | data[middle_at - 1] << 8
        operation = self._operations.match_stored(message_id, context_id, data[at + uid_at : end].rstrip(PADDING))
        if operation is None:
            return None
        uid = operation.request.affected_sop_instance_uid
        return end, operation, CStoreRSP(message_id, SUCCESS, sop_class_uid, uid)
