"""Prepares an instance for an association: as it is, or changed so that the peer can have it.

The steps, in their order: attributes (a Change, if the run has one), the transfer syntax, the padding of an odd length.
Each step may be needless. An instance that needs none is sent with the bytes of its file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, Protocol, TypeAlias

from asyncstore.instances.outcome import PADDED, Outcome, SentUIDs, no_context
from asyncstore.instances.problem import unreadable
from asyncstore.record import record
from asyncstore.uids import (
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_BIG_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    LONGEST_UID_CHARACTERS,
    UNCOMPRESSED_TRANSFER_SYNTAXES,
    name_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from asyncstore.instances.instance import Instance
    from asyncstore.instances.source import DataSource
    from asyncstore.upper_layer.contexts import AcceptedContexts

# Targets of a conversion, best first, if the peer did not accept the data set's own transfer syntax. Explicit VRs are
# kept if possible, and a syntax that every peer must read comes before those that few read.
_CONVERSION_TARGETS: Final = (
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_BIG_ENDIAN,
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
)


# Not frozen, although nothing should change one: each instance needs one, and a frozen one costs three times as much.
@record(slots=True, eq=False)
class Prepared:
    """An instance as it is sent on one association: its presentation context, transfer syntax and bytes.

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
    changes: tuple[str, ...] = ()
    sent_uids: SentUIDs | None = None

    @property
    def is_padded(self) -> bool:
        """Whether the instance's data set is of odd length, and this one of even length."""
        return PADDED in self.changes


class Preparer(Protocol):
    """Makes what is sent of each instance: `TransferOptions(prepare=...)`. Preparation is the usual one."""

    def prepare(self, instance: Instance, contexts: AcceptedContexts) -> Prepared | Outcome:
        """The instance as it can be sent with these accepted contexts, or the outcome of one that is not sent.

        A thread calls it, ahead of the associations, and again for each attempt: it may block, and must not change
        `instance`. Several threads may call it at once, for different instances. A SourceError becomes the outcome.
        """


class Changed(NamedTuple):
    """An instance as a change leaves it: with another source and its length, and with the UIDs that are in it now.

    `changes` are as in Outcome.
    """

    instance: Instance
    changes: tuple[str, ...]


Change: TypeAlias = "Callable[[Instance], Changed | None]"
"""Changes an instance on the way; None: it stays as it is. A SourceError says why the instance is not sent."""


class Preparation:
    """The usual Preparer: `change`, then another transfer syntax if the peer refused the instance's, then padding.

        def change(instance):
            ...
            return asyncstore.Changed(dataclasses.replace(instance, source=..., data_set_length=...), ("renamed",))

        options = asyncstore.TransferOptions(prepare=asyncstore.Preparation(change))

    `convert=False`: an instance is sent in its own transfer syntax or not at all.
    """

    def __init__(self, change: Change | None = None, *, convert: bool = True) -> None:
        self._change = change
        self._convert = convert

    def prepare(self, instance: Instance, contexts: AcceptedContexts) -> Prepared | Outcome:
        """See Preparer."""
        changed = None if self._change is None else self._change(instance)
        if changed is None:
            return prepare(instance, contexts, convert=self._convert)
        prepared = prepare(changed.instance, contexts, convert=self._convert)
        prepared.instance = instance
        if isinstance(prepared, Prepared):
            prepared.changes = changed.changes + prepared.changes
            uids, of_file = _uids_of(changed.instance), _uids_of(instance)
            prepared.sent_uids = None if uids == of_file else uids
        return prepared


def _uids_of(instance: Instance) -> SentUIDs:
    return SentUIDs(instance.sop_instance_uid, instance.study_instance_uid, instance.series_instance_uid)


def prepare_now(instance: Instance, contexts: AcceptedContexts, *, convert: bool = True) -> Prepared | Outcome | None:
    """The instance unchanged, or an outcome if no accepted context fits. Never blocks.

    Returns None if `prepare` must convert it first, or pad its data set to an even length. With `convert=False` an
    instance that must be converted has an outcome too.
    """
    sop_class_uid, transfer_syntax_uid = instance.sop_class_uid, instance.transfer_syntax_uid
    context_id = contexts.find(sop_class_uid, transfer_syntax_uid)
    if context_id is None:
        is_convertible = convert and conversion(contexts, sop_class_uid, transfer_syntax_uid) is not None
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


def conversion(contexts: AcceptedContexts, sop_class_uid: str, transfer_syntax_uid: str) -> str | None:
    """The accepted transfer syntax to which an instance can be converted; None if there is none."""
    if transfer_syntax_uid not in UNCOMPRESSED_TRANSFER_SYNTAXES:
        return None
    return next((uid for uid in _CONVERSION_TARGETS if contexts.find(sop_class_uid, uid) is not None), None)


def prepare(instance: Instance, contexts: AcceptedContexts, *, convert: bool = True) -> Prepared | Outcome:
    """The instance as it can be sent with these accepted contexts; an outcome if none of them fits.

    With `convert=False` it keeps its transfer syntax. Blocks during a conversion, and while it looks for the value to
    pad. Raises SourceError if the data set cannot be read or converted.
    """
    prepared = prepare_now(instance, contexts, convert=convert)
    if prepared is not None:
        return prepared
    sop_class_uid, target = instance.sop_class_uid, instance.transfer_syntax_uid
    context_id = contexts.find(sop_class_uid, target)
    if context_id is None:
        conversion_target = conversion(contexts, sop_class_uid, target)
        assert conversion_target is not None
        target = conversion_target
        context_id = contexts.find(sop_class_uid, target)
        assert context_id is not None
    from asyncstore.preparation import padding
    from asyncstore.preparation.convert import convert as converted

    try:
        source = padding.padded(converted(instance, target), target)
    except OSError as error:
        raise unreadable(instance, error) from error
    finally:
        instance.source.close()
    changes: tuple[str, ...] = (
        () if target == instance.transfer_syntax_uid else (_conversion_text(instance.transfer_syntax_uid, target),)
    )
    if instance.data_set_length & 1 > source.length_bytes & 1:
        changes += (PADDED,)
    uids = (sop_class_uid, instance.sop_instance_uid[:LONGEST_UID_CHARACTERS], target)
    return Prepared(instance, context_id, *uids, source.length_bytes, source, changes)


def _conversion_text(transfer_syntax_uid: str, target: str) -> str:
    return f"converted from {name_of(transfer_syntax_uid)} to {name_of(target)}"
