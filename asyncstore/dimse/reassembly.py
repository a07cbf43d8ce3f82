"""Puts messages together from the fragments of P-DATA-TF PDUs (PS3.8 Annex E)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from asyncstore.dimse.command_set import MAXIMUM_BYTES
from asyncstore.dimse.decoding import decode
from asyncstore.errors import RemoteProtocolError, say_nothing
from asyncstore.record import record

if TYPE_CHECKING:
    from asyncstore.dimse.message_types import Message
    from asyncstore.errors import Tolerate
    from asyncstore.upper_layer.pdu import Fragment


# The longest data set that is kept in memory: of a response, or of a request whose provider wants it whole.
MAXIMUM_DATA_SET_BYTES: Final = 16 * 1024 * 1024
# How many fragments without data one message may have: they cost time, and could go on for ever.
MAXIMUM_EMPTY_FRAGMENTS: Final = 1000


@record(slots=True)
class Received:
    """A message of the peer in its presentation context: a whole one, or a part of one with a data set.

    A response comes once, with its whole data set. A request comes first without its data set (`is_last` is False if
    one follows), and then again with each piece of it, which may be of any size.
    """

    context_id: int
    message: Message
    data_set: bytes | None = None
    is_last: bool = True


class Reassembler:
    """Puts messages together from the fragments of one association, and leaves the data sets to the caller.

    All fragments of a message are of one presentation context, those of the command set first, and the last of each
    kind is marked (PS3.8 Annex E). `message` is the message whose data set is arriving, else None. `tolerate` is
    told of violations that do no harm.
    """

    __slots__ = ("_command", "_context_id", "_empty", "_tolerate", "message")

    def __init__(self, tolerate: Tolerate = say_nothing) -> None:
        self.message: Message | None = None
        self._context_id: int | None = None
        self._command = bytearray()
        self._empty = 0
        self._tolerate = tolerate

    @property
    def is_amid_message(self) -> bool:
        """Whether a part of a message has come, and its end has not."""
        return self._context_id is not None

    def receive_command(self, fragment: Fragment) -> Message | None:
        """Take a fragment of a command set, and return the message when it is the last one.

        When the message has a data set, `receive_data_set` takes its fragments next. Raises RemoteProtocolError when
        the fragment belongs to another context, comes inside of a data set, makes the command set larger than 64 KiB,
        is one of a thousand without data, or when the command set is not legal.
        """
        context_id, _, is_last, data = fragment
        if self._context_id is not None or not is_last:
            data = self._collect_command(fragment)
            if not is_last:
                return None
        message = decode(data, self._tolerate)
        if message.has_data_set:
            self._context_id = context_id
            self.message = message
        else:
            self._context_id = None
        return message

    def receive_data_set(self, fragment: Fragment) -> Message:
        """Check a fragment of a data set, and return the message that it belongs to; `fragment.data` is the caller's.

        Raises RemoteProtocolError when there is no such message, or when it came in another context.
        """
        message = self.message
        if message is None:
            raise RemoteProtocolError(
                "a data set where a command set must be", pdu="P-DATA-TF", field="message control header"
            )
        self._check_context(fragment, message.name)
        if fragment.is_last:
            self.message = self._context_id = None
        return message

    def _collect_command(self, fragment: Fragment) -> bytes:
        """Add one of several fragments of a command set; returns all bytes after the last one, else b""."""
        if self.message is not None:
            raise RemoteProtocolError(
                "a command set where its data set must be", pdu=self.message.name, field="message control header"
            )
        if self._context_id is None:
            self._context_id = fragment.context_id
        self._check_context(fragment, "command set")
        if len(self._command) + len(fragment.data) > MAXIMUM_BYTES:
            raise RemoteProtocolError(
                f"more than {MAXIMUM_BYTES} bytes", pdu="command set", field="Command Group Length"
            )
        self._command += fragment.data
        if not fragment.is_last:
            self._count_empty(fragment, "command set")
            return b""
        data = bytes(self._command)
        self._command.clear()
        self._empty = 0
        return data

    def _count_empty(self, fragment: Fragment, pdu: str) -> None:
        self._empty += not fragment.data
        if self._empty > MAXIMUM_EMPTY_FRAGMENTS:
            raise RemoteProtocolError(f"more than {MAXIMUM_EMPTY_FRAGMENTS} without data", pdu=pdu, field="PDV")

    def _check_context(self, fragment: Fragment, pdu: str) -> None:
        if fragment.context_id != self._context_id:
            raise RemoteProtocolError(
                f"{fragment.context_id} inside of a message in {self._context_id}",
                pdu=pdu,
                field="Presentation Context ID",
            )


class Incoming(Reassembler):
    """Takes the fragments of one association and gives the messages of the peer; see Received."""

    __slots__ = ("_data_set",)

    def __init__(self, tolerate: Tolerate = say_nothing) -> None:
        super().__init__(tolerate)
        self._data_set = bytearray()

    def receive(self, fragment: Fragment) -> Received | None:
        """Take one fragment; None while a message is not complete.

        A response that announces a data set but must not have one is returned at once: its operation refuses it.
        Raises RemoteProtocolError for fragments that make no message (see Reassembler), and for a response whose data
        set has more than 16 MiB.
        """
        if fragment.is_command:
            message = self.receive_command(fragment)
            if message is None:
                return None
            if not message.has_data_set:
                return Received(fragment.context_id, message)
            if message.responded_to is None:
                return Received(fragment.context_id, message, None, False)
            return None if getattr(message, "may_have_data_set", True) else Received(fragment.context_id, message)
        message = self.receive_data_set(fragment)
        if message.responded_to is None:
            return Received(fragment.context_id, message, fragment.data, fragment.is_last)
        return self._collect(fragment, message)

    def _collect(self, fragment: Fragment, message: Message) -> Received | None:
        if len(self._data_set) + len(fragment.data) > MAXIMUM_DATA_SET_BYTES:
            raise RemoteProtocolError(f"more than {MAXIMUM_DATA_SET_BYTES} bytes", pdu=message.name, field="data set")
        self._data_set += fragment.data
        if not fragment.is_last:
            self._count_empty(fragment, message.name)
            return None
        data_set = bytes(self._data_set)
        self._data_set.clear()
        self._empty = 0
        return Received(fragment.context_id, message, data_set)
