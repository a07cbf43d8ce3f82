"""The DIMSE-N messages that this stack speaks: N-ACTION and N-EVENT-REPORT (PS3.7 10.1, 10.3). See messages.py."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from asyncstore.dimse import command_set
from asyncstore.dimse.command_set import (
    ACTION_TYPE_ID,
    AFFECTED_SOP_CLASS_UID,
    AFFECTED_SOP_INSTANCE_UID,
    COMMAND_FIELD,
    DATA_SET_TYPE,
    EVENT_TYPE_ID,
    MESSAGE_ID,
    REQUESTED_SOP_CLASS_UID,
    REQUESTED_SOP_INSTANCE_UID,
    RESPONDED_TO,
)
from asyncstore.dimse.messages import (
    DATA_SET,
    N_ACTION_RQ,
    N_ACTION_RSP,
    N_EVENT_REPORT_RQ,
    N_EVENT_REPORT_RSP,
    NO_DATA_SET,
    UnknownMessage,
    status_elements,
    uid_elements,
)
from asyncstore.record import record

if TYPE_CHECKING:
    from collections.abc import Mapping

    from asyncstore.status import Status


@record(frozen=True, slots=True)
class NActionRQ:
    """Asks the peer to act on a SOP Instance, as the data set says that follows (PS3.7 10.3.4.1)."""

    name: ClassVar[str] = "N-ACTION-RQ"
    command_field: ClassVar[int] = N_ACTION_RQ
    responded_to: ClassVar[None] = None

    message_id: int
    requested_sop_class_uid: str
    requested_sop_instance_uid: str
    action_type_id: int
    has_data_set: bool = True

    @property
    def affected_sop_instance_uid(self) -> str:
        """The instance that a response names as affected."""
        return self.requested_sop_instance_uid

    def encode(self) -> bytes:
        """The whole command set; LocalProtocolError when a value does not fit its element."""
        return command_set.encode(
            [
                (REQUESTED_SOP_CLASS_UID, self.requested_sop_class_uid),
                (COMMAND_FIELD, N_ACTION_RQ),
                (MESSAGE_ID, self.message_id),
                (DATA_SET_TYPE, DATA_SET if self.has_data_set else NO_DATA_SET),
                (REQUESTED_SOP_INSTANCE_UID, self.requested_sop_instance_uid),
                (ACTION_TYPE_ID, self.action_type_id),
            ]
        )

    @classmethod
    def read(cls, elements: Mapping[int, Any], has_data_set: bool) -> NActionRQ | UnknownMessage:
        """The message of a command set; an UnknownMessage, which can be answered, if an element is missing."""
        needed = (MESSAGE_ID, REQUESTED_SOP_CLASS_UID, REQUESTED_SOP_INSTANCE_UID, ACTION_TYPE_ID)
        return _read_request(cls, needed, elements, has_data_set)


@record(frozen=True, slots=True)
class NEventReportRQ:
    """Reports an event of a SOP Instance, which the data set describes that follows (PS3.7 10.3.1.1)."""

    name: ClassVar[str] = "N-EVENT-REPORT-RQ"
    command_field: ClassVar[int] = N_EVENT_REPORT_RQ
    responded_to: ClassVar[None] = None

    message_id: int
    affected_sop_class_uid: str
    affected_sop_instance_uid: str
    event_type_id: int
    has_data_set: bool = True

    def encode(self) -> bytes:
        """The whole command set; LocalProtocolError when a value does not fit its element."""
        return command_set.encode(
            [
                (AFFECTED_SOP_CLASS_UID, self.affected_sop_class_uid),
                (COMMAND_FIELD, N_EVENT_REPORT_RQ),
                (MESSAGE_ID, self.message_id),
                (DATA_SET_TYPE, DATA_SET if self.has_data_set else NO_DATA_SET),
                (AFFECTED_SOP_INSTANCE_UID, self.affected_sop_instance_uid),
                (EVENT_TYPE_ID, self.event_type_id),
            ]
        )

    @classmethod
    def read(cls, elements: Mapping[int, Any], has_data_set: bool) -> NEventReportRQ | UnknownMessage:
        """The message of a command set; an UnknownMessage, which can be answered, if an element is missing."""
        needed = (MESSAGE_ID, AFFECTED_SOP_CLASS_UID, AFFECTED_SOP_INSTANCE_UID, EVENT_TYPE_ID)
        return _read_request(cls, needed, elements, has_data_set)


def _read_request(
    kind: type[Any], needed: tuple[int, ...], elements: Mapping[int, Any], has_data_set: bool
) -> Any | UnknownMessage:
    values = [elements.get(tag, "") for tag in needed]
    if "" in values:
        return UnknownMessage(kind.command_field, elements.get(MESSAGE_ID), elements.get(RESPONDED_TO), has_data_set)
    return kind(*values, has_data_set)


@record(frozen=True, slots=True)
class NActionRSP:
    """Answers an N-ACTION-RQ (PS3.7 10.3.4.2); its data set, if any, is the action reply."""

    name: ClassVar[str] = "N-ACTION-RSP"
    command_field: ClassVar[int] = N_ACTION_RSP
    type_id_tag: ClassVar[int] = ACTION_TYPE_ID
    may_be_pending: ClassVar[bool] = False
    may_have_data_set: ClassVar[bool] = True

    responded_to: int
    status: Status
    affected_sop_class_uid: str = ""
    affected_sop_instance_uid: str = ""
    type_id: int | None = None
    has_data_set: bool = False

    def encode(self) -> bytes:
        """The whole command set; LocalProtocolError when a value does not fit its element."""
        return _encode_response(self)


@record(frozen=True, slots=True)
class NEventReportRSP:
    """Answers an N-EVENT-REPORT-RQ (PS3.7 10.3.1.2); its data set, if any, is the event reply."""

    name: ClassVar[str] = "N-EVENT-REPORT-RSP"
    command_field: ClassVar[int] = N_EVENT_REPORT_RSP
    type_id_tag: ClassVar[int] = EVENT_TYPE_ID
    may_be_pending: ClassVar[bool] = False
    may_have_data_set: ClassVar[bool] = True

    responded_to: int
    status: Status
    affected_sop_class_uid: str = ""
    affected_sop_instance_uid: str = ""
    type_id: int | None = None
    has_data_set: bool = False

    def encode(self) -> bytes:
        """The whole command set; LocalProtocolError when a value does not fit its element."""
        return _encode_response(self)


def _encode_response(response: NActionRSP | NEventReportRSP) -> bytes:
    elements: list[tuple[int, command_set.Value]] = [
        *uid_elements(response.affected_sop_class_uid, response.affected_sop_instance_uid),
        (COMMAND_FIELD, response.command_field),
        (RESPONDED_TO, response.responded_to),
        (DATA_SET_TYPE, DATA_SET if response.has_data_set else NO_DATA_SET),
        *status_elements(response.status),
    ]
    if response.type_id is not None:
        elements.append((response.type_id_tag, response.type_id))
    return command_set.encode(elements)
