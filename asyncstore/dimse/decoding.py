"""Reads the message of a command set that the peer sent (PS3.7 9.3, Annex E)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

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
from asyncstore.dimse.messages import (
    C_CANCEL_RQ,
    C_ECHO_RQ,
    C_ECHO_RSP,
    C_FIND_RQ,
    C_FIND_RSP,
    C_STORE_RQ,
    C_STORE_RSP,
    MEDIUM,
    N_ACTION_RQ,
    N_ACTION_RSP,
    N_EVENT_REPORT_RQ,
    N_EVENT_REPORT_RSP,
    NO_DATA_SET,
    CEchoRQ,
    CEchoRSP,
    CStoreRQ,
    CStoreRSP,
    UnknownMessage,
)
from asyncstore.errors import RemoteProtocolError, say_nothing
from asyncstore.status import SUCCESS, Status

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from asyncstore.dimse.message_types import Message
    from asyncstore.dimse.n_messages import NActionRQ, NActionRSP, NEventReportRQ, NEventReportRSP
    from asyncstore.dimse.query_messages import CCancelRQ, CFindRQ, CFindRSP
    from asyncstore.errors import Tolerate


def decode(data: bytes, tolerate: Tolerate = say_nothing) -> Message:
    """Read the message of a whole command set.

    Raises RemoteProtocolError, with the name of the message as `pdu` and of the element as `field`, when the bytes are
    not a command set, or when an element is missing that the message needs. `tolerate` is told of violations that do no
    harm, see `command_set.decode`.
    """
    # An element's VR decides its type, and command_set has checked it: the elements are Any from here on.
    elements: dict[int, Any] = command_set.decode(data, tolerate)
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


def _read_c_store_rq(elements: dict[int, Any], has_data_set: bool) -> CStoreRQ | UnknownMessage:
    for tag in (MESSAGE_ID, AFFECTED_SOP_CLASS_UID, AFFECTED_SOP_INSTANCE_UID):
        if elements.get(tag, "") == "":
            raise _missing(tag, CStoreRQ.name)
    if not has_data_set:  # not what the standard calls a C-STORE-RQ, but it can be answered
        return UnknownMessage(C_STORE_RQ, elements[MESSAGE_ID], None, False)
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


def _read_c_find_rq(elements: dict[int, Any], has_data_set: bool) -> CFindRQ:
    from asyncstore.dimse.query_messages import CFindRQ

    for tag in (MESSAGE_ID, AFFECTED_SOP_CLASS_UID):
        if elements.get(tag, "") == "":
            raise _missing(tag, CFindRQ.name)
    if not has_data_set:
        raise RemoteProtocolError("there is no identifier", pdu=CFindRQ.name, field="Command Data Set Type")
    return CFindRQ(elements[MESSAGE_ID], elements[AFFECTED_SOP_CLASS_UID], elements.get(PRIORITY, MEDIUM))


def _read_c_find_rsp(elements: dict[int, Any], has_data_set: bool) -> CFindRSP:
    from asyncstore.dimse.query_messages import CFindRSP

    if RESPONDED_TO not in elements:
        raise _missing(RESPONDED_TO, CFindRSP.name)
    status = _read_status(elements, CFindRSP.name)
    return CFindRSP(elements[RESPONDED_TO], status, elements.get(AFFECTED_SOP_CLASS_UID, ""), has_data_set)


def _read_c_cancel_rq(elements: dict[int, Any], has_data_set: bool) -> CCancelRQ:
    from asyncstore.dimse.query_messages import CCancelRQ

    if RESPONDED_TO not in elements:
        raise _missing(RESPONDED_TO, CCancelRQ.name)
    _check_no_data_set(has_data_set, CCancelRQ.name)
    return CCancelRQ(elements[RESPONDED_TO])


def _read_n_request(elements: dict[int, Any], has_data_set: bool) -> NActionRQ | NEventReportRQ | UnknownMessage:
    from asyncstore.dimse.n_messages import NActionRQ, NEventReportRQ

    kind = NActionRQ if elements[COMMAND_FIELD] == N_ACTION_RQ else NEventReportRQ
    return kind.read(elements, has_data_set)


def _read_n_response(elements: dict[int, Any], has_data_set: bool) -> NActionRSP | NEventReportRSP:
    from asyncstore.dimse.n_messages import NActionRSP, NEventReportRSP

    kind = NActionRSP if elements[COMMAND_FIELD] == N_ACTION_RSP else NEventReportRSP
    if RESPONDED_TO not in elements:
        raise _missing(RESPONDED_TO, kind.name)
    uids = (elements.get(AFFECTED_SOP_CLASS_UID, ""), elements.get(AFFECTED_SOP_INSTANCE_UID, ""))
    status = _read_status(elements, kind.name)
    return kind(elements[RESPONDED_TO], status, *uids, elements.get(kind.type_id_tag), has_data_set)


def _read_unknown(elements: dict[int, Any], has_data_set: bool) -> UnknownMessage:
    return UnknownMessage(elements[COMMAND_FIELD], elements.get(MESSAGE_ID), elements.get(RESPONDED_TO), has_data_set)


_READERS: Final[dict[int, Callable[[dict[int, Any], bool], Message]]] = {
    C_STORE_RQ: _read_c_store_rq,
    C_STORE_RSP: _read_c_store_rsp,
    C_FIND_RQ: _read_c_find_rq,
    C_FIND_RSP: _read_c_find_rsp,
    C_ECHO_RQ: _read_c_echo_rq,
    C_ECHO_RSP: _read_c_echo_rsp,
    C_CANCEL_RQ: _read_c_cancel_rq,
    N_EVENT_REPORT_RQ: _read_n_request,
    N_EVENT_REPORT_RSP: _read_n_response,
    N_ACTION_RQ: _read_n_request,
    N_ACTION_RSP: _read_n_response,
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
