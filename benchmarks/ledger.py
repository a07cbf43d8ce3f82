"""Measures how many instances a second a ledger takes, and how much room each takes.

    python benchmarks/ledger.py /tmp/run.db                                     a file
    python benchmarks/ledger.py postgresql://mover@db.example/bench             a database, which must be empty

Outcomes of instances that are stored come as fast as the ledger takes them. Paths have 80 characters, a directory has
500 files, which are one series.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if not __package__:
    # Run as a script: this directory's profile.py must not stand for Python's own.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import anyio

from asyncstore.errors import LedgerError
from asyncstore.instances.instance import Instance
from asyncstore.instances.outcome import Outcome, State
from asyncstore.instances.source import FileSource
from asyncstore.ledger.opening import is_database, open_ledger
from asyncstore.status import SUCCESS
from asyncstore.uids import CT_IMAGE_STORAGE, EXPLICIT_VR_LITTLE_ENDIAN

if TYPE_CHECKING:
    from collections.abc import Iterator

FILES_IN_DIRECTORY = 500
FILE_BYTES = 9_000


def outcomes(count: int) -> Iterator[Outcome]:
    """Outcomes of stored instances, in the order in which a walk would find them."""
    for number in range(count):
        series = number // FILES_IN_DIRECTORY
        path = f"/mnt/archive/patient-{series // 8:07}/study-{series // 4:08}/series-{series:09}/IM{number:012}.dcm"
        instance = Instance(
            path,
            CT_IMAGE_STORAGE,
            f"1.2.826.0.1.3680043.10.9999.{series}.{number}",
            EXPLICIT_VR_LITTLE_ENDIAN,
            300,
            FILE_BYTES,
            FileSource(path, 300, FILE_BYTES, FILE_BYTES + 300, 0),
            FILE_BYTES + 300,
            1_700_000_000_000_000_000 + number,
            study_instance_uid=f"1.2.826.0.1.3680043.10.9999.7.{series // 4}",
            series_instance_uid=f"1.2.826.0.1.3680043.10.9999.8.{series}",
        )
        yield Outcome(State.STORED, path, instance, SUCCESS, bytes_sent=FILE_BYTES)


async def record(name: str, count: int) -> float:
    """Record so many outcomes, and return how many seconds it took until all were on the disk."""
    ledger = open_ledger(name, destination="ANY-SCP@localhost:11112", options={})
    made = list(outcomes(count))
    async with ledger:
        began_at = time.perf_counter()
        for outcome in made:
            while not ledger.has_room:  # noqa: ASYNC110  a ledger does not signal that it has room again
                await anyio.sleep(0.001)
            ledger.record(outcome)
    return time.perf_counter() - began_at


async def database_bytes(dsn: str) -> int:
    """The room that all tables and indexes take."""
    from asyncstore.ledger.postgresql.database import connect

    connection = await connect(dsn, "benchmark")
    try:
        query = (
            "SELECT sum(pg_total_relation_size(c.oid)) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        )
        return int(await connection.fetchval(f"{query} WHERE relkind = 'r' AND nspname = 'asyncstore'"))
    finally:
        await connection.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("ledger", help="a file that is not there yet, or the URI of an empty database")
    parser.add_argument("--instances", type=int, default=200_000)
    options = parser.parse_args()
    if not is_database(options.ledger) and os.path.exists(options.ledger):
        print(f"{options.ledger} is there already: a ledger that has rows is another measurement")
        return 2
    try:
        seconds = anyio.run(record, options.ledger, options.instances)
        is_in_database = is_database(options.ledger)
        size = anyio.run(database_bytes, options.ledger) if is_in_database else os.path.getsize(options.ledger)
    except LedgerError as error:
        print(error)
        return 6
    print(f"{options.instances / seconds:,.0f} instances a second, {size / options.instances:.0f} bytes an instance")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
