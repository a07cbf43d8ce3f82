"""Puts messages together from the fragments of P-DATA-TF PDUs (PS3.8 Annex E)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from asyncstore.dimse.command_set import MAXIMUM_BYTES
from asyncstore.dimse.messages import decode
from asyncstore.errors import RemoteProtocolError

if TYPE_CHECKING:
    from asyncstore.dimse.messages import Message
    from asyncstore.upper_layer.pdu import Fragment


# What a requestor takes into memory of the data set that comes with a message. No response to a C-STORE or C-ECHO has
# one: `match` refuses what came with it.
MAXIMUM_DATA_SET_BYTES: Final = 16 * 1024 * 1024


class Received(NamedTuple):
    """A complete message of the peer, its presentation context, and the bytes of its data set if it came with one."""

    context_id: int
    message: Message
    data_set: bytes | None = None


class Reassembler:
    """Puts messages together from the fragments of one association, and leaves the data sets to the caller.

    All fragments of a message are of one presentation context, those of the command set first, and the last of each
    kind is marked (PS3.8 Annex E). `message` is the one whose data set is coming, None at any other time.
    """

    __slots__ = ("_command", "_context_id", "message")

    def __init__(self) -> None:
        self.message: Message | None = None
        self._context_id: int | None = None
        self._command = bytearray()

    def receive_command(self, fragment: Fragment) -> Message | None:
        """Take a fragment of a command set, and return the message when it is the last one.

        When the message has a data set, `receive_data_set` takes its fragments next. Raises RemoteProtocolError when
        the fragment belongs to another context, comes inside of a data set, makes the command set larger than 64 KiB,
        or when the command set is not legal.
        """
        context_id, _, is_last, data = fragment
        if self._context_id is not None or not is_last:
            data = self._collect_command(fragment)
            if not is_last:
                return None
        message = decode(data)
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
        """Add one of several fragments of a command set; all of them together after the last, else nothing."""
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
            return b""
        data = bytes(self._command)
        self._command.clear()
        return data

    def _check_context(self, fragment: Fragment, pdu: str) -> None:
        if fragment.context_id != self._context_id:
            raise RemoteProtocolError(
                f"{fragment.context_id} inside of a message in {self._context_id}",
                pdu=pdu,
                field="Presentation Context ID",
            )
