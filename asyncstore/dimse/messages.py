"""The DIMSE messages as dataclasses, not to be changed (PS3.7 9.3): C-STORE and C-ECHO. C-FIND is in
query_messages, N-ACTION and N-EVENT-REPORT are in n_messages.

`message.encode()` gives the whole command set; `decoding.decode` reads one that the peer sent. Any other command
becomes an `UnknownMessage`. Every message has `name` ("C-STORE-RQ"), `has_data_set`, and `responded_to`, which is None
for a request. A response has `status`; `may_be_pending` and `may_have_data_set` say what the standard allows.
`command_field` is the standard's number of the command.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar, Final

from asyncstore.dimse import command_set
from asyncstore.dimse.command_set import (
    AFFECTED_SOP_CLASS_UID,
    AFFECTED_SOP_INSTANCE_UID,
    COMMAND_FIELD,
    DATA_SET_TYPE,
    ERROR_COMMENT,
    MESSAGE_ID,
    MOVE_ORIGINATOR_AE_TITLE,
    MOVE_ORIGINATOR_MESSAGE_ID,
    OFFENDING_ELEMENT,
    PRIORITY,
    RESPONDED_TO,
    STATUS,
)
from asyncstore.errors import LocalProtocolError
from asyncstore.record import record
from asyncstore.uids import VERIFICATION

if TYPE_CHECKING:
    from asyncstore.status import Status

# PS3.7 E.1-1, Priority: how urgent a request is; few peers use it.
MEDIUM: Final = 0x0000
HIGH: Final = 0x0001
LOW: Final = 0x0002

# PS3.7 E.1-1, Command Data Set Type: any value but NO_DATA_SET means that a data set follows.
NO_DATA_SET: Final = 0x0101
DATA_SET: Final = 0x0001

# PS3.7 E.1-1, Command Field: a response has the number of its request with the highest bit set.
RESPONSE_BIT: Final = 0x8000
_COMMANDS: Final = {
    0x0001: "C-STORE",
    0x0010: "C-GET",
    0x0020: "C-FIND",
    0x0021: "C-MOVE",
    0x0030: "C-ECHO",
    0x0100: "N-EVENT-REPORT",
    0x0110: "N-GET",
    0x0120: "N-SET",
    0x0130: "N-ACTION",
    0x0140: "N-CREATE",
    0x0150: "N-DELETE",
    0x0FFF: "C-CANCEL",
}
C_STORE_RQ: Final = 0x0001
C_STORE_RSP: Final = 0x8001
C_FIND_RQ: Final = 0x0020
C_FIND_RSP: Final = 0x8020
C_ECHO_RQ: Final = 0x0030
C_ECHO_RSP: Final = 0x8030
C_CANCEL_RQ: Final = 0x0FFF
N_EVENT_REPORT_RQ: Final = 0x0100
N_EVENT_REPORT_RSP: Final = 0x8100
N_ACTION_RQ: Final = 0x0130
N_ACTION_RSP: Final = 0x8130

# A tag of group 0000 is element << 16 as one little-endian number.
_GROUP_LENGTH: Final = struct.Struct("<III")
_UNSIGNED_SHORT: Final = struct.Struct("<H")


# Not frozen, although nothing should change one: a frozen one takes three times as long to build, and every instance
# needs two.
@record(slots=True, unsafe_hash=True)
class CStoreRQ:
    """Asks the peer to store the data set that follows (PS3.7 9.3.1.1).

    `message_id` is its Message ID, 1 to 65535. `affected_sop_class_uid` and `affected_sop_instance_uid` identify the
    instance, `priority` is LOW, MEDIUM or HIGH. `move_originator_ae_title` and `move_originator_message_id` are those
    of the C-MOVE that it is a part of; empty and None if there is none.

    Of every request: `name` is the standard's name for it, `command_field` its code, `has_data_set` says that a data
    set follows. `responded_to` is None, since it is not a response.
    """

    name: ClassVar[str] = "C-STORE-RQ"
    command_field: ClassVar[int] = C_STORE_RQ
    has_data_set: ClassVar[bool] = True
    responded_to: ClassVar[None] = None

    message_id: int
    affected_sop_class_uid: str
    affected_sop_instance_uid: str
    priority: int
    move_originator_ae_title: str
    move_originator_message_id: int | None

    # Written out: `record` would compile it in each run.
    def __init__(
        self,
        message_id: int,
        affected_sop_class_uid: str,
        affected_sop_instance_uid: str,
        priority: int = LOW,
        move_originator_ae_title: str = "",
        move_originator_message_id: int | None = None,
    ) -> None:
        self.message_id = message_id
        self.affected_sop_class_uid = affected_sop_class_uid
        self.affected_sop_instance_uid = affected_sop_instance_uid
        self.priority = priority
        self.move_originator_ae_title = move_originator_ae_title
        self.move_originator_message_id = move_originator_message_id

    def encode(self) -> bytes:
        """The whole command set; LocalProtocolError when a UID is empty or a value does not fit its element."""
        instance_uid = self.affected_sop_instance_uid
        if not instance_uid:
            raise LocalProtocolError("a C-STORE-RQ needs an Affected SOP Instance UID")
        try:
            encoded_uid = instance_uid.encode("ascii")
            if len(encoded_uid) & 1:
                encoded_uid += b"\0"
            message_id = _UNSIGNED_SHORT.pack(self.message_id)
        except (struct.error, UnicodeError) as error:
            raise LocalProtocolError(f"not a C-STORE-RQ that could be sent: {self!r}") from error
        # All but the UID and the Message ID is the same for many instances.
        start, middle = _usual_bytes(self.affected_sop_class_uid, self.priority, len(encoded_uid))
        encoded = b"".join((start, message_id, middle, encoded_uid))
        if self.move_originator_ae_title or self.move_originator_message_id is not None:
            body = encoded[12:] + self._encode_move_originator()
            return _GROUP_LENGTH.pack(0, 4, len(body)) + body
        return encoded

    def _encode_move_originator(self) -> bytes:
        """The elements that name the C-MOVE that a C-STORE belongs to; most belong to none."""
        elements: list[tuple[int, command_set.Value]] = []
        if self.move_originator_ae_title:
            elements.append((MOVE_ORIGINATOR_AE_TITLE, self.move_originator_ae_title))
        if self.move_originator_message_id is not None:
            elements.append((MOVE_ORIGINATOR_MESSAGE_ID, self.move_originator_message_id))
        return command_set.encode(elements)[12:]


@lru_cache(maxsize=512)
def _usual_bytes(sop_class_uid: str, priority: int, instance_uid_bytes: int) -> tuple[bytes, bytes]:
    """The bytes before the Message ID of a C-STORE-RQ, and those from behind it up to the SOP Instance UID."""
    if not sop_class_uid:
        raise LocalProtocolError("a C-STORE-RQ needs an Affected SOP Class UID")
    sop_class = command_set.encode([(AFFECTED_SOP_CLASS_UID, sop_class_uid)])[12:]
    start = sop_class + struct.pack("<IIHII", COMMAND_FIELD << 16, 2, C_STORE_RQ, MESSAGE_ID << 16, 2)
    rest = command_set.encode([(PRIORITY, priority), (DATA_SET_TYPE, DATA_SET)])[12:]
    middle = rest + struct.pack("<II", AFFECTED_SOP_INSTANCE_UID << 16, instance_uid_bytes)
    body_bytes = len(start) + _UNSIGNED_SHORT.size + len(middle) + instance_uid_bytes
    return _GROUP_LENGTH.pack(0, 4, body_bytes) + start, middle


@record(slots=True, unsafe_hash=True)
class CStoreRSP:
    """Answers a C-STORE-RQ (PS3.7 9.3.1.2).

    `has_data_set`: whether the peer announced a data set, which the standard forbids here.
    """

    name: ClassVar[str] = "C-STORE-RSP"
    command_field: ClassVar[int] = C_STORE_RSP
    may_be_pending: ClassVar[bool] = False
    may_have_data_set: ClassVar[bool] = False

    responded_to: int
    status: Status
    affected_sop_class_uid: str
    affected_sop_instance_uid: str
    has_data_set: bool

    # Written out: `record` would compile it in each run.
    def __init__(
        self,
        responded_to: int,
        status: Status,
        affected_sop_class_uid: str = "",
        affected_sop_instance_uid: str = "",
        has_data_set: bool = False,
    ) -> None:
        self.responded_to = responded_to
        self.status = status
        self.affected_sop_class_uid = affected_sop_class_uid
        self.affected_sop_instance_uid = affected_sop_instance_uid
        self.has_data_set = has_data_set

    def encode(self) -> bytes:
        """The whole command set; LocalProtocolError when a value does not fit its element."""
        return command_set.encode(
            [
                *uid_elements(self.affected_sop_class_uid, self.affected_sop_instance_uid),
                (COMMAND_FIELD, C_STORE_RSP),
                (RESPONDED_TO, self.responded_to),
                (DATA_SET_TYPE, DATA_SET if self.has_data_set else NO_DATA_SET),
                *status_elements(self.status),
            ]
        )


@record(frozen=True, slots=True)
class CEchoRQ:
    """Asks whether the peer is alive (PS3.7 9.3.5.1)."""

    name: ClassVar[str] = "C-ECHO-RQ"
    command_field: ClassVar[int] = C_ECHO_RQ
    affected_sop_instance_uid: ClassVar[str] = ""
    has_data_set: ClassVar[bool] = False
    responded_to: ClassVar[None] = None

    message_id: int
    affected_sop_class_uid: str = VERIFICATION

    def encode(self) -> bytes:
        """The whole command set; LocalProtocolError when a value does not fit its element."""
        return command_set.encode(
            [
                *uid_elements(self.affected_sop_class_uid),
                (COMMAND_FIELD, C_ECHO_RQ),
                (MESSAGE_ID, self.message_id),
                (DATA_SET_TYPE, NO_DATA_SET),
            ]
        )


@record(frozen=True, slots=True)
class CEchoRSP:
    """Answers a C-ECHO-RQ (PS3.7 9.3.5.2)."""

    name: ClassVar[str] = "C-ECHO-RSP"
    command_field: ClassVar[int] = C_ECHO_RSP
    affected_sop_instance_uid: ClassVar[str] = ""
    may_be_pending: ClassVar[bool] = False
    may_have_data_set: ClassVar[bool] = False
    has_data_set: ClassVar[bool] = False

    responded_to: int
    status: Status
    affected_sop_class_uid: str = VERIFICATION

    def encode(self) -> bytes:
        """The whole command set; LocalProtocolError when a value does not fit its element."""
        return command_set.encode(
            [
                *uid_elements(self.affected_sop_class_uid),
                (COMMAND_FIELD, C_ECHO_RSP),
                (RESPONDED_TO, self.responded_to),
                (DATA_SET_TYPE, NO_DATA_SET),
                *status_elements(self.status),
            ]
        )


@record(frozen=True, slots=True)
class UnknownMessage:
    """A command that this stack does not speak: enough of it to name it, skip its data set, and refuse it."""

    command_field: int
    message_id: int | None
    responded_to: int | None
    has_data_set: bool
    status: Status | None = None

    @property
    def name(self) -> str:
        """The standard's name, or the number of a command that the standard does not have: "command 0x4321"."""
        command = _COMMANDS.get(self.command_field & ~RESPONSE_BIT)
        if command is None:
            return f"command 0x{self.command_field:04X}"
        return f"{command}-{'RSP' if self.command_field & RESPONSE_BIT else 'RQ'}"

    def encode(self) -> bytes:
        """The command set with the elements that are known here; LocalProtocolError when a value does not fit."""
        elements: list[tuple[int, command_set.Value]] = [
            (COMMAND_FIELD, self.command_field),
            (DATA_SET_TYPE, DATA_SET if self.has_data_set else NO_DATA_SET),
        ]
        if self.message_id is not None:
            elements.append((MESSAGE_ID, self.message_id))
        if self.responded_to is not None:
            elements.append((RESPONDED_TO, self.responded_to))
        if self.status is not None:
            elements.extend(status_elements(self.status))
        return command_set.encode(elements)


def uid_elements(class_uid: str, instance_uid: str = "") -> list[tuple[int, command_set.Value]]:
    """The elements of UIDs that a response may leave out; an empty one is left out."""
    pairs = ((AFFECTED_SOP_CLASS_UID, class_uid), (AFFECTED_SOP_INSTANCE_UID, instance_uid))
    return [(tag, uid) for tag, uid in pairs if uid]


def status_elements(status: Status) -> list[tuple[int, command_set.Value]]:
    """The elements of a status and its details (PS3.7 C)."""
    elements: list[tuple[int, command_set.Value]] = [(STATUS, status.value)]
    if status.offending_elements:
        elements.append((OFFENDING_ELEMENT, status.offending_elements))
    if status.comment:
        elements.append((ERROR_COMMENT, status.comment))
    return elements
