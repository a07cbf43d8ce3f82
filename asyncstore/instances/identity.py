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
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from asyncstore.instances import elements
from asyncstore.instances.elements import CutShort, Encoding, encoding_of
from asyncstore.instances.problem import ProblemKind
from asyncstore.uids import (
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_BIG_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    LONGEST_INSTANCE_UID_CHARACTERS,
    LONGEST_UID_CHARACTERS,
    MEDIA_STORAGE_DIRECTORY,
    can_be_sent,
    can_be_sent_as_instance,
    is_well_formed,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from asyncstore.instances.elements import Buffer

PREAMBLE_BYTES: Final = 128
# UIDs are looked for only in this much of a file, or of an inflated data set.
HEAD_LIMIT_BYTES: Final = 1048576
# The part that is inflated at first.
_INFLATED_HEAD_BYTES: Final = 8192

SOP_CLASS_UID: Final = 0x00080016
SOP_INSTANCE_UID: Final = 0x00080018
_META_LENGTH: Final = 0x00020000
_MEDIA_SOP_CLASS: Final = 0x00020002
_MEDIA_SOP_INSTANCE: Final = 0x00020003
_TRANSFER_SYNTAX: Final = 0x00020010

_PIXEL_DATA: Final = 0x7FE00010

# The first element of a data set shows which of these it is in, so a claim to be in one of them can be checked.
_NATIVE_SYNTAXES: Final = (IMPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_BIG_ENDIAN)

# No UID that is sent is as long.
_READ_UID_CHARACTERS: Final = 129
_SHOWN_UID_CHARACTERS: Final = 100  # the part of an invalid UID that an error shows

_NAMES: Final = {
    _MEDIA_SOP_CLASS: "SOP Class UID",
    _MEDIA_SOP_INSTANCE: "SOP Instance UID",
    _TRANSFER_SYNTAX: "Transfer Syntax UID",
}

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
    if len(data) > end:
        data = data[:end]  # what lies behind is no part of a header that is cut off
    has_prefix = bytes(data[PREAMBLE_BYTES : PREAMBLE_BYTES + 4]) == b"DICM"
    at = PREAMBLE_BYTES + 4 if has_prefix else 0
    # Without the prefix it may be a file of another kind that begins like a data set.
    unreadable = ProblemKind.DAMAGED if has_prefix else ProblemKind.NOT_DICOM
    if at >= end:
        raise Refused(unreadable, "there is nothing behind the DICM prefix" if has_prefix else "the file is empty")
    if not has_prefix and not _begins_like_dicom(data, at, end):
        raise Refused(ProblemKind.NOT_DICOM, _other_kind(data))
    try:
        meta, later, at = _read_meta(data, at, end)
    except CutShort as cut:
        raise Refused(unreadable, f"the File Meta Information is damaged: {cut}", more=not complete) from None
    if meta.get(_MEDIA_SOP_CLASS) == MEDIA_STORAGE_DIRECTORY:
        raise Refused(ProblemKind.DICOMDIR, "it lists the files of a medium and is not an instance to store")
    if at >= end:
        raise Refused(unreadable, "no data set follows the File Meta Information", more=not complete)
    if end - at < 8:  # whether of the File Meta Information or of the data set, no header is as short
        raise Refused(unreadable, "it ends within the header of an element", more=not complete)
    syntax = named = meta.get(_TRANSFER_SYNTAX)
    second = later.get(_TRANSFER_SYNTAX)
    if named and second and not _fits(data, at, end, named) and _fits(data, at, end, second):
        syntax = second
    if syntax is None or (syntax in _NATIVE_SYNTAXES and _is_another(data, at, end, syntax)):
        syntax = _native_syntax(data, at, end, complete)
    identity = identify_data_set(data, at, end, meta, syntax, complete)
    difference = identity.meta_difference or _repetition(meta, later)
    if named not in (None, syntax):
        difference = f"the File Meta Information has the Transfer Syntax UID {named}, the data set is in {syntax}"
    return identity._replace(meta_difference=difference)


def data_set_in(data: Buffer, end: int) -> tuple[int, Encoding]:
    """Where the data set of a DICOM file begins, and how it is encoded; it is not deflated. Raises CutShort."""
    at = PREAMBLE_BYTES + 4 if bytes(data[PREAMBLE_BYTES : PREAMBLE_BYTES + 4]) == b"DICM" else 0
    meta, _, at = _read_meta(data, at, end)
    if meta.get(_TRANSFER_SYNTAX) == DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN:
        raise CutShort("it is deflated")
    if end - at < 8:
        raise CutShort("it has no data set")
    return at, encoding_of(_syntax_by_first_element(data, at))


def _other_kind(data: Buffer) -> str:
    """What bytes are that do not begin like DICOM: archives may hold many instances, and should not go unnoticed."""
    for at, magic, kind in _OTHER_KINDS:
        if bytes(data[at : at + len(magic)]) == magic:
            return f"it is {kind}"
    return "there is neither a DICM prefix nor what a data set begins with"


_OTHER_KINDS: Final = (
    (0, b"PK\3\4", "a ZIP archive"),
    (257, b"ustar", "a TAR archive"),
    (0, b"\x1f\x8b", "a file that gzip has compressed"),
)


def _begins_like_dicom(data: Buffer, at: int, end: int) -> bool:
    """Whether bytes without a prefix begin with an element of group 0000, 0002 or 0008, as a standard data set does.

    A TAR archive begins with the name of a file, which may look like that.
    """
    if end - at < 8 or bytes(data[257:262]) == b"ustar":
        return False
    group, element = struct.unpack_from("<HH", data, at)
    if group in (0x0000, 0x0002, 0x0008):
        return bool(element < 0x3000)
    return bool(group == 0x0800)


def _read_meta(data: Buffer, at: int, end: int) -> tuple[dict[int, str], dict[int, str], int]:
    """The UIDs of group 0002, others under the same tags, and the offset of what follows groups 0002 and 0000.

    The first of two counts. A data set may not hold these groups.
    """
    meta: dict[int, str] = {}
    later: dict[int, str] = {}
    meta_end = -1
    encoding = elements.EXPLICIT_LITTLE
    while at + 8 <= end:
        if at == meta_end and meta.get(_TRANSFER_SYNTAX) == DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN:
            # A deflated stream may begin with what looks like another element of group 0002.
            break
        group = _u16(data, at)[0]
        if group == 0:
            encoding = elements.IMPLICIT_LITTLE
        elif group == 0x0200:  # some programs write it in the byte order of the data set
            encoding = elements.EXPLICIT_BIG
        elif group != 2:
            break
        header = elements.read_header(data, at, encoding)
        at = elements.skip_value(data, header, encoding, end)
        if header.tag in _NAMES:
            uid = _uid_text(data, header.value_at, at)
            if uid and (header.tag != _TRANSFER_SYNTAX or can_be_sent(uid)) and meta.setdefault(header.tag, uid) != uid:
                later.setdefault(header.tag, uid)
        elif header.tag == _META_LENGTH and header.length == 4:
            order: Literal["big", "little"] = "big" if encoding.big_endian else "little"
            meta_end = at + int.from_bytes(data[header.value_at : at], order)
    return meta, later, at


def _repetition(meta: dict[int, str], later: dict[int, str]) -> str | None:
    """A sentence if the File Meta Information has an element twice, with two values."""
    for tag, uid in later.items():
        return f"the File Meta Information has a second {_NAMES[tag]}, {uid[:_SHOWN_UID_CHARACTERS]}, after {meta[tag]}"
    return None


def identify_data_set(data: Buffer, at: int, end: int, meta: dict[int, str], syntax: str, complete: bool) -> Identity:
    uids: dict[int, str] = {}
    cut: CutShort | None = None
    try:
        are_all_read = _collect_uids(uids, data, at, end, syntax)
    except CutShort as error:
        are_all_read, cut = False, error
    in_meta = (meta.get(_MEDIA_SOP_CLASS), meta.get(_MEDIA_SOP_INSTANCE))
    in_data_set = (uids.get(SOP_CLASS_UID), uids.get(SOP_INSTANCE_UID))
    sop_class, sop_instance = (first or other for first, other in zip(in_data_set, in_meta, strict=True))
    if not complete and end < HEAD_LIMIT_BYTES and not (are_all_read and sop_class and sop_instance):
        raise Refused(ProblemKind.MISSING_UID, "no UIDs near the beginning of the file", more=True)
    sop_class = _checked(sop_class, "SOP Class UID", LONGEST_UID_CHARACTERS, can_be_sent)
    sop_instance = _checked(sop_instance, "SOP Instance UID", LONGEST_INSTANCE_UID_CHARACTERS, can_be_sent_as_instance)
    if cut is not None and complete:
        raise Refused(ProblemKind.DAMAGED, f"the data set is damaged: {cut}")
    difference = difference_of(in_meta, in_data_set if are_all_read or complete else (sop_class, sop_instance))
    return Identity(sop_class, sop_instance, syntax, at, difference)


def uids_of_data_set(data: Buffer, syntax: str, *, complete: bool) -> tuple[str, str] | None:
    """The SOP Class and SOP Instance UID in a data set or its beginning, "" for one that it lacks; None if unknown.

    Raises CutShort or Refused if the bytes are not a data set in this transfer syntax.
    """
    uids: dict[int, str] = {}
    are_all_read = _collect_uids(uids, data, 0, len(data), syntax)
    if not are_all_read and not (complete and uids):
        return None
    return uids.get(SOP_CLASS_UID, ""), uids.get(SOP_INSTANCE_UID, "")


def _collect_uids(uids: dict[int, str], data: Buffer, at: int, end: int, syntax: str) -> bool:
    """Add the SOP Class and Instance UID of a data set to `uids`; see _collect_from_elements."""
    encoding = encoding_of(syntax)
    if syntax != DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN:
        return _collect_from_elements(uids, data, at, end, encoding)
    stream = bytes(data[at : min(end, at + HEAD_LIMIT_BYTES)])
    # Both limits bound the memory, however much the stream inflates to. The first is usually enough.
    is_beyond = False
    for limit in (_INFLATED_HEAD_BYTES, HEAD_LIMIT_BYTES):
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        try:
            inflated = inflater.decompress(stream, limit)
        except zlib.error as error:
            raise Refused(ProblemKind.DAMAGED, f"the data set is not a deflated stream: {error}") from None
        if not inflated:
            raise Refused(ProblemKind.DAMAGED, "the deflated data set is empty")
        try:
            is_beyond = _collect_from_elements(uids, inflated, 0, len(inflated), encoding)
            if len(uids) == 2 or (is_beyond and len(inflated) < limit):
                return True
            if not is_beyond and not inflater.eof:
                raise CutShort("the deflated stream is cut off")
        except CutShort:
            if len(inflated) < limit:
                raise
    return is_beyond


def _collect_from_elements(uids: dict[int, str], data: Buffer, at: int, end: int, encoding: Encoding) -> bool:
    """Add the UIDs, also where they are out of order; whether the bytes reach beyond where they belong.

    Raises CutShort when the bytes end before that, in the middle of an element.
    """
    is_beyond = False
    while len(uids) < 2:
        if at >= end:
            return is_beyond
        try:
            header = elements.read_header(data, at, encoding)
            is_beyond |= header.tag > SOP_INSTANCE_UID
            if header.tag >= _PIXEL_DATA:
                return True
            behind = elements.skip_value(data, header, encoding, end)
        except CutShort:
            if is_beyond:
                return True
            if not encoding.explicit and elements.looks_like_vr(bytes(data[at + 4 : at + 6])):
                # Explicit, whatever its transfer syntax says: a VR was taken for a length.
                return False
            raise
        if header.tag in (SOP_CLASS_UID, SOP_INSTANCE_UID):
            uid = _uid_text(data, header.value_at, behind)
            if uid:
                uids.setdefault(header.tag, uid)
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


def _fits(data: Buffer, at: int, end: int, syntax: str) -> bool:
    """Whether nothing that is at hand of a data set shows that it is in another transfer syntax than this."""
    if syntax == DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN:
        with contextlib.suppress(zlib.error):
            return bool(zlib.decompressobj(-zlib.MAX_WBITS).decompress(bytes(data[at:end]), _INFLATED_HEAD_BYTES))
        return False
    looks = _syntax_by_first_element(data, at)
    if syntax in (IMPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_BIG_ENDIAN):
        return looks == syntax
    is_native = syntax == EXPLICIT_VR_LITTLE_ENDIAN
    return looks == EXPLICIT_VR_LITTLE_ENDIAN and _has_fragments(data, at, end) is not is_native


def _has_fragments(data: Buffer, at: int, end: int) -> bool | None:
    """Whether the pixel data of an explicit data set is encapsulated; None if the bytes end before it."""
    with contextlib.suppress(CutShort):
        while at < end:
            header = elements.read_header(data, at, elements.EXPLICIT_LITTLE)
            if header.tag >= _PIXEL_DATA:
                return header.tag == _PIXEL_DATA and header.length == elements.UNDEFINED_LENGTH
            at = elements.skip_value(data, header, elements.EXPLICIT_LITTLE, end)
    return None


def _native_syntax(data: Buffer, at: int, end: int, complete: bool) -> str:
    """The transfer syntax of a data set, from its elements alone. Raises Refused unless it is uncompressed."""
    syntax = _syntax_by_first_element(data, at)
    if syntax != EXPLICIT_VR_LITTLE_ENDIAN:
        return syntax
    has_fragments = _has_fragments(data, at, end)
    if has_fragments:
        raise Refused(ProblemKind.MISSING_UID, "the pixel data is compressed and no Transfer Syntax UID says how")
    if has_fragments is None and not complete:
        detail = "no Transfer Syntax UID, and the pixel data is too far on to see whether it is compressed"
        raise Refused(ProblemKind.MISSING_UID, detail, more=True)
    return syntax


def _uid_text(data: Buffer, begin: int, end: int) -> str:
    """The value of a UID, whatever its characters; only the beginning if it is too long."""
    return bytes(data[begin:end]).strip(b"\0 ")[:_READ_UID_CHARACTERS].decode("ascii", "replace")


def _checked(uid: str | None, name: str, longest: int, can_be_sent: Callable[[str], bool]) -> str:
    if uid is None:
        raise Refused(ProblemKind.MISSING_UID, f"there is no {name}, in the File Meta Information or in the data set")
    if not can_be_sent(uid):
        shown = uid[:_SHOWN_UID_CHARACTERS]
        detail = f"its {name} cannot be sent: {shown!r} is not 1 to {longest} visible characters"
        raise Refused(ProblemKind.MISSING_UID, detail)
    return uid


def difference_of(in_meta: tuple[str | None, ...], in_data_set: tuple[str | None, ...]) -> str | None:
    """A sentence if the File Meta Information names another class or instance than the data set, or a UID is doubtful.

    Both hold a SOP Class UID and a SOP Instance UID. The sentence ends with the UID that is used.
    """
    for name, meta, data_set in zip(("SOP Class UID", "SOP Instance UID"), in_meta, in_data_set, strict=True):
        if meta and data_set and meta != data_set:
            return f"the File Meta Information has the {name} {meta}, the data set has {data_set}"
        if meta and not data_set:
            return f"the data set has no {name}, the File Meta Information has {meta}"
        if data_set and len(data_set) > LONGEST_UID_CHARACTERS:
            return f"the {name} has {len(data_set)} characters, more than {LONGEST_UID_CHARACTERS}: {data_set}"
        if data_set and not is_well_formed(data_set):
            return f"the {name} is not well-formed: {data_set}"
    return None
