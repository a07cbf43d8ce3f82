"""Encodes and reads the data sets of storage commitment: a Transaction UID, and sequences of references (PS3.4 J.3).

By hand: a transaction has hundreds of items, and pydicom takes twenty times as long, in the event loop of the sending.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from asyncstore.instances import elements
from asyncstore.instances.deflated import MESSAGE_BYTES, deflated, inflated
from asyncstore.instances.elements import CutShort, encoding_of, read_header, skip_value
from asyncstore.uids import DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from asyncstore.instances.elements import Encoding, Header

_TRANSACTION_UID: Final = 0x00081195
_FAILED: Final = 0x00081198
_REFERENCED: Final = 0x00081199
_CLASS_UID: Final = 0x00081150
_INSTANCE_UID: Final = 0x00081155
_REASON: Final = 0x00081197
_PROCESSING_FAILURE: Final = 0x0110  # for an item that gives no reason


class Reference(NamedTuple):
    """An instance, as a request and a report name it: by `sop_class_uid` and `sop_instance_uid`."""

    sop_class_uid: str
    sop_instance_uid: str


class CommitmentReport(NamedTuple):
    """One N-EVENT-REPORT: the `committed` instances, and the Failure Reason of each that is not (`failed`).

    `transaction_uid` is that of the request, which has the same form, without failures.
    """

    transaction_uid: str
    committed: tuple[Reference, ...]
    failed: dict[Reference, int]


def encode_report(
    transaction_uid: str,
    committed: Iterable[Reference],
    failed: Mapping[Reference, int],
    transfer_syntax_uid: str,
) -> bytes:
    """The data set of a report or, without failures, of a request; an empty sequence is left out."""
    writer = _Writer(encoding_of(transfer_syntax_uid))
    encoded = writer.uid(_TRANSACTION_UID, transaction_uid)
    if failed:
        with_reasons = [writer.reference(*each) + writer.number(_REASON, reason) for each, reason in failed.items()]
        encoded += writer.sequence(_FAILED, with_reasons)
    if items := [writer.reference(*each) for each in committed]:
        encoded += writer.sequence(_REFERENCED, items)
    return deflated(encoded) if transfer_syntax_uid == DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN else encoded


def read_report(data: bytes, transfer_syntax_uid: str) -> CommitmentReport:
    """The contents of a report, or of a request; ValueError if it cannot be read or has no Transaction UID."""
    encoding = encoding_of(transfer_syntax_uid)
    transaction_uid = ""
    items: dict[int, list[dict[int, bytes]]] = {_FAILED: [], _REFERENCED: []}
    try:
        if transfer_syntax_uid == DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN:
            data = inflated(data, MESSAGE_BYTES)
        at = 0
        while at < len(data):
            header = read_header(data, at, encoding)
            at = skip_value(data, header, encoding, len(data))
            if header.tag == _TRANSACTION_UID:
                transaction_uid = _text(data[header.value_at : at])
            elif header.tag in items:
                items[header.tag] += _items(data, header, at, encoding)
    except (CutShort, ValueError) as error:
        raise ValueError(f"the report cannot be read: {error}") from error
    if not transaction_uid:
        raise ValueError("the report has no Transaction UID")
    failed = {_reference(item): _reason(item, encoding) or _PROCESSING_FAILURE for item in items[_FAILED]}
    return CommitmentReport(transaction_uid, tuple(map(_reference, items[_REFERENCED])), failed)


class _Writer:
    """Writes elements in one encoding."""

    def __init__(self, encoding: Encoding) -> None:
        order = ">" if encoding.big_endian else "<"
        self._is_explicit = encoding.explicit
        self._short = struct.Struct(f"{order}HH2sH")
        self._long = struct.Struct(f"{order}HH2sHI")
        self._bare = struct.Struct(f"{order}HHI")
        self._number = struct.Struct(f"{order}H")

    def uid(self, tag: int, uid: str) -> bytes:
        value = uid.encode("ascii", "replace")
        return self._element(tag, b"UI", value + b"\0" * (len(value) % 2))

    def number(self, tag: int, number: int) -> bytes:
        return self._element(tag, b"US", self._number.pack(number))

    def reference(self, sop_class_uid: str, sop_instance_uid: str) -> bytes:
        return self.uid(_CLASS_UID, sop_class_uid) + self.uid(_INSTANCE_UID, sop_instance_uid)

    def sequence(self, tag: int, items: Iterable[bytes]) -> bytes:
        value = b"".join(self._bare.pack(0xFFFE, 0xE000, len(item)) + item for item in items)
        place = (tag >> 16, tag & 0xFFFF)
        if self._is_explicit:
            return self._long.pack(*place, b"SQ", 0, len(value)) + value
        return self._bare.pack(*place, len(value)) + value

    def _element(self, tag: int, vr: bytes, value: bytes) -> bytes:
        place = (tag >> 16, tag & 0xFFFF)
        if self._is_explicit:
            return self._short.pack(*place, vr, len(value)) + value
        return self._bare.pack(*place, len(value)) + value


def _items(data: bytes, sequence: Header, end: int, encoding: Encoding) -> Iterator[dict[int, bytes]]:
    """The elements of each item of a sequence, which ends at `end`."""
    at = sequence.value_at
    while at < end:
        item = read_header(data, at, encoding)
        if item.tag != elements.ITEM:
            return
        at = item.value_at
        is_open = item.length == elements.UNDEFINED_LENGTH
        item_end = end if is_open else at + item.length
        values: dict[int, bytes] = {}
        while at < item_end:
            header = read_header(data, at, encoding)
            if is_open and header.tag == elements.ITEM_DELIMITATION:
                at = header.value_at
                break
            at = skip_value(data, header, encoding, item_end)
            values[header.tag] = data[header.value_at : at]
        yield values


def _reason(item: Mapping[int, bytes], encoding: Encoding) -> int:
    return int.from_bytes(item.get(_REASON, b""), "big" if encoding.big_endian else "little")


def _reference(item: Mapping[int, bytes]) -> Reference:
    return Reference(_text(item.get(_CLASS_UID, b"")), _text(item.get(_INSTANCE_UID, b"")))


def _text(value: bytes) -> str:
    return value.strip(b"\0 ").decode("ascii", "replace")
