"""Writes outcomes as rows of a ledger in PostgreSQL, some hundreds at a time.

Each write first locks the row of its batch and looks whether the batch still has the epoch in which it was claimed. If
another process has claimed it meanwhile, only what is stored is written: that is true whoever sent it. The rest is
what the other process knows better.
"""

from __future__ import annotations

import asyncio
import collections
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from asyncstore.errors import LedgerError
from asyncstore.instances.outcome import State
from asyncstore.ledger.accounts import ACCOUNT_FIELDS, account_of, account_values, size_and_time, stays
from asyncstore.ledger.packing import storable, uid_bytes
from asyncstore.ledger.postgresql.database import SCHEMA
from asyncstore.ledger.protocol import STORED

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import asyncpg

    from asyncstore.instances.outcome import Outcome
    from asyncstore.ledger.buffered import Entry
    from asyncstore.ledger.postgresql.places import Places

_IN_MEMORY: Final = 4096
# With 500, a busy machine spends a fifth more of its time between statements.
_ROWS_OF_A_STATEMENT: Final = 1000
_LOCK_BATCH: Final = "SELECT epoch FROM batch WHERE id = $1 FOR NO KEY UPDATE"
_ACCOUNT_COLUMNS: Final = ", ".join(ACCOUNT_FIELDS)
_MARKS: Final = ", ".join(f"${number + 2}" for number in range(len(ACCOUNT_FIELDS)))
_NEW_ACCOUNT: Final = f"INSERT INTO account (run, {_ACCOUNT_COLUMNS}) VALUES ($1, {_MARKS}) RETURNING id"
_NEW_DIRECTORIES: Final = "INSERT INTO directory (root, path) SELECT $1, unnest($2::bytea[]) ON CONFLICT DO NOTHING"
_DIRECTORIES: Final = "SELECT path, id FROM directory WHERE root = $1 AND path = ANY($2::bytea[])"
_NEW_SERIES: Final = """
INSERT INTO series (study_instance_uid, series_instance_uid)
SELECT * FROM unnest($1::text[], $2::text[]) ON CONFLICT DO NOTHING"""
_SERIES: Final = """
SELECT s.study_instance_uid, s.series_instance_uid, s.id
FROM unnest($1::text[], $2::text[]) AS t (study, series)
JOIN series s ON s.study_instance_uid = t.study AND s.series_instance_uid = t.series"""
_KNOWN: Final = """
SELECT i.directory, i.name FROM unnest($1::int[], $2::bytea[]) AS t (directory, name)
JOIN instance i ON i.directory = t.directory AND i.name = t.name"""
_COLUMNS: Final = (
    "directory",
    "name",
    "size_bytes",
    "mtime_ns",
    "recorded_at",
    "bytes_sent",
    "account",
    "series",
    "sop_instance_uid",
    "earlier_attempts",
)
# Numbers as text: of the arrays, the driver knows only those of text without asking the server, for each connection.
_COUNT: Final = """
UPDATE account SET instances = account.instances + d.instances, bytes_sent = account.bytes_sent + d.bytes_sent
FROM unnest($1::text[]::int[], $2::text[]::bigint[], $3::text[]::bigint[]) AS d (account, instances, bytes_sent)
WHERE account.id = d.account"""
# `may_stay` is 0 for a row that replaces any other, 1 for one that yields to a stored one of the same file, 2 for one
# that yields to any of the same file.
_REPLACE: Final = """
WITH wanted AS MATERIALIZED (
    SELECT t.*, i.account AS old_account, i.bytes_sent AS old_bytes,
        i.earlier_attempts + CASE WHEN a.run = $1 THEN 0 ELSE a.attempts END AS earlier
    FROM unnest($2::int[], $3::bytea[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[], $8::int[], $9::int[],
            $10::bytea[], $11::int[])
        AS t (directory, name, size_bytes, mtime_ns, recorded_at, bytes_sent, account, series, uid, may_stay)
    JOIN instance i ON i.directory = t.directory AND i.name = t.name
    JOIN account a ON a.id = i.account
    WHERE NOT (
        (t.size_bytes < 0 OR (t.size_bytes = i.size_bytes AND t.mtime_ns = i.mtime_ns))
        AND (t.may_stay = 2 OR (t.may_stay = 1 AND a.state = ANY($12::text[]))))
), counted AS (
    UPDATE account SET instances = account.instances + d.instances, bytes_sent = account.bytes_sent + d.bytes_sent
    FROM (
        SELECT account, sum(instances) AS instances, sum(bytes_sent) AS bytes_sent FROM (
            SELECT account, 1 AS instances, bytes_sent FROM wanted
            UNION ALL SELECT old_account, -1, -old_bytes FROM wanted
        ) AS each GROUP BY account
    ) AS d
    WHERE account.id = d.account
), unsent AS (
    DELETE FROM sent USING wanted AS w WHERE sent.directory = w.directory AND sent.name = w.name
)
UPDATE instance i SET size_bytes = w.size_bytes, mtime_ns = w.mtime_ns, recorded_at = w.recorded_at,
    bytes_sent = w.bytes_sent, account = w.account, series = w.series, earlier_attempts = w.earlier,
    sop_instance_uid = w.uid
FROM wanted w WHERE i.directory = w.directory AND i.name = w.name"""
# A row that yielded to an earlier one has another account than this.
_SENT: Final = """
INSERT INTO sent SELECT t.* FROM (SELECT * FROM unnest($1::int[], $2::bytea[], $4::text[], $5::text[], $6::text[])) AS t
    (directory, name, sop_instance_uid, study_instance_uid, series_instance_uid)
JOIN unnest($1::int[], $2::bytea[], $3::int[]) AS written (directory, name, account) USING (directory, name)
JOIN instance i USING (directory, name)
WHERE i.account = written.account"""
_STORED: Final = [state.value for state in sorted(STORED)]


class Claim(NamedTuple):
    """What a sender may write: the rows of a batch, while it has this epoch. `run` is the number of its worker."""

    run: int
    root: int
    batch: int
    epoch: int


class FenceLost(LedgerError):
    """Another process has claimed the batch; what was stored is written nevertheless."""


class _Row(NamedTuple):
    path: tuple[bytes, bytes]
    size_bytes: int
    mtime_ns: int
    recorded_at: int
    bytes_sent: int
    account: tuple[Any, ...]
    series: tuple[str | None, str | None] | None
    uid: bytes
    may_stay: int
    outcome: Outcome


class RowWriter:
    """Writes the rows of one claim. `shift_ms` is added to times: what the clock of the server is ahead.

    `directories` has the numbers of directories that are known already.
    """

    def __init__(
        self, claim: Claim, places: Places, *, shift_ms: int = 0, directories: Mapping[bytes, int] | None = None
    ) -> None:
        self.claim = claim
        self._places = places
        self._shift_ms = shift_ms
        self._accounts: dict[tuple[Any, ...], int] = {}
        self._directories: dict[bytes, int] = dict(directories or {})
        self._series: dict[tuple[str | None, str | None], int] = {}
        # The first claim finds no rows, and makes few twice: it looks for them only once there was one.
        self._may_find = claim.epoch > 1

    async def write(self, connection: asyncpg.Connection, entries: Sequence[Entry]) -> None:
        """Commit outcomes: all of them, or none. FenceLost: only what is stored of them."""
        import asyncpg

        try:
            await self._write(connection, entries)
        except asyncpg.UniqueViolationError:
            if self._may_find:
                raise
            self._may_find = True
            await self._write(connection, entries)

    async def _write(self, connection: asyncpg.Connection, entries: Sequence[Entry]) -> None:
        try:
            async with connection.transaction():
                epoch = await connection.fetchval(_LOCK_BATCH, self.claim.batch)
                is_ours = epoch == self.claim.epoch
                await self._insert_all(connection, entries, only_stored=not is_ours)
        except BaseException:
            # What was made for these rows is gone with them; or perhaps not, if the connection was lost.
            for known in (self._accounts, self._directories, self._series):
                known.clear()
            raise
        if not is_ours:
            raise FenceLost("another process has claimed this batch")

    async def _insert_all(self, connection: asyncpg.Connection, entries: Sequence[Entry], *, only_stored: bool) -> None:
        """Insert some hundred rows while the next ones are made: the server and this process work at the same time."""
        inserting: asyncio.Future[None] | None = None
        try:
            for at in range(0, len(entries), _ROWS_OF_A_STATEMENT):
                rows = self._rows(entries[at : at + _ROWS_OF_A_STATEMENT])
                if inserting is not None:
                    await inserting
                await self._prepare(connection, rows)
                inserted = [row for row in rows if row.may_stay == 0] if only_stored else rows
                inserting = asyncio.ensure_future(self._insert(connection, inserted))
                await asyncio.sleep(0)  # so that it is on its way
        finally:
            if inserting is not None:
                await inserting

    async def _insert(self, connection: asyncpg.Connection, rows: Sequence[_Row]) -> None:
        """Copy the rows that are new, which costs the server half as much as INSERT, and replace the others.

        Nobody else makes rows of this batch meanwhile, since its row is locked.
        """
        if not rows:
            return
        values = [self._values(row) for row in rows]
        known: set[tuple[int, bytes]] = set()
        if self._may_find:
            found = await connection.fetch(_KNOWN, [each[0] for each in values], [each[1] for each in values])
            known = {(directory, name) for directory, name in found}
        new = [each for each in values if each[:2] not in known] if known else values
        if new:
            await self._copy(connection, new)
        if known:
            columns = zip(
                *((*each[:-1], row.may_stay) for each, row in zip(values, rows, strict=True) if each[:2] in known),
                strict=True,
            )
            await connection.execute(_REPLACE, self.claim.run, *columns, _STORED)
        sent = [
            (*each[:2], each[6], *map(server_text, uids))
            for each, row in zip(values, rows, strict=True)
            if (uids := row.outcome.sent_uids) is not None
        ]
        if sent:
            await connection.execute(_SENT, *zip(*sent, strict=True))

    def _values(self, row: _Row) -> tuple[Any, ...]:
        """A row as the table `instance` has it, if it is a new one."""
        return (
            self._directories[row.path[0]],
            row.path[1],
            row.size_bytes,
            row.mtime_ns,
            row.recorded_at,
            row.bytes_sent,
            self._accounts[row.account],
            0 if row.series is None else self._series[row.series],
            row.uid,
            0,
        )

    async def _copy(self, connection: asyncpg.Connection, values: Sequence[tuple[Any, ...]]) -> None:
        await connection.copy_records_to_table("instance", schema_name=SCHEMA, columns=_COLUMNS, records=values)
        counts: collections.Counter[int] = collections.Counter()
        sums: collections.Counter[int] = collections.Counter()
        for each in values:
            counts[each[6]] += 1
            sums[each[6]] += each[5]
        columns = counts, counts.values(), map(sums.__getitem__, counts)
        await connection.execute(_COUNT, *(list(map(str, column)) for column in columns))

    def _rows(self, entries: Sequence[Entry]) -> list[_Row]:
        """The rows to write; a path that occurs twice gets one."""
        rows: dict[tuple[bytes, bytes], _Row] = {}
        for recorded_at, outcome, _ in entries:
            row = self._row(outcome, recorded_at)
            before = rows.get(row.path)
            if before is not None:
                is_same = row.size_bytes < 0 or row[1:3] == before[1:3]
                if stays(before.outcome.state, outcome, is_same_file=is_same):
                    continue
            rows[row.path] = row
        return list(rows.values())

    def _row(self, outcome: Outcome, recorded_at: int) -> _Row:
        instance = outcome.instance
        series = None
        uid = ""
        if instance is not None:
            uid = instance.sop_instance_uid
            size, mtime = instance.size_bytes, storable(instance.mtime_ns)
            if instance.study_instance_uid or instance.series_instance_uid:
                series = instance.study_instance_uid, instance.series_instance_uid
        else:
            size, mtime = size_and_time(outcome.path, recorded_at)
        return _Row(
            self._places.key(outcome.path, uid),
            size,
            mtime,
            recorded_at + self._shift_ms,
            outcome.bytes_sent,
            account_of(outcome),
            series,
            uid_bytes(uid) if uid else b"",
            _may_stay(outcome),
            outcome,
        )

    # -- what rows refer to --------------------------------------------------------------------------------------------

    async def _prepare(self, connection: asyncpg.Connection, rows: Sequence[_Row]) -> None:
        """Make the accounts, directories and series of these rows, unless they are there. Harmless without rows."""
        for known in (self._accounts, self._directories, self._series):
            if len(known) >= _IN_MEMORY:
                known.clear()
        for account in {row.account for row in rows} - self._accounts.keys():
            values = [server_text(value) if isinstance(value, str) else value for value in account_values(account)]
            self._accounts[account] = await connection.fetchval(_NEW_ACCOUNT, self.claim.run, *values)
        # In order, so that two writers never wait for each other.
        paths = sorted({row.path[0] for row in rows} - self._directories.keys())
        if paths:
            self._directories.update(await self.directories(connection, paths))
        series = {row.series for row in rows if row.series is not None} - self._series.keys()
        if series:
            texts = {each: (server_text(each[0]), server_text(each[1])) for each in series}
            columns = list(zip(*sorted(set(texts.values())), strict=True))
            await connection.execute(_NEW_SERIES, *columns)
            found = {(study, number): row_id for study, number, row_id in await connection.fetch(_SERIES, *columns)}
            self._series.update((each, found[text]) for each, text in texts.items())

    async def directories(self, connection: asyncpg.Connection, paths: Iterable[bytes]) -> dict[bytes, int]:
        """The number of each directory; those that are not there are made."""
        paths = list(paths)
        await connection.execute(_NEW_DIRECTORIES, self.claim.root, paths)
        return dict(map(tuple, await connection.fetch(_DIRECTORIES, self.claim.root, paths)))


def _may_stay(outcome: Outcome) -> int:
    """Which earlier row of the same file an outcome yields to: 0 none, 1 a stored one, 2 any. See `stays`."""
    if outcome.state in STORED:
        return 0
    return 2 if outcome.state is State.LEFT and not outcome.attempts else 1


def server_text(text: str | None) -> str:
    """Text as the server can hold it: UTF-8 without NUL."""
    return (text or "").replace("\0", "\\x00").encode("utf-8", "backslashreplace").decode()
