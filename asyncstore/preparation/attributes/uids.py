"""New UIDs for old ones, by a secret key: always the same for the same UID, and no way back without the key."""

from __future__ import annotations

import functools
import hashlib
import hmac
from typing import Final

from asyncstore.errors import count_text
from asyncstore.preparation.attributes.dictionary import table
from asyncstore.preparation.attributes.paths import BadRule

SHORTEST_KEY_BYTES: Final = 16
# The UIDs of the standard itself: SOP classes, transfer syntaxes, well-known frames of reference.
_STANDARD_ROOT: Final = b"1.2.840.10008."
_REMEMBERED: Final = 65536
# These name kinds of things, codes or equipment, and not an instance or a group of them.
_OF_NO_INSTANCE: Final = frozenset(
    (
        *("CodingSchemeUID", "ContextUID", "MappingResourceUID", "DeviceUID", "InstanceCreatorUID"),
        *("PrivateInformationCreatorUID", "TemplateExtensionCreatorUID", "TemplateExtensionOrganizationUID"),
        *("PaletteColorLookupTableUID", "LargePaletteColorLookupTableUID"),
    )
)


@functools.cache
def _tags() -> frozenset[int]:
    """The attributes whose UIDs are replaced."""
    return frozenset(
        int(tag)
        for tag, (vr, _, _, _, keyword) in table().items()
        if vr == "UI"
        and tag >> 16 > 6
        and keyword not in _OF_NO_INSTANCE
        and not keyword.endswith(("ClassUID", "TransferSyntaxUID", "ClassesInStudy"))
        and "SOPClass" not in keyword
    )


class NewUIDs:
    """Replaces UIDs by those that a key makes of them: 2.25 and a number (PS3.5 B.2).

    Raises BadRule for a key that is too short to be secret.
    """

    def __init__(self, key: bytes) -> None:
        if len(key) < SHORTEST_KEY_BYTES:
            raise BadRule(f"the key has {count_text(len(key), 'byte')}: it needs {SHORTEST_KEY_BYTES} random ones")
        self._key = key
        self._tags = _tags()
        self.of: functools._lru_cache_wrapper[bytes] = functools.lru_cache(_REMEMBERED)(self._of)

    @property
    def fingerprint(self) -> str:
        """What tells this key from another one, and does not give it away."""
        return hmac.digest(self._key, b"asyncstore: new UIDs", "sha256").hex()[:32]

    def concerns(self, tag: int) -> bool:
        """Whether the UIDs of an attribute are replaced."""
        return tag in self._tags

    def replaced(self, value: bytes) -> bytes:
        """A value, of one or several UIDs, with the new ones."""
        return b"\\".join(map(self.of, value.split(b"\\")))

    def _of(self, uid: bytes) -> bytes:
        uid = uid.strip(b" \0")
        if not uid or uid.startswith(_STANDARD_ROOT):
            return uid
        number = int.from_bytes(hmac.digest(self._key, uid, hashlib.sha256)[:16], "big")
        # Version 8 and the variant of RFC 9562.
        number = number & ~(0xF << 76) & ~(0x3 << 62) | 0x8 << 76 | 0x2 << 62
        return b"2.25.%d" % number
