"""Knows the answer that nearly every C-STORE gets by its bytes: a success, written like the one before it.

A peer writes these answers alike, each as one PDU. All of it but the Message ID and the SOP Instance UID is known after
the first of its length in a presentation context, and comparisons take the place of the decoding:

    | headers | up to the Message ID Being Responded To | Message ID | up to the SOP Instance UID | SOP Instance UID |

An answer is taken here only if the upper layer, `decode` and `Operations.match` would make the very same of it, without
a word to `tolerate`. All others are left to them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias

from asyncstore.dimse.command_set import PADDING, pad_uid
from asyncstore.dimse.messages import CStoreRQ, CStoreRSP
from asyncstore.status import SUCCESS
from asyncstore.upper_layer.framing import HEADER_BYTES, frame_command

if TYPE_CHECKING:
    from asyncstore.dimse.message_types import Message
    from asyncstore.dimse.operations import Operation, Operations
    from asyncstore.dimse.reassembly import Received

# The answers of one length in one context: their bytes up to the Message ID, and from there to the UID; the number of
# bytes; the context ID and the SOP Class UID.
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
        self._usual: dict[bytes, _Usual] = {}  # by the headers of the PDU
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
            pdu = frame_command(received.context_id, command_set, len(command_set))
            uid_at = len(pdu) - uid_bytes
            middle_at = uid_at - _MIDDLE_BYTES
            start, middle = pdu[: middle_at - _MESSAGE_ID_BYTES], pdu[middle_at:uid_at]
            usual = (start, middle, len(pdu), received.context_id, message.affected_sop_class_uid)
            self._usual[pdu[:HEADER_BYTES]] = usual

    def take(self, data: bytes, at: int) -> tuple[Operation, CStoreRSP, int] | None:
        """The operation that the answer at this place of the data ends, the message, and where the PDU ends.

        None if no whole usual one is there. The place must be the beginning of a PDU, and of a message.
        """
        usual = self._usual.get(data[at : at + HEADER_BYTES])
        if usual is None:
            return None
        start, middle, pdu_bytes, context_id, sop_class_uid = usual
        end = at + pdu_bytes
        if end > len(data):
            return None
        id_at = at + len(start)
        id_bytes = data[id_at : id_at + _MESSAGE_ID_BYTES]
        operation = self._operations.outstanding.get(data[id_at] | data[id_at + 1] << 8)
        if operation is None or not operation.is_sent or operation.context_id != context_id:
            return None
        request = operation.request
        if type(request) is not CStoreRQ:
            return None
        uid = request.affected_sop_instance_uid
        if data[at:end].rstrip(PADDING) != b"".join((start, id_bytes, middle, uid.encode())):
            return None
        self._operations.end(operation)
        return operation, CStoreRSP(operation.message_id, SUCCESS, sop_class_uid, uid), end
