"""What earlier runs did, for a run that writes nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType
    from typing import Self

    from asyncstore.instances.outcome import Outcome
    from asyncstore.ledger.protocol import Offered, Suspicion


class LedgerHistory(Protocol):
    """The files that a ledger has settled: `with ... as history`. Blocks. Nothing is locked or changed."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...

    def settled(self, offered: Sequence[Offered]) -> list[Outcome | Suspicion | None]:
        """For each, the outcome that still holds; a Suspicion or None if it must be sent. See Ledger.settled."""
