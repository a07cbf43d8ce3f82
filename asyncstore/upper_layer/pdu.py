"""The seven PDUs of PS3.8 9.3: `encode` writes a whole PDU, `check_header` and `decode` read it.

A PDU is a 6-byte header (type, reserved, length of the body) and a body. `check_header` refuses an impossible PDU from
those six bytes alone, before anything is read or allocated for the body.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from asyncstore.errors import RemoteProtocolError, count_text, say_nothing
from asyncstore.record import record
from asyncstore.uids import APPLICATION_CONTEXT, UNCOMPRESSED_TRANSFER_SYNTAXES
from asyncstore.upper_layer.items import (
    CONTEXT_RESULT,
    PROPOSED_CONTEXT,
    TRANSFER_SYNTAX,
    PresentationContext,
    PresentationContextResult,
    check_context_id,
    decode_items,
    decode_uid,
    encode_item,
    encode_uid,
)
from asyncstore.upper_layer.user_information import UNSTATED_MAXIMUM_LENGTH, USER_INFORMATION, UserInformation

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from asyncstore.errors import Tolerate

HEADER_BYTES: Final = 6
PDV_HEADER_BYTES: Final = 6

ASSOCIATE_RQ: Final = 0x01
ASSOCIATE_AC: Final = 0x02
ASSOCIATE_RJ: Final = 0x03
DATA_TF: Final = 0x04
RELEASE_RQ: Final = 0x05
RELEASE_RP: Final = 0x06
ABORT: Final = 0x07

PDU_NAMES: Final[dict[int, str]] = {
    ASSOCIATE_RQ: "A-ASSOCIATE-RQ",
    ASSOCIATE_AC: "A-ASSOCIATE-AC",
    ASSOCIATE_RJ: "A-ASSOCIATE-RJ",
    DATA_TF: "P-DATA-TF",
    RELEASE_RQ: "A-RELEASE-RQ",
    RELEASE_RP: "A-RELEASE-RP",
    ABORT: "A-ABORT",
}

# The field in errors about an unknown or misplaced PDU type.
PDU_TYPE_FIELD: Final = "PDU type"

# 128 contexts of 20 transfer syntaxes each come to 200 KB.
MAXIMUM_ASSOCIATE_BYTES: Final = 1 << 20
# The other PDUs have four bytes. More of them, which some peers send, mean nothing.
MAXIMUM_FIXED_BYTES: Final = 256
# A peer that was told "no limit" may send a whole data set as one PDU. A PDU is held in memory, so there is a limit.
UNLIMITED_DATA_BYTES: Final = 1 << 27
# In memory a fragment takes far more than the six bytes that the smallest takes on the wire. Senders put one or two in
# a PDU, and some as many as fit if each has 16 KiB: a PDU may have these, and one more for each KiB.
MAXIMUM_FRAGMENTS: Final = 1 << 10
_BYTES_OF_ONE_MORE: Final = 1 << 10

MAXIMUM_CONTEXTS: Final = 128  # their IDs are the odd numbers from 1 to 255
_APPLICATION_CONTEXT = 0x10
_HEADER = struct.Struct(">BxL")
_PDV_HEADER = struct.Struct(">LBB")
_ASSOCIATE = struct.Struct(">Hxx16s16s32x")
# Message control header (PS3.8 E.2), its two low bits: (is_command, is_last).
CONTROL_FLAGS: Final = ((False, False), (True, False), (False, True), (True, True))

# The first bytes of other protocols, which a wrong port number leads to.
_STRANGERS: tuple[tuple[bytes, str], ...] = (
    (b"HTTP/", "an HTTP server"),
    (b"\x16\x03", "a TLS handshake"),
    (b"\x15\x03", "a TLS server that refuses plain bytes"),
    (b"SSH-", "an SSH server"),
    (b"GET ", "an HTTP client"),
    (b"POST ", "an HTTP client"),
    (b"HEAD ", "an HTTP client"),
    (b"PUT ", "an HTTP client"),
    (b"OPTION", "an HTTP client"),
    (b"220", "an SMTP or FTP server"),
)


def stranger_of(data: bytes) -> str | None:
    """What bytes look like that begin as another protocol does."""
    return next((name for start, name in _STRANGERS if data.startswith(start)), None)


def _pdu_bytes(pdu_type: int, body: bytes) -> bytes:
    return _HEADER.pack(pdu_type, len(body)) + body


def encode_ae_title(title: str) -> bytes:
    """An AE title padded with spaces to 16 bytes (PS3.8 9.3.2). Raises ValueError if it is longer."""
    # Latin-1, not ASCII: an acceptor returns the titles of the request, whatever they are.
    raw = title.encode("latin-1", "strict")
    if len(raw) > 16:
        raise ValueError(f"AE title {title!r} is longer than 16 characters")
    return raw.ljust(16)


def decode_ae_title(raw: bytes) -> str:
    """An AE title without its padding; leading and trailing spaces do not count (PS3.5 6.2)."""
    return raw.strip(b" \0").decode("latin-1")


class Fieldless:
    """A PDU or event without fields: all of a class are equal. Building a dataclass of it takes half a millisecond."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other)

    def __hash__(self) -> int:
        return hash(type(self))

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


@record(frozen=True, slots=True)
class AssociateRQ:
    """A-ASSOCIATE-RQ: the two AE titles, and the presentation contexts that the requestor proposes (PS3.8 9.3.2)."""

    called_ae_title: str
    calling_ae_title: str
    presentation_contexts: tuple[PresentationContext, ...]
    user_information: UserInformation
    application_context: str = APPLICATION_CONTEXT
    protocol_version: int = 1

    def encode(self) -> bytes:
        _check_unique(context.context_id for context in self.presentation_contexts)
        return _encode_associate(ASSOCIATE_RQ, self, self.presentation_contexts)

    @classmethod
    def decode(cls, body: memoryview, tolerate: Tolerate = say_nothing) -> AssociateRQ:
        version, titles, application_context, contexts, information = _decode_associate(ASSOCIATE_RQ, body, tolerate)
        proposed = tuple(PresentationContext.decode(content, pdu="A-ASSOCIATE-RQ") for content in contexts)
        return cls(titles[0], titles[1], proposed, information, application_context, version)


@record(frozen=True, slots=True)
class AssociateAC:
    """A-ASSOCIATE-AC: the acceptor's result for each proposed context (PS3.8 9.3.3).

    The AE titles are those of the request; the standard forbids testing them.
    """

    called_ae_title: str
    calling_ae_title: str
    results: tuple[PresentationContextResult, ...]
    user_information: UserInformation
    application_context: str = APPLICATION_CONTEXT
    protocol_version: int = 1

    def encode(self) -> bytes:
        _check_unique(result.context_id for result in self.results)
        return _encode_associate(ASSOCIATE_AC, self, self.results)

    @classmethod
    def decode(cls, body: memoryview, tolerate: Tolerate = say_nothing) -> AssociateAC:
        version, titles, application_context, contexts, information = _decode_associate(ASSOCIATE_AC, body, tolerate)
        results = tuple(
            _usual_result(content) or PresentationContextResult.decode(content, pdu="A-ASSOCIATE-AC", tolerate=tolerate)
            for content in contexts
        )
        return cls(titles[0], titles[1], results, information, application_context, version)


# What nearly all of the up to 128 results in an answer consist of: to read them all in full took twice as long.
_USUAL_ITEMS: Final = {
    encode_item(TRANSFER_SYNTAX, encode_uid(uid, field="transfer syntax")): uid
    for uid in UNCOMPRESSED_TRANSFER_SYNTAXES
}


def _usual_result(content: memoryview) -> PresentationContextResult | None:
    """The result of a context that is accepted for an uncompressed transfer syntax; None if it is anything else."""
    uid = _USUAL_ITEMS.get(bytes(content[4:]))
    if uid is None or content[2] or not content[0] & 1:
        return None
    return PresentationContextResult(content[0], 0, uid)


def _check_unique(context_ids: Iterable[int]) -> None:
    ids = list(context_ids)
    if len(set(ids)) != len(ids):
        raise ValueError("a presentation context ID is used twice")


def _encode_associate(
    pdu_type: int,
    pdu: AssociateRQ | AssociateAC,
    contexts: Sequence[PresentationContext | PresentationContextResult],
) -> bytes:
    titles = encode_ae_title(pdu.called_ae_title), encode_ae_title(pdu.calling_ae_title)
    parts = [
        _ASSOCIATE.pack(pdu.protocol_version, *titles),
        encode_item(_APPLICATION_CONTEXT, encode_uid(pdu.application_context, field="application context")),
    ]
    parts += [context.encode() for context in contexts]
    parts.append(pdu.user_information.encode())
    return _pdu_bytes(pdu_type, b"".join(parts))


_Associate: TypeAlias = tuple[int, tuple[str, str], str, tuple[memoryview, ...], UserInformation]


def _decode_associate(pdu_type: int, body: memoryview, tolerate: Tolerate) -> _Associate:
    """The fields of an association PDU.

    A missing application context name, or one that cannot be read, stands for the only one that there is (PS3.7 A.2.1).
    Without user information the peer has not stated its maximum length; of two the first counts. A context that is
    repeated counts once, but two different ones with one ID are refused: data would belong to either.
    """
    pdu = PDU_NAMES[pdu_type]
    if len(body) < _ASSOCIATE.size:
        raise RemoteProtocolError(f"only {count_text(len(body), 'byte')}", pdu=pdu, field="PDU length")
    version, called, calling = _ASSOCIATE.unpack_from(body)
    context_type = PROPOSED_CONTEXT if pdu_type == ASSOCIATE_RQ else CONTEXT_RESULT
    application_context = ""
    information: UserInformation | None = None
    contexts: dict[int, memoryview] = {}
    for item_type, content in decode_items(body[_ASSOCIATE.size :], pdu=pdu, field="Variable items", tolerate=tolerate):
        if item_type == context_type:
            context_id = content[0] if content else 0
            if contexts.setdefault(context_id, content) is not content:
                repeated = RemoteProtocolError(f"{context_id} is used twice", pdu=pdu, field="Presentation context ID")
                if contexts[context_id] != content:
                    raise repeated
                tolerate(repeated)
        elif item_type == _APPLICATION_CONTEXT:
            try:
                application_context = decode_uid(content, pdu=pdu, field="Application context name")
            except RemoteProtocolError as error:
                tolerate(error)
        elif item_type == USER_INFORMATION:
            if information is None:
                information = UserInformation.decode(content, pdu=pdu, tolerate=tolerate)
            else:
                tolerate(RemoteProtocolError("there are two", pdu=pdu, field="User information"))
    if not application_context:
        tolerate(RemoteProtocolError("there is none", pdu=pdu, field="Application context name"))
    if information is None:
        tolerate(RemoteProtocolError("there is none", pdu=pdu, field="User information"))
        information = UserInformation(UNSTATED_MAXIMUM_LENGTH)
    titles = decode_ae_title(called), decode_ae_title(calling)
    return version, titles, application_context or APPLICATION_CONTEXT, tuple(contexts.values()), information


def _fixed_fields(pdu_type: int, body: memoryview, tolerate: Tolerate) -> bytes:
    """The four bytes of a short PDU; missing ones are zeros, and more of them are not tested."""
    if len(body) != 4:
        text = f"{count_text(len(body), 'byte')} where there should be 4"
        tolerate(RemoteProtocolError(text, pdu=PDU_NAMES[pdu_type], field="PDU length"))
    return bytes(body[:4]).ljust(4, b"\0")


@record(frozen=True, slots=True)
class AssociateRJ:
    """A-ASSOCIATE-RJ: the numbers of PS3.8 Table 9-21, as sent; `AssociationRejected` has their words.

    One that ends before its reason is refused: it decides whether trying again makes sense.
    """

    result: int
    source: int
    reason: int

    def encode(self) -> bytes:
        return _pdu_bytes(ASSOCIATE_RJ, bytes((0, self.result, self.source, self.reason)))

    @classmethod
    def decode(cls, body: memoryview, tolerate: Tolerate = say_nothing) -> AssociateRJ:
        if len(body) < 4:
            text = f"{count_text(len(body), 'byte')} where there should be 4"
            raise RemoteProtocolError(text, pdu="A-ASSOCIATE-RJ", field="PDU length")
        _, result, source, reason = _fixed_fields(ASSOCIATE_RJ, body, tolerate)
        return cls(result, source, reason)


class ReleaseRQ(Fieldless):
    """A-RELEASE-RQ: the sender has nothing more to send (PS3.8 9.3.6)."""

    __slots__ = ()

    def encode(self) -> bytes:
        return _pdu_bytes(RELEASE_RQ, bytes(4))

    @classmethod
    def decode(cls, body: memoryview, tolerate: Tolerate = say_nothing) -> ReleaseRQ:
        _fixed_fields(RELEASE_RQ, body, tolerate)
        return cls()


class ReleaseRP(Fieldless):
    """A-RELEASE-RP: the answer to A-RELEASE-RQ (PS3.8 9.3.7)."""

    __slots__ = ()

    def encode(self) -> bytes:
        return _pdu_bytes(RELEASE_RP, bytes(4))

    @classmethod
    def decode(cls, body: memoryview, tolerate: Tolerate = say_nothing) -> ReleaseRP:
        _fixed_fields(RELEASE_RP, body, tolerate)
        return cls()


@record(frozen=True, slots=True)
class Abort:
    """A-ABORT: `source` 0 is the user, 2 the provider with a `reason` of PS3.8 Table 9-26.

    One that ends before its reason is an abort all the same, for no reason (0).
    """

    source: int
    reason: int

    def encode(self) -> bytes:
        return _pdu_bytes(ABORT, bytes((0, 0, self.source, self.reason)))

    @classmethod
    def decode(cls, body: memoryview, tolerate: Tolerate = say_nothing) -> Abort:
        _, _, source, reason = _fixed_fields(ABORT, body, tolerate)
        return cls(source, reason)


class Fragment(NamedTuple):
    """One presentation data value: a piece of a command set or of a data set (PS3.8 9.3.5.1, E.2)."""

    context_id: int
    is_command: bool
    is_last: bool
    data: bytes


@record(frozen=True, slots=True)
class DataTF:
    """P-DATA-TF: one or more fragments (PS3.8 9.3.5)."""

    fragments: tuple[Fragment, ...]

    def encode(self) -> bytes:
        if not self.fragments:
            raise ValueError("a P-DATA-TF PDU has at least one fragment")
        parts = []
        for context_id, is_command, is_last, data in self.fragments:
            parts += [_PDV_HEADER.pack(len(data) + 2, context_id, is_command | is_last << 1), data]
        return _pdu_bytes(DATA_TF, b"".join(parts))

    @classmethod
    def decode(cls, body: memoryview, tolerate: Tolerate = say_nothing) -> DataTF:
        return cls(decode_fragments(body))


def decode_fragments(body: memoryview) -> tuple[Fragment, ...]:
    """The fragments in the body of a P-DATA-TF PDU, each with a copy of its bytes."""
    fragments = []
    offset, end = 0, len(body)
    most = MAXIMUM_FRAGMENTS + end // _BYTES_OF_ONE_MORE
    while True:
        if end - offset < PDV_HEADER_BYTES:
            text = f"{count_text(end - offset, 'byte')} where a PDV has 6 or more"
            raise RemoteProtocolError(text, pdu="P-DATA-TF", field="PDV")
        length, context_id, control = _PDV_HEADER.unpack_from(body, offset)
        next_offset = offset + 4 + length
        if length < 2 or next_offset > end:
            text = f"{count_text(length, 'byte')}, of which {end - offset - 4:,} are there"
            raise RemoteProtocolError(text, pdu="P-DATA-TF", field="PDV length")
        check_context_id(context_id, pdu="P-DATA-TF")
        is_command, is_last = CONTROL_FLAGS[control & 3]
        fragments.append(Fragment(context_id, is_command, is_last, bytes(body[offset + 6 : next_offset])))
        if next_offset == end:
            return tuple(fragments)
        if len(fragments) == most:
            raise RemoteProtocolError(f"more than {most} PDVs", pdu="P-DATA-TF", field="PDV")
        offset = next_offset


PDU: TypeAlias = AssociateRQ | AssociateAC | AssociateRJ | DataTF | ReleaseRQ | ReleaseRP | Abort

_CLASSES: dict[int, type[PDU]] = {
    ASSOCIATE_RQ: AssociateRQ,
    ASSOCIATE_AC: AssociateAC,
    ASSOCIATE_RJ: AssociateRJ,
    DATA_TF: DataTF,
    RELEASE_RQ: ReleaseRQ,
    RELEASE_RP: ReleaseRP,
    ABORT: Abort,
}


def check_header(header: bytes | bytearray | memoryview, maximum_length: int) -> tuple[int, int]:
    """The type and body length that a 6-byte PDU header announces, or RemoteProtocolError.

    `maximum_length` is what we announced for P-DATA-TF, in bytes; 0 means that we announced no limit, and then
    `UNLIMITED_DATA_BYTES` holds.
    """
    pdu_type, length = _HEADER.unpack_from(header)
    if pdu_type == DATA_TF:
        limit = maximum_length or UNLIMITED_DATA_BYTES
        if length > limit:
            raise RemoteProtocolError(f"{length} bytes, {limit} are allowed", pdu="P-DATA-TF", field="PDU length")
    elif pdu_type in (ASSOCIATE_RQ, ASSOCIATE_AC):
        if length > MAXIMUM_ASSOCIATE_BYTES:
            text = f"{length} bytes, {MAXIMUM_ASSOCIATE_BYTES} are allowed"
            raise RemoteProtocolError(text, pdu=PDU_NAMES[pdu_type], field="PDU length")
    else:
        _check_short_header(bytes(header[:HEADER_BYTES]), pdu_type, length)
    return pdu_type, length


def _check_short_header(header: bytes, pdu_type: int, length: int) -> None:
    if pdu_type not in PDU_NAMES:
        stranger = stranger_of(header)
        text = f"0x{pdu_type:02X} is not a PDU type{f'; this looks like {stranger}' if stranger else ''}"
        raise RemoteProtocolError(text, pdu="unknown PDU", field=PDU_TYPE_FIELD)
    if length > MAXIMUM_FIXED_BYTES:
        text = f"{length} bytes where there should be 4"
        raise RemoteProtocolError(text, pdu=PDU_NAMES[pdu_type], field="PDU length")


def decode(pdu_type: int, body: memoryview | bytes, tolerate: Tolerate = say_nothing) -> PDU:
    """The PDU of this type with this body. Raises RemoteProtocolError if it is not a valid one.

    `tolerate` is told of each violation that does no harm.
    """
    pdu_class = _CLASSES.get(pdu_type)
    if pdu_class is None:
        raise RemoteProtocolError(f"0x{pdu_type:02X} is not a PDU type", pdu="unknown PDU", field=PDU_TYPE_FIELD)
    return pdu_class.decode(memoryview(body), tolerate)
