"""What each AE says about itself when an association is negotiated: user information (PS3.8 D, PS3.7 D.3.3).

Every class encodes itself with its 4-byte header, and decodes the bytes after that header. Decoding raises
`RemoteProtocolError`; encoding a value that the standard has no room for raises `ValueError`.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, Final

from asyncstore.errors import RemoteProtocolError, count_text, say_nothing
from asyncstore.record import field, record
from asyncstore.upper_layer.items import decode_items, decode_uid, encode_item, encode_uid

if TYPE_CHECKING:
    from asyncstore.errors import Tolerate

_TWO_BYTES = struct.Struct(">H")
_WINDOW = struct.Struct(">HH")

USER_INFORMATION: Final = 0x50
MAXIMUM_VERSION_NAME_CHARACTERS: Final = 16
# The peer's maximum if it does not send one, against PS3.8 D.1: every implementation accepts this much.
UNSTATED_MAXIMUM_LENGTH: Final = 16384


def _sized(content: bytes) -> bytes:
    return _TWO_BYTES.pack(len(content)) + content


def _take_sized(data: memoryview, *, pdu: str, field: str) -> tuple[memoryview, memoryview]:
    """A 2-byte length, that many bytes, which are returned, and the rest."""
    if len(data) < 2:
        raise RemoteProtocolError("cut off before its length", pdu=pdu, field=field)
    end = 2 + _TWO_BYTES.unpack_from(data)[0]
    if end > len(data):
        raise RemoteProtocolError(f"cut off after {count_text(len(data), 'byte')} of {end:,}", pdu=pdu, field=field)
    return data[2:end], data[end:]


def _check_length(data: memoryview, length: int, *, pdu: str, field: str) -> None:
    if len(data) != length:
        raise RemoteProtocolError(f"{count_text(len(data), 'byte')}, not {length}", pdu=pdu, field=field)


@record(frozen=True, slots=True)
class OperationsWindow:
    """How many operations may be outstanding each way; 0 means without limit (PS3.7 D.3.3.3)."""

    invoked: int
    performed: int

    def encode(self) -> bytes:
        if not (0 <= self.invoked <= 0xFFFF and 0 <= self.performed <= 0xFFFF):
            raise ValueError(f"an operations window of {self.invoked}/{self.performed} does not fit into 16 bits")
        return encode_item(0x53, _WINDOW.pack(self.invoked, self.performed))

    @classmethod
    def decode(cls, data: memoryview, *, pdu: str) -> OperationsWindow:
        _check_length(data, 4, pdu=pdu, field="Asynchronous operations window")
        return cls(*_WINDOW.unpack(data))


@record(frozen=True, slots=True)
class RoleSelection:
    """The roles that the requestor takes for a SOP class (PS3.7 D.3.3.4)."""

    sop_class_uid: str
    scu: bool
    scp: bool

    def encode(self) -> bytes:
        uid = encode_uid(self.sop_class_uid, field="SOP class of a role selection")
        return encode_item(0x54, _sized(uid) + bytes((self.scu, self.scp)))

    @classmethod
    def decode(cls, data: memoryview, *, pdu: str) -> RoleSelection:
        uid, roles = _take_sized(data, pdu=pdu, field="SCP/SCU role selection")
        # Bytes after the roles are not tested, as after a common extended negotiation.
        _check_length(roles[:2], 2, pdu=pdu, field="SCP/SCU role selection")
        return cls(decode_uid(uid, pdu=pdu, field="SCP/SCU role selection"), roles[0] != 0, roles[1] != 0)


@record(frozen=True, slots=True)
class ExtendedNegotiation:
    """A SOP class and the bytes that its service class negotiates (PS3.7 D.3.3.5)."""

    sop_class_uid: str
    information: bytes

    def encode(self) -> bytes:
        uid = encode_uid(self.sop_class_uid, field="SOP class of an extended negotiation")
        return encode_item(0x56, _sized(uid) + self.information)

    @classmethod
    def decode(cls, data: memoryview, *, pdu: str) -> ExtendedNegotiation:
        uid, information = _take_sized(data, pdu=pdu, field="Extended negotiation")
        return cls(decode_uid(uid, pdu=pdu, field="Extended negotiation"), bytes(information))


@record(frozen=True, slots=True)
class CommonExtendedNegotiation:
    """A SOP class, its service class and the general classes it can be taken for (PS3.7 D.3.3.6)."""

    sop_class_uid: str
    service_class_uid: str
    related_sop_class_uids: tuple[str, ...] = ()

    def encode(self) -> bytes:
        name = "common extended negotiation"
        uids = [_sized(encode_uid(uid, field=name)) for uid in (self.sop_class_uid, self.service_class_uid)]
        related = b"".join(_sized(encode_uid(uid, field=name)) for uid in self.related_sop_class_uids)
        if len(related) > 0xFFFF:
            raise ValueError(f"{name}: {len(self.related_sop_class_uids)} related SOP classes do not fit")
        return encode_item(0x57, b"".join(uids) + _sized(related))

    @classmethod
    def decode(cls, data: memoryview, *, pdu: str) -> CommonExtendedNegotiation:
        name = "Common extended negotiation"
        sop_class, data = _take_sized(data, pdu=pdu, field=name)
        service_class, data = _take_sized(data, pdu=pdu, field=name)
        # The bytes after the list are reserved for later versions of the sub-item, and not tested (PS3.7 D.3.3.6.1).
        related, _ = _take_sized(data, pdu=pdu, field=name)
        uids = []
        while related:
            uid, related = _take_sized(related, pdu=pdu, field=name)
            uids.append(decode_uid(uid, pdu=pdu, field=name))
        sop_class_uid = decode_uid(sop_class, pdu=pdu, field=name)
        return cls(sop_class_uid, decode_uid(service_class, pdu=pdu, field=name), tuple(uids))


@record(frozen=True, slots=True, repr=False)
class UserIdentity:
    """The identity that the requestor claims (PS3.7 D.3.3.7.1): `UserIdentity(2, b"user", b"passcode")`.

    `kind` is 1 for a user name, 2 for a user name and a passcode, 3 for a Kerberos ticket, 4 for a SAML assertion, 5
    for a JSON Web Token. `primary` is the user name, ticket, assertion or token, `secondary` the passcode. With
    `response_requested` the peer should answer the identity. The repr shows the kind and the user name, but no secret.
    """

    kind: int
    primary: bytes
    secondary: bytes = b""
    response_requested: bool = False

    @property
    def user_name(self) -> str:
        """The user name of kinds 1 and 2; empty for the others, whose bytes are secret."""
        return self.primary.decode("utf-8", "replace") if self.kind in (1, 2) else ""

    def __repr__(self) -> str:
        return f"UserIdentity(kind={self.kind}, user_name={self.user_name!r}, ...)"

    def encode(self) -> bytes:
        """The item as it is sent. Raises ValueError if a field is longer than 65,535 bytes."""
        if len(self.primary) > 0xFFFF or len(self.secondary) > 0xFFFF:
            raise ValueError("a field of the user identity is longer than 65535 bytes")
        head = bytes((self.kind, self.response_requested))
        return encode_item(0x58, head + _sized(self.primary) + _sized(self.secondary))

    @classmethod
    def decode(cls, data: memoryview, *, pdu: str) -> UserIdentity:
        """Read an item that came in the PDU of this name. Raises RemoteProtocolError if it is cut off."""
        if len(data) < 2:
            raise RemoteProtocolError(f"only {count_text(len(data), 'byte')}", pdu=pdu, field="User identity")
        primary, rest = _take_sized(data[2:], pdu=pdu, field="User identity")
        secondary, _ = _take_sized(rest, pdu=pdu, field="User identity")
        return cls(data[0], bytes(primary), bytes(secondary), data[1] != 0)


@record(frozen=True, slots=True)
class UserInformation:
    """The information that each AE sends about itself (PS3.8 9.3.2.3).

    `maximum_length` is the longest P-DATA-TF PDU that its sender accepts, in bytes after the 6-byte PDU header; 0 means
    no limit. A requestor sends `user_identity`, an acceptor `user_identity_response`. If a sub-item that should occur
    once occurs again, the last one counts.

    Unknown sub-items are skipped, and so are those that cannot be read: then there is no operations window, no role
    selection and so on. Two must be readable: the maximum length, because a guess too large would end the association
    later, and the user identity of a requestor, because it says who asks.
    """

    maximum_length: int = 16382
    implementation_class_uid: str = ""
    implementation_version_name: str = ""
    operations_window: OperationsWindow | None = None
    role_selections: tuple[RoleSelection, ...] = ()
    extended_negotiations: tuple[ExtendedNegotiation, ...] = ()
    common_extended_negotiations: tuple[CommonExtendedNegotiation, ...] = ()
    user_identity: UserIdentity | None = None
    user_identity_response: bytes | None = field(default=None, repr=False)

    def encode(self) -> bytes:
        if not 0 <= self.maximum_length <= 0xFFFFFFFF:
            raise ValueError(f"a maximum length of {self.maximum_length} does not fit into 32 bits")
        parts = [encode_item(0x51, self.maximum_length.to_bytes(4, "big"))]
        if self.implementation_class_uid:
            parts.append(encode_item(0x52, encode_uid(self.implementation_class_uid, field="implementation class")))
        if self.operations_window is not None:
            parts.append(self.operations_window.encode())
        parts += [selection.encode() for selection in self.role_selections]
        if self.implementation_version_name:
            parts.append(encode_item(0x55, _encode_version_name(self.implementation_version_name)))
        parts += [negotiation.encode() for negotiation in self.extended_negotiations]
        parts += [negotiation.encode() for negotiation in self.common_extended_negotiations]
        if self.user_identity is not None:
            parts.append(self.user_identity.encode())
        if self.user_identity_response is not None:
            parts.append(encode_item(0x59, _sized(self.user_identity_response)))
        return encode_item(USER_INFORMATION, b"".join(parts))

    @classmethod
    def decode(cls, data: memoryview, *, pdu: str, tolerate: Tolerate = say_nothing) -> UserInformation:
        found: dict[str, Any] = {"maximum_length": UNSTATED_MAXIMUM_LENGTH}
        for item_type, content in decode_items(data, pdu=pdu, field="User information", tolerate=tolerate):
            name, decoder = _REPEATED.get(item_type) or _SINGLE.get(item_type) or ("", None)
            if decoder is None:
                continue
            try:
                value = decoder(content, pdu=pdu)
            except RemoteProtocolError as error:
                if name == "maximum_length" or (name == "user_identity" and pdu == "A-ASSOCIATE-RQ"):
                    raise
                tolerate(error)
                continue
            if item_type in _REPEATED:
                found.setdefault(name, []).append(value)
            else:
                found[name] = value
        fields: dict[str, Any] = {n: tuple(value) if isinstance(value, list) else value for n, value in found.items()}
        return cls(**fields)


def _encode_version_name(name: str) -> bytes:
    if len(name) <= MAXIMUM_VERSION_NAME_CHARACTERS and name.isascii():
        return name.encode("ascii")
    raise ValueError(f"implementation version name {name!r} is not of 1 to 16 ASCII characters")


def _decode_maximum_length(data: memoryview, *, pdu: str) -> int:
    _check_length(data, 4, pdu=pdu, field="Maximum length")
    return int.from_bytes(data, "big")


def _decode_implementation_class(data: memoryview, *, pdu: str) -> str:
    # Shown but never acted upon, so an empty one is accepted.
    return decode_uid(data, pdu=pdu, field="Implementation class UID") if len(data) else ""


def _decode_version_name(data: memoryview, *, pdu: str) -> str:
    # Shown but never acted upon, so a name that is too long or not ASCII is made to fit.
    return bytes(data[:MAXIMUM_VERSION_NAME_CHARACTERS]).decode("ascii", "replace").replace("\ufffd", "?").strip("\0 ")


def _decode_identity_response(data: memoryview, *, pdu: str) -> bytes:
    response, _ = _take_sized(data, pdu=pdu, field="User identity response")
    return bytes(response)


# Sub-item type -> field of UserInformation, and the decoder of the sub-item's content.
_SINGLE: dict[int, tuple[str, Any]] = {
    0x51: ("maximum_length", _decode_maximum_length),
    0x52: ("implementation_class_uid", _decode_implementation_class),
    0x53: ("operations_window", OperationsWindow.decode),
    0x55: ("implementation_version_name", _decode_version_name),
    0x58: ("user_identity", UserIdentity.decode),
    0x59: ("user_identity_response", _decode_identity_response),
}
_REPEATED: dict[int, tuple[str, Any]] = {
    0x54: ("role_selections", RoleSelection.decode),
    0x56: ("extended_negotiations", ExtendedNegotiation.decode),
    0x57: ("common_extended_negotiations", CommonExtendedNegotiation.decode),
}
