"""Query/Retrieve Service Class as its user (PS3.4 Annex C): C-FIND."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final, Generic, Self, TypeVar

from asyncstore.aio.signal import Signal
from asyncstore.dimse.messages import MEDIUM
from asyncstore.dimse.query_messages import CFindRQ
from asyncstore.errors import AsyncStoreError, LocalProtocolError, OperationFailed, RemoteProtocolError
from asyncstore.instances.outcome import reason_of
from asyncstore.services.identifiers import decode_identifier, decode_keys, encode_identifier, encode_keys
from asyncstore.status import Category
from asyncstore.uids import name_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from pydicom.dataset import Dataset

    from asyncstore.dimse.message_types import Response
    from asyncstore.dimse.operations import Operation
    from asyncstore.net.association import Association
    from asyncstore.status import Status

RELATIONAL_QUERIES: Final = b"\x01"
"""The extended negotiation that asks for relational queries (PS3.4 C.5.1.1)."""

_Match = TypeVar("_Match")


class Query(Generic[_Match]):
    """The matches of one C-FIND as an async iterator; a subclass says how the query and its matches are encoded.

    The query is sent with the first match that is asked for. `status` is the peer's final answer, None before it.
    Matches that were not taken yet wait in memory. See asyncstore.Association.find for what is raised.
    """

    def __init__(self, association: Association, *, model: str, priority: int = MEDIUM) -> None:
        self.status: Status | None = None
        self._association = association
        self._model = model
        self._priority = priority
        self._operation: Operation | None = None
        self._is_begun = False
        self._is_closed = False
        self._encoded: deque[bytes] = deque()
        self._changed = Signal()
        self._transfer_syntax_uid = ""

    def _encode(self) -> bytes:
        raise NotImplementedError

    def _decode(self, data: bytes) -> _Match:
        raise NotImplementedError

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> _Match:
        if self._is_closed:
            raise StopAsyncIteration
        if not self._is_begun:
            await self._begin()
        if not self._encoded:
            await self._wait(for_all=False)
        if self._encoded:
            return self._decode(self._encoded.popleft())
        assert self.status is not None
        self._is_closed = True
        if self.status.category not in (Category.SUCCESS, Category.WARNING):
            raise _failure(self.status)
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """End the query: if it is not over, ask the peer to cancel it (C-CANCEL), and wait until it has ended."""
        if self._is_closed:
            return
        self._is_closed = True
        self._encoded.clear()
        if self._operation is None or self.status is not None or not self._association.is_open:
            return
        await self._association.invoker.cancel(self._operation)
        await self._wait(for_all=True)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            await self.aclose()
        except AsyncStoreError:
            if error is None:
                raise

    async def _begin(self) -> None:
        association = self._association
        association.check_open()
        context_id = association.contexts.any_of(self._model)
        if context_id is None:
            raise LocalProtocolError(f"the peer accepted no presentation context for {name_of(self._model)}")
        self._is_begun = True
        self._transfer_syntax_uid = association.contexts.by_id[context_id].transfer_syntax_uid
        query = (CFindRQ, self._on_response, self._model, self._priority)
        self._operation = await association.invoker.send_command(context_id, *query, data_set=self._encode())

    def _on_response(self, operation: Operation, response: Response, data_set: bytes | None) -> None:
        if operation.is_final:
            self.status = response.status
        elif data_set is None:
            raise RemoteProtocolError(
                "a match without its identifier", pdu=response.name, field="Command Data Set Type"
            )
        elif not self._is_closed:
            self._encoded.append(data_set)
        self._changed.set()

    async def _wait(self, *, for_all: bool) -> None:
        """Wait for the final response, or for the next match; raises what ended the association before it."""
        association = self._association
        association.awaited.add(self._changed)
        try:
            while self.status is None and (for_all or not self._encoded):
                association.check_not_failed()
                await self._changed.wait()
        finally:
            association.awaited.discard(self._changed)


class Matches(Query["Dataset"]):
    """The matches of one C-FIND, as pydicom Datasets: an async iterator, made by `asyncstore.Association.find`.

    It has that method's arguments `identifier`, `model` and `priority`, and asks on `association`. `status` is the
    peer's final answer, None before it.
    """

    def __init__(self, association: Association, identifier: Dataset, *, model: str, priority: int = MEDIUM) -> None:
        super().__init__(association, model=model, priority=priority)
        self._identifier = identifier

    def _encode(self) -> bytes:
        return encode_identifier(self._identifier, self._transfer_syntax_uid)

    def _decode(self, data: bytes) -> Dataset:
        try:
            return decode_identifier(data, self._transfer_syntax_uid)
        except ValueError as error:
            raise RemoteProtocolError(str(error), pdu="C-FIND-RSP", field="Identifier") from error


class KeyQuery(Query["dict[int, str]"]):
    """The matches of one C-FIND as plain text by tag, of which a million cost little; see identifiers.encode_keys.

    The context must have one of the two little endian transfer syntaxes.
    """

    def __init__(
        self, association: Association, keys: Mapping[int, str], *, model: str, priority: int = MEDIUM
    ) -> None:
        super().__init__(association, model=model, priority=priority)
        self._keys = keys

    def _encode(self) -> bytes:
        return encode_keys(self._keys, self._transfer_syntax_uid)

    def _decode(self, data: bytes) -> dict[int, str]:
        try:
            return decode_keys(data, self._transfer_syntax_uid)
        except ValueError as error:
            raise RemoteProtocolError(str(error), pdu="C-FIND-RSP", field="Identifier") from error


def _failure(status: Status) -> OperationFailed:
    if status.category is Category.CANCEL:
        return OperationFailed(f"the peer ended its list of matches early: {reason_of(status)}", status)
    return OperationFailed(f"the peer refused the query: {reason_of(status)}", status)
