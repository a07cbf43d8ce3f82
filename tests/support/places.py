"""Where a test keeps a ledger: in a file, or in a database of a cluster. What is true of one is true of the other."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Protocol

from asyncstore.ledger.postgresql.ledger import PostgresLedger
from asyncstore.ledger.postgresql.reader import PostgresReader
from asyncstore.ledger.sqlite.ledger import SqliteLedger
from asyncstore.ledger.sqlite.reader import LedgerReader
from tests.support.ledgers import DESTINATION

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from asyncstore.ledger.buffered import BufferedLedger
    from asyncstore.ledger.reading import RecordReader
    from asyncstore.ledger.rows import LedgerRow


class Place(Protocol):
    """A place for one ledger. `name` is what a command calls it."""

    name: str

    def ledger(self, **options: Any) -> BufferedLedger:
        """The ledger, not opened yet."""

    def reader(self) -> RecordReader:
        """What reads it."""

    def opened(self, **options: Any) -> AbstractContextManager[BufferedLedger]:
        """The ledger without an event loop."""

    def rows(self) -> list[LedgerRow]:
        """Everything that it has, in the order in which it was first recorded."""


class _Place:
    name: str

    def ledger(self, **options: Any) -> BufferedLedger:
        raise NotImplementedError

    def reader(self) -> RecordReader:
        raise NotImplementedError

    @contextlib.contextmanager
    def opened(self, **options: Any) -> Iterator[BufferedLedger]:
        ledger = self.ledger(**options)
        ledger.open()
        try:
            yield ledger
        finally:
            ledger.close()

    def rows(self) -> list[LedgerRow]:
        with self.reader() as reader:
            return list(reader.rows())


class FilePlace(_Place):
    """A file."""

    def __init__(self, directory: Path) -> None:
        self.name = str(directory / "run.db")

    def ledger(self, **options: Any) -> BufferedLedger:
        return SqliteLedger(self.name, **({"destination": DESTINATION} | options))

    def reader(self) -> RecordReader:
        return LedgerReader(self.name)


class DatabasePlace(_Place):
    """A database."""

    def __init__(self, dsn: str) -> None:
        self.name = dsn

    def ledger(self, **options: Any) -> BufferedLedger:
        return PostgresLedger(self.name, **({"destination": DESTINATION} | options))

    def reader(self) -> RecordReader:
        return PostgresReader(self.name)
