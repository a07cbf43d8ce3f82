"""What a migration has before it: the inventory of its input, the associations it needs, and what a peer says to it."""

from __future__ import annotations

import enum
from collections import Counter
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from asyncstore.cli.exit_codes import ExitCode
from asyncstore.preparation.conversions import Conversions
from asyncstore.record import record
from asyncstore.transfer.plan import Plan
from asyncstore.uids import name_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from asyncstore.inputs.inventory import Inventory
    from asyncstore.preparation.conversions import Decompress
    from asyncstore.transfer.options import TransferOptions
    from asyncstore.transfer.plan import Pair


KIND_COLUMNS: Final = (
    "sop_class_uid",
    "sop_class",
    "transfer_syntax_uid",
    "transfer_syntax",
    "instances",
    "bytes",
    "acceptance",
    "sent_transfer_syntax_uid",
)


class Verdict(enum.StrEnum):
    """What a peer says to a kind of instance; the value is its name in JSON and CSV."""

    UNCHANGED = "unchanged"  # it accepts the instances as they are
    CONVERTED = "converted"  # it accepts another transfer syntax, to which they can be converted or decompressed
    REFUSED = "refused"


class Kind(NamedTuple):
    """The instances of one SOP class and transfer syntax; the last two are None unless a peer was asked."""

    sop_class_uid: str
    transfer_syntax_uid: str
    instances: int
    size_bytes: int
    verdict: Verdict | None
    sent_transfer_syntax_uid: str | None

    def to_dict(self) -> dict[str, Any]:
        """The kind as plain data, for JSON and CSV: a value for each of KIND_COLUMNS."""
        names = name_of(self.sop_class_uid), name_of(self.transfer_syntax_uid)
        verdict = None if self.verdict is None else self.verdict.value
        values = (self[0], names[0], self[1], names[1], self.instances, self.size_bytes, verdict, self[5])
        return dict(zip(KIND_COLUMNS, values, strict=True))


@record(frozen=True, slots=True)
class Prospect:
    """An inventory, and how it would be sent with these options.

    `peer` names the peer that was asked, if any; `sent_as` is what it accepts, None if it was not asked or gave no
    answer, and `failure` says why then.
    """

    inventory: Inventory
    options: TransferOptions
    peer: str | None = None
    sent_as: Mapping[Pair, str | None] | None = None
    failure: str = ""

    @property
    def contexts(self) -> int:
        """The number of presentation contexts that are needed: one for each kind."""
        return len(self.inventory.instances)

    @property
    def associations(self) -> int:
        """The least number of associations that can have these contexts, of which each can have 128."""
        needed = [pair for pair, _ in self.inventory.instances.most_common()]
        return sum(1 for _ in Plan(self.options).proposals_for(needed))

    def compressed(self, decompress: Decompress) -> int:
        """The number of compressed instances that such a run can send only as they are."""
        conversions = Conversions(decompress=decompress)
        return sum(
            kind.instances for kind in self.kinds() if not conversions.can_become_uncompressed(kind.transfer_syntax_uid)
        )

    def bytes_of(self, verdict: Verdict) -> int:
        """The length of the data sets of the instances for which the peer has this verdict."""
        return sum(kind.size_bytes for kind in self.kinds() if kind.verdict is verdict)

    def kinds(self) -> list[Kind]:
        """The instances by kind, most frequent first."""
        sizes = self.inventory.size_bytes
        return [
            Kind(*pair, count, sizes[pair], *self._verdict_on(pair))
            for pair, count in self.inventory.instances.most_common()
        ]

    def _verdict_on(self, pair: Pair) -> tuple[Verdict | None, str | None]:
        if self.sent_as is None:
            return None, None
        sent_as = self.sent_as[pair]
        if sent_as is None:
            return Verdict.REFUSED, None
        return Verdict.UNCHANGED if sent_as == pair[1] else Verdict.CONVERTED, sent_as

    def verdicts(self) -> Counter[Verdict]:
        """The number of instances for each verdict of the peer."""
        counts: Counter[Verdict] = Counter()
        for kind in self.kinds():
            if kind.verdict is not None:
                counts[kind.verdict] += kind.instances
        return counts

    @property
    def exit_code(self) -> int:
        """Whether all could be read and would be accepted, and whether there is anything to send."""
        if self.failure:
            return ExitCode.NO_ASSOCIATION
        if self.inventory.failed or self.verdicts()[Verdict.REFUSED]:
            return ExitCode.SOME_FAILED
        has_any = self.inventory.instances or self.inventory.settled
        return ExitCode.STORED if has_any else ExitCode.NOTHING_TO_SEND

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain data, for JSON."""
        verdicts = self.verdicts()
        asked = {"peer": self.peer, "failure": self.failure or None} | {each.value: verdicts[each] for each in Verdict}
        return {
            **self.inventory.to_dict(),
            "contexts": self.contexts,
            "associations": self.associations,
            "kinds": [kind.to_dict() for kind in self.kinds()],
            "acceptance": None if self.peer is None else asked,
        }
