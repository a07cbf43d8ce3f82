"""What runs have found out about a peer, for the next run to the same one: most runs have but themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from asyncstore.transfer.offer import Offers
from asyncstore.transfer.plan import Plan

if TYPE_CHECKING:
    from asyncstore.status import Status
    from asyncstore.transfer.options import TransferOptions
    from asyncstore.transfer.plan import Pair


class Learned:
    """What it bears and what it refuses; runs with the same options may share it, also at the same time.

    `refused` and `refuses_with` are as in Destination.
    """

    def __init__(self, options: TransferOptions) -> None:
        self.plan: Plan = Plan(options)
        self.offers: Offers = Offers(window=options.window, is_filled=not options.only_needed_contexts)
        self.refused: dict[Pair, Status | None] = {}
        self.refuses_with: set[int] = set()
