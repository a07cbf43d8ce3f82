"""Identifies the instance in a file, however unusual the file is.

The file may have no preamble, no File Meta Information, no group length or a wrong one, UIDs only in the data set, a
deflated or big endian data set, and so on. This steps over elements and does not use pydicom: a scan runs in several
threads over millions of files of any content, so it must be silent and bounded in memory and time. Tests compare it
with pydicom.
"""

from __future__ import annotations

import contextlib
import struct
import zlib
from typing import TYPE_CHECKING, Final, NamedTuple

from asyncstore.instances import elements
from asyncstore.instances.elements import CutShort, Encoding, encoding_of
from asyncstore.instances.problem import ProblemKind
from asyncstore.uids import (
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_BIG_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    MEDIA_STORAGE_DIRECTORY,
    can_be_sent,
)

if TYPE_CHECKING:
    from asyncstore.instances.elements import Buffer

PREAMBLE_BYTES: Final = 128
# UIDs are looked for only in this much of a file, or of an inflated data set.
HEAD_LIMIT_BYTES: Final = 1048576
# The part that is inflated at first.
_INFLATED_HEAD_BYTES: Final = 8192

_SOP_CLASS_UID: Final = 0x00080016
_SOP_INSTANCE_UID: Final = 0x00080018
_META_LENGTH: Final = 0x00020000
_MEDIA_SOP_CLASS: Final = 0x00020002
_MEDIA_SOP_INSTANCE: Final = 0x00020003
_TRANSFER_SYNTAX: Final = 0x00020010

_PIXEL_DATA: Final = 0x7FE00010

# The first element of a data set shows which of these it is in, so a claim to be in one of them can be checked.
_NATIVE_SYNTAXES: Final = (IMPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_BIG_ENDIAN)

_ODD_UID_CHARACTERS: Final = 100  # the part of an invalid UID that an error shows

_u32 = struct.Struct("<I").unpack_from
_u16 = struct.Struct("<H").unpack_from


class Identity(NamedTuple):
    """The UIDs of an instance, and the offset of its data set in the bytes that were looked at."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    data_set_at: int
    meta_difference: str | None = None


class Refused(Exception):
    """The bytes contain no instance. With `more`, more bytes of the file may change that."""

    def __init__(self, kind: ProblemKind, detail: str, *, more: bool = False) -> None:
        super().__init__(detail)
        self.kind = kind
        self.detail = detail
        self.more = more


def identify(data: Buffer, end: int, *, complete: bool) -> Identity:
    """The identity of the instance in `data[:end]`, however unusual the file is. Raises Refused.

    `complete` says that this is the whole file, not only its head.
    """
    has_prefix = bytes(data[PREAMBLE_BYTES : PREAMBLE_BYTES + 4]) == b"DICM"
    at = PREAMBLE_BYTES + 4 if has_prefix else 0
    # Without the prefix it may be a file of another kind that begins like a data set.
    unreadable = ProblemKind.DAMAGED if has_prefix else ProblemKind.NOT_DICOM
    if at >= end:
        raise Refused(unreadable, "there is nothing behind the DICM prefix" if has_prefix else "the file is empty")
    if not has_prefix and not _begins_like_dicom(data, at, end):
        raise Refused(ProblemKind.NOT_DICOM, "there is neither a DICM prefix nor what a data set begins with")
    try:
        meta, at = _read_meta(data, at, end)
    except CutShort as cut:
        raise Refused(unreadable, f"the File Meta Information is damaged: {cut}", more=not complete) from None
    if meta.get(_MEDIA_SOP_CLASS) == MEDIA_STORAGE_DIRECTORY:
        raise Refused(ProblemKind.DICOMDIR, "it lists the files of a medium and is not an instance to store")
    if at >= end:
        raise Refused(unreadable, "no data set follows the File Meta Information", more=not complete)
    if end - at < 8:  # whether of the File Meta Information or of the data set, no header is as short
        raise Refused(unreadable, "it ends within the header of an element", more=not complete)
    syntax = named = meta.get(_TRANSFER_SYNTAX)
    if syntax is None or (syntax in _NATIVE_SYNTAXES and _is_another(data, at, end, syntax)):
        syntax = _native_syntax(data, at, end, complete)
    identity = identify_data_set(data, at, end, meta, syntax, complete)
    if named in (None, syntax):
        return identity
    return identity._replace(
        meta_difference=f"the File Meta Information has the Transfer Syntax UID {named}, the data set is in {syntax}"
    )


def _begins_like_dicom(data: Buffer, at: int, end: int) -> bool:
    """Whether bytes without a prefix begin with an element of group 0000, 0002 or 0008, as a standard data set does."""
    if end - at < 8:
        return False
    group, element = struct.unpack_from("<HH", data, at)
    if group in (0x0000, 0x0002, 0x0008):
        return bool(element < 0x3000)
    return bool(group == 0x0800)


def _read_meta(data: Buffer, at: int, end: int) -> tuple[dict[int, str], int]:
    """The UIDs of group 0002, and the offset of what follows groups 0002 and 0000 (which a data set may not hold)."""
    meta: dict[int, str] = {}
    meta_end = -1
    encoding = elements.EXPLICIT_LITTLE
    while at + 8 <= end:
        if at == meta_end and meta.get(_TRANSFER_SYNTAX) == DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN:
            # A deflated stream may begin with what looks like another element of group 0002.
            break
        group = _u16(data, at)[0]
        if group == 0:
            encoding = elements.IMPLICIT_LITTLE
        elif group != 2:
            break
        header = elements.read_header(data, at, encoding)
        at = elements.skip_value(data, header, encoding, end)
        if header.tag in (_MEDIA_SOP_CLASS, _MEDIA_SOP_INSTANCE, _TRANSFER_SYNTAX):
            uid = _uid_text(data, header.value_at, at)
            if uid and (header.tag != _TRANSFER_SYNTAX or can_be_sent(uid)):
                meta[header.tag] = uid
        elif header.tag == _META_LENGTH and header.length == 4:
            meta_end = at + _u32(data, header.value_at)[0]
    return meta, at


def identify_data_set(data: Buffer, at: int, end: int, meta: dict[int, str], syntax: str, complete: bool) -> Identity:
    uids: dict[int, str] = {}
    cut: CutShort | None = None
    try:
        are_all_read = _collect_uids(uids, data, at, end, syntax)
    except CutShort as error:
        are_all_read, cut = False, error
    in_meta = (meta.get(_MEDIA_SOP_CLASS), meta.get(_MEDIA_SOP_INSTANCE))
    if not are_all_read and not complete and None in in_meta:
        raise Refused(ProblemKind.MISSING_UID, "no SOP Instance UID near the beginning of the file", more=True)
    in_data_set = (uids.get(_SOP_CLASS_UID), uids.get(_SOP_INSTANCE_UID))
    sop_class = _sendable(in_data_set[0] or in_meta[0], "SOP Class UID")
    sop_instance = _sendable(in_data_set[1] or in_meta[1], "SOP Instance UID")
    if cut is not None and (complete or end < HEAD_LIMIT_BYTES):
        raise Refused(ProblemKind.DAMAGED, f"the data set is damaged: {cut}", more=not complete)
    return Identity(sop_class, sop_instance, syntax, at, _difference(in_meta, in_data_set))


def uids_of_data_set(data: Buffer, syntax: str, *, complete: bool) -> tuple[str, str] | None:
    """The SOP Class and SOP Instance UID in a data set or its beginning, "" for one that it lacks; None if unknown.

    Raises CutShort or Refused if the bytes are not a data set in this transfer syntax.
    """
    uids: dict[int, str] = {}
    are_all_read = _collect_uids(uids, data, 0, len(data), syntax)
    if not are_all_read and not (complete and uids):
        return None
    return uids.get(_SOP_CLASS_UID, ""), uids.get(_SOP_INSTANCE_UID, "")


def _collect_uids(uids: dict[int, str], data: Buffer, at: int, end: int, syntax: str) -> bool:
    """Add the SOP Class and Instance UID of a data set to `uids`; whether the bytes reach beyond where they belong.

    Raises CutShort when the bytes end before that, in the middle of an element.
    """
    encoding = encoding_of(syntax)
    if syntax != DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN:
        return _collect_from_elements(uids, data, at, end, encoding)
    stream = bytes(data[at : min(end, at + HEAD_LIMIT_BYTES)])
    # Both limits bound the memory, however much the stream inflates to. The first is usually enough.
    for limit in (_INFLATED_HEAD_BYTES, HEAD_LIMIT_BYTES):
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        try:
            inflated = inflater.decompress(stream, limit)
        except zlib.error as error:
            raise Refused(ProblemKind.DAMAGED, f"the data set is not a deflated stream: {error}") from None
        try:
            if _collect_from_elements(uids, inflated, 0, len(inflated), encoding):
                return True
            if not inflater.eof:
                raise CutShort("the deflated stream is cut off")
        except CutShort:
            if len(inflated) < limit:
                raise
    return False


def _collect_from_elements(uids: dict[int, str], data: Buffer, at: int, end: int, encoding: Encoding) -> bool:
    while len(uids) < 2:
        if at >= end:
            return False
        try:
            header = elements.read_header(data, at, encoding)
            if header.tag > _SOP_INSTANCE_UID:
                return True
            behind = elements.skip_value(data, header, encoding, end)
        except CutShort:
            if not encoding.explicit and elements.looks_like_vr(bytes(data[at + 4 : at + 6])):
                # Explicit, whatever its transfer syntax says: a VR was taken for a length.
                return False
            raise
        if header.tag in (_SOP_CLASS_UID, _SOP_INSTANCE_UID):
            uid = _uid_text(data, header.value_at, behind)
            if uid:
                uids[header.tag] = uid
        at = behind
    return True


def _syntax_by_first_element(data: Buffer, at: int) -> str:
    """The uncompressed transfer syntax that a data set's first element looks like."""
    if not elements.looks_like_vr(bytes(data[at + 4 : at + 6])):
        return IMPLICIT_VR_LITTLE_ENDIAN
    # A first group above 0400 is a small one in the other byte order.
    return EXPLICIT_VR_BIG_ENDIAN if _u16(data, at)[0] >= 0x0400 else EXPLICIT_VR_LITTLE_ENDIAN


def _is_another(data: Buffer, at: int, end: int, syntax: str) -> bool:
    """Whether a data set looks like another uncompressed transfer syntax than this, and can be read in that one."""
    looks = _syntax_by_first_element(data, at)
    uids: dict[int, str] = {}
    if looks != syntax:
        with contextlib.suppress(CutShort):
            _collect_from_elements(uids, data, at, end, encoding_of(looks))
    return len(uids) == 2


def _native_syntax(data: Buffer, at: int, end: int, complete: bool) -> str:
    """The transfer syntax of a data set, from its elements alone. Raises Refused unless it is uncompressed."""
    syntax = _syntax_by_first_element(data, at)
    if syntax != EXPLICIT_VR_LITTLE_ENDIAN:
        return syntax
    with contextlib.suppress(CutShort):
        while at < end:
            header = elements.read_header(data, at, elements.EXPLICIT_LITTLE)
            if header.tag == _PIXEL_DATA and header.length == elements.UNDEFINED_LENGTH:
                raise Refused(
                    ProblemKind.MISSING_UID, "the pixel data is compressed and no Transfer Syntax UID says how"
                )
            if header.tag >= _PIXEL_DATA:
                return syntax
            at = elements.skip_value(data, header, elements.EXPLICIT_LITTLE, end)
    if not complete:
        detail = "no Transfer Syntax UID, and the pixel data is too far on to see whether it is compressed"
        raise Refused(ProblemKind.MISSING_UID, detail, more=True)
    return syntax


def _uid_text(data: Buffer, begin: int, end: int) -> str:
    """The value of a UID, whatever its characters; only the beginning if it is too long."""
    return bytes(data[begin:end]).strip(b"\0 ")[:_ODD_UID_CHARACTERS].decode("ascii", "replace")


def _sendable(uid: str | None, name: str) -> str:
    if uid is None:
        raise Refused(ProblemKind.MISSING_UID, f"there is no {name}, in the File Meta Information or in the data set")
    if not can_be_sent(uid):
        raise Refused(ProblemKind.MISSING_UID, f"its {name} cannot be sent: {uid!r} is not 1 to 64 visible characters")
    return uid


def _difference(in_meta: tuple[str | None, ...], in_data_set: tuple[str | None, ...]) -> str | None:
    """A sentence if the File Meta Information names another class or instance than the data set, else None."""
    names = ("SOP Class UID", "SOP Instance UID")
    for name, meta, data_set in zip(names, in_meta, in_data_set, strict=True):
        if meta and data_set and meta != data_set:
            return f"the File Meta Information has the {name} {meta}, the data set has {data_set}"
    return None
