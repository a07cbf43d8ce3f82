"""Prepares an instance for an association: as it is, or changed so that the peer can have it.

The steps, in their order: attributes (a Change, if the run has one), the transfer syntax, the padding of an odd length.
Each step may be needless. An instance that needs none is sent with the bytes of its file.
"""

from __future__ import annotations

import dataclasses
import enum
import logging
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol, TypeAlias

from asyncstore.errors import SourceError
from asyncstore.instances.outcome import PADDED, Outcome, SentUIDs, no_context, source_problem
from asyncstore.instances.problem import unreadable
from asyncstore.preparation.conversions import LOSSLESS_ONLY, UNCOMPRESSED_ONLY, Contexts, Conversions, is_for_codec
from asyncstore.record import record
from asyncstore.uids import LONGEST_UID_CHARACTERS, UNCOMPRESSED_TRANSFER_SYNTAXES, name_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from asyncstore.instances.instance import Instance
    from asyncstore.instances.source import DataSource


logger: Final = logging.getLogger(__name__)


# Not frozen, although nothing should change one: each instance needs one, and a frozen one costs three times as much.
@record(slots=True, eq=False)
class Prepared:
    """An instance as it is sent on one association: its presentation context (`context_id`) and its bytes.

    `source` gives the `data_set_length` bytes of the data set in `transfer_syntax_uid`. It is the instance's own source
    unless the data set was converted, or padded to an even length. `sop_class_uid` and `sop_instance_uid` are those of
    the C-STORE request. `changes` and `sent_uids` are as in Outcome.
    """

    instance: Instance
    context_id: int
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    data_set_length: int
    source: DataSource
    changes: tuple[str, ...]
    sent_uids: SentUIDs | None

    # Written out: `record` would compile it in each run.
    def __init__(
        self,
        instance: Instance,
        context_id: int,
        sop_class_uid: str,
        sop_instance_uid: str,
        transfer_syntax_uid: str,
        data_set_length: int,
        source: DataSource,
        changes: tuple[str, ...] = (),
        sent_uids: SentUIDs | None = None,
    ) -> None:
        self.instance = instance
        self.context_id = context_id
        self.sop_class_uid = sop_class_uid
        self.sop_instance_uid = sop_instance_uid
        self.transfer_syntax_uid = transfer_syntax_uid
        self.data_set_length = data_set_length
        self.source = source
        self.changes = changes
        self.sent_uids = sent_uids

    @property
    def is_padded(self) -> bool:
        """Whether the instance's data set is of odd length, and this one of even length."""
        return PADDED in self.changes


class Preparer(Protocol):
    """Makes what is sent of each instance: `TransferOptions(prepare=...)`. Preparation is the usual one."""

    def prepare(self, instance: Instance, contexts: Contexts) -> Prepared | Outcome:
        """The instance as it can be sent with these accepted contexts, or the outcome of one that is not sent.

        A thread calls it, ahead of the associations, and again for each attempt: it may block, and must not change
        `instance`. Several threads may call it at once, for different instances. An exception becomes the outcome: a
        SourceError says why the instance is not sent, any other one is a mistake, and costs this instance.
        """


class Changed(NamedTuple):
    """An instance as a change leaves it: with another source and its length, and with the UIDs that are in it now.

    `changes` are as in Outcome.
    """

    instance: Instance
    changes: tuple[str, ...]


class Later(enum.Enum):
    """The answer LATER of a change that would have to wait."""

    LATER = enum.auto()


LATER: Final = Later.LATER

Change: TypeAlias = "Callable[[Instance], Changed | None]"
"""Changes an instance on the way; None: it stays as it is. A SourceError says why the instance is not sent."""


class CannotPrepare(SourceError):
    """What should prepare an instance has failed, or has made what cannot be sent. `__cause__` is its exception."""


class Preparation:
    """The usual Preparer: `change`, then another transfer syntax if the peer refused the instance's, then padding.

        def change(instance):
            ...
            return asyncstore.Changed(dataclasses.replace(instance, source=..., data_set_length=...), ("renamed",))

        options = asyncstore.TransferOptions(prepare=asyncstore.Preparation(change))

    A transfer sets `conversions`, which transfer syntaxes an instance may be converted to, and `codec`, a function that
    decompresses and compresses.
    """

    def __init__(self, change: Change | None = None) -> None:
        self.conversions: Conversions = LOSSLESS_ONLY
        self._change = change
        self._at_once: Callable[[Instance], Changed | Later | None] | None = getattr(change, "at_once", None)
        self.codec: Codec | None = None

    @property
    def record(self) -> object:
        """What a ledger keeps of it, to tell it from another: the `record` of the change, or its name."""
        name = getattr(self._change, "__qualname__", type(self._change).__qualname__)
        return None if self._change is None else getattr(self._change, "record", name)

    def prepare(self, instance: Instance, contexts: Contexts) -> Prepared | Outcome:
        """See Preparer."""
        changed = None if self._change is None else self._change(instance)
        if changed is None:
            return prepare(instance, contexts, self.conversions, self.codec)
        prepared = prepare(changed.instance, contexts, self.conversions, self.codec)
        return _told(instance, changed, prepared)

    def changes_of(self, instance: Instance) -> tuple[str, ...]:
        """What its change would do to an instance, before anything is sent. Blocks. Raises SourceError."""
        try:
            changed = None if self._change is None else self._change(instance)
            return () if changed is None else changed.changes
        except SourceError:
            raise
        except Exception as error:
            raise CannotPrepare(f"preparing it failed: {error!r:.400}") from error

    def prepare_now(
        self, instance: Instance, contexts: Contexts, conversions: Conversions
    ) -> Prepared | Outcome | None:
        """The same if it takes neither a wait nor long; else None, and `prepare` must do it.

        Only a change with a method `at_once` can be made so; it returns LATER if it would have to wait.
        """
        if self._at_once is None or contexts.find(instance.sop_class_uid, instance.transfer_syntax_uid) is None:
            return None
        try:
            changed = self._at_once(instance)
        except SourceError as error:
            return source_problem(error, instance.path, instance)
        if isinstance(changed, Later):
            return None
        if changed is None:
            return prepare_now(instance, contexts, conversions)
        prepared = prepare_now(changed.instance, contexts, conversions)
        return None if prepared is None else _told(instance, changed, prepared)


def prepared_or_outcome(
    call: Callable[..., Prepared | Outcome | None], instance: Instance, contexts: Contexts, *arguments: object
) -> Prepared | Outcome | None:
    """What a method of a Preparer gives; the outcome of the instance if it raises, or gives what cannot be sent."""
    try:
        prepared = call(instance, contexts, *arguments)
        fault = _fault_of(prepared, contexts)
        if fault:
            raise CannotPrepare(fault)
        return prepared
    except SourceError as error:
        return source_problem(error, instance.path, instance)
    except Exception as error:
        logger.debug("preparing %r failed", instance.path, exc_info=error)
        problem = CannotPrepare(f"preparing it failed: {error!r:.400}")
        problem.__cause__ = error.with_traceback(None)  # whose frames would keep the data set, as long as the outcome
        return source_problem(problem, instance.path, instance)


def _fault_of(prepared: object, contexts: Contexts) -> str:
    """Why this cannot be sent over an association with these contexts; empty if it can."""
    if isinstance(prepared, Prepared):
        if prepared.context_id != contexts.find(prepared.sop_class_uid, prepared.transfer_syntax_uid):
            return f"it was prepared for a presentation context that was not accepted: {prepared.context_id}"
    elif not (prepared is None or isinstance(prepared, Outcome)):
        return f"preparing it gave {prepared!r:.200}"
    return ""


def _told(instance: Instance, changed: Changed, prepared: Prepared | Outcome) -> Prepared | Outcome:
    """What was prepared, as that of the instance itself, with what was changed in it."""
    prepared.instance = instance
    if isinstance(prepared, Prepared):
        prepared.changes = changed.changes + prepared.changes
        uids = _uids_of(changed.instance)
        prepared.sent_uids = None if uids == _uids_of(instance) else uids
    return prepared


def _uids_of(instance: Instance) -> SentUIDs:
    return SentUIDs(instance.sop_instance_uid, instance.study_instance_uid, instance.series_instance_uid)


def prepare_now(
    instance: Instance, contexts: Contexts, conversions: Conversions = UNCOMPRESSED_ONLY
) -> Prepared | Outcome | None:
    """The instance unchanged, or an outcome if no accepted context fits. Never blocks.

    Returns None if `prepare` must convert it first, or pad its data set to an even length.
    """
    sop_class_uid, transfer_syntax_uid = instance.sop_class_uid, instance.transfer_syntax_uid
    context_id = contexts.find(sop_class_uid, transfer_syntax_uid)
    if context_id is None:
        is_convertible = conversions.target(contexts, sop_class_uid, transfer_syntax_uid) is not None
        return None if is_convertible else no_context(instance)
    if instance.data_set_length & 1:
        return None
    return Prepared(
        instance,
        context_id,
        sop_class_uid,
        instance.sop_instance_uid[:LONGEST_UID_CHARACTERS],
        transfer_syntax_uid,
        instance.data_set_length,
        instance.source,
    )


Codec: TypeAlias = "Callable[[Instance, str], tuple[DataSource, tuple[str, ...]]]"
"""Gives the data set of an instance decompressed or compressed, and says what else was changed in it."""


def prepare(
    instance: Instance,
    contexts: Contexts,
    conversions: Conversions = UNCOMPRESSED_ONLY,
    codec: Codec | None = None,
) -> Prepared | Outcome:
    """The instance as it can be sent with these accepted contexts; an outcome if none of them fits.

    `codec` is needed if `conversions` allow that. Blocks during a conversion, and while it looks for the value to
    pad. Raises SourceError if the data set cannot be read or converted.
    """
    sop_class_uid = instance.sop_class_uid
    if not conversions.compresses(contexts, sop_class_uid, instance.transfer_syntax_uid):
        prepared = prepare_now(instance, contexts, conversions)
        if prepared is not None:
            return prepared
    target = conversions.target(contexts, sop_class_uid, instance.transfer_syntax_uid)
    context_id = None if target is None else contexts.find(sop_class_uid, target)
    assert target is not None
    assert context_id is not None
    from asyncstore.preparation import padding
    from asyncstore.preparation.reencode import Unsuitable

    try:
        converted, changes = _converted(instance, target, conversions, codec)
        source = padding.padded(converted, target)
    except Unsuitable as unsuitable:
        prepared = prepare(instance, contexts, dataclasses.replace(conversions, transcode=None), codec)
        if isinstance(prepared, Prepared):
            prepared.changes += (f"not compressed: {unsuitable}",)
        return prepared
    except OSError as error:
        raise unreadable(error) from error
    finally:
        instance.source.close()
    has_other_pixel_data = is_for_codec(instance.transfer_syntax_uid, target)
    if instance.data_set_length & 1 > source.length_bytes & 1 and not has_other_pixel_data:
        changes += (PADDED,)
    uids = (sop_class_uid, instance.sop_instance_uid[:LONGEST_UID_CHARACTERS], target)
    return Prepared(instance, context_id, *uids, source.length_bytes, source, changes)


def _converted(
    instance: Instance, target: str, conversions: Conversions, codec: Codec | None
) -> tuple[DataSource, tuple[str, ...]]:
    """The data set of an instance in a transfer syntax, and how it was changed for it."""
    given = instance.transfer_syntax_uid
    if not is_for_codec(given, target):
        from asyncstore.preparation.convert import check_deflated, convert

        source = convert(instance, target)
        if target == conversions.transcode and conversions.is_checked:
            check_deflated(source, instance)
        return source, () if given == target else (f"converted from {name_of(given)} to {name_of(target)}",)
    assert codec is not None
    source, others = codec(instance, target)
    how = "decompressed" if target in UNCOMPRESSED_TRANSFER_SYNTAXES else "compressed"
    return source, (f"{how} from {name_of(given)} to {name_of(target)}", *others)
