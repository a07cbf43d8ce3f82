"""The DIMSE messages as dataclasses that nobody changes: C-STORE and C-ECHO (PS3.7 9.3.1, 9.3.5).

`message.encode()` gives the whole command set, `decode(data)` the message of a command set that the peer sent. Any
other command becomes an `UnknownMessage`. Every message has `name` ("C-STORE-RQ"), `has_data_set`, and `responded_to`,
which is None for a request.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar, Final, TypeAlias

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
from asyncstore.errors import LocalProtocolError, RemoteProtocolError
from asyncstore.status import SUCCESS, Status
from asyncstore.uids import VERIFICATION

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

# PS3.7 E.1-1, Priority: how urgent a request is to the peer; few peers look at it.
MEDIUM: Final = 0x0000
HIGH: Final = 0x0001
LOW: Final = 0x0002

# PS3.7 E.1-1, Command Data Set Type: any value but NO_DATA_SET means that a data set follows.
NO_DATA_SET: Final = 0x0101
DATA_SET: Final = 0x0001

# PS3.7 E.1-1, Command Field: a response has the number of its request with the highest bit set.
_RESPONSE_BIT: Final = 0x8000
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
_C_STORE_RQ: Final = 0x0001
_C_STORE_RSP: Final = 0x8001
_C_ECHO_RQ: Final = 0x0030
_C_ECHO_RSP: Final = 0x8030

# A tag of group 0000 is element << 16 as one little-endian number.
_GROUP_LENGTH: Final = struct.Struct("<III")
_LENGTH: Final = struct.Struct("<I")
_UNSIGNED_SHORT: Final = struct.Struct("<H")

# A C-STORE-RSP with success as nearly every peer writes it: what stands before and between its SOP class, Message ID
# and SOP instance.
_USUAL_START: Final = struct.pack("<II", 0, 4)
_USUAL_COMMAND: Final = struct.pack("<IIHII", COMMAND_FIELD << 16, 2, _C_STORE_RSP, RESPONDED_TO << 16, 2)
_USUAL_SUCCESS: Final = struct.pack(
    "<IIHIIHI", DATA_SET_TYPE << 16, 2, NO_DATA_SET, STATUS << 16, 2, 0, AFFECTED_SOP_INSTANCE_UID << 16
)
_USUAL_CLASS_LENGTH_AT: Final = 16


# Not frozen, although nothing should change one: building a frozen one costs three times as much, and every instance
# needs two.
@dataclass(slots=True, unsafe_hash=True)
class CStoreRQ:
    """Asks the peer to store the data set that follows (PS3.7 9.3.1.1)."""

    name: ClassVar[str] = "C-STORE-RQ"
    has_data_set: ClassVar[bool] = True
    responded_to: ClassVar[None] = None

    message_id: int
    affected_sop_class_uid: str
    affected_sop_instance_uid: str
    priority: int = LOW
    move_originator_ae_title: str = ""
    move_originator_message_id: int | None = None

    def encode(self) -> bytes:
        """The whole command set; LocalProtocolError when a UID is empty or a value does not fit its element."""
        instance_uid = self.affected_sop_instance_uid
        # The hot path of every transfer, 1 us: all but the UID and the Message ID is the same for many instances.
        before_message_id, before_instance_uid = _usual_elements(self.affected_sop_class_uid, self.priority)
        try:
            encoded_uid = instance_uid.encode("ascii")
            if len(encoded_uid) & 1:
                encoded_uid += b"\0"
            message_id = _UNSIGNED_SHORT.pack(self.message_id)
        except (struct.error, UnicodeError) as error:
            raise LocalProtocolError(f"not a C-STORE-RQ that could be sent: {self!r}") from error
        if not instance_uid:
            raise LocalProtocolError("a C-STORE-RQ needs an Affected SOP Instance UID")
        body = b"".join(
            (before_message_id, message_id, before_instance_uid, _LENGTH.pack(len(encoded_uid)), encoded_uid)
        )
        if self.move_originator_ae_title or self.move_originator_message_id is not None:
            body += self._encode_move_originator()
        return _GROUP_LENGTH.pack(0, 4, len(body)) + body

    def _encode_move_originator(self) -> bytes:
        """The elements that tell of the C-MOVE that a C-STORE belongs to; most belong to none."""
        elements: list[tuple[int, command_set.Value]] = []
        if self.move_originator_ae_title:
            elements.append((MOVE_ORIGINATOR_AE_TITLE, self.move_originator_ae_title))
        if self.move_originator_message_id is not None:
            elements.append((MOVE_ORIGINATOR_MESSAGE_ID, self.move_originator_message_id))
        return command_set.encode(elements)[12:]


@lru_cache(maxsize=512)
def _usual_elements(sop_class_uid: str, priority: int) -> tuple[bytes, bytes]:
    """What stands before the Message ID of a C-STORE-RQ, and between it and the length of the SOP Instance UID."""
    if not sop_class_uid:
        raise LocalProtocolError("a C-STORE-RQ needs an Affected SOP Class UID")
    sop_class = command_set.encode([(AFFECTED_SOP_CLASS_UID, sop_class_uid)])[12:]
    rest = command_set.encode([(PRIORITY, priority), (DATA_SET_TYPE, DATA_SET)])[12:]
    return (
        sop_class + struct.pack("<IIHII", COMMAND_FIELD << 16, 2, _C_STORE_RQ, MESSAGE_ID << 16, 2),
        rest + struct.pack("<I", AFFECTED_SOP_INSTANCE_UID << 16),
    )


@dataclass(slots=True, unsafe_hash=True)
class CStoreRSP:
    """Answers a C-STORE-RQ (PS3.7 9.3.1.2).

    `has_data_set` is what the peer said; the standard has no data set here.
    """

    name: ClassVar[str] = "C-STORE-RSP"

    responded_to: int
    status: Status
    affected_sop_class_uid: str = ""
    affected_sop_instance_uid: str = ""
    has_data_set: bool = False

    def encode(self) -> bytes:
        """The whole command set; LocalProtocolError when a value does not fit its element."""
        return command_set.encode(
            [
                *_uid_elements(self.affected_sop_class_uid, self.affected_sop_instance_uid),
                (COMMAND_FIELD, _C_STORE_RSP),
                (RESPONDED_TO, self.responded_to),
                (DATA_SET_TYPE, DATA_SET if self.has_data_set else NO_DATA_SET),
                *_status_elements(self.status),
            ]
        )


@dataclass(frozen=True, slots=True)
class CEchoRQ:
    """Asks whether the peer is alive (PS3.7 9.3.5.1)."""

    name: ClassVar[str] = "C-ECHO-RQ"
    has_data_set: ClassVar[bool] = False
    responded_to: ClassVar[None] = None

    message_id: int
    affected_sop_class_uid: str = VERIFICATION

    def encode(self) -> bytes:
        """The whole command set; LocalProtocolError when a value does not fit its element."""
        return command_set.encode(
            [
                *_uid_elements(self.affected_sop_class_uid),
                (COMMAND_FIELD, _C_ECHO_RQ),
                (MESSAGE_ID, self.message_id),
                (DATA_SET_TYPE, NO_DATA_SET),
            ]
        )


@dataclass(frozen=True, slots=True)
class CEchoRSP:
    """Answers a C-ECHO-RQ (PS3.7 9.3.5.2)."""

    name: ClassVar[str] = "C-ECHO-RSP"
    has_data_set: ClassVar[bool] = False

    responded_to: int
    status: Status
    affected_sop_class_uid: str = VERIFICATION

    def encode(self) -> bytes:
        """The whole command set; LocalProtocolError when a value does not fit its element."""
        return command_set.encode(
            [
                *_uid_elements(self.affected_sop_class_uid),
                (COMMAND_FIELD, _C_ECHO_RSP),
                (RESPONDED_TO, self.responded_to),
                (DATA_SET_TYPE, NO_DATA_SET),
                *_status_elements(self.status),
            ]
        )


@dataclass(frozen=True, slots=True)
class UnknownMessage:
    """A command that this stack does not speak: what is needed to name it and to skip its data set."""

    command_field: int
    message_id: int | None
    responded_to: int | None
    has_data_set: bool

    @property
    def name(self) -> str:
        """The standard's name, or the number of a command that the standard does not have: "command 0x4321"."""
        command = _COMMANDS.get(self.command_field & ~_RESPONSE_BIT)
        if command is None:
            return f"command 0x{self.command_field:04X}"
        return f"{command}-{'RSP' if self.command_field & _RESPONSE_BIT else 'RQ'}"

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
        return command_set.encode(elements)


Request: TypeAlias = CStoreRQ | CEchoRQ
Response: TypeAlias = CStoreRSP | CEchoRSP
Message: TypeAlias = CStoreRQ | CStoreRSP | CEchoRQ | CEchoRSP | UnknownMessage


def _uid_elements(class_uid: str, instance_uid: str = "") -> list[tuple[int, command_set.Value]]:
    """UIDs that may be left out of a response, and then are empty."""
    pairs = ((AFFECTED_SOP_CLASS_UID, class_uid), (AFFECTED_SOP_INSTANCE_UID, instance_uid))
    return [(tag, uid) for tag, uid in pairs if uid]


def _status_elements(status: Status) -> list[tuple[int, command_set.Value]]:
    """Status and what comes with it (PS3.7 C)."""
    elements: list[tuple[int, command_set.Value]] = [(STATUS, status.value)]
    if status.offending_elements:
        elements.append((OFFENDING_ELEMENT, status.offending_elements))
    if status.comment:
        elements.append((ERROR_COMMENT, status.comment))
    return elements


def decode(data: bytes) -> Message:
    """Read the message of a whole command set.

    Raises RemoteProtocolError, with the name of the message as `pdu` and of the element as `field`, when the bytes are
    no command set or when an element is missing that the message cannot do without.
    """
    return _read_usual_success(data) or _read_any(data)


def _read_usual_success(data: bytes) -> CStoreRSP | None:
    """The C-STORE-RSP that says success in the elements and the order that nearly every peer writes, else None.

    One of these ends nearly every instance.
    """
    try:
        fields, usual = _usual_success(data[_USUAL_CLASS_LENGTH_AT])
        start, group_bytes, class_header, sop_class, command, responded_to, success, instance_bytes = (
            fields.unpack_from(data)
        )
    except (IndexError, struct.error):
        return None
    size = len(data)
    if (
        (start, class_header, command, success) != usual
        or group_bytes != size - _GROUP_LENGTH.size
        or instance_bytes != size - fields.size
    ):
        return None
    try:
        sop_class_uid = str(sop_class.rstrip(b"\0 "), "ascii")
        sop_instance_uid = str(data[fields.size :].rstrip(b"\0 "), "ascii")
    except UnicodeDecodeError:
        return None
    return CStoreRSP(responded_to, SUCCESS, sop_class_uid, sop_instance_uid)


@lru_cache(maxsize=256)
def _usual_success(class_bytes: int) -> tuple[struct.Struct, tuple[bytes, ...]]:
    """How such a response lies in memory before its SOP Instance UID, and what stands between the values in it.

    The SOP Class UID has so many bytes.
    """
    class_header = struct.pack("<II", AFFECTED_SOP_CLASS_UID << 16, class_bytes)
    usual = (_USUAL_START, class_header, _USUAL_COMMAND, _USUAL_SUCCESS)
    return struct.Struct(f"<8sI8s{class_bytes}s{len(_USUAL_COMMAND)}sH{len(_USUAL_SUCCESS)}sI"), usual


def _read_any(data: bytes) -> Message:
    # An element's VR decides its type, and command_set has checked it: the elements are Any from here on.
    elements: dict[int, Any] = command_set.decode(data)
    command_field = elements.get(COMMAND_FIELD)
    if command_field is None:
        raise _missing(COMMAND_FIELD, "command set")
    if DATA_SET_TYPE not in elements:
        raise _missing(DATA_SET_TYPE, UnknownMessage(command_field, None, None, False).name)
    read = _READERS.get(command_field, _read_unknown)
    return read(elements, elements[DATA_SET_TYPE] != NO_DATA_SET)


def _read_c_store_rsp(elements: dict[int, Any], has_data_set: bool) -> CStoreRSP:
    get = elements.get
    responded_to = get(RESPONDED_TO)
    if responded_to is None:
        raise _missing(RESPONDED_TO, CStoreRSP.name)
    return CStoreRSP(
        responded_to,
        _read_status(elements, CStoreRSP.name),
        get(AFFECTED_SOP_CLASS_UID, ""),
        get(AFFECTED_SOP_INSTANCE_UID, ""),
        has_data_set,
    )


def _read_c_store_rq(elements: dict[int, Any], has_data_set: bool) -> CStoreRQ:
    for tag in (MESSAGE_ID, AFFECTED_SOP_CLASS_UID, AFFECTED_SOP_INSTANCE_UID):
        if elements.get(tag, "") == "":
            raise _missing(tag, CStoreRQ.name)
    if not has_data_set:
        raise RemoteProtocolError("there is no data set to store", pdu=CStoreRQ.name, field="Command Data Set Type")
    return CStoreRQ(
        message_id=elements[MESSAGE_ID],
        affected_sop_class_uid=elements[AFFECTED_SOP_CLASS_UID],
        affected_sop_instance_uid=elements[AFFECTED_SOP_INSTANCE_UID],
        priority=elements.get(PRIORITY, MEDIUM),
        move_originator_ae_title=elements.get(MOVE_ORIGINATOR_AE_TITLE, ""),
        move_originator_message_id=elements.get(MOVE_ORIGINATOR_MESSAGE_ID),
    )


def _read_c_echo_rq(elements: dict[int, Any], has_data_set: bool) -> CEchoRQ:
    if MESSAGE_ID not in elements:
        raise _missing(MESSAGE_ID, CEchoRQ.name)
    _check_no_data_set(has_data_set, CEchoRQ.name)
    return CEchoRQ(elements[MESSAGE_ID], elements.get(AFFECTED_SOP_CLASS_UID, ""))


def _read_c_echo_rsp(elements: dict[int, Any], has_data_set: bool) -> CEchoRSP:
    if RESPONDED_TO not in elements:
        raise _missing(RESPONDED_TO, CEchoRSP.name)
    _check_no_data_set(has_data_set, CEchoRSP.name)
    status = _read_status(elements, CEchoRSP.name)
    return CEchoRSP(elements[RESPONDED_TO], status, elements.get(AFFECTED_SOP_CLASS_UID, ""))


def _read_unknown(elements: dict[int, Any], has_data_set: bool) -> UnknownMessage:
    return UnknownMessage(elements[COMMAND_FIELD], elements.get(MESSAGE_ID), elements.get(RESPONDED_TO), has_data_set)


_READERS: Final[dict[int, Callable[[dict[int, Any], bool], Message]]] = {
    _C_STORE_RQ: _read_c_store_rq,
    _C_STORE_RSP: _read_c_store_rsp,
    _C_ECHO_RQ: _read_c_echo_rq,
    _C_ECHO_RSP: _read_c_echo_rsp,
}


def _read_status(elements: dict[int, Any], pdu: str) -> Status:
    value = elements.get(STATUS)
    if value is None:
        raise _missing(STATUS, pdu)
    comment = elements.get(ERROR_COMMENT, "")
    offending_elements = elements.get(OFFENDING_ELEMENT, ())
    if not (value or comment or offending_elements):
        return SUCCESS
    return Status(value, comment, offending_elements)


def _check_no_data_set(has_data_set: bool, pdu: str) -> None:
    if has_data_set:
        raise RemoteProtocolError("it announces a data set", pdu=pdu, field="Command Data Set Type")


def _missing(tag: int, pdu: str) -> RemoteProtocolError:
    return RemoteProtocolError("missing", pdu=pdu, field=command_set.name_of(tag))
