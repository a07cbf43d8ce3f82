"""Values as a user writes them, checked against their VR (PS3.5 6.2) and encoded for a data set."""

from __future__ import annotations

import datetime
import itertools
import re
import struct
from typing import TYPE_CHECKING, Final

from asyncstore.errors import SourceError
from asyncstore.instances.elements import padding_of
from asyncstore.preparation.attributes.paths import BadRule

if TYPE_CHECKING:
    from asyncstore.instances.elements import Buffer
    from asyncstore.preparation.attributes.paths import AttributePath

# The most characters of a value; of a person name, of each of its three parts.
_CHARACTERS: Final = {
    **{"AE": 16, "AS": 4, "CS": 16, "DA": 8, "DS": 16, "DT": 26, "IS": 12, "LO": 64, "LT": 10240, "PN": 64},
    **{"SH": 16, "ST": 1024, "TM": 14, "UC": 1 << 24, "UR": 1 << 16, "UT": 1 << 24},
}
_TIME: Final = r"(?:[01]\d|2[0-3])(?:[0-5]\d(?:(?:[0-5]\d|60)(?:\.\d{1,6})?)?)?"
_PATTERNS: Final = {
    "AE": re.compile(r"[ !-\[\]-~]*[!-\[\]-~][ !-\[\]-~]*"),
    "AS": re.compile(r"\d{3}[DWMY]"),
    "CS": re.compile(r"[A-Z0-9 _]*"),
    "DA": re.compile(r"\d{8}"),
    "DS": re.compile(r" *[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)? *"),
    "DT": re.compile(rf"\d{{4}}(?:\d\d(?:\d\d(?:{_TIME})?)?)?(?:[+-]\d{{4}})?"),
    "IS": re.compile(r" *[+-]?\d+ *"),
    "TM": re.compile(_TIME),
    "UR": re.compile(r"[!-~]*"),
}
_LIKE: Final = {
    **{"AS": "064Y", "CS": "capitals, digits, spaces and _", "DA": "20261128", "DS": "-1.5", "DT": "20261128143000"},
    **{"IS": "a whole number", "TM": "143000", "AE": "printable ASCII", "UR": "a URI"},
}
NUMBERS: Final = {"US": "H", "SS": "h", "UL": "I", "SL": "i", "UV": "Q", "SV": "q", "FL": "f", "FD": "d"}
_ONE_VALUE: Final = frozenset(("LT", "ST", "UR", "UT"))
_LINES: Final = frozenset(("LT", "ST", "UT"))
# PS3.5 6.1.2.3: these use the Specific Character Set.
_OF_ANY_SCRIPT: Final = frozenset(("LO", "LT", "PN", "SH", "ST", "UC", "UT"))
_IS_VALUES: Final = range(-(1 << 31), 1 << 31)
_DELIMITERS: Final = set(b"\\^=")
# PS3.3 C.12.1.1.2: what announces a character set beside the first one. Python's ISO-2022-JP does that itself, and
# switches back.
_ESCAPES: Final = {
    **{"latin_1": b"\x1b-A", "iso8859_2": b"\x1b-B", "iso8859_3": b"\x1b-C", "iso8859_4": b"\x1b-D"},
    **{"iso_ir_126": b"\x1b-F", "iso_ir_127": b"\x1b-G", "iso_ir_138": b"\x1b-H", "iso_ir_144": b"\x1b-L"},
    **{"iso_ir_148": b"\x1b-M", "iso_ir_166": b"\x1b-T", "shift_jis": b"\x1b)I", "euc_kr": b"\x1b$)C"},
    **{"iso_ir_58": b"\x1b$)A", "GB2312": b"\x1b$)A", "iso2022_jp": b"", "iso2022_jp_2": b""},
}
_REMEMBERED: Final = 64


class CannotChange(SourceError):
    """The attributes of an instance cannot be changed as they should be: it is not sent."""


class Value:
    """What an attribute is set to: `text`, several values with a backslash between them; "" is an empty value.

    `encoded` gives the bytes.
    """

    def __init__(self, path: AttributePath, text: str) -> None:
        self.path = path
        self.vr: str = path.vr
        self.is_text: bool = path.vr not in NUMBERS  # whose padding says nothing
        self.text = text
        values = [text] if self.vr in _ONE_VALUE else text.split("\\")
        if text:
            _check_multiplicity(path, len(values))
            for value in values:
                _check(path, value)
        self._values = values if text else []
        self._encoded: dict[tuple[bool, bytes], bytes] = {}

    def __repr__(self) -> str:
        return f"Value({self.path.text!r}, {self.text!r})"

    def encoded(self, character_set: bytes, *, big_endian: bool) -> bytes:
        """The value with its padding; `character_set` is the Specific Character Set as it is encoded.

        Raises CannotChange if the text has characters that this has not.
        """
        key = (big_endian, character_set)
        found = self._encoded.get(key)
        if found is None:
            if len(self._encoded) >= _REMEMBERED:
                self._encoded.clear()
            data = self._bytes(character_set, big_endian)
            if len(data) & 1:
                data += padding_of(self.vr.encode())
            found = self._encoded[key] = data
        return found

    def _bytes(self, character_set: bytes, big_endian: bool) -> bytes:
        if self.vr in NUMBERS:
            order = ">" if big_endian else "<"
            return b"".join(struct.pack(order + NUMBERS[self.vr], _number(self.vr, each)) for each in self._values)
        if self.text.isascii():
            return self.text.encode()
        parts = [encoded_text(each, character_set) for each in self._values]
        if None in parts:
            raise CannotChange(f"the new {self.path} has characters that are not in the character set of the data set")
        return b"\\".join(part for part in parts if part is not None)


def _check_multiplicity(path: AttributePath, count: int) -> None:
    least, _, most = path.vm.partition("-")
    most = most or least
    step = int(most[:-1] or 1) if most.endswith("n") else 1
    if count < int(least) or (count % step if most.endswith("n") else count > int(most)):
        values = "1 value" if path.vm == "1" else f"{path.vm} values"
        raise BadRule(f"{path} takes {values}, not {count} (a backslash stands between two)")


def _check(path: AttributePath, value: str) -> None:
    """Raise BadRule for a value that does not fit the VR."""
    vr = path.vr
    if vr in NUMBERS:
        try:
            struct.pack(NUMBERS[vr], _number(vr, value))
        except (ValueError, struct.error, OverflowError):
            raise BadRule(f"{path}: {_shown(value)} is not a number of VR {vr}") from None
        return
    if vr not in _CHARACTERS:
        raise BadRule(f"{path} cannot be set: a value of VR {vr} is not text")
    longest = max(map(len, value.split("="))) if vr == "PN" else len(value)
    if longest > _CHARACTERS[vr]:
        raise BadRule(f"{path}: {_shown(value)} has {longest} characters, VR {vr} allows {_CHARACTERS[vr]}")
    allowed = "\r\n\t\f" if vr in _LINES else ""
    if any(not character.isprintable() and character not in allowed for character in value):
        raise BadRule(f"{path}: {_shown(value)} has a control character")
    if vr not in _OF_ANY_SCRIPT and not value.isascii():
        raise BadRule(f"{path}: {_shown(value)} has characters that VR {vr} does not allow")
    if vr == "PN" and (value.count("=") > 2 or any(part.count("^") > 4 for part in value.split("="))):
        raise BadRule(f"{path}: {_shown(value)} has too many parts: FAMILY^GIVEN^MIDDLE^PREFIX^SUFFIX")
    pattern = _PATTERNS.get(vr)
    if value and pattern is not None and not (pattern.fullmatch(value) and _is_real(vr, value)):
        raise BadRule(f"{path}: {_shown(value)} does not fit VR {vr} ({_LIKE[vr]})")


def _is_real(vr: str, value: str) -> bool:
    """Whether there is such a day or number."""
    if vr == "IS":
        return int(value) in _IS_VALUES
    if vr not in ("DA", "DT"):
        return True
    digits = re.split(r"[+-]", value)[0][:8]
    try:
        datetime.date(int(digits[:4]), int(digits[4:6] or 1), int(digits[6:8] or 1))
    except ValueError:
        return False
    return True


def _number(vr: str, text: str) -> float:
    return float(text) if vr in ("FL", "FD") else int(text)


def number_text(vr: str, data: Buffer, *, big_endian: bool) -> str:
    """The numbers of a value as a user writes them, `512` or `1.5\\2.0`; what is left behind whole ones is left out."""
    packed = struct.Struct((">" if big_endian else "<") + NUMBERS[vr])
    whole = memoryview(data)[: len(data) - len(data) % packed.size]
    return "\\".join(str(number) for (number,) in packed.iter_unpack(whole))


def _shown(value: str) -> str:
    return repr(value if len(value) <= 40 else value[:40] + "...")


# -- character sets ----------------------------------------------------------------------------------------------------


def encodings_of(character_set: bytes) -> list[str]:
    """Python's names for a Specific Character Set as it is encoded. Raises CannotChange if it is not known."""
    from pydicom.charset import python_encoding

    names = [name.strip(" \0") for name in character_set.decode("ascii", "replace").split("\\")]
    try:
        return [python_encoding[name] for name in names]
    except KeyError:
        raise CannotChange("the character set of the data set is not known") from None


def encoded_text(text: str, character_set: bytes) -> bytes | None:
    """A value in a Specific Character Set (PS3.5 6.1.2); None if it has other characters.

    With code extensions, each part of a person name and each line begins and ends in the first character set.
    """
    first, *others = encodings_of(character_set)
    if not others:
        return _encoded(text, first)
    pieces: list[bytes] = []
    for encoding, run in itertools.groupby(text, lambda character: _encoding_for(character, first, others)):
        if encoding is None:
            return None
        part = _encoded("".join(run), encoding)
        assert part is not None
        if encoding != first:
            part = _ESCAPES.get(encoding, b"") + part
        pieces.append(part)
    return b"".join(pieces)


def _encoding_for(character: str, first: str, others: list[str]) -> str | None:
    """The first of the encodings that has a character."""
    if _encoded(character, first) is not None:
        return first
    return next((each for each in others if each in _ESCAPES and _encoded(character, each) is not None), None)


def _encoded(text: str, encoding: str) -> bytes | None:
    # iso8859 is Python's other name of Latin 1, and pydicom's word for the default character set, which is ASCII.
    try:
        data = text.encode("ascii" if encoding == "iso8859" else encoding)
    except UnicodeError:
        return None
    # Shift JIS stands for JIS X 0201, which has one byte for each character.
    return None if encoding == "shift_jis" and len(data) != len(text) else data


def decoded_text(value: bytes, character_set: bytes) -> str:
    """The text of a value, without padding; what cannot be decoded is replaced."""
    value = value.strip(b" \0")
    if value.isascii() and b"\x1b" not in value:
        return value.decode()
    from pydicom.charset import decode_bytes

    try:
        return decode_bytes(value, encodings_of(character_set), _DELIMITERS).strip(" \0")
    except CannotChange:
        return value.decode("ascii", "backslashreplace")
