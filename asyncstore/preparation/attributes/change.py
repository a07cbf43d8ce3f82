"""Changes the attributes of instances on the way: the head of a data set is written anew, its pixels stay."""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING, Any, Final

from asyncstore.aio.waits import waits_so_far
from asyncstore.instances.elements import CutShort, encoding_of
from asyncstore.instances.problem import unreadable
from asyncstore.instances.source import BytesSource
from asyncstore.preparation.attributes.edits import Editor, spliced
from asyncstore.preparation.attributes.level import Level
from asyncstore.preparation.attributes.paths import ORIGINAL_ATTRIBUTES
from asyncstore.preparation.attributes.rules import Rules, text_of
from asyncstore.preparation.attributes.values import CannotChange
from asyncstore.preparation.headed_source import HeadedSource
from asyncstore.preparation.prepare import LATER, Changed, Later
from asyncstore.uids import DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_LITTLE_ENDIAN

if TYPE_CHECKING:
    from asyncstore.instances.instance import Instance
    from asyncstore.instances.source import DataSource
    from asyncstore.preparation.attributes.originals import Originals

# Enough for nearly every head; a longer one is read again, four times as much each time.
_WINDOW_BYTES: Final = 16384
_LONGEST_HEAD_BYTES: Final = 256 << 20
# A changed data set up to this size is one piece of memory, which is sent by one call.
_WHOLE_BYTES: Final = 131072
_SLOW_READ_SECONDS: Final = 0.005
_PAUSE_SECONDS: Final = 1.0

_STUDY: Final = 0x0020000D
_SERIES: Final = 0x0020000E


class AttributeChange:
    """The change that rules make of each instance, for Preparation; `originals` None: leaves no trace of it.

    An instance to which no rule applies stays as it is.
    """

    def __init__(self, rules: Rules, originals: Originals | None = None) -> None:
        self._rules = rules
        self._originals = originals
        self._before_tag = rules.before_tag()
        if originals is not None:
            self._before_tag = max(self._before_tag, ORIGINAL_ATTRIBUTES + 1)
        self._not_before = 0.0
        self._is_wary = False

    @property
    def record(self) -> dict[str, Any]:
        """What tells the rules from others, for a ledger."""
        rules = self._rules.record() | {"original_attributes": self._originals is not None}
        if self._originals is None:
            rules["options"]["--no-original-attributes"] = True
        return rules

    def __call__(self, instance: Instance) -> Changed | None:
        """The changed instance; None: as it is. Blocks. Raises CannotChange, SourceChanged, or as the source does."""
        try:
            changed = self._deflated(instance) if _is_deflated(instance) else self._change(instance, wait=True)
        except OSError as error:
            raise unreadable(error) from error
        finally:
            instance.source.close()
        assert not isinstance(changed, Later)
        return changed

    def at_once(self, instance: Instance) -> Changed | Later | None:
        """The same if it needs neither a wait nor long; else LATER."""
        if _is_deflated(instance):
            return LATER
        if instance.source.view() is not None:
            return self._change(instance, wait=False)
        began_at = time.monotonic()
        if began_at < self._not_before:
            return LATER
        waits = waits_so_far() if self._is_wary else None
        try:
            return self._change(instance, wait=False)
        except OSError:
            return LATER  # which meets it again
        finally:
            self._note(time.monotonic(), began_at, waits)

    def _note(self, now: float, began_at: float, waits: int | None) -> None:
        """Take note of how long a change took: on a share, opening a file may take milliseconds.

        On a busy machine any change may. So after a first slow one the next are looked at: only one that waited counts.
        """
        is_slow = now - began_at > _SLOW_READ_SECONDS
        if is_slow and waits is not None and waits_so_far() != waits:
            self._not_before = now + _PAUSE_SECONDS
        self._is_wary = is_slow

    def _deflated(self, instance: Instance) -> Changed | None:
        from asyncstore.preparation.convert import convert

        inflated = _with_source(instance, convert(instance, EXPLICIT_VR_LITTLE_ENDIAN), EXPLICIT_VR_LITTLE_ENDIAN)
        changed = self._change(inflated, wait=True)
        assert not isinstance(changed, Later)
        if changed is None:
            return None
        deflated = convert(changed.instance, DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN)
        whole = _with_source(changed.instance, deflated, DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN)
        return Changed(whole, changed.changes)

    def _change(self, instance: Instance, *, wait: bool) -> Changed | Later | None:
        level = self._head(instance, wait=wait)
        if level is None:
            return LATER
        editor = Editor()
        try:
            changes = editor.changes_of(level, self._rules.edits_of(level))
        except CutShort as cut:
            raise CannotChange(f"its attributes cannot be changed: {cut}") from None
        if not changes:
            return None
        if self._originals is not None:
            self._originals.add(changes, level)
        head = spliced(level, changes, 0, level.behind)
        changed = _with_source(instance, _joined(head, instance.source, level.behind), instance.transfer_syntax_uid)
        self._rename(changed, level)
        return Changed(changed, tuple(editor.done))

    def _head(self, instance: Instance, *, wait: bool) -> Level | None:
        """The elements before the first that nobody looks at; None if they are not all in memory."""
        source, encoding = instance.source, encoding_of(instance.transfer_syntax_uid)
        data, total = source.view(), source.length_bytes
        size = _WINDOW_BYTES if data is None else total
        while True:
            size = min(size, total)
            if data is None or len(data) < size:
                data = memoryview(bytearray(size))
                if not source.read_into((data,), 0, wait=wait):
                    return None
            try:
                level = Level(data, 0, size, encoding, before_tag=self._before_tag)
                if level.behind < size or size == total:
                    if level.is_delimited:
                        raise CutShort(f"a delimiter stands between elements at byte {level.behind}")
                    return level
            except CutShort as cut:
                if size == total:
                    raise CannotChange(f"its data set is damaged: {cut}") from None
            if not wait:
                return None
            if size >= _LONGEST_HEAD_BYTES:
                raise CannotChange(f"it has more than {_LONGEST_HEAD_BYTES >> 20} MiB before its pixel data")
            size *= 4

    def _rename(self, changed: Instance, level: Level) -> None:
        """Give the instance the UIDs that are in its data set now."""
        uids = self._rules.uids
        if uids is not None:
            changed.sop_instance_uid = uids.of(changed.sop_instance_uid.encode()).decode()
            study, series = (uids.of(text_of(level, tag).encode()).decode() or None for tag in (_STUDY, _SERIES))
            changed.study_instance_uid, changed.series_instance_uid = study, series


def _is_deflated(instance: Instance) -> bool:
    return instance.transfer_syntax_uid == DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN


def _with_source(instance: Instance, source: DataSource, transfer_syntax_uid: str) -> Instance:
    return dataclasses.replace(
        instance, source=source, data_set_length=source.length_bytes, transfer_syntax_uid=transfer_syntax_uid
    )


def _joined(head: bytes, source: DataSource, at: int) -> DataSource:
    view = source.view()
    if view is not None and len(head) + len(view) - at <= _WHOLE_BYTES:
        return BytesSource(b"".join((head, view[at:])))
    return HeadedSource(head, source, at)
