"""The instances that wait for an association, and the rules by which an association takes the next one.

Instances of one directory stay on one association while there is other work: some archives see a study as complete when
an association ends, and two associations that both carry the first object of a study race in the peer's database. The
same SOP Instance UID is never in flight twice: some peers lose data over it. Nothing here waits; tasks do, for signals.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections import deque
from typing import TYPE_CHECKING, Final

from asyncstore.aio.signal import Signal
from asyncstore.instances.head import SMALL_FILE_BYTES
from asyncstore.transfer.groups import Group, queues_of, waiting_in
from asyncstore.transfer.pending import Pending
from asyncstore.transfer.suspects import Suspects

if TYPE_CHECKING:
    from collections.abc import Collection, Container, Iterator

    from asyncstore.instances.instance import Instance
    from asyncstore.ledger.protocol import Suspicion
    from asyncstore.transfer.plan import Pair

# Read-ahead ends at either limit. Small files wait with their bytes, larger ones with their UIDs only.
MAXIMUM_WAITING: Final = 1024
MAXIMUM_WAITING_BYTES: Final = 8 << 20
# Beside those, this many may wait for a codec: others overtake them.
MAXIMUM_FOR_CODECS: Final = 8192
# Remember the association of this many studies: more than are ever on their way at once.
_REMEMBERED_OWNERS: Final = 65536
# While there is other work, this many instances are taken between two retries.
_TAKEN_PER_RETRY: Final = 16
# How many waiting instances are looked at for a small one, to try whether the peer takes any.
_PROBE_CHOICES: Final = 8


class Work:
    """The instances that wait: they come in from the feed and from retries, and are taken by associations.

    `available` is set when an association may find something to take, `due` when a retry was added; both when all is
    done. `waiting` counts the instances that are ready, `waiting_bytes` the memory that they hold.
    """

    def __init__(self, *, strict: bool = False) -> None:
        self._strict = strict
        self._groups: dict[str, Group] = {}
        self._group_of: dict[object, Group] = {}
        self._owners: dict[str, object] = {}
        self._in_flight: set[str] = set()  # SOP Instance UIDs
        self._same_uid: dict[str, deque[Pending]] = {}  # SOP Instance UID -> others with it, which wait their turn
        self._same_uid_waiting = 0
        self._same_uid_bytes = 0
        self._retries: list[tuple[float, int, Pending]] = []
        self._order = itertools.count()
        self._again: deque[Pending] = deque()  # retries whose time has come
        self._suspects = Suspects()  # those of them that come last
        self._taken_since_again = 0
        self._looked_at = 0.0
        self._need_codec: frozenset[Pair] = frozenset()
        self.waiting: int = 0
        self.waiting_bytes: int = 0
        self.feed_ended: bool = False
        self.available: Signal = Signal()
        self.due: Signal = Signal()

    @property
    def is_done(self) -> bool:
        """Whether nothing waits, nothing is in flight, and nothing more will come."""
        return self.feed_ended and not self.waiting and not self._in_flight and not self._retries

    @property
    def has_room(self) -> bool:
        """Whether the feed may add another instance."""
        suspects = self._suspects
        waiting = self.waiting - len(suspects) + self._same_uid_waiting
        held_bytes = self.waiting_bytes - suspects.held_bytes + self._same_uid_bytes
        if waiting >= MAXIMUM_WAITING and self._need_codec:
            waiting -= min(sum(map(len, queues_of(self._groups.values(), self._need_codec))), MAXIMUM_FOR_CODECS)
        return waiting < MAXIMUM_WAITING and held_bytes < MAXIMUM_WAITING_BYTES and not suspects.are_full

    @property
    def left(self) -> Iterator[Pending]:
        """Every instance without a final outcome, for a run that stops early; ask when nothing is in flight."""
        for group in self._groups.values():
            for queue in group.waiting.values():
                yield from queue
        later = (pending for *_, pending in self._retries)
        yield from itertools.chain(self._ready_again(), later, *self._same_uid.values())

    def add(self, instance: Instance, key: str) -> None:
        """Take in an instance; `key` is its directory or study: instances with the same key stay together.

        The caller sets `available` when it has added all that came.
        """
        is_held = instance.path is None or instance.size_bytes <= SMALL_FILE_BYTES
        # A small member of an archive is held too, although the archive is large.
        pending = Pending(instance, key, instance.size_bytes if is_held else getattr(instance.source, "held_bytes", 0))
        self._put(_without_bytes(pending) if self._need_codec and pending.pair in self._need_codec else pending)

    def note_codecs(self, pairs: frozenset[Pair]) -> None:
        """Take note that instances of these pairs must be decompressed or compressed, which may take long."""
        for queue in queues_of(self._groups.values(), pairs - self._need_codec):
            for pending in queue:
                self.waiting_bytes -= pending.held_bytes - _without_bytes(pending).held_bytes
        self._need_codec |= pairs

    def add_suspected(self, instance: Instance, key: str, suspicion: Suspicion, now: float) -> None:
        """Take in an instance that an earlier run suspected: it comes last; see `add`."""
        pending = _without_bytes(Pending(instance, key, losses=suspicion.losses, is_suspected=True))
        if suspicion.losses:
            pending.answers_when_suspected = 0
        else:
            pending.was_refused_earlier = True
        self._suspects.add(pending, now)
        self._count(pending, 1)

    @property
    def in_flight(self) -> int:
        """How many instances associations have taken and not given back."""
        return len(self._in_flight)

    @property
    def only_suspects_matter(self) -> bool:
        """Whether suspected instances must be decided on: no others will come, or too many wait for more to come."""
        if self._suspects.are_full:
            return True
        if not self.feed_ended or self._groups or self._same_uid:
            return False
        again = itertools.chain(self._again, (pending for *_, pending in self._retries))
        return all(pending.is_suspected for pending in again)

    @property
    def suspected_waiting(self) -> int:
        """How many instances wait that associations ended over, if no others but suspected ones do; else 0."""
        return self._suspects.lost if self.waiting == len(self._suspects) else 0

    @property
    def retrying(self) -> tuple[int, int]:
        """How many instances will be sent again, now or when it is time, and how many of them come last."""
        return len(self._again) + len(self._suspects) + len(self._retries), len(self._suspects) + self._suspects.later

    def put_back(self, pending: Pending) -> None:
        """Take back an instance that was not sent; the caller sets `available` when it has given back all."""
        self._leave_flight(pending)
        self._put(pending)

    def retry(self, pending: Pending, due_at: float) -> None:
        """Send an instance again, not before `due_at`; the bytes of its file were let go."""
        self._leave_flight(pending)
        if pending.instance.path is not None:
            pending.held_bytes = 0
        heapq.heappush(self._retries, (due_at, next(self._order), pending))
        self._suspects.later += pending.is_suspected
        self.due.set()

    def finish(self, pending: Pending) -> None:
        """Take note that an instance has its final outcome."""
        uid = pending.instance.sop_instance_uid
        self._in_flight.discard(uid)
        if self._same_uid:
            self._release_next(uid)
        if self.feed_ended and self.is_done:
            self._tell_done()

    def end_feed(self) -> None:
        """Take note that nothing more will come from the feed."""
        self.feed_ended = True
        self._tell_done()

    def _tell_done(self) -> None:
        self.available.set()
        self.due.set()

    @property
    def next_retry_at(self) -> float:
        """The time of the next retry; math.inf if there is none."""
        return self._retries[0][0] if self._retries else math.inf

    def wake_retries(self, now: float) -> bool:
        """Let instances whose time has come wait for an association again; True when there were any."""
        woken = False
        self._looked_at = now
        while self._retries and self._retries[0][0] <= now:
            pending = heapq.heappop(self._retries)[2]
            if pending.is_suspected:
                self._suspects.later -= 1
                self._suspects.add(pending, now)
            else:
                self._again.append(pending)
            self._count(pending, 1)
            woken = True
        self._again.extend(self._suspects.pop_overdue(now))
        return woken

    def take_all(self, pairs: Collection[Pair]) -> list[Pending]:
        """Take out every waiting instance of these pairs, whatever its directory; they are not in flight then."""
        taken: list[Pending] = []
        for group in list(self._groups.values()):
            for pair in [pair for pair in group.waiting if pair in pairs]:
                taken.extend(group.waiting[pair])
                self._drop_queue(group, pair)
        taken.extend(pending for pending in self._again if pending.pair in pairs)
        taken.extend(self._suspects.pop_all(pairs))
        self._again = deque(pending for pending in self._again if pending.pair not in pairs)
        for pending in taken:
            self._count(pending, -1)
        others = [other for queue in self._same_uid.values() for other in queue if other.pair in pairs]
        for other in others:
            self._drop_same_uid(other)
        for pending in taken:  # one of these may have been the next with its UID
            self._release_next(pending.instance.sop_instance_uid)
        return taken + others

    def waits_for(self, taker: object) -> bool:
        """Whether something waits that this association might take if it could carry it."""
        if not self._strict:
            return self.waiting > 0
        keys = itertools.chain(self._groups, (pending.key for pending in self._ready_again()))
        return any(self._is_open_to(key, taker) for key in keys)

    @property
    def waiting_for_new(self) -> int:
        """How many waiting instances a new association might take."""
        if not self._strict:
            return self.waiting
        unowned = (waiting_in(group) for group in self._groups.values() if group.key not in self._owners)
        return sum(unowned) + sum(pending.key not in self._owners for pending in self._ready_again())

    def pairs_waiting(self) -> list[Pair]:
        """The pairs of all waiting instances, those of groups that no association owns first."""
        groups = sorted(self._groups.values(), key=lambda group: group.owner is not None)
        pairs = (pair for group in groups for pair, queue in group.waiting.items() if queue)
        return list(dict.fromkeys((*pairs, *(pending.pair for pending in self._ready_again()))))

    def _ready_again(self) -> Iterator[Pending]:
        """The retries whose time has come, those that come last at the end."""
        yield from self._again
        yield from self._suspects

    def take(self, taker: object, served: Container[Pair]) -> Pending | None:
        """The next instance for an association that can carry the pairs `served`.

        It takes from its own group first, then from one that no association owns, and then, unless groups are strict,
        from the fullest one of another association, which keeps it. Retries come when nothing else waits, and now and
        then before that: instances that a peer never takes must not hold up the others. Suspected ones come last, or
        first while they are too many.
        """
        pending = None
        if self._suspects.are_full and (pending := self._take_suspected(taker, served)) is not None:
            return pending
        if self._taken_since_again >= _TAKEN_PER_RETRY:
            pending = self._take_again(taker, served)
        if pending is None:
            pending = self._take_new(taker, served) or self._take_again(taker, served)
        return pending or self._take_suspected(taker, served)

    def take_probe(self, taker: object, served: Container[Pair]) -> Pending | None:
        """The next instance while the peer may take nothing: from any place, and rather a small one.

        What comes next in order is likely to be of one kind with what has just failed.
        """
        places = [
            (queue, group)
            for group in self._groups.values()
            if not self._strict or self._is_open_to(group.key, taker)
            for pair, queue in group.waiting.items()
            if queue and pair in served
        ]
        if not places or self._suspects.are_full:
            self._suspects.begin_with_least_lost()
            return self.take(taker, served)
        import random

        chosen = random.choices(places, k=_PROBE_CHOICES)
        choices = [(queue[random.randrange(len(queue))], group) for queue, group in chosen]
        pending, group = min(choices, key=lambda choice: choice[0].instance.data_set_length)
        queue = group.waiting[pending.pair]
        queue.remove(pending)
        if not queue:
            self._drop_queue(group, pending.pair)
        if self._strict:
            self._remember_owner(pending.key, taker)
        return pending if self._begin_flight(pending) else self.take(taker, served)

    def _take_new(self, taker: object, served: Container[Pair]) -> Pending | None:
        self._taken_since_again += 1
        group = self._group_of.get(taker)
        if group is not None:
            pending = self._take_from(group, served)
            if pending is not None:
                return pending
        for group in self._others(taker):
            pending = self._take_from(group, served)
            if pending is not None:
                self._own(group, taker)
                return pending
        return None

    def _take_again(self, taker: object, served: Container[Pair]) -> Pending | None:
        self._taken_since_again = 0
        for _ in range(len(self._again)):
            pending = self._again.popleft()
            if not self._may_take(pending, taker, served):
                self._again.append(pending)
            elif self._begin_flight(pending):
                return pending
        return None

    def _take_suspected(self, taker: object, served: Container[Pair]) -> Pending | None:
        for _ in range(len(self._suspects)):
            since, pending = self._suspects.pop()
            if not self._may_take(pending, taker, served):
                self._suspects.add(pending, since)
            elif self._begin_flight(pending):
                return pending
        return None

    def _may_take(self, pending: Pending, taker: object, served: Container[Pair]) -> bool:
        """Whether this association can carry a retry; if so, it is the one for its key from now on."""
        if pending.pair not in served or (self._strict and not self._is_open_to(pending.key, taker)):
            return False
        if self._strict:
            self._remember_owner(pending.key, taker)
        return True

    def leave(self, taker: object) -> None:
        """Free what an association owned: it has ended."""
        group = self._group_of.pop(taker, None)
        if group is not None:
            group.owner = None
        if self._strict:
            self._owners = {key: owner for key, owner in self._owners.items() if owner is not taker}

    def _others(self, taker: object) -> Iterator[Group]:
        """The groups that an association may take from besides its own, best first."""
        if self._strict:
            yield from (group for group in self._groups.values() if self._is_open_to(group.key, taker))
            return
        yield from (group for group in self._groups.values() if group.owner is None)
        owned = (group for group in self._groups.values() if group.owner is not None)
        yield from sorted(owned, key=waiting_in, reverse=True)

    def _is_open_to(self, key: str, taker: object) -> bool:
        return self._owners.get(key, taker) is taker

    def _remember_owner(self, key: str, taker: object) -> None:
        self._owners.pop(key, None)
        self._owners[key] = taker
        if len(self._owners) > _REMEMBERED_OWNERS:
            del self._owners[next(iter(self._owners))]

    def _own(self, group: Group, taker: object) -> None:
        if self._strict:
            self._remember_owner(group.key, taker)
        if group.owner is None and group.key in self._groups:
            previous = self._group_of.get(taker)
            if previous is not None:
                previous.owner = None
            group.owner = taker
            self._group_of[taker] = group

    def _take_from(self, group: Group, served: Container[Pair]) -> Pending | None:
        for pair, queue in group.waiting.items():
            while queue and pair in served:
                pending = queue.popleft()
                if not self._begin_flight(pending):
                    continue
                if not queue:
                    self._drop_queue(group, pair)
                return pending
        return None

    def _begin_flight(self, pending: Pending) -> bool:
        """An instance stops waiting; False when it must wait for another with its UID instead of being sent."""
        self.waiting -= 1
        self.waiting_bytes -= pending.held_bytes
        uid = pending.instance.sop_instance_uid
        if uid in self._in_flight:
            self._same_uid.setdefault(uid, deque()).append(pending)
            self._same_uid_waiting += 1
            self._same_uid_bytes += pending.held_bytes
            return False
        self._in_flight.add(uid)
        return True

    def _count(self, pending: Pending, by: int) -> None:
        self.waiting += by
        self.waiting_bytes += by * pending.held_bytes

    def _drop_queue(self, group: Group, pair: Pair) -> None:
        del group.waiting[pair]
        if group.waiting:
            return
        del self._groups[group.key]
        if group.owner is not None:
            del self._group_of[group.owner]
            group.owner = None

    def _put(self, pending: Pending) -> None:
        if pending.is_suspected:
            self._suspects.add(pending, self._looked_at)
            self._count(pending, 1)
            return
        key, instance = pending.key, pending.instance
        pair = (instance.sop_class_uid, instance.transfer_syntax_uid)
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = Group(key)
        queue = group.waiting.get(pair)
        if queue is None:
            queue = group.waiting[pair] = deque()
        queue.append(pending)
        self.waiting += 1
        self.waiting_bytes += pending.held_bytes

    def _leave_flight(self, pending: Pending) -> None:
        uid = pending.instance.sop_instance_uid
        self._in_flight.discard(uid)
        if self._same_uid:
            self._release_next(uid)

    def _release_next(self, uid: str) -> None:
        """Let the next instance with that UID, if there is one, wait for an association: its turn has come."""
        if uid in self._same_uid and uid not in self._in_flight:
            pending = self._same_uid[uid][0]
            self._drop_same_uid(pending)
            self._put(pending)

    def _drop_same_uid(self, pending: Pending) -> None:
        uid = pending.instance.sop_instance_uid
        self._same_uid[uid].remove(pending)
        if not self._same_uid[uid]:
            del self._same_uid[uid]
        self._same_uid_waiting -= 1
        self._same_uid_bytes -= pending.held_bytes


def _without_bytes(pending: Pending) -> Pending:
    """Free the bytes of a file that may wait for long."""
    pending.instance.let_go()
    pending.held_bytes = 0 if pending.instance.path is not None else pending.instance.size_bytes
    return pending
