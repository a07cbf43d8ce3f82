"""What earlier runs did, for a run that writes nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType
    from typing import Self

    from asyncstore.instances.outcome import Outcome
    from asyncstore.ledger.postgresql.lookup import PostgresLookup
    from asyncstore.ledger.protocol import Offered, Suspicion
    from asyncstore.ledger.sqlite.lookup import LedgerLookup


class LedgerHistory:
    """The files that a ledger has settled: `with ... as history`. Blocks. Nothing is locked or changed."""

    def __init__(self, lookup: LedgerLookup | PostgresLookup) -> None:
        self._lookup = lookup

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._lookup.close()

    def settled(self, offered: Sequence[Offered]) -> list[Outcome | Suspicion | None]:
        """For each, the outcome that still holds; a Suspicion or None if it must be sent. See Ledger.settled."""
        return self._lookup.settled(offered)
