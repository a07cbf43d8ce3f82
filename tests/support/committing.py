"""A storage commitment SCP in this process that reports as real archives do, or never."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import anyio

from asyncstore.dimse.n_messages import NActionRQ, NActionRSP, NEventReportRQ
from asyncstore.net.peer import Peer
from asyncstore.services.identifiers import decode_identifier, encode_identifier
from asyncstore.services.references import Reference
from asyncstore.services.scu import associate
from asyncstore.services.storage_commitment import PUSH_MODEL_INSTANCE
from asyncstore.status import SUCCESS, Status
from asyncstore.uids import IMPLICIT_VR_LITTLE_ENDIAN, STORAGE_COMMITMENT_PUSH_MODEL
from tests.support.archive import item_of
from tests.support.associations import inside

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pydicom import Dataset

    from asyncstore.net.tls_settings import TLS

REPORT: Final = (STORAGE_COMMITMENT_PUSH_MODEL, PUSH_MODEL_INSTANCE)


class CommittingPeer:
    """Commits to everything but what `failures` names; `plan` says how it reports on each request, in order.

    "same", "new": on the same or on a new association; "parts", "twice": in two parts, twice; "none": never;
    "late": with the report to the next request. `refuses` is the status of its first answers. `tls`: how it calls.
    """

    def __init__(
        self,
        *plan: str,
        failures: Mapping[str, list[int]] | None = None,
        refuses: Sequence[int] = (),
        tls: TLS | None = None,
    ) -> None:
        self.requests: list[Dataset] = []
        self.port = 0
        self._plan = list(plan)
        self._failures = dict(failures or {})
        self._refuses = list(refuses)
        self._late: list[Dataset] = []
        self._tls = tls

    @property
    def asked(self) -> list[list[str]]:
        """The SOP Instance UIDs of each request."""
        return [[item.ReferencedSOPInstanceUID for item in request.ReferencedSOPSequence] for request in self.requests]

    def begin(self, request: Any) -> None:
        """Take the action in memory."""

    def perform(self, request: Any, data_set: Any) -> Any:
        assert isinstance(request.message, NActionRQ)
        if self._refuses:
            return NActionRSP(request.message_id, Status(self._refuses.pop(0)))
        asked = decode_identifier(data_set, request.context.transfer_syntax_uid)
        self.requests.append(asked)
        way = self._plan.pop(0) if len(self._plan) > 1 else self._plan[0]
        request.association._background.start_soon(self._report, request.association, asked, way)
        return NActionRSP(request.message_id, SUCCESS)

    async def _report(self, association: Any, asked: Dataset, way: str) -> None:
        if way == "late":
            self._late.append(asked)
        if way in ("late", "none"):
            return
        for each in (*self._late, asked):
            parts = self._parts(each, 2 if way == "parts" else 1)
            for part in parts * (2 if way == "twice" else 1):
                if way == "new":
                    us = Peer("127.0.0.1", self.port, "STORESCU", tls=self._tls)
                    contexts = [(STORAGE_COMMITMENT_PUSH_MODEL, (IMPLICIT_VR_LITTLE_ENDIAN,))]
                    async with associate(us, contexts=contexts) as back:
                        await self._send(inside(back), part)
                else:
                    await self._send(association, part)
        self._late.clear()

    async def _send(self, association: Any, part: Dataset) -> None:
        context_id, context = next(iter(association.contexts.by_id.items()))
        answered = anyio.Event()

        def on_response(*_: object) -> None:
            self.acknowledged(association)
            answered.set()

        encoded = encode_identifier(part, context.transfer_syntax_uid)
        await association.invoker.send_command(context_id, NEventReportRQ, on_response, *REPORT, 1, data_set=encoded)
        await answered.wait()

    def acknowledged(self, association: Any) -> None:
        """A report is acknowledged; what the peer sent after that was not read yet."""

    def _parts(self, asked: Dataset, count: int) -> list[Dataset]:
        from pydicom import Dataset

        parts = []
        items = list(asked.ReferencedSOPSequence)
        for number in range(count):
            part = Dataset()
            part.TransactionUID = asked.TransactionUID
            part.ReferencedSOPSequence, part.FailedSOPSequence = [], []
            for item in items[number::count]:
                reasons = self._failures.get(item.ReferencedSOPInstanceUID)
                named = item_of(Reference(item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID))
                if reasons and (reason := reasons.pop(0)):
                    named.FailureReason = reason
                    part.FailedSOPSequence.append(named)
                else:
                    part.ReferencedSOPSequence.append(named)
            parts.append(part)
        return parts
