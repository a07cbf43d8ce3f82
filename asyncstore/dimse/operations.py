"""The operations of one association that we invoked: Message IDs, the operations window, and the responses to them.

An operation from begin to end:

    operation = operations.begin(context_id, CStoreRQ, (sop_class_uid, sop_instance_uid))
    ...                                      # write operation.request.encode() and the data set
    operations.sent(operation.message_id)
    operation = operations.match(received)   # once for each response; operation.is_final after the last

`match` accepts one thing: a response to a request that was wholly sent, of its type, with a status and a data set that
the type may have, in its presentation context or another one that was accepted for the same SOP class, and that names
no other instance that waits for its answer. Everything else is a RemoteProtocolError, after which the association must
be aborted; `outstanding` then has the operations without an answer. Message IDs wrap at 65535, and none is reused while
it is in flight (PS3.7 E.1; PS3.7 D.3.3.3 for the window).
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Final, TypeAlias

from asyncstore.dimse.messages import RESPONSE_BIT, UnknownMessage
from asyncstore.errors import LocalProtocolError, RemoteProtocolError, count_text, say_nothing
from asyncstore.record import record
from asyncstore.status import SUCCESS, Category

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from asyncstore.dimse.message_types import Message, Request, Response
    from asyncstore.dimse.reassembly import Received
    from asyncstore.errors import Tolerate
    from asyncstore.upper_layer.contexts import AcceptedContext

OnResponse: TypeAlias = "Callable[[Operation, Response, bytes | None], object]"
"""Takes each response to an operation, and the data set that came with it."""

LAST_MESSAGE_ID: Final = 0xFFFF


# PS3.4 B.2.3, PS3.7 9.1.5: neither a C-STORE nor a C-ECHO can be pending or cancelled.
_OF_MANY_RESPONSES: Final = (Category.PENDING, Category.CANCEL)


@record(slots=True, eq=False)
class Operation:
    """A request that has its Message ID; `is_sent` once all of it is written, `is_final` once its last response came.

    Its owner sets `on_response(operation, response, data_set)`, which is called for each response; `data_set` is None
    if the response has none. `allowance_seconds` is added to the time that the peer has for its answer.
    """

    message_id: int
    context_id: int
    request: Request
    is_sent: bool
    is_final: bool
    on_response: OnResponse | None
    allowance_seconds: float

    # Written out: `record` would compile it in each run.
    def __init__(
        self,
        message_id: int,
        context_id: int,
        request: Request,
        is_sent: bool = False,
        is_final: bool = False,
        on_response: OnResponse | None = None,
        allowance_seconds: float = 0.0,
    ) -> None:
        self.message_id = message_id
        self.context_id = context_id
        self.request = request
        self.is_sent = is_sent
        self.is_final = is_final
        self.on_response = on_response
        self.allowance_seconds = allowance_seconds

    def __repr__(self) -> str:
        state = "answered" if self.is_final else "sent" if self.is_sent else "begun"
        return f"<Operation {self.message_id}, {self.request.name} in context {self.context_id}, {state}>"


class Operations:
    """The requests that one association has in flight, and the messages that come back.

    `window` is how many operations may be outstanding, 1 to 65535, and may be changed at any time. If 0 (unlimited) was
    negotiated, the caller chooses a limit. `outstanding` is a live view, Message ID -> operation, in the
    order in which they began. `contexts` are the accepted presentation contexts, by ID. `tolerate` is told of responses
    that do not fit their request in what does not decide: its context, its SOP Instance UID.
    """

    def __init__(self, *, window: int = 1, tolerate: Tolerate = say_nothing) -> None:
        self.window = window
        self.contexts: Mapping[int, AcceptedContext] = {}
        self._tolerate = tolerate
        self._operations: dict[int, Operation] = {}
        self.outstanding: Mapping[int, Operation] = MappingProxyType(self._operations)
        self._next_message_id = 1

    @property
    def window(self) -> int:
        """How many operations may be outstanding."""
        return self._window

    @window.setter
    def window(self, window: int) -> None:
        if not 1 <= window <= LAST_MESSAGE_ID:
            raise LocalProtocolError(f"a window of {window} operations: it is 1 to {LAST_MESSAGE_ID}")
        self._window = window

    @property
    def has_room(self) -> bool:
        """Whether another operation may begin."""
        return len(self._operations) < self._window

    def begin(
        self, context_id: int, make_request: Callable[..., Request], arguments: tuple[object, ...] = ()
    ) -> Operation:
        """Take room in the window and a Message ID for the request that `make_request(message_id, *arguments)` returns.

        Raises LocalProtocolError when there is no room. When `make_request` raises, nothing is taken.
        """
        operations = self._operations
        if len(operations) >= self._window:
            raise LocalProtocolError(f"the window of {count_text(self._window, 'operation')} is full")
        message_id = self._next_message_id
        while message_id in operations:
            message_id = message_id % LAST_MESSAGE_ID + 1
        operation = Operation(message_id, context_id, make_request(message_id, *arguments))
        operations[message_id] = operation
        self._next_message_id = message_id % LAST_MESSAGE_ID + 1
        return operation

    def sent(self, message_id: int) -> None:
        """Take note that the request and its data set are wholly written; an answer before that is the peer's error.

        Call it before anything that lets a response be read. Raises LocalProtocolError when it is not outstanding.
        """
        try:
            self._operations[message_id].is_sent = True
        except KeyError:
            raise _not_outstanding(message_id) from None

    def withdraw(self, message_id: int) -> Operation:
        """Take back an operation of which no byte was sent, for example because its source could not be read.

        Raises LocalProtocolError when it is not outstanding, or was sent: then the peer must answer it.
        """
        operation = self._operations.get(message_id)
        if operation is None:
            raise _not_outstanding(message_id)
        if operation.is_sent:
            raise LocalProtocolError(f"the request with Message ID {message_id} was sent")
        return self._operations.pop(message_id)

    def match(self, received: Received) -> Operation:
        """The operation that a response belongs to; it ends with its final response.

        Raises RemoteProtocolError, and ends nothing, unless the message is a response to an outstanding request: its
        Message ID, its type, a presentation context of the same SOP class, no other instance that waits, the request
        wholly sent, and no data set or pending status that its type cannot have. A data set that is announced is
        refused even for a success: whether one follows decides where the next message begins.
        """
        message = received.message
        if message.responded_to is None or isinstance(message, UnknownMessage):
            raise _refused(message, "Command Field", "no answer to anything that was asked")
        operation = self._operations.get(message.responded_to)
        if operation is None:
            raise _refused(message, "Message ID Being Responded To", f"{message.responded_to} is not outstanding")
        if message.command_field != operation.request.command_field | RESPONSE_BIT:
            raise _refused(message, "Command Field", f"no answer to a {operation.request.name}")
        if received.context_id != operation.context_id:
            self._check_other_context(received, operation)
        if message.affected_sop_instance_uid != operation.request.affected_sop_instance_uid:
            self._check_other_instance(message, operation)
        if not operation.is_sent:
            early = f"{message.responded_to} is answered before all of the request was sent"
            raise _refused(message, "Message ID Being Responded To", early)
        if message.has_data_set and not message.may_have_data_set:
            raise _refused(message, "Command Data Set Type", "it announces a data set")
        status = message.status
        if status is not SUCCESS and status.category in _OF_MANY_RESPONSES:
            if not message.may_be_pending:
                raise _refused(message, "Status", f"{status} is no answer to a {operation.request.name}")
            if status.category is Category.PENDING:
                return operation
        self.end(operation)
        return operation

    def end(self, operation: Operation) -> None:
        """Take note that an outstanding operation has its final response."""
        operation.is_final = True
        del self._operations[operation.message_id]

    def _check_other_context(self, received: Received, operation: Operation) -> None:
        """A response may come in another context of the same SOP class: the Message ID says what it answers."""
        came = f"{received.context_id}, but the request went out in {operation.context_id}"
        error = _refused(received.message, "Presentation Context ID", came)
        asked_in, answered_in = (self.contexts.get(each) for each in (operation.context_id, received.context_id))
        if asked_in is None or answered_in is None or asked_in.abstract_syntax != answered_in.abstract_syntax:
            raise error
        self._tolerate(error)

    def _check_other_instance(self, message: Response, operation: Operation) -> None:
        """A response may name no instance, or one that we do not wait for: the Message ID says what it answers.

        One that names another instance that waits contradicts its Message ID: neither instance may count as stored.
        """
        told = message.affected_sop_instance_uid
        if not told:
            return
        asked = operation.request.affected_sop_instance_uid
        error = _refused(message, "Affected SOP Instance UID", f"{told!a}, but the request was about {asked!a}")
        if any(other.request.affected_sop_instance_uid == told for other in self._operations.values()):
            raise error
        self._tolerate(error)


def _not_outstanding(message_id: int) -> LocalProtocolError:
    return LocalProtocolError(f"no request with Message ID {message_id} is outstanding")


def _refused(message: Message, field: str, reason: str) -> RemoteProtocolError:
    return RemoteProtocolError(reason, pdu=message.name, field=field)
