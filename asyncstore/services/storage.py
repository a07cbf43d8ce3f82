"""Storage Service Class as its user (PS3.4 Annex B): C-STORE."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from asyncstore.dimse.messages import HIGH, LOW, MEDIUM, CStoreRQ
from asyncstore.errors import LocalProtocolError, SourceError
from asyncstore.instances.instance import Instance
from asyncstore.instances.outcome import Outcome, outcome_of, source_problem
from asyncstore.net import trace
from asyncstore.net.invoker import FinalResponse, logger
from asyncstore.preparation.prepare import prepare, prepare_now
from asyncstore.trace import emit

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any

    from pydicom.dataset import Dataset

    from asyncstore.dimse.operations import OnResponse, Operation
    from asyncstore.inputs.opening import AnyPath
    from asyncstore.net.association import Association
    from asyncstore.preparation.prepare import Prepared


async def store(association: Association, source: Instance | Dataset | AnyPath, *, priority: int = LOW) -> Outcome:
    """Store one instance and wait for the answer; see asyncstore.Association.store."""
    from asyncstore.inputs.opening import instance_from

    association.check_open()
    if priority not in (LOW, MEDIUM, HIGH):
        raise LocalProtocolError(f"priority is {priority!r:.80}: it is LOW, MEDIUM or HIGH")
    reader = association.invoker.reader
    try:
        instance = source if isinstance(source, Instance) else await reader.in_thread(instance_from, source)
    except (SourceError, OSError) as error:
        path = os.fsdecode(source) if isinstance(source, str | bytes | os.PathLike) else None
        return source_problem(error, path)
    if instance.meta_difference is not None:
        number, difference = association.trace_number, instance.meta_difference
        emit(logger, trace.MetaDiffers(association_number=number, path=instance.path, difference=difference))
    try:
        prepared = prepare_now(instance, association.contexts)
        if prepared is None:
            prepared = await reader.in_thread(prepare, instance, association.contexts)
        if isinstance(prepared, Outcome):
            return prepared
        if prepared.is_padded:
            emit(logger, trace.Padded(association_number=association.trace_number, path=instance.path))
        transfer_syntax_uid, bytes_sent = prepared.transfer_syntax_uid, prepared.data_set_length
        changes = prepared.changes
        response = FinalResponse()
        operation = await send(association, prepared, response.on_response, priority=priority)
        del prepared  # converted bytes need not stay in memory until the answer
        status = (await association.invoker.wait_for(response)).status
    except SourceError as problem:
        return source_problem(problem, instance.path, instance)
    finally:
        if instance is not source:  # the caller may keep the outcome, which must not keep the file's bytes
            instance.let_go()
    outcome = outcome_of(instance, operation, status, transfer_syntax_uid, bytes_sent)
    outcome.changes = changes
    return outcome


def send(
    association: Association,
    prepared: Prepared,
    on_response: OnResponse,
    *,
    on_begin: Callable[[Operation], object] | None = None,
    priority: int = LOW,
) -> Coroutine[Any, Any, Operation]:
    """Write one C-STORE request; await it. `on_response` is called with the answer. See Invoker.send.

    `prepared` must have been prepared for the contexts of this association.
    """
    uids = (prepared.sop_class_uid, prepared.sop_instance_uid)
    return association.invoker.send(prepared, CStoreRQ, (*uids, priority), on_response, on_begin)


def send_now(
    association: Association,
    prepared: Prepared,
    on_response: OnResponse,
    *,
    on_begin: Callable[[Operation], object] | None = None,
    priority: int = LOW,
) -> bool:
    """Write one C-STORE request if nothing has to be waited for; else False. See Invoker.send_now."""
    arguments = (prepared.sop_class_uid, prepared.sop_instance_uid, priority)
    return association.invoker.send_now(prepared, CStoreRQ, arguments, on_response, on_begin)
