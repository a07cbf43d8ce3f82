"""Requests and responses of one association: Message IDs, the operations window, fragments -> messages.

The requestor's side, an operation from begin to end:

    operation = exchange.begin(context_id, CStoreRQ, sop_class_uid, sop_instance_uid)
    ...                                     # write operation.request.encode() and the data set
    exchange.sent(operation.message_id)
    received = exchange.receive(fragment)   # a Received when a message is complete
    operation = exchange.match(received)    # the operation that it ends

An operation is ended only by `match`, which accepts one thing: the one response to a request that was wholly sent, in
its presentation context, of its type, with a final status. All else is a RemoteProtocolError, after which the
association must be aborted; `outstanding` then lists what is unknown. Message IDs wrap at 65535, and none is taken
while it is in flight (PS3.7 E.1; PS3.7 D.3.3.3 for the window).

The acceptor's side needs `Reassembler` only: it leaves the data sets, which may be of any size, to its caller.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from asyncstore.dimse.messages import CEchoRQ, CEchoRSP, CStoreRQ, CStoreRSP
from asyncstore.dimse.reassembly import MAXIMUM_DATA_SET_BYTES, Reassembler, Received
from asyncstore.errors import LocalProtocolError, RemoteProtocolError
from asyncstore.status import SUCCESS, Category

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from asyncstore.dimse.messages import Message, Request, Response
    from asyncstore.status import Status
    from asyncstore.upper_layer.pdu import Fragment

LAST_MESSAGE_ID: Final = 0xFFFF


_RESPONSES: Final[dict[type[Request], type[Response]]] = {CStoreRQ: CStoreRSP, CEchoRQ: CEchoRSP}

# PS3.4 B.2.3, PS3.7 9.1.5: neither C-STORE nor C-ECHO can be pending or cancelled.
_NOT_FINAL: Final = (Category.PENDING, Category.CANCEL)


@dataclass(slots=True, eq=False)
class Operation:
    """A request that has its Message ID and no answer yet; `is_sent` once all of it is written.

    `on_answer(operation, status)` is its owner's, to be called when the answer has come.
    """

    message_id: int
    context_id: int
    request: Request
    is_sent: bool = False
    on_answer: Callable[[Operation, Status], None] | None = None


class Exchange:
    """The requests that one association has in flight, and the messages that come back.

    `window` is how many operations may be outstanding, 1 to 65535, and may be changed at any time. An unlimited window
    (a negotiated 0) needs a limit of the caller's own. `outstanding` is a live view, Message ID -> operation, in the
    order in which they began.
    """

    def __init__(self, *, window: int = 1) -> None:
        self.window = window
        self._operations: dict[int, Operation] = {}
        self.outstanding: Mapping[int, Operation] = MappingProxyType(self._operations)
        self._next_message_id = 1
        self._reassembler = Reassembler()
        self._data_set = bytearray()

    @property
    def window(self) -> int:
        """How many operations may be outstanding."""
        return self._window

    @window.setter
    def window(self, window: int) -> None:
        if not 1 <= window <= LAST_MESSAGE_ID:
            raise ValueError(f"a window of {window} operations; it can be 1 to {LAST_MESSAGE_ID}")
        self._window = window

    @property
    def has_room(self) -> bool:
        """Whether another operation may begin."""
        return len(self._operations) < self._window

    def begin(self, context_id: int, make_request: Callable[..., Request], *arguments: object) -> Operation:
        """Take room in the window and a Message ID for the request that `make_request(message_id, *arguments)` returns.

        Raises LocalProtocolError when there is no room. When `make_request` raises, nothing is taken.
        """
        operations = self._operations
        if len(operations) >= self._window:
            raise LocalProtocolError(f"{len(operations)} operations are outstanding, the window is {self._window}")
        message_id = self._next_message_id
        while message_id in operations:
            message_id = message_id % LAST_MESSAGE_ID + 1
        operation = Operation(message_id, context_id, make_request(message_id, *arguments))
        operations[message_id] = operation
        self._next_message_id = message_id % LAST_MESSAGE_ID + 1
        return operation

    def sent(self, message_id: int) -> None:
        """Tell that the request and all of its data set are written; an answer before that is the peer's error.

        Call it before anything that lets a response be read. Raises LocalProtocolError when it is not outstanding.
        """
        self._get(message_id).is_sent = True

    def withdraw(self, message_id: int) -> Operation:
        """Take back an operation of which no byte has left: its source could not be read, say.

        Raises LocalProtocolError when it is not outstanding, or was sent and so is the peer's to answer.
        """
        if self._get(message_id).is_sent:
            raise LocalProtocolError(f"the request with Message ID {message_id} was sent")
        return self._operations.pop(message_id)

    def _get(self, message_id: int) -> Operation:
        try:
            return self._operations[message_id]
        except KeyError:
            raise LocalProtocolError(f"no request with Message ID {message_id} is outstanding") from None

    def receive(self, fragment: Fragment) -> Received | None:
        """Take one fragment from the peer, and return a message when it is complete with its data set.

        A C-STORE-RSP that announces a data set is returned at once, for `match` to refuse. Raises RemoteProtocolError
        for fragments that make no message (see Reassembler), and for a data set of more than 16 MiB.
        """
        if fragment.is_command:
            message = self._reassembler.receive_command(fragment)
            if message is None or (message.has_data_set and type(message) is not CStoreRSP):
                return None
            return Received(fragment.context_id, message)
        message = self._reassembler.receive_data_set(fragment)
        if len(self._data_set) + len(fragment.data) > MAXIMUM_DATA_SET_BYTES:
            raise RemoteProtocolError(f"more than {MAXIMUM_DATA_SET_BYTES} bytes", pdu=message.name, field="data set")
        self._data_set += fragment.data
        if not fragment.is_last:
            return None
        data_set = bytes(self._data_set)
        self._data_set.clear()
        return Received(fragment.context_id, message, data_set)

    def match(self, received: Received) -> Operation:
        """End the operation that a message answers, and return it.

        Raises RemoteProtocolError, and ends nothing, unless the message is the response to an outstanding request: its
        Message ID, its type, its presentation context, no data set, a final status, and the request wholly sent.
        """
        message = received.message
        if not isinstance(message, (CStoreRSP, CEchoRSP)):
            raise _refused(message, "Command Field", "no answer to anything that was asked")
        operation = self._operations.get(message.responded_to)
        if operation is None:
            raise _refused(message, "Message ID Being Responded To", f"{message.responded_to} is not outstanding")
        if type(message) is not _RESPONSES[type(operation.request)]:
            raise _refused(message, "Command Field", f"no answer to a {operation.request.name}")
        if received.context_id != operation.context_id:
            came = f"{received.context_id}, but the request went out in {operation.context_id}"
            raise _refused(message, "Presentation Context ID", came)
        if not operation.is_sent:
            early = f"{message.responded_to} is answered before all of the request was sent"
            raise _refused(message, "Message ID Being Responded To", early)
        if message.has_data_set:
            raise _refused(message, "Command Data Set Type", "it announces a data set")
        status = message.status
        if status is not SUCCESS and status.category in _NOT_FINAL:
            raise _refused(message, "Status", f"{status} is no answer to a {operation.request.name}")
        return self._operations.pop(operation.message_id)


def _refused(message: Message, field: str, reason: str) -> RemoteProtocolError:
    return RemoteProtocolError(reason, pdu=message.name, field=field)
