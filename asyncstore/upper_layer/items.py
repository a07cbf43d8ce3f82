"""The items of an association PDU, and the presentation contexts, which are one kind of them (PS3.8 9.3.2.2, 9.3.3.2).

Every class encodes itself with its 4-byte header, and decodes the bytes after that header. Decoding raises
`RemoteProtocolError`; encoding a value that the standard has no room for raises `ValueError`.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from asyncstore.errors import RemoteProtocolError, count_text, say_nothing
from asyncstore.record import record
from asyncstore.uids import LONGEST_UID_CHARACTERS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from asyncstore.errors import Tolerate

_HEADER = struct.Struct(">BxH")
_CONTEXT_START = struct.Struct(">BxxxBxH")  # its ID, and the header of its abstract syntax

ABSTRACT_SYNTAX: Final = 0x30
TRANSFER_SYNTAX: Final = 0x40
PROPOSED_CONTEXT: Final = 0x20
CONTEXT_RESULT: Final = 0x21


NO_REASON: Final = 2  # result of a presentation context, PS3.8 Table 9-18: "no reason (provider rejection)"
_RESULT_TEXTS = (
    "Accepted",
    "User Rejection",
    "Provider Rejection",
    "Rejected - Abstract Syntax Not Supported",
    "Rejected - Transfer Syntax Not Supported",
)


def encode_item(item_type: int, content: bytes) -> bytes:
    """One item or sub-item: type, a reserved byte, the length, the content (at most 65535 bytes)."""
    if len(content) > 0xFFFF:
        raise ValueError(f"item 0x{item_type:02X}: {len(content)} bytes do not fit into one item")
    return _HEADER.pack(item_type, len(content)) + content


def decode_items(
    data: memoryview, *, pdu: str, field: str, tolerate: Tolerate = say_nothing
) -> Iterator[tuple[int, memoryview]]:
    """Yield the type and content of each item; zeros after the last one are padding.

    Raises RemoteProtocolError for an item that ends beyond `data`, and for other bytes that are no item: the lengths
    hold the items together.
    """
    offset, end = 0, len(data)
    while offset < end:
        if end - offset < 4:
            left_over = RemoteProtocolError(f"{count_text(end - offset, 'byte')} left over", pdu=pdu, field=field)
            if any(data[offset:]):
                raise left_over
            tolerate(left_over)
            return
        item_type, length = _HEADER.unpack_from(data, offset)
        offset += 4
        if length > end - offset:
            text = f"item 0x{item_type:02X} has a length of {count_text(length, 'byte')}, {end - offset:,} are left"
            raise RemoteProtocolError(text, pdu=pdu, field=field)
        yield item_type, data[offset : offset + length]
        offset += length


def encode_uid(uid: str, *, field: str) -> bytes:
    """The bytes of a UID of 1 to 64 ASCII characters, without padding (PS3.8 Annex F)."""
    if not 0 < len(uid) <= LONGEST_UID_CHARACTERS or not uid.isascii():
        raise ValueError(f"{field}: {uid!r} is not a UID of 1 to 64 characters")
    return uid.encode("ascii")


def decode_uid(data: memoryview, *, pdu: str, field: str) -> str:
    """A UID without the padding that some peers add. Raises RemoteProtocolError if it cannot be a UID."""
    raw = bytes(data[: 2 * LONGEST_UID_CHARACTERS]).rstrip(b"\0 ")
    if not raw or len(raw) > LONGEST_UID_CHARACTERS:
        raise RemoteProtocolError(f"{count_text(len(data), 'byte')} where a UID has 1 to 64", pdu=pdu, field=field)
    text = raw.decode("latin-1")
    if not (text.isascii() and text.isprintable()):
        raise RemoteProtocolError(f"{text!a} is not a UID", pdu=pdu, field=field)
    return text


def check_context_id(context_id: int, *, pdu: str) -> None:
    """Refuse a presentation context ID that is even (PS3.8 9.3.2.2: odd, 1 to 255)."""
    if not context_id & 1:
        raise RemoteProtocolError(f"{context_id} is not odd", pdu=pdu, field="Presentation context ID")


def _checked_context_id(context_id: int) -> int:
    if not (0 < context_id < 256 and context_id & 1):
        raise ValueError(f"presentation context ID {context_id} is not an odd number from 1 to 255")
    return context_id


@lru_cache(maxsize=256)
def _encode_transfer_syntaxes(uids: tuple[str, ...]) -> bytes:
    """The items of the transfer syntaxes that a context proposes; most contexts of a request propose the same."""
    return b"".join(encode_item(TRANSFER_SYNTAX, encode_uid(uid, field="transfer syntax")) for uid in uids)


@record(slots=True, unsafe_hash=True)
class PresentationContext:
    """A presentation context as the requestor proposes it (PS3.8 9.3.2.2). It must not be changed."""

    context_id: int
    abstract_syntax: str
    transfer_syntaxes: tuple[str, ...]

    # Written out: an association has a hundred of them, and each run would compile it.
    def __init__(self, context_id: int, abstract_syntax: str, transfer_syntaxes: tuple[str, ...]) -> None:
        self.context_id = context_id
        self.abstract_syntax = abstract_syntax
        self.transfer_syntaxes = transfer_syntaxes

    def encode(self) -> bytes:
        if not self.transfer_syntaxes:
            raise ValueError(f"presentation context {self.context_id} proposes no transfer syntax")
        uid = encode_uid(self.abstract_syntax, field="abstract syntax")
        start = _CONTEXT_START.pack(_checked_context_id(self.context_id), ABSTRACT_SYNTAX, len(uid))
        return encode_item(PROPOSED_CONTEXT, start + uid + _encode_transfer_syntaxes(self.transfer_syntaxes))

    @classmethod
    def decode(cls, data: memoryview, *, pdu: str) -> PresentationContext:
        if len(data) < 4:
            raise RemoteProtocolError(f"only {count_text(len(data), 'byte')}", pdu=pdu, field="Presentation context")
        check_context_id(data[0], pdu=pdu)
        abstract_syntax, transfer_syntaxes = "", []
        for item_type, content in decode_items(data[4:], pdu=pdu, field="Presentation context"):
            if item_type == ABSTRACT_SYNTAX:
                if abstract_syntax:
                    raise RemoteProtocolError("there are two", pdu=pdu, field="Abstract syntax")
                abstract_syntax = decode_uid(content, pdu=pdu, field="Abstract syntax")
            elif item_type == TRANSFER_SYNTAX:
                transfer_syntaxes.append(decode_uid(content, pdu=pdu, field="Transfer syntax"))
        for found, name in ((abstract_syntax, "Abstract syntax"), (transfer_syntaxes, "Transfer syntax")):
            if not found:
                raise RemoteProtocolError(f"none in context {data[0]}", pdu=pdu, field=name)
        return cls(data[0], abstract_syntax, tuple(transfer_syntaxes))


@record(slots=True, unsafe_hash=True)
class PresentationContextResult:
    """The acceptor's answer to one proposed presentation context (PS3.8 9.3.3.2).

    `result` is 0 (accepted) to 4; unless it is 0, `transfer_syntax` means nothing and may be empty.

    An acceptance has one transfer syntax that can be read, and any other result is a rejection: a context with less is
    read as rejected without a reason (2), and the other contexts can be used. Only an ID that cannot be one is refused,
    because the result could be that of any context.
    """

    context_id: int
    result: int
    transfer_syntax: str

    def __init__(self, context_id: int, result: int, transfer_syntax: str) -> None:  # see PresentationContext
        self.context_id = context_id
        self.result = result
        self.transfer_syntax = transfer_syntax

    @property
    def is_accepted(self) -> bool:
        return self.result == 0

    @property
    def result_text(self) -> str:
        """The words of the documented log for the result."""
        return _RESULT_TEXTS[self.result]

    def encode(self) -> bytes:
        if not 0 <= self.result < len(_RESULT_TEXTS):
            raise ValueError(f"{self.result} is not a result of a presentation context")
        content = bytes((_checked_context_id(self.context_id), 0, self.result, 0))
        if self.result == 0 or self.transfer_syntax:
            content += encode_item(TRANSFER_SYNTAX, encode_uid(self.transfer_syntax, field="transfer syntax"))
        return encode_item(CONTEXT_RESULT, content)

    @classmethod
    def decode(cls, data: memoryview, *, pdu: str, tolerate: Tolerate = say_nothing) -> PresentationContextResult:
        if len(data) < 4:
            raise RemoteProtocolError(f"only {count_text(len(data), 'byte')}", pdu=pdu, field="Presentation context")
        check_context_id(data[0], pdu=pdu)
        context_id, result = data[0], data[2]
        items = decode_items(data[4:], pdu=pdu, field="Presentation context", tolerate=tolerate)
        syntaxes = [content for item_type, content in items if item_type == TRANSFER_SYNTAX]
        try:
            if result >= len(_RESULT_TEXTS):
                raise RemoteProtocolError(f"{result} in context {context_id}", pdu=pdu, field="Result")
            if len({bytes(content) for content in syntaxes}) != 1:
                text = f"{len(syntaxes)} in context {context_id} where there should be one"
                raise RemoteProtocolError(text, pdu=pdu, field="Transfer syntax")
            return cls(context_id, result, decode_uid(syntaxes[0], pdu=pdu, field="Transfer syntax"))
        except RemoteProtocolError as error:
            # PS3.8 9.3.3.2: the transfer syntax of a refused context "shall not be tested". Some peers leave it out.
            if result == 0 or result >= len(_RESULT_TEXTS):
                tolerate(error)
                result = NO_REASON
            return cls(context_id, result, "")
