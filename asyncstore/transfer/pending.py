"""An instance on its way through a transfer, and what has happened to it so far."""

from __future__ import annotations

from typing import TYPE_CHECKING

from asyncstore.record import record

if TYPE_CHECKING:
    from asyncstore.instances.instance import Instance
    from asyncstore.instances.outcome import SentUIDs
    from asyncstore.status import Status
    from asyncstore.transfer.plan import Pair


@record(slots=True, eq=False)
class Pending:
    """An instance on its way, and its history so far.

    key                       its directory or study: instances with the same key stay together
    held_bytes                memory that it holds while it waits
    was_compared              it need not be compared with a stored file again
    attempts                  requests so far
    retries                   those of them that its own failures cost
    losses                    associations that ended while it was in flight, in earlier runs too
    refusals                  answers "out of resources" that count against it
    status                    the latest of these answers, None after a loss
    is_suspected              it may be at fault itself, for a loss or such an answer: it comes after all others
    was_refused_earlier       it was refused so in an earlier run
    answers_when_suspected    the destination's count of answers when it became suspected, 0 if an association ended
                              over it in an earlier run; answers to requests that were in flight then are counted as
                              given
    changes, sent_uids        of the latest request, as in Outcome
    answers_seen, refusals_seen, relieved_seen
                              the destination's counts at the latest answer "out of resources"
    """

    instance: Instance
    key: str
    held_bytes: int
    was_compared: bool
    attempts: int
    retries: int
    losses: int
    refusals: int
    status: Status | None
    is_suspected: bool
    was_refused_earlier: bool
    answers_when_suspected: int | None
    answers_seen: int
    refusals_seen: int
    relieved_seen: int
    changes: tuple[str, ...]
    sent_uids: SentUIDs | None

    # Written out: `record` would compile it in each run.
    def __init__(
        self,
        instance: Instance,
        key: str,
        held_bytes: int = 0,
        was_compared: bool = False,
        attempts: int = 0,
        retries: int = 0,
        losses: int = 0,
        refusals: int = 0,
        status: Status | None = None,
        is_suspected: bool = False,
        was_refused_earlier: bool = False,
        answers_when_suspected: int | None = None,
        answers_seen: int = 0,
        refusals_seen: int = 0,
        relieved_seen: int = 0,
        changes: tuple[str, ...] = (),
        sent_uids: SentUIDs | None = None,
    ) -> None:
        self.instance = instance
        self.key = key
        self.held_bytes = held_bytes
        self.was_compared = was_compared
        self.attempts = attempts
        self.retries = retries
        self.losses = losses
        self.refusals = refusals
        self.status = status
        self.is_suspected = is_suspected
        self.was_refused_earlier = was_refused_earlier
        self.answers_when_suspected = answers_when_suspected
        self.answers_seen = answers_seen
        self.refusals_seen = refusals_seen
        self.relieved_seen = relieved_seen
        self.changes = changes
        self.sent_uids = sent_uids

    @property
    def pair(self) -> Pair:
        return self.instance.sop_class_uid, self.instance.transfer_syntax_uid
