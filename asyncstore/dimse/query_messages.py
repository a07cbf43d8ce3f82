"""The DIMSE messages of queries: C-FIND, and the C-CANCEL that ends one (PS3.7 9.3.2). See messages.py."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from asyncstore.dimse import command_set
from asyncstore.dimse.command_set import (
    COMMAND_FIELD,
    DATA_SET_TYPE,
    MESSAGE_ID,
    PRIORITY,
    RESPONDED_TO,
)
from asyncstore.dimse.messages import (
    C_CANCEL_RQ,
    C_FIND_RQ,
    C_FIND_RSP,
    DATA_SET,
    MEDIUM,
    NO_DATA_SET,
    status_elements,
    uid_elements,
)
from asyncstore.record import record

if TYPE_CHECKING:
    from asyncstore.status import Status


@record(frozen=True, slots=True)
class CFindRQ:
    """Asks the peer for the matches of the identifier that follows (PS3.7 9.3.2.1)."""

    name: ClassVar[str] = "C-FIND-RQ"
    command_field: ClassVar[int] = C_FIND_RQ
    affected_sop_instance_uid: ClassVar[str] = ""
    has_data_set: ClassVar[bool] = True
    responded_to: ClassVar[None] = None

    message_id: int
    affected_sop_class_uid: str
    priority: int = MEDIUM

    def encode(self) -> bytes:
        """The whole command set; LocalProtocolError when a value does not fit its element."""
        return command_set.encode(
            [
                *uid_elements(self.affected_sop_class_uid),
                (COMMAND_FIELD, C_FIND_RQ),
                (MESSAGE_ID, self.message_id),
                (PRIORITY, self.priority),
                (DATA_SET_TYPE, DATA_SET),
            ]
        )


@record(frozen=True, slots=True)
class CFindRSP:
    """Answers a C-FIND-RQ (PS3.7 9.3.2.2): pending with one match in its data set, or final without one."""

    name: ClassVar[str] = "C-FIND-RSP"
    command_field: ClassVar[int] = C_FIND_RSP
    affected_sop_instance_uid: ClassVar[str] = ""
    may_be_pending: ClassVar[bool] = True
    may_have_data_set: ClassVar[bool] = True

    responded_to: int
    status: Status
    affected_sop_class_uid: str = ""
    has_data_set: bool = False

    def encode(self) -> bytes:
        """The whole command set; LocalProtocolError when a value does not fit its element."""
        return command_set.encode(
            [
                *uid_elements(self.affected_sop_class_uid),
                (COMMAND_FIELD, C_FIND_RSP),
                (RESPONDED_TO, self.responded_to),
                (DATA_SET_TYPE, DATA_SET if self.has_data_set else NO_DATA_SET),
                *status_elements(self.status),
            ]
        )


@record(frozen=True, slots=True)
class CCancelRQ:
    """Asks the peer to end an operation that has many responses (PS3.7 9.3.2.3); nothing answers it.

    `cancelled_message_id` is the Message ID of the operation's request.
    """

    name: ClassVar[str] = "C-CANCEL-RQ"
    command_field: ClassVar[int] = C_CANCEL_RQ
    has_data_set: ClassVar[bool] = False
    responded_to: ClassVar[None] = None

    cancelled_message_id: int

    def encode(self) -> bytes:
        """The whole command set; LocalProtocolError when a value does not fit its element."""
        return command_set.encode(
            [
                (COMMAND_FIELD, C_CANCEL_RQ),
                (RESPONDED_TO, self.cancelled_message_id),
                (DATA_SET_TYPE, NO_DATA_SET),
            ]
        )
