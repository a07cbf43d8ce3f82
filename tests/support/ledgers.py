"""What the tests of ledgers share: outcomes without a transfer, and a process that writes until it is killed."""

from __future__ import annotations

import contextlib
import random
import sys
from typing import TYPE_CHECKING, Any, Final

import anyio

from asyncstore.inputs.entry import Entry, FileEntry, ReadyEntry
from asyncstore.instances.instance import Instance
from asyncstore.instances.outcome import Outcome, State
from asyncstore.instances.source import BytesSource
from asyncstore.ledger.opening import open_ledger
from asyncstore.ledger.sqlite import writer as ledger_writer
from asyncstore.ledger.sqlite.ledger import SqliteLedger
from asyncstore.ledger.sqlite.reader import LedgerReader
from asyncstore.status import SUCCESS, Status
from asyncstore.uids import CT_IMAGE_STORAGE, EXPLICIT_VR_LITTLE_ENDIAN

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

    from asyncstore.ledger.rows import LedgerRow

DESTINATION: Final = "ARCHIVE@127.0.0.1:104"
NOTHING: Final = BytesSource(b"")


def uid_of(number: int) -> str:
    """A UID of 60 characters, with no order in it."""
    return f"1.3.6.1.4.1.14519.5.2.1.{random.Random(number).getrandbits(118):036d}"


def path_of(number: int) -> str:
    """A path of 80 characters in a tree of an archive."""
    return (
        f"/mnt/archive/2019/{number // 50:08x}/series-{number // 25 % 2:04d}/IM-{number % 9999:04d}-{number:06d}".ljust(
            80, "x"
        )
    )


def instance_of(number: int, path: str | None = None, *, size_bytes: int = 526336, mtime_ns: int = 10**18) -> Instance:
    """An Instance whose file need not be there."""
    path = path_of(number) if path is None else path
    uids = (CT_IMAGE_STORAGE, uid_of(number), EXPLICIT_VR_LITTLE_ENDIAN)
    return Instance(path, *uids, 1000, 525336, NOTHING, size_bytes, mtime_ns)


def outcome_of(
    instance: Instance, state: State = State.STORED, status: Status | None = SUCCESS, **more: Any
) -> Outcome:
    """An outcome as an association gives it."""
    values: dict[str, Any] = {
        "association_number": 3,
        "context_id": 5,
        "transfer_syntax_uid": instance.transfer_syntax_uid,
        "bytes_sent": instance.data_set_length,
    }
    return Outcome(state, instance.path, instance, status, **(values | more))


def stored(number: int, path: str | None = None, **more: Any) -> Outcome:
    """Instance `number` was stored."""
    return outcome_of(instance_of(number, path, **more))


@contextlib.contextmanager
def opened(path: str | os.PathLike[str], **options: Any) -> Iterator[SqliteLedger]:
    """A ledger without an event loop."""
    ledger = SqliteLedger(path, **({"destination": DESTINATION} | options))
    ledger.open()
    try:
        yield ledger
    finally:
        ledger.close()


def offered(*things: str | Instance) -> list[Entry]:
    """What a feed offers to a ledger: files found in a directory, by their paths, and instances."""
    return [FileEntry(each) if isinstance(each, str) else ReadyEntry(each) for each in things]


def rows_of(path: str | os.PathLike[str]) -> list[LedgerRow]:
    """Everything that a ledger has."""
    with LedgerReader(path) as reader:
        return list(reader.rows())


async def write_for_ever(path: str, first: int) -> None:
    """Store instances and tell how many are flushed, in batches of any size, until somebody kills the process."""
    ledger_writer._WAITING_HASHES = 700  # type: ignore[misc]  # so that the index is always being written too
    rng = random.Random(first)
    async with open_ledger(path, destination=DESTINATION, options={}) as ledger:
        number = first
        print(number, flush=True)  # noqa: T201
        while True:
            for _ in range(rng.randrange(1, 900)):
                ledger.record(stored(number))
                number += 1
            await ledger.flush()
            print(number, flush=True)  # noqa: T201


if __name__ == "__main__":
    anyio.run(write_for_ever, sys.argv[1], int(sys.argv[2]))
