"""The tables of a ledger in PostgreSQL, in a schema of their own.

A directory, a series and an account stand in one row each, to which instances refer, so that an instance takes little
room. The name of an instance is the rest of its path behind that of the directory, which ends in a slash. One from
memory has the name NUL and its UID, in the directory "" of the root "". Paths are bytes, UIDs of instances are packed
(see pack_uid), times are milliseconds since 1970, UTC. Unknown values are empty, or -1 for numbers. `account.instances`
and `account.bytes_sent` count the instances that refer to it, so that a report need not read them all. Only an instance
that was sent under another UID than its file's has a row in `sent`.

A batch is what one sender works on: directories below a root. Its `epoch` grows by 1 each time a sender claims it, and
only the sender of this epoch may write (see `writer`); `fruitless` counts the epochs since the last in which something
was stored. Its `state` is open, doing, done, or set-aside for a `reason`; `stored` and `failed` count its instances as
they were when it was last claimed or done. storescu has a root without a name and one batch, which is never done.

All workers of a migration have no more associations than `cap`, which the operator sets, and `target`, which moves: it
falls when the peer was out of resources (`pressed_at`) or rejected an association (`rejected_at`), and grows as the
holder of an advisory lock says. While a migration `is_paused`, nothing of it is sent. A worker that is not heard of for
`timeout_seconds` is taken for dead. `scan` has the directories that are walked by whichever host comes first. The
`stamp` of a directory is another one when one of its files is not what it was; NULL if it is not known.

`worker` has a row for each process that has written; a lock of the database says that it still runs. One of many tells
now and then that it lives (`seen_at`), how many associations it has for batches, and what it has sent since it began.
`in_flight` has the UIDs that the worker of a batch may send, so that no other worker sends them meanwhile.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from asyncstore.errors import LedgerError
from asyncstore.ledger.accounts import ACCOUNT_FIELDS, CONTENT_COLUMNS, SHARED_COLUMNS
from asyncstore.ledger.postgresql.database import SCHEMA

if TYPE_CHECKING:
    import asyncpg

SCHEMA_VERSION: Final = 4
LOCKS: Final = int.from_bytes(b"ASLG", "big")
"""The class of the advisory locks; number 0 is that of the schema, others those of workers."""
LOCKS_OF_ROOTS: Final = int.from_bytes(b"ASLR", "big")
"""The class of those that are held while batches of a root are added."""
LOCKS_OF_TARGETS: Final = int.from_bytes(b"ASLT", "big")
"""The class of those whose holder has the target of a migration grow."""

_TYPES: Final[dict[type, str]] = {str: "text", int: "integer", bool: "boolean", bytes: "bytea"}
_ACCOUNT_COLUMNS: Final = ",\n    ".join(f"{name} {_TYPES[kind]} NOT NULL" for name, kind in ACCOUNT_FIELDS.items())
_IDENTITY: Final = "GENERATED ALWAYS AS IDENTITY PRIMARY KEY"


def _uid_text(column: str) -> str:
    packed = f"rtrim(replace(encode({column}, 'hex'), 'a', '.'), 'f')"
    plain = f"convert_from(substr({column}, 2), 'UTF8')"
    return f"nullif(CASE WHEN substr({column}, 1, 1) = '\\xff' THEN {plain} ELSE {packed} END, '')"


_TABLES: Final = f"""
CREATE TABLE schema_version (version integer NOT NULL);
CREATE TABLE migration (
    id integer {_IDENTITY},
    name text NOT NULL UNIQUE,
    destination text NOT NULL,
    created_at bigint NOT NULL,
    created_by text NOT NULL DEFAULT '',
    is_paused boolean NOT NULL DEFAULT false,
    cap integer NOT NULL DEFAULT 8,
    target integer NOT NULL DEFAULT 1,
    pressed_at bigint,
    rejected_at bigint,
    timeout_seconds integer NOT NULL DEFAULT 60
);
CREATE TABLE root (
    id integer {_IDENTITY},
    migration integer NOT NULL REFERENCES migration,
    name text NOT NULL,
    sentinel text NOT NULL DEFAULT '[]',
    UNIQUE (migration, name)
);
CREATE TABLE scan (
    root integer NOT NULL REFERENCES root,
    path bytea NOT NULL,
    is_open boolean NOT NULL,
    problems text NOT NULL DEFAULT '',
    PRIMARY KEY (root, path)
);
CREATE TABLE worker (
    id integer {_IDENTITY},
    migration integer NOT NULL REFERENCES migration,
    pid integer NOT NULL,
    host text NOT NULL,
    options jsonb NOT NULL,
    started_at bigint NOT NULL,
    finished_at bigint,
    scan_finished boolean,
    stopped text,
    refused_at bigint,
    seen_at bigint,
    associations integer NOT NULL DEFAULT 0,
    answers bigint NOT NULL DEFAULT 0,
    sent_bytes bigint NOT NULL DEFAULT 0
);
CREATE INDEX worker_migration ON worker (migration);
CREATE TABLE batch (
    id bigint {_IDENTITY},
    root integer NOT NULL REFERENCES root,
    epoch integer NOT NULL DEFAULT 0,
    worker integer REFERENCES worker,
    state text NOT NULL DEFAULT 'open',
    reason text NOT NULL DEFAULT '',
    files integer NOT NULL DEFAULT 0,
    size_bytes bigint NOT NULL DEFAULT 0,
    fruitless integer NOT NULL DEFAULT 0,
    stored integer NOT NULL DEFAULT 0,
    failed integer NOT NULL DEFAULT 0,
    claimed_at bigint,
    finished_at bigint
);
CREATE INDEX batch_state ON batch (root, state);
CREATE TABLE directory (
    id integer {_IDENTITY},
    root integer NOT NULL REFERENCES root,
    path bytea NOT NULL,
    batch bigint REFERENCES batch,
    files integer,
    stamp bigint,
    UNIQUE (root, path)
);
CREATE INDEX directory_batch ON directory (batch);
CREATE TABLE in_flight (
    sop_instance_uid bytea PRIMARY KEY,
    batch bigint NOT NULL
);
CREATE INDEX in_flight_batch ON in_flight (batch);
CREATE TABLE series (
    id integer {_IDENTITY},
    study_instance_uid text NOT NULL,
    series_instance_uid text NOT NULL,
    UNIQUE (study_instance_uid, series_instance_uid)
);
CREATE TABLE account (
    id integer {_IDENTITY},
    {_ACCOUNT_COLUMNS},
    run integer NOT NULL REFERENCES worker,
    instances bigint NOT NULL DEFAULT 0,
    bytes_sent bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 50);
CREATE INDEX account_run ON account (run);
CREATE TABLE instance (
    size_bytes bigint NOT NULL,
    mtime_ns bigint NOT NULL,
    recorded_at bigint NOT NULL,
    bytes_sent bigint NOT NULL,
    directory integer NOT NULL,
    account integer NOT NULL,
    series integer NOT NULL,
    earlier_attempts integer NOT NULL,
    sop_instance_uid bytea NOT NULL,
    name bytea NOT NULL,
    PRIMARY KEY (directory, name)
);
CREATE TABLE sent (
    directory integer NOT NULL,
    name bytea NOT NULL,
    sop_instance_uid text NOT NULL,
    study_instance_uid text NOT NULL,
    series_instance_uid text NOT NULL,
    PRIMARY KEY (directory, name)
);
CREATE INDEX instance_uid ON instance USING hash (sop_instance_uid);
CREATE VIEW instances AS SELECT
    r.migration AS migration,
    i.directory AS directory,
    i.name AS name,
    CASE WHEN substr(i.name, 1, 1) = '\\x00' THEN NULL
        WHEN r.name = '' THEN d.path || i.name
        ELSE convert_to(r.name || ':', 'UTF8') || d.path || i.name END AS path,
    {_uid_text("i.sop_instance_uid")} AS sop_instance_uid,
{CONTENT_COLUMNS}    nullif(s.study_instance_uid, '') AS study_instance_uid,
    nullif(s.series_instance_uid, '') AS series_instance_uid,
{SHARED_COLUMNS}    nullif(t.sop_instance_uid, '') AS sent_sop_instance_uid,
    nullif(t.study_instance_uid, '') AS sent_study_instance_uid,
    nullif(t.series_instance_uid, '') AS sent_series_instance_uid
FROM instance i
    JOIN account a ON a.id = i.account
    JOIN directory d ON d.id = i.directory
    JOIN root r ON r.id = d.root
    LEFT JOIN series s ON s.id = i.series
    LEFT JOIN sent t ON t.directory = i.directory AND t.name = i.name;
INSERT INTO schema_version VALUES ({SCHEMA_VERSION});
"""
_COMPLETED_VERSION: Final = 3
# It knew only how many files a directory has.
_FROM_3: Final = f"""
ALTER TABLE directory ADD COLUMN stamp bigint;
UPDATE schema_version SET version = {SCHEMA_VERSION};
"""


async def lock_schema(connection: asyncpg.Connection) -> None:
    """Let one process at a time make tables or claim a batch, until the end of the transaction."""
    await connection.execute("SELECT pg_advisory_xact_lock($1, 0)", LOCKS)


async def prepare(connection: asyncpg.Connection, shown: str) -> None:
    """Make the tables unless they are there, or complete those of version 3. LedgerError if they are of another one."""
    async with connection.transaction():
        await lock_schema(connection)
        if await _version(connection) == _COMPLETED_VERSION:
            await connection.execute(_FROM_3)
        if not await is_there(connection, shown):
            await connection.execute(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}")
            await connection.execute(_TABLES)


async def is_there(connection: asyncpg.Connection, shown: str) -> bool:
    """Whether the tables are there. Raises LedgerError if they are those of another version."""
    version = await _version(connection)
    if version is None:
        return False
    if version != SCHEMA_VERSION:
        age = "a newer" if version > SCHEMA_VERSION else "an older"
        raise LedgerError(
            f"the database {shown!r} was written by {age} version of asyncstore: "
            f"it has schema {version}, this one knows {SCHEMA_VERSION}: use that version, or another database"
        )
    return True


async def _version(connection: asyncpg.Connection) -> int | None:
    """The version of the tables; 0 if they do not say it, None if there are none."""
    if await connection.fetchval("SELECT to_regclass($1)", f"{SCHEMA}.schema_version") is None:
        return None
    return int(await connection.fetchval("SELECT max(version) FROM schema_version") or 0)
