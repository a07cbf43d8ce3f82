"""Prepares an instance for an association: unchanged, or converted to a transfer syntax that the peer accepted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from asyncstore.instances.outcome import Outcome, no_context
from asyncstore.instances.problem import unreadable
from asyncstore.record import record
from asyncstore.uids import (
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_BIG_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    LONGEST_UID_CHARACTERS,
    UNCOMPRESSED_TRANSFER_SYNTAXES,
)

if TYPE_CHECKING:
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
    the C-STORE request.
    """

    instance: Instance
    context_id: int
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    data_set_length: int
    source: DataSource

    @property
    def is_padded(self) -> bool:
        """Whether the instance's data set is of odd length, and this one of even length."""
        return self.instance.data_set_length & 1 > self.data_set_length & 1


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


def prepare(instance: Instance, contexts: AcceptedContexts) -> Prepared | Outcome:
    """The instance as it can be sent with these accepted contexts; an outcome if none of them fits.

    Blocks during a conversion, and while it looks for the value to pad. Raises SourceError if the data set cannot be
    read or converted.
    """
    prepared = prepare_now(instance, contexts)
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
    from asyncstore.preparation import convert, padding

    try:
        source = padding.padded(convert.convert(instance, target), target)
    except OSError as error:
        raise unreadable(instance, error) from error
    finally:
        instance.source.close()
    uids = (sop_class_uid, instance.sop_instance_uid[:LONGEST_UID_CHARACTERS], target)
    return Prepared(instance, context_id, *uids, source.length_bytes, source)
