"""Answers queries about what a StorageSCP keeps, and commits to it: for tests of senders and of archives.

`Holdings` is the index, in a temporary database. `FindProvider` answers C-FIND over it (PS3.4 Annex C, Study Root),
`CommitmentProvider` storage commitment (PS3.4 Annex J), with its report on the association of the request.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
from typing import TYPE_CHECKING, Any, Final

import anyio.to_thread

from asyncstore.dimse.n_messages import NActionRQ, NActionRSP, NEventReportRQ
from asyncstore.dimse.performing import UNRECOGNISED_OPERATION
from asyncstore.dimse.query_messages import CFindRQ, CFindRSP
from asyncstore.errors import AsyncStoreError
from asyncstore.net.invoker import FinalResponse
from asyncstore.net.provider import Reply
from asyncstore.services import identifiers as keys
from asyncstore.services.identifiers import decode_keys, encode_keys
from asyncstore.services.query import RELATIONAL_QUERIES
from asyncstore.services.references import CommitmentReport, Reference, encode_report, read_report
from asyncstore.services.storage_commitment import ALL_COMMITTED, PUSH_MODEL_INSTANCE, REQUEST_COMMITMENT, SOME_FAILED
from asyncstore.status import SUCCESS, Status
from asyncstore.uids import (
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    STORAGE_COMMITMENT_PUSH_MODEL,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping

    from asyncstore.dimse.performing import PeerRequest
    from asyncstore.net.association import Association
    from asyncstore.net.provider import Answer

logger: logging.Logger = logging.getLogger("asyncstore.net.acceptor")

_PENDING: Final = Status(0xFF00)
_PENDING_WITHOUT_SOME_KEYS: Final = Status(0xFF01)
_WRONG_IDENTIFIER: Final = Status(0xA900, "the level or the identifier is not known here")
_NO_SUCH_ACTION: Final = Status(0x0123)
_INVALID_ARGUMENT: Final = Status(0x0115)
_NO_SUCH_INSTANCE: Final = 0x0112
_CLASS_CONFLICT: Final = 0x0119
_ROWS_AT_ONCE: Final = 500
_SCHEMA: Final = """
CREATE TABLE held (
    study TEXT NOT NULL,
    series TEXT NOT NULL,
    uid TEXT NOT NULL UNIQUE,
    sop_class TEXT NOT NULL,
    path BLOB NOT NULL,
    PRIMARY KEY (study, series, uid)
) WITHOUT ROWID
"""
_UNIQUE: Final = (keys.STUDY_INSTANCE_UID, keys.SERIES_INSTANCE_UID, keys.SOP_INSTANCE_UID)
_COLUMNS: Final = ("study", "series", "uid")
# Level -> what is selected of each group, and the tags of the columns.
_LEVELS: Final[dict[str, tuple[str, tuple[int, ...]]]] = {
    "STUDY": (
        "SELECT study, count(DISTINCT series), count(*), group_concat(DISTINCT sop_class) FROM held {} GROUP BY study",
        (
            keys.STUDY_INSTANCE_UID,
            keys.STUDY_RELATED_SERIES,
            keys.STUDY_RELATED_INSTANCES,
            keys.SOP_CLASSES_IN_STUDY,
        ),
    ),
    "SERIES": (
        "SELECT study, series, count(*) FROM held {} GROUP BY study, series",
        (keys.STUDY_INSTANCE_UID, keys.SERIES_INSTANCE_UID, keys.SERIES_RELATED_INSTANCES),
    ),
    "IMAGE": (
        "SELECT study, series, uid, sop_class FROM held {}",
        (*_UNIQUE, keys.SOP_CLASS_UID),
    ),
}
_ANSWERED: Final = {tag for _, tags in _LEVELS.values() for tag in tags} | {keys.QUERY_RETRIEVE_LEVEL}


class Holdings:
    """What is kept: instances by study and series, with their files. Blocks; several threads may use it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._connection = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._connection.create_function("is_there", 1, os.path.exists)
        self._connection.execute("PRAGMA journal_mode = OFF")
        self._connection.execute(_SCHEMA)

    def add(self, study: str, series: str, reference: Reference, path: str) -> None:
        """Add an instance; one with the same SOP Instance UID is replaced."""
        row = (study, series, reference.sop_instance_uid, reference.sop_class_uid, os.fsencode(path))
        with self._lock:
            self._connection.execute("INSERT OR REPLACE INTO held VALUES (?, ?, ?, ?, ?)", row)

    def find(self, level: str, wanted: Mapping[int, str]) -> Iterator[list[dict[int, str]]]:
        """The matches at a level, some at a time, of the files that are still there.

        `wanted` has the keys, of which UIDs may be lists.
        """
        query, tags = _LEVELS[level]
        conditions, values = ["is_there(path)"], []
        for column, tag in zip(_COLUMNS, _UNIQUE, strict=True):
            if uids := [uid for uid in wanted.get(tag, "").split("\\") if uid]:
                conditions.append(f"{column} IN ({', '.join('?' * len(uids))})")
                values += uids
        with self._lock:
            cursor = self._connection.execute(query.format(f"WHERE {' AND '.join(conditions)}"), values)
        while True:
            with self._lock:
                rows = cursor.fetchmany(_ROWS_AT_ONCE)
            if not rows:
                return
            yield [_match(dict(zip(tags, map(str, row), strict=True)), wanted) for row in rows]

    def failure_of(self, reference: Reference) -> int:
        """Why an instance cannot be committed, as a Failure Reason; 0: its file is there, with this SOP class."""
        query = "SELECT sop_class, path FROM held WHERE uid = ?"
        with self._lock:
            row = self._connection.execute(query, (reference.sop_instance_uid,)).fetchone()
        if row is None or not os.path.exists(row[1]):
            return _NO_SUCH_INSTANCE
        return 0 if row[0] == reference.sop_class_uid else _CLASS_CONFLICT


def _match(match: dict[int, str], wanted: Mapping[int, str]) -> dict[int, str]:
    """What is told of a match: the unique keys, and what was asked for."""
    if keys.SOP_CLASSES_IN_STUDY in match:
        match[keys.SOP_CLASSES_IN_STUDY] = match[keys.SOP_CLASSES_IN_STUDY].replace(",", "\\")
    return {tag: text for tag, text in match.items() if tag in wanted or tag in _UNIQUE}


class FindProvider:
    """Performs C-FIND at STUDY, SERIES and IMAGE level, relational or not; other keys than UIDs are not matched."""

    def __init__(self, holdings: Holdings) -> None:
        self._holdings = holdings

    def negotiate(self, information: bytes) -> bytes:
        """Accept relational queries, and nothing else."""
        return RELATIONAL_QUERIES if information[:1] == RELATIONAL_QUERIES else b"\0"

    def begin(self, request: PeerRequest) -> None:
        """Refuse everything but a C-FIND."""
        if not isinstance(request.message, CFindRQ):
            request.refused_with = UNRECOGNISED_OPERATION

    async def perform(self, request: PeerRequest, data_set: Any) -> AsyncIterator[Answer]:
        """Give the matches."""
        syntax = request.context.transfer_syntax_uid
        try:
            query = decode_keys(data_set, syntax)
        except ValueError:
            query = {}
        level = query.get(keys.QUERY_RETRIEVE_LEVEL, "")
        sop_class_uid = request.context.abstract_syntax
        if level not in _LEVELS or syntax not in (EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN):
            yield CFindRSP(request.message_id, _WRONG_IDENTIFIER, sop_class_uid)
            return
        status = _PENDING if query.keys() <= _ANSWERED else _PENDING_WITHOUT_SOME_KEYS
        batches = self._holdings.find(level, query)
        while (batch := await anyio.to_thread.run_sync(next, batches, None)) is not None:
            for match in batch:
                encoded = encode_keys({keys.QUERY_RETRIEVE_LEVEL: level, **match}, syntax)
                yield Reply(CFindRSP(request.message_id, status, sop_class_uid, has_data_set=True), encoded)


class CommitmentProvider:
    """Performs requests for storage commitment, and reports at once on the same association."""

    def __init__(self, holdings: Holdings) -> None:
        self._holdings = holdings

    def begin(self, request: PeerRequest) -> None:
        """Refuse everything but a request for commitment."""
        if not isinstance(request.message, NActionRQ):
            request.refused_with = UNRECOGNISED_OPERATION
        elif request.message.action_type_id != REQUEST_COMMITMENT:
            request.refused_with = _NO_SUCH_ACTION

    def perform(self, request: PeerRequest, data_set: Any) -> Answer:
        """Accept the request; the report follows the answer."""
        message = request.message
        assert isinstance(message, NActionRQ)
        uids = (message.requested_sop_class_uid, message.requested_sop_instance_uid)
        try:  # a request names its instances as a report names the committed ones
            asked = read_report(data_set or b"", request.context.transfer_syntax_uid)
        except ValueError:
            return NActionRSP(request.message_id, _INVALID_ARGUMENT, *uids, message.action_type_id)
        request.association.start_soon(self._report, request, asked)
        return NActionRSP(request.message_id, SUCCESS, *uids, message.action_type_id)

    async def _report(self, request: PeerRequest, asked: CommitmentReport) -> None:
        association: Association = request.association
        reasons = await anyio.to_thread.run_sync(lambda: list(map(self._holdings.failure_of, asked.committed)))
        answers = list(zip(asked.committed, reasons, strict=True))
        committed = [reference for reference, reason in answers if not reason]
        failed = {reference: reason for reference, reason in answers if reason}
        event_type = SOME_FAILED if failed else ALL_COMMITTED
        encoded = encode_report(asked.transaction_uid, committed, failed, request.context.transfer_syntax_uid)
        arguments = (STORAGE_COMMITMENT_PUSH_MODEL, PUSH_MODEL_INSTANCE, event_type)
        response = FinalResponse()
        try:
            await association.invoker.send_command(
                request.context.context_id, NEventReportRQ, response.on_response, *arguments, data_set=encoded
            )
            await association.invoker.wait_for(response)
        except AsyncStoreError as error:
            logger.warning("the report of transaction %r is lost: %s", asked.transaction_uid, error)
